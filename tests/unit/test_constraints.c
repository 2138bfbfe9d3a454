/* Constraints: the checker by hand, and what the generator promises. */
#include "base/alloc.h"
#include "data/synth_constraints.h"
#include "support/support.h"

#include <string.h>

static ml_error err;

static bool has(const char *text, const char *phrase)
{
    return ml_constraints_has_phrase(text, strlen(text), phrase);
}

static void test_phrases_are_whole_words(void **state)
{
    (void)state;
    assert_true(has("He had skill.", "skill"));
    assert_false(has("He had skill.", "kill"));
    assert_false(has("He had skills.", "skill"));
    assert_true(has("Kill it", "kill"));
    assert_true(has("a red\"hat\"", "hat"));
    assert_true(has("skill, kill", "kill")); /* the second time it is a word */
    assert_true(has("in the forest", "the forest"));
    assert_false(has("in the forests", "the forest"));
    assert_false(has("caf\xc3\xa9", "caf")); /* the letter goes on */
    assert_false(has("anything", ""));
    assert_false(has("", "x"));
}

static void test_verdicts(void **state)
{
    (void)state;
    ml_constraints c = { .protagonist = "a shy fox",
                         .required = { "by the sea", "cookies" },
                         .n_required = 2,
                         .banned = "red",
                         .min_sentences = 2,
                         .max_sentences = 3 };
    const char *good = "There was a shy fox by the sea. It had cookies.";
    ml_constraint_verdict v = ml_constraints_check(&c, good);
    assert_true(v.protagonist && v.required && v.banned && v.sentences && ml_constraints_satisfied(&v));
    assert_int_equal(v.n_sentence, 2);
    v = ml_constraints_check(&c, "By the sea there was a calm fox. A shy fox had cookies.");
    assert_true(!v.protagonist && v.required); /* it comes too late */
    v = ml_constraints_check(&c, "There was a shy fox by the sea. It had one cookie.");
    assert_true(!v.required && v.n_required == 1);
    v = ml_constraints_check(&c, "There was a shy fox by the sea. It had red cookies.");
    assert_true(!v.banned && !ml_constraints_satisfied(&v));
    v = ml_constraints_check(&c, "There was a shy fox by the sea. It had bored cookies.");
    assert_true(v.banned);
    v = ml_constraints_check(&c, "There was a shy fox by the sea with cookies.");
    assert_true(!v.sentences && ml_constraints_satisfied(&v)); /* counted apart */
    c.max_sentences = c.min_sentences = 0;
    assert_true(ml_constraints_check(&c, "").sentences);
}

static void test_json_round_trip_and_refusals(void **state)
{
    (void)state;
    ml_constraints c = { .protagonist = "a shy fox",
                         .theme = "giving",
                         .required = { "Mom" },
                         .n_required = 1,
                         .banned = "red",
                         .min_sentences = 2,
                         .max_sentences = 3 };
    ml_constraints back;
    json_t *j = ml_constraints_to_json(&c);
    assert_ok(ml_constraints_from_json(j, "here", &back, &err));
    assert_memory_equal(&c, &back, sizeof c);
    json_decref(j);
    static const char *const bad[] = { "{\"required\": \"x\"}",
                                       "{\"required\": [1]}",
                                       "{\"required\": [\"\"]}",
                                       "{\"protagonist\": 5}",
                                       "{\"min_sentences\": 4, \"max_sentences\": 3}",
                                       "{\"banned\": \"0123456789012345678901234567890123456789012345678901234567890123"
                                       "\"}",
                                       "{\"required\": [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]}" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_ok(ml_json_parse(bad[i], strlen(bad[i]), "x", &j, &err));
        assert_fails(ml_constraints_from_json(j, "here:3", &back, &err), ML_EFORMAT, "here:3");
        json_decref(j);
    }
}

/* ---- the generator ---- */

/* Whether any held-out word of the list is a word of the text. */
static bool has_held_out(const char *text, ml_story_list list)
{
    for (size_t i = 0; i < ml_story_list_size(list); i++) {
        if (ml_story_is_held_out(list, i) && has(text, ml_story_list_word(list, i))) return true;
    }
    return false;
}

/* A prompt of training and its stories have no held-out word at all; for validation the protagonist has two, the wrong
 * one too. */
static void check_words(const ml_constraint_example *x, ml_data_split split, bool pair)
{
    const char *text[] = { x->prompt, x->story, x->wrong };
    for (ml_story_list list = ML_STORY_KIND; list <= ML_STORY_TRAIT; list++) {
        assert_int_equal(has_held_out(x->constraints.protagonist, list), split == ML_SPLIT_VAL);
        for (int i = 0; i < (pair ? 3 : 2); i++) assert_int_equal(has_held_out(text[i], list), split == ML_SPLIT_VAL);
    }
}

/* Half of the words of training's protagonists are composed, so that they must be copied; none is a listed word. */
static bool is_composed(const char *word, ml_story_list list)
{
    for (size_t i = 0; i < ml_story_list_size(list); i++) {
        if (strcmp(word, ml_story_list_word(list, i)) == 0) return false;
    }
    return strcmp(word, "boy") && strcmp(word, "girl");
}

static void test_half_of_the_protagonists_words_are_composed(void **state)
{
    (void)state;
    enum { N = 4000 };
    for (int split = 0; split < 2; split++) {
        int n[2] = { 0 };
        for (uint64_t i = 0; i < N; i++) {
            static ml_constraint_order x;
            char trait[ML_CONSTRAINT_TEXT], kind[ML_CONSTRAINT_TEXT];
            ml_constraint_draw_order(5, i, (ml_data_split)split, true, &x);
            for (int wrong = 0; wrong < 2; wrong++) {
                const ml_constraints *c = wrong ? &x.wrong : &x.constraints;
                assert_int_equal(sscanf(c->protagonist, "%*s %63s %63s", trait, kind), 2);
                n[wrong] += is_composed(trait, ML_STORY_TRAIT) + is_composed(kind, ML_STORY_KIND);
            }
        }
        for (int wrong = 0; wrong < 2; wrong++) {
            if (split == ML_SPLIT_VAL)
                assert_int_equal(n[wrong], 0);
            else
                assert_in_range(n[wrong], N - 250, N + 250); /* of 2 N words: one standard deviation is 45 */
        }
    }
}

/* A wrong protagonist told of as "the kind owl" time and again would teach not to keep to what was said. */
static void test_pairs_do_not_dwell_on_the_protagonist(void **state)
{
    (void)state;
    int n_dwelling[2] = { 0 };
    for (uint64_t i = 0; i < 2000; i++) {
        static ml_constraint_example x;
        bool pair = i % 2;
        char the[ML_CONSTRAINT_TEXT + 8];
        if (ml_constraint_draw(5, i, ML_SPLIT_TRAIN, pair, &x) != ML_SYNTH_KEPT) continue;
        snprintf(the, sizeof the, "the%s", strchr(x.constraints.protagonist, ' ')); /* "a kind owl" */
        n_dwelling[pair] += ml_constraints_has_phrase(x.story, strlen(x.story), the);
    }
    assert_int_equal(n_dwelling[true], 0);
    assert_true(n_dwelling[false] > 300);
}

static void test_kept_examples_keep_their_constraints(void **state)
{
    (void)state;
    int n_banned = 0, n_kept = 0, n_phrases[5] = { 0 };
    for (int split = 0; split < 2; split++) {
        for (uint64_t i = 0; i < 3000; i++) {
            static ml_constraint_example x, again;
            bool pair = i % 2;
            ml_synth_fault fault = ml_constraint_draw(7, i, (ml_data_split)split, pair, &x);
            assert_int_equal(ml_constraint_draw(7, i, (ml_data_split)split, pair, &again), fault);
            assert_string_equal(x.prompt, again.prompt);
            assert_string_equal(x.story, again.story);
            const ml_constraints *c = &x.constraints;
            assert_true(has(x.prompt, c->protagonist) && has(x.prompt, c->theme));
            for (size_t k = 0; k < c->n_required; k++) assert_true(has(x.prompt, c->required[k]));
            assert_in_range(c->n_required, 2, 4);
            n_phrases[c->n_required]++;
            n_banned += *c->banned != 0;
            check_words(&x, (ml_data_split)split, pair && fault == ML_SYNTH_KEPT);
            if (fault != ML_SYNTH_KEPT) continue;
            n_kept++;
            ml_constraint_verdict v = ml_constraints_check(c, x.story);
            assert_true(ml_constraints_satisfied(&v) && v.sentences);
            if (!pair) continue;
            v = ml_constraints_check(c, x.wrong);
            assert_true(!v.protagonist && v.required && v.banned);
        }
    }
    assert_true(n_kept > 2000);
    assert_true(n_banned > 750 && n_banned < 1050); /* 15 % of 6000 is 900 with a deviation of 28 */
    for (int n = 2; n <= 4; n++) assert_true(n_phrases[n] > 1800 && n_phrases[n] < 2200); /* a third each */
}

/* The first words of a prompt: each template begins differently. */
static void first_words(const char *prompt, char out[16])
{
    snprintf(out, 16, "%.5s", prompt);
}

static void test_validation_is_asked_otherwise(void **state)
{
    (void)state;
    char seen[2][16][16];
    int n[2] = { 0 };
    for (int split = 0; split < 2; split++) {
        for (uint64_t i = 0; i < 300; i++) {
            static ml_constraint_example x;
            char words[16];
            int k = 0;
            ml_constraint_draw(1, i, (ml_data_split)split, false, &x);
            first_words(x.prompt, words);
            while (k < n[split] && strcmp(seen[split][k], words)) k++;
            if (k == n[split]) strcpy(seen[split][n[split]++], words);
        }
    }
    assert_int_equal(n[0], 6);
    assert_int_equal(n[1], 2);
    for (int i = 0; i < 6; i++) {
        for (int k = 0; k < 2; k++) assert_string_not_equal(seen[0][i], seen[1][k]);
    }
}

static void test_the_file(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX], *text;
    snprintf(folder, sizeof folder, "%s", test_make_folder());
    assert_ok(ml_path_join(path, folder, "p.jsonl", &err));
    ml_synth_constraints_config c = { .out = path, .pairs = true, .split = ML_SPLIT_VAL, .n_document = 40, .seed = 3 };
    ml_synth_constraints_result r;
    size_t n_bytes;
    int n_line = 0;
    assert_ok(ml_data_synth_constraints(&c, &r, &err));
    assert_ok(ml_file_read(path, &text, &n_bytes, &err));
    assert_int_equal(n_bytes, r.n_bytes);
    assert_true(r.n_reject[ML_SYNTH_SENTENCES] > 0 && r.n_reject[ML_SYNTH_NO_PHRASE] > 0);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), n_line++) {
        json_t *j;
        const char *chosen, *rejected;
        ml_constraints wanted;
        assert_ok(ml_json_parse(line, strlen(line), "line", &j, &err));
        assert_ok(ml_json_text(j, "chosen", "line", &chosen, &err));
        assert_ok(ml_json_text(j, "rejected", "line", &rejected, &err));
        assert_ok(ml_constraints_from_json(json_object_get(j, "constraints"), "line", &wanted, &err));
        assert_true(ml_constraints_check(&wanted, chosen).protagonist);
        assert_false(ml_constraints_check(&wanted, rejected).protagonist);
        json_decref(j);
    }
    assert_int_equal(n_line, 40);
    ml_free(text);
    test_remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_phrases_are_whole_words),
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_json_round_trip_and_refusals),
        cmocka_unit_test(test_half_of_the_protagonists_words_are_composed),
        cmocka_unit_test(test_pairs_do_not_dwell_on_the_protagonist),
        cmocka_unit_test(test_kept_examples_keep_their_constraints),
        cmocka_unit_test(test_validation_is_asked_otherwise),
        cmocka_unit_test(test_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
