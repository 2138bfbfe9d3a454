/* Built-in conversations: facts are said, asked and answered; validation has its own words and ways to ask. */
#include "base/json.h"
#include "data/constraints.h"
#include "data/synth_chat.h"
#include "support/support.h"

#include <string.h>

enum { N_DRAW = 3000 };

static ml_error err;

static void check_example(const ml_chat_example *x, bool single)
{
    size_t first = x->has_system, n_turn = x->n_message - first;
    assert_true(n_turn % 2 == 0 && n_turn >= (single ? 2 : 4) && x->n_message <= ML_CHAT_MESSAGES);
    assert_true(x->n_fact >= 1 && (!single || (x->n_fact == 1 && n_turn == 2)));
    for (size_t i = 0; i < x->n_message; i++) {
        const char *wanted = i < first ? "system" : (i - first) % 2 ? "assistant" : "user";
        assert_string_equal(ml_chat_example_role(x, i), wanted);
        assert_true(strlen(x->text[i]) > 3);
    }
    for (size_t i = 0; i < x->n_fact; i++) {
        const ml_chat_fact *f = &x->fact[i];
        size_t said = first;
        assert_in_range(f->among, 10, 256);
        assert_true(ml_constraints_has_phrase(x->text[said], strlen(x->text[said]), f->value));
        assert_true(ml_constraints_has_phrase(x->text[f->message], strlen(x->text[f->message]), f->value));
        for (size_t k = said + 1; k < f->message; k++) { /* nobody has said it in between: it must be remembered */
            assert_false(ml_constraints_has_phrase(x->text[k], strlen(x->text[k]), f->value));
        }
    }
}

static void test_facts_are_said_once_and_asked(void **state)
{
    (void)state;
    ml_chat_example x, again;
    int n_second = 0;
    for (int single = 0; single < 2; single++) {
        for (int split = 0; split < ML_N_SPLIT; split++) {
            for (uint64_t i = 0; i < N_DRAW; i++) {
                ml_chat_draw(3, i, (ml_data_split)split, single, &x);
                ml_chat_draw(3, i, (ml_data_split)split, single, &again);
                assert_memory_equal(&x, &again, sizeof x);
                check_example(&x, single);
                n_second += x.n_fact == 2;
            }
        }
    }
    assert_in_range(n_second, N_DRAW * 4 / 10, N_DRAW * 6 / 10); /* a quarter of the conversations of both splits */
}

/* No question of validation, and no value that is said to be kept out, is ever one of training. */
static void test_validation_has_its_own(void **state)
{
    (void)state;
    static char seen[512][ML_CHAT_TEXT];
    size_t n_seen = 0, n_value[ML_N_SPLIT] = { 0 };
    ml_chat_example x;
    for (int split = 0; split < ML_N_SPLIT; split++) {
        size_t n_train = n_seen;
        for (uint64_t i = 0; i < 8 * N_DRAW; i++) { /* enough for each of 200 kinds to be asked for */
            ml_chat_draw(5, i, (ml_data_split)split, false, &x);
            for (size_t k = 0; k < x.n_fact; k++) {
                const char *texts[] = { x.fact[k].value, x.text[x.fact[k].message - 1] };
                for (int w = 0; w < 2; w++) {
                    size_t at = 0;
                    while (at < n_seen && strcmp(seen[at], texts[w]) != 0) at++;
                    bool own = split == ML_SPLIT_VAL && (w == 1 || x.fact[k].held_out);
                    assert_true(at >= n_train || !own);
                    assert_true(at < n_train || own || split == ML_SPLIT_TRAIN); /* and the other values are */
                    if (at < n_seen) continue;
                    assert_true(n_seen < 512);
                    strcpy(seen[n_seen++], texts[w]);
                    n_value[split] += w == 0;
                }
            }
        }
    }
    assert_true(n_value[ML_SPLIT_TRAIN] > 80 && n_value[ML_SPLIT_VAL] > 15);
}

static void test_the_file(void **state)
{
    (void)state;
    char path[ML_PATH_MAX + 32];
    const char *folder = test_make_folder();
    uint64_t n_bytes;
    json_t *line;
    snprintf(path, sizeof path, "%s/chats.jsonl", folder);
    ml_synth_chat_config c = { .out = path, .n_document = 20, .seed = 1 };
    assert_ok(ml_data_synth_chat(&c, &n_bytes, &err));
    ml_map map;
    assert_ok(ml_map_open(path, &map, &err));
    assert_int_equal(map.size, n_bytes);
    size_t n = 0;
    const char *at = (const char *)map.data, *end = at + map.size;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        assert_non_null(stop);
        assert_ok(ml_json_parse(at, (size_t)(stop - at), "line", &line, &err));
        const json_t *fact = json_array_get(json_object_get(line, "facts"), 0);
        const json_t *messages = json_object_get(line, "messages");
        const json_t *answer = json_array_get(messages, (size_t)json_integer_value(json_object_get(fact, "message")));
        assert_string_equal(json_string_value(json_object_get(answer, "role")), "assistant");
        assert_non_null(strstr(json_string_value(json_object_get(answer, "content")),
                               json_string_value(json_object_get(fact, "value"))));
        json_decref(line);
        at = stop + 1;
        n++;
    }
    assert_int_equal(n, 20);
    ml_map_close(&map);
    test_remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_facts_are_said_once_and_asked),
        cmocka_unit_test(test_validation_has_its_own),
        cmocka_unit_test(test_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
