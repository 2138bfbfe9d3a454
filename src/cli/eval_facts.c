#include "cli/eval_facts.h"

#include "base/alloc.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/lines.h"
#include "data/constraints.h"
#include "data/row_make.h"
#include "infer/answer.h"
#include "infer/sampler.h"

#include <string.h>

/* A conversation: what the user says is given, what the assistant says is filled in. */
typedef struct {
    json_t *record; /* "messages" are the user's and the system's; the assistant's are replaced */
    char **answer;  /* [n_message] of the model; NULL: not an assistant's, or not given yet */
    bool *ended;    /* [n_message] */
    size_t n_message;
} talk;

typedef struct {
    const ml_options *o;
    ml_loaded *m;
    ml_row_maker maker;
    talk *talk; /* [n] */
    size_t n, capacity;
} evaluation;

typedef struct {
    size_t n_fact, n_kept, n_answer, n_ended;
    double chance; /* sum over the facts */
} counts;

/* ---- reading ---- */

static const char *role_of(const talk *t, size_t message)
{
    const json_t *m = json_array_get(json_object_get(t->record, "messages"), message);
    const char *role = json_string_value(json_object_get(m, "role"));
    return role ? role : "";
}

static ml_status check_facts(const talk *t, const char *where, ml_error *err)
{
    size_t i;
    json_t *fact, *facts;
    ML_TRY(ml_json_array(t->record, "facts", where, &facts, err));
    json_array_foreach(facts, i, fact)
    {
        int64_t message, among;
        const char *value;
        ML_TRY(ml_json_int(fact, "message", where, &message, err));
        ML_TRY(ml_json_int(fact, "among", where, &among, err));
        ML_TRY(ml_json_text(fact, "value", where, &value, err));
        if (message >= 0 && (size_t)message < t->n_message && among > 0 &&
            !strcmp(role_of(t, (size_t)message), "assistant"))
            continue;
        return ml_fail(err, ML_EFORMAT, "%s: facts[%zu]: expected the number of a message of the assistant, found %lld",
                       where, i, (long long)message);
    }
    return ML_OK;
}

static ml_status add_talk(void *arg, const char *where, json_t *record, ml_error *err)
{
    evaluation *e = arg;
    json_t *messages;
    ML_TRY(ml_json_array(record, "messages", where, &messages, err));
    ML_TRY(ml_grow((void **)&e->talk, &e->capacity, e->n + 1, sizeof *e->talk, err));
    talk *t = &e->talk[e->n++];
    *t = (talk){ .record = json_incref(record), .n_message = json_array_size(messages) };
    t->answer = ml_calloc(t->n_message + 1, sizeof *t->answer);
    t->ended = ml_calloc(t->n_message + 1, sizeof *t->ended);
    if (!t->answer || !t->ended) return ml_fail_memory(err, t->n_message * sizeof *t->answer, "a conversation");
    for (size_t i = 0; i < t->n_message; i++) {
        const json_t *m = json_array_get(messages, i);
        const char *role = role_of(t, i), *text;
        ML_TRY(ml_json_text(m, "content", where, &text, err));
        if (strcmp(role, "user") && strcmp(role, "assistant") && (strcmp(role, "system") || i > 0))
            return ml_fail(err, ML_EFORMAT, "%s: message %zu: expected the role user or assistant, found \"%.40s\"",
                           where, i, role);
    }
    return check_facts(t, where, err);
}

static ml_status read_talks(evaluation *e, const char *path, const char *text, size_t n_bytes, ml_error *err)
{
    ML_TRY(ml_cli_each_object(path, text, n_bytes, ml_options_int(e->o, "limit"), add_talk, e, NULL, err));
    if (e->n == 0) return ml_fail(err, ML_EINVAL, "%s: expected conversations with facts, found none", path);
    return ML_OK;
}

/* ---- answering ---- */

/* The tokens that ask for message `at`: all before it, with the model's own answers. */
static ml_status make_prompt(const evaluation *e, const talk *t, size_t at, ml_ids *out, ml_error *err)
{
    ml_turn *turn = ml_calloc(at + 1, sizeof *turn);
    if (!turn) return ml_fail_memory(err, at * sizeof *turn, "a conversation");
    const json_t *messages = json_object_get(t->record, "messages");
    for (size_t i = 0; i < at; i++) {
        const char *role = role_of(t, i);
        const json_t *content = json_object_get(json_array_get(messages, i), "content");
        turn[i].role = !strcmp(role, "system") ? ML_ROLE_SYSTEM
                       : !strcmp(role, "user") ? ML_ROLE_USER
                                               : ML_ROLE_ASSISTANT;
        turn[i].text = t->answer[i] ? (ml_text){ t->answer[i], strlen(t->answer[i]) }
                                    : (ml_text){ json_string_value(content), json_string_length(content) };
    }
    ml_status status = ml_row_make_prompt(&e->maker, turn, at, out, err);
    ml_free(turn);
    return status;
}

static ml_status keep_answer(const evaluation *e, talk *t, size_t at, const ml_answer *a, ml_error *err)
{
    ml_chars text = { 0 };
    ml_status status = ml_tokenizer_decode_answer(e->m->tokenizer, &a->prompt, a->answer.id, a->answer.n, &text, err);
    if (status == ML_OK) status = ml_chars_append(&text, "", 1, err);
    if (status == ML_OK) t->answer[at] = ml_strdup(text.data);
    if (status == ML_OK && !t->answer[at]) status = ml_fail_memory(err, text.n, "an answer");
    t->ended[at] = a->finish == ML_FINISH_STOP;
    ml_chars_free(&text);
    return status;
}

/* The message that a conversation waits for: the first of the assistant without an answer; n_message: none. */
static size_t find_open(const talk *t)
{
    size_t i = 0;
    while (i < t->n_message && (strcmp(role_of(t, i), "assistant") || t->answer[i])) i++;
    return i;
}

/* One more answer for every conversation that waits for one; *n_asked of them. */
static ml_status answer_round(evaluation *e, ml_answer *item, size_t *n_asked, ml_progress *progress, ml_error *err)
{
    ml_answer_config c = { .sampling = ml_sampling_default(),
                           .max_tokens =
                               ml_options_given(e->o, "max-tokens") ? ml_options_int(e->o, "max-tokens") : 400,
                           .stop_id = e->maker.chat.end,
                           .n_stop = (int64_t)e->maker.chat.n_end,
                           .n_valid = ml_tokenizer_vocab_size(e->m->tokenizer),
                           .parallel = ml_options_int(e->o, "parallel"),
                           .kv_dtype = ml_cli_kv_dtype(e->o),
                           .progress = progress };
    *n_asked = 0;
    c.sampling.temperature = ml_options_real(e->o, "temperature");
    c.sampling.seed = (uint64_t)ml_options_int(e->o, "seed");
    for (size_t i = 0; i < e->n; i++) {
        size_t at = find_open(&e->talk[i]);
        if (at == e->talk[i].n_message) continue;
        ml_answer *a = &item[(*n_asked)++];
        a->prompt.n = a->answer.n = 0;
        ML_TRY(make_prompt(e, &e->talk[i], at, &a->prompt, err));
    }
    if (*n_asked == 0) return ML_OK;
    ML_TRY(ml_answer_all(e->m->model, &c, item, *n_asked, err));
    for (size_t i = 0, k = 0; i < e->n; i++) {
        size_t at = find_open(&e->talk[i]);
        if (at < e->talk[i].n_message) ML_TRY(keep_answer(e, &e->talk[i], at, &item[k++], err));
    }
    return ML_OK;
}

static ml_status answer_all(evaluation *e, ml_error *err)
{
    ml_answer *item = ml_calloc(e->n, sizeof *item);
    if (!item) return ml_fail_memory(err, e->n * sizeof *item, "the answers");
    ml_progress *progress = ml_progress_begin("answers", "answers of a round", (double)e->n);
    ml_status status = ML_OK;
    for (size_t n = 1; n > 0 && status == ML_OK;) status = answer_round(e, item, &n, progress, err);
    ml_progress_end(progress);
    for (size_t i = 0; i < e->n; i++) {
        ml_ids_free(&item[i].prompt);
        ml_ids_free(&item[i].answer);
    }
    ml_free(item);
    return status;
}

/* ---- counting ---- */

static void count_talk(counts *c, const talk *t, json_t *result)
{
    size_t i;
    json_t *fact, *kept = json_array(), *answers = json_array();
    json_array_foreach(json_object_get(t->record, "facts"), i, fact)
    {
        const char *text = t->answer[json_integer_value(json_object_get(fact, "message"))];
        bool good = ml_constraints_has_phrase(text, strlen(text), json_string_value(json_object_get(fact, "value")));
        c->n_fact++;
        c->n_kept += good;
        c->chance += 1 / (double)json_integer_value(json_object_get(fact, "among"));
        json_array_append_new(kept, json_boolean(good));
    }
    for (i = 0; i < t->n_message; i++) {
        if (!t->answer[i]) continue;
        c->n_answer++;
        c->n_ended += t->ended[i];
        json_array_append_new(answers, json_string(t->answer[i]));
    }
    json_object_set_new(result, "answers", answers);
    json_object_set_new(result, "facts", json_incref(json_object_get(t->record, "facts")));
    json_object_set_new(result, "kept", kept);
}

static ml_status report(const evaluation *e, ml_eval_scores *scores, ml_error *err)
{
    counts c = { 0 };
    json_t *results = json_array();
    for (size_t i = 0; i < e->n; i++) {
        json_t *result = json_object();
        count_talk(&c, &e->talk[i], result);
        json_array_append_new(results, result);
    }
    double n = c.n_fact ? (double)c.n_fact : 1;
    if (c.n_fact) ml_eval_scores_add_count(scores, "facts kept", c.n_kept, c.n_fact);
    if (c.n_fact) ml_eval_scores_add_value(scores, "facts kept by chance", c.chance / n, 0);
    if (c.n_answer) ml_eval_scores_add_count(scores, "ended by itself", c.n_ended, c.n_answer);
    if (ml_options_flag(e->o, "json")) {
        return ml_cli_print_json(json_pack("{s:s, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:o}", "task", "facts",
                                           "conversations", (json_int_t)e->n, "facts", (json_int_t)c.n_fact, "kept",
                                           (json_int_t)c.n_kept, "kept_share", (double)c.n_kept / n, "chance",
                                           c.chance / n, "answers", (json_int_t)c.n_answer, "ended",
                                           (json_int_t)c.n_ended, "results", results),
                                 err);
    }
    json_decref(results);
    printf("facts kept           %5zu of %zu  %5.1f %% (by chance %.1f %%)\n", c.n_kept, c.n_fact,
           100 * (double)c.n_kept / n, 100 * c.chance / n);
    printf("ended by itself      %5zu of %zu answers\n", c.n_ended, c.n_answer);
    return ML_OK;
}

ml_status ml_cli_eval_facts(const ml_options *o, ml_loaded *m, const char *path, const char *text, size_t n_bytes,
                            ml_eval_scores *scores, ml_error *err)
{
    evaluation e = { .o = o, .m = m };
    ml_status status = ml_row_maker_init(&e.maker, m->tokenizer, ML_ROW_CHAT, NULL, INT32_MAX, err);
    if (status == ML_OK) status = read_talks(&e, path, text, n_bytes, err);
    if (status == ML_OK) status = answer_all(&e, err);
    if (status == ML_OK) status = report(&e, scores, err);
    for (size_t i = 0; i < e.n; i++) {
        talk *t = &e.talk[i];
        for (size_t k = 0; t->answer && k < t->n_message; k++) ml_free(t->answer[k]);
        ml_free(t->answer);
        ml_free(t->ended);
        json_decref(t->record);
    }
    ml_free(e.talk);
    return status;
}
