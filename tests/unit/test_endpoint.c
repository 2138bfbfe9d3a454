/* Data from a language model behind an endpoint: a scripted server that answers well, badly, late, or not at all. */
#include "base/alloc.h"
#include "base/clock.h"
#include "data/synth_endpoint.h"
#include "support/https_server.h"
#include "support/support.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum {
    GOOD,      /* a story that keeps what is asked */
    BAD_WORDS, /* one that keeps nothing */
    LENGTH,    /* cut by max_tokens */
    UNENDED,   /* stops within a sentence */
    STALL,     /* nothing more after half an answer */
    CUT,       /* the connection ends within the answer */
    NOT_JSON,  /* half an answer, said to be whole */
    NO_CHOICE, /* JSON of another kind */
    BUSY,      /* 429 with Retry-After */
    BROKEN,    /* 500 */
    REFUSED,   /* 401 with a message */
} fault;

static ml_error err;
static char folder[ML_PATH_MAX];
static test_server *server;
static fault script[64]; /* of the requests in order; `behind` after them */
static fault behind;
static size_t n_script;
static atomic_int n_request;
static char authorization[256], last_body[8192];

/* ---- the server ---- */

/* What stands between two words of the request. */
static void between(const char *text, const char *before, const char *after, char *out, size_t size)
{
    const char *at = strstr(text, before), *end = at ? strstr(at + strlen(before), after) : NULL;
    snprintf(out, size, "%.*s", end ? (int)(end - at - (int)strlen(before)) : 0, at ? at + strlen(before) : "");
}

/* A story that a request asks for: the protagonist from what it is told about the first sentence, the words from the
 * prompt, each of whose ways to ask ends the list with a full stop. */
static void write_story(const char *request, char *out, size_t size)
{
    static const char *const lists[] = {
        "Use the words: ", "It has these words: ",   "Put in: ", "The words to use are: ", " Use: ", "Words: ",
        "to use: ",        "These words are in it: "
    };
    char who[200], words[400] = "";
    between(request, "first sentence names ", " in exactly", who, sizeof who);
    for (size_t i = 0; i < sizeof lists / sizeof *lists && !*words; i++)
        between(request, lists[i], ".", words, sizeof words);
    snprintf(out, size, "Once there was %s. It had to do with %s and more. They were happy.", who, words);
}

static void reply_story(test_connection *c, const char *story, const char *finish, size_t n_cut, bool stall)
{
    json_t *answer = json_pack("{s:s, s:[{s:i, s:{s:s, s:s}, s:s}], s:{s:i, s:i}}", "model", "scripted-1", "choices",
                               "index", 0, "message", "role", "assistant", "content", story, "finish_reason", finish,
                               "usage", "prompt_tokens", 100, "completion_tokens", 50);
    char *body = json_dumps(answer, JSON_COMPACT), head[200];
    size_t n = strlen(body);
    json_decref(answer);
    int k = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", n);
    test_send(c, head, (size_t)k);
    test_send(c, body, n_cut ? n / 2 : n);
    if (stall) test_stall(c, 20);
    free(body);
}

static void handle(void *arg, const test_request *q, test_connection *c)
{
    (void)arg;
    char story[2000], refusal[] = "{\"error\": {\"message\": \"no such key\"}}";
    size_t at = (size_t)atomic_fetch_add(&n_request, 1);
    fault what = at < n_script ? script[at] : behind;
    json_t *request = json_loads(q->body, 0, NULL);
    const json_t *message = json_array_get(json_object_get(request, "messages"), 0);
    const char *prompt = json_string_value(json_object_get(message, "content"));
    snprintf(authorization, sizeof authorization, "%s", q->authorization);
    snprintf(last_body, sizeof last_body, "%s", q->body);
    if (strcmp(q->method, "POST") || strcmp(q->target, "/v1/chat/completions") || !prompt) {
        test_reply(c, 404, "", "", 0);
        json_decref(request);
        return;
    }
    write_story(prompt, story, sizeof story);
    switch (what) {
    case GOOD: reply_story(c, story, "stop", 0, false); break;
    case BAD_WORDS: reply_story(c, "I cannot do that.", "stop", 0, false); break;
    case LENGTH: reply_story(c, story, "length", 0, false); break;
    case UNENDED: strcat(story, " And then they"), reply_story(c, story, "stop", 0, false); break;
    case STALL: reply_story(c, story, "stop", 1, true); break;
    case CUT: reply_story(c, story, "stop", 1, false); break;
    case NOT_JSON: test_reply(c, 200, "", "{\"choices\": [{\"mess", 19); break;
    case NO_CHOICE: test_reply(c, 200, "", "{\"choices\": []}", 15); break;
    case BUSY: test_reply(c, 429, "Retry-After: 0\r\n", "slow down", 9); break;
    case BROKEN: test_reply(c, 500, "", "oops", 4); break;
    case REFUSED: test_reply(c, 401, "", refusal, sizeof refusal - 1); break;
    }
    json_decref(request);
}

/* ---- the client ---- */

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "%s", test_make_folder());
    server = test_server_start(NULL, handle, NULL);
    n_script = 0;
    n_request = 0;
    behind = GOOD;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    test_server_stop(server);
    test_remove_folder(folder);
    ml_stop_set(false);
    return 0;
}

static void set_script(const fault *faults, size_t n)
{
    memcpy(script, faults, n * sizeof *faults);
    n_script = n;
    n_request = 0;
}
#define SCRIPT(...) set_script((const fault[]){ __VA_ARGS__ }, sizeof((const fault[]){ __VA_ARGS__ }) / sizeof(fault))

static ml_synth_endpoint_config config_for(uint64_t n, bool pairs)
{
    return (ml_synth_endpoint_config){ .out = test_path_in(folder, "out.jsonl"),
                                       .pairs = pairs,
                                       .n_document = n,
                                       .seed = 7,
                                       .completion = { .endpoint = test_server_url(server),
                                                       .model = "scripted",
                                                       .key = "secret",
                                                       .temperature = 0.7,
                                                       .max_tokens = 300,
                                                       .stall_seconds = 1,
                                                       .n_retry = 3,
                                                       .retry_wait = 0.01 },
                                       .n_parallel = 1,
                                       .prompt_price = 2,
                                       .completion_price = 10 };
}

/* Lines of a file, as an array. */
static json_t *read_lines(const char *path)
{
    char *text, *rest, *line;
    json_t *list = json_array();
    assert_ok(ml_file_read(path, &text, NULL, &err));
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        assert_int_equal(json_array_append_new(list, json_loads(line, 0, NULL)), 0);
    ml_free(text);
    return list;
}

static const char *text_of(const json_t *line, const char *key)
{
    const char *text = json_string_value(json_object_get(line, key));
    assert_non_null(text);
    return text;
}

/* Every row keeps its constraints; a pair's other answer has all but the protagonist; prompts are the generator's. */
static void check_rows(json_t *rows, size_t n, bool pairs, ml_data_split split)
{
    size_t i;
    json_t *row;
    assert_int_equal(json_array_size(rows), n);
    json_array_foreach(rows, i, row)
    {
        ml_constraints c;
        ml_constraint_order order;
        const char *id = strrchr(text_of(row, "id"), '-');
        ml_constraint_draw_order(7, strtoull(id + 1, NULL, 10), split, pairs, &order);
        assert_string_equal(text_of(row, "prompt"), order.prompt);
        assert_ok(ml_constraints_from_json(json_object_get(row, "constraints"), "row", &c, &err));
        ml_constraint_verdict v = ml_constraints_check(&c, text_of(row, pairs ? "chosen" : "response"));
        assert_true(ml_constraints_satisfied(&v));
        assert_int_equal(json_integer_value(json_object_get(row, "sentence_count")), 3);
        assert_false(json_boolean_value(json_object_get(row, "sentence_ok")));
        const json_t *from = json_object_get(row, "provenance");
        assert_string_equal(text_of(from, "model"), "scripted-1");
        assert_string_equal(text_of(from, "endpoint"), test_server_url(server));
        if (!pairs) continue;
        v = ml_constraints_check(&c, text_of(row, "rejected"));
        assert_true(!v.protagonist && v.required && v.banned);
    }
}

static void test_rows_and_pairs(void **state)
{
    (void)state;
    for (int pairs = 0; pairs < 2; pairs++) {
        ml_synth_endpoint_config c = config_for(12, pairs);
        ml_synth_endpoint_result r;
        c.split = pairs ? ML_SPLIT_VAL : ML_SPLIT_TRAIN;
        c.n_parallel = 3;
        assert_ok(ml_data_synth_endpoint(&c, &r, &err));
        json_t *rows = read_lines(c.out);
        check_rows(rows, 12, pairs, c.split);
        json_decref(rows);
        int64_t n_reject = 0; /* where another protagonist's words are banned, or a story asked for is no wrong one */
        for (int i = 1; i < ML_N_SYNTH_FAULT; i++) n_reject += (int64_t)r.n_reject[i];
        assert_in_range(n_reject, 0, 6);
        assert_in_range(r.n_request, (pairs ? 24 : 12) + n_reject, (pairs ? 26 : 12) + n_reject);
        assert_int_equal(r.n_prompt_token, 100 * r.n_request);
        assert_int_equal(r.n_completion_token, 50 * r.n_request);
        double cost = (double)r.n_request * (100 * 2 + 50 * 10) / 1e6;
        assert_true(r.cost > cost * 0.999999 && r.cost < cost * 1.000001); /* sums in another order */
        assert_string_equal(authorization, "Bearer secret");
        assert_non_null(strstr(last_body, "\"model\":\"scripted\""));
        assert_non_null(strstr(last_body, "\"max_tokens\":300"));
        assert_false(ml_path_exists(test_path_in(folder, "out.jsonl.part")));
    }
}

/* What passes is tried again and costs no row. */
static void test_faults_that_pass(void **state)
{
    (void)state;
    ml_synth_endpoint_config c = config_for(6, false);
    ml_synth_endpoint_result r;
    SCRIPT(BUSY, BROKEN, GOOD, CUT, GOOD, STALL, GOOD, NOT_JSON, GOOD, NO_CHOICE, BUSY, GOOD, GOOD);
    assert_ok(ml_data_synth_endpoint(&c, &r, &err));
    json_t *rows = read_lines(c.out);
    check_rows(rows, 6, false, ML_SPLIT_TRAIN);
    json_decref(rows);
    assert_int_equal(n_request, 13);
    for (int i = 1; i < ML_N_SYNTH_FAULT; i++) assert_int_equal(r.n_reject[i], 0);
}

/* What a person sees while only rejects come. */
static void note_rejects(void *arg, const ml_trainer_progress *p)
{
    long long n;
    if (p->done == 0 && sscanf(p->note, "%lld rejected", &n) == 1 && n > *(long long *)arg) *(long long *)arg = n;
}

/* Answers that cannot be taken are asked for again, at most three times, and kept with the reason. */
static void test_rejects(void **state)
{
    (void)state;
    ml_synth_endpoint_config c = config_for(3, false);
    ml_synth_endpoint_result r;
    SCRIPT(LENGTH, GOOD, UNENDED, BAD_WORDS, BAD_WORDS, GOOD);
    long long most_shown = 0;
    const ml_listener listener = { .arg = &most_shown, .progress = note_rejects };
    assert_ok(ml_progress_begin_for(&listener, "asking", "documents", 3, &c.progress, &err));
    assert_ok(ml_data_synth_endpoint(&c, &r, &err));
    ml_progress_end(c.progress);
    assert_int_equal(most_shown, 1); /* before the first prompt was done */
    assert_int_equal(r.n_prompt, 4); /* of the second came nothing */
    assert_int_equal(r.n_reject[ML_SYNTH_CUT], 2);
    assert_int_equal(r.n_reject[ML_SYNTH_NO_PROTAGONIST], 2);
    json_t *rows = read_lines(c.out), *rejects = read_lines(test_path_in(folder, "out.rejects.jsonl"));
    check_rows(rows, 3, false, ML_SPLIT_TRAIN);
    static const char *const reasons[] = { "cut short", "cut short", "protagonist", "protagonist" };
    static const int tries[] = { 1, 1, 2, 3 };
    assert_int_equal(json_array_size(rejects), 4);
    for (size_t i = 0; i < 4; i++) {
        const json_t *line = json_array_get(rejects, i);
        assert_string_equal(text_of(line, "reason"), reasons[i]);
        assert_int_equal(json_integer_value(json_object_get(line, "try")), tries[i]);
        assert_true(strlen(text_of(line, "response")) > 5);
    }
    json_decref(rows);
    json_decref(rejects);
}

static void test_a_failure_keeps_what_there_is(void **state)
{
    (void)state;
    ml_synth_endpoint_config c = config_for(5, false);
    ml_synth_endpoint_result r;
    char *text;
    size_t n;
    SCRIPT(GOOD, GOOD, REFUSED);
    assert_fails(ml_data_synth_endpoint(&c, &r, &err), ML_EIO, "401: not allowed without a token: no such key");
    assert_false(ml_path_exists(c.out));
    SCRIPT(BROKEN, BROKEN, BROKEN, BROKEN);
    assert_fails(ml_data_synth_endpoint(&c, &r, &err), ML_EIO, "500: the server has failed; given up after 4 attempts");
    SCRIPT(NOT_JSON, NOT_JSON, NOT_JSON, NOT_JSON);
    assert_fails(ml_data_synth_endpoint(&c, &r, &err), ML_EFORMAT, "/v1/chat/completions");
    /* a line that a crash has cut is dropped */
    assert_ok(ml_file_read(test_path_in(folder, "out.jsonl.part"), &text, &n, &err));
    assert_ok(ml_file_replace(test_path_in(folder, "out.jsonl.part"), text, n - 10, &err));
    ml_free(text);
    SCRIPT(GOOD);
    assert_ok(ml_data_synth_endpoint(&c, &r, &err));
    assert_true(r.resumed);
    assert_int_equal(n_request, 4); /* of the two that were there one is left */
    json_t *rows = read_lines(c.out);
    check_rows(rows, 5, false, ML_SPLIT_TRAIN);
    for (size_t i = 0; i < 5; i++) { /* in the order of the prompts */
        char id[64];
        snprintf(id, sizeof id, "endpoint-constraint-train-7-%zu", i);
        assert_string_equal(text_of(json_array_get(rows, i), "id"), id);
    }
    json_decref(rows);
}

static void test_refusals(void **state)
{
    (void)state;
    ml_synth_endpoint_config c = config_for(5, false);
    ml_synth_endpoint_result r;
    SCRIPT(GOOD, REFUSED);
    assert_fails(ml_data_synth_endpoint(&c, &r, &err), ML_EIO, "no such key");
    c.seed = 8;
    assert_fails(ml_data_synth_endpoint(&c, &r, &err), ML_EINVAL, "was begun with another seed (7, now 8)");
    c.seed = 7;
    ml_stop_set(true);
    assert_fails(ml_data_synth_endpoint(&c, &r, &err), ML_ECANCEL, "run the same command again");
    ml_stop_set(false);
    c.completion.endpoint = "localhost:8000";
    c.out = test_path_in(folder, "other.jsonl");
    assert_fails(ml_data_synth_endpoint(&c, &r, &err), ML_EINVAL, "expected a URL");
    assert_ok(ml_file_replace(test_path_in(folder, "notes.part"), "{\"my\": \"notes\"}\n", 16, &err));
    c = config_for(5, false);
    c.out = test_path_in(folder, "notes");
    assert_fails(ml_data_synth_endpoint(&c, &r, &err), ML_EFORMAT, "expected an unfinished collection");
}

/* A model that can do nothing right is not asked for ever. */
static void test_a_hopeless_model(void **state)
{
    (void)state;
    ml_synth_endpoint_config c = config_for(5, false);
    ml_synth_endpoint_result r;
    behind = BAD_WORDS;
    assert_fails(ml_data_synth_endpoint(&c, &r, &err), ML_EFORMAT, "of 50 prompts only 0 had an answer");
    assert_int_equal(n_request, 150);
    assert_true(ml_path_exists(test_path_in(folder, "out.jsonl.part")));
}

static void test_the_pace(void **state)
{
    (void)state;
    ml_synth_endpoint_config c = config_for(4, false);
    ml_synth_endpoint_result r;
    ml_request_pace pace;
    ml_request_pace_init(&pace, 600); /* a tenth of a second apart, whoever asks */
    c.completion.pace = &pace;
    c.n_parallel = 4;
    double start = ml_clock_seconds();
    assert_ok(ml_data_synth_endpoint(&c, &r, &err));
    assert_true(ml_clock_seconds() - start >= 0.3); /* no sooner, however late on a busy machine */
    ml_request_pace_free(&pace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rows_and_pairs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_faults_that_pass, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rejects, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_failure_keeps_what_there_is, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_hopeless_model, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_pace, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
