#include "data/synth_endpoint.h"

#include "base/alloc.h"
#include "base/file.h"
#include "data/synth_journal.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_TRY = 3,
    MAX_PARALLEL = 256,
    HOPELESS = 50, /* prompts of which less than one in twenty could be used */
};

/* Shared by the threads, under `lock`. */
typedef struct {
    const ml_synth_endpoint_config *config;
    ml_synth_endpoint_result *result;
    pthread_mutex_t lock;
    ml_journal journal;
    bool *done; /* [n_done] prompts that the journal has */
    size_t n_done, done_capacity;
    uint64_t next, n_kept, n_busy;
    int64_t busy_prompt_token, busy_completion_token, n_busy_reject; /* of prompts under way */
    ml_status status;                                                /* of the first failure: all end */
    ml_error err;
} collection;

/* What came of one prompt. */
typedef struct {
    json_t *row; /* NULL: nothing that can be used */
    json_t *rejects;
    int64_t n_request, n_prompt_token, n_completion_token;
} piece;

/* ---- one prompt ---- */

static void trim(char *text)
{
    size_t n = strlen(text), first = 0;
    while (n > 0 && isspace((unsigned char)text[n - 1])) n--;
    while (first < n && isspace((unsigned char)text[first])) first++;
    memmove(text, text + first, n - first);
    text[n - first] = 0;
}

static bool ends_a_sentence(const char *text)
{
    size_t n = strlen(text);
    while (n > 0 && strchr("\"')*", text[n - 1])) n--;
    /* a curly quotation mark */
    if (n >= 3 && (memcmp(text + n - 3, "\xe2\x80\x9d", 3) == 0 || memcmp(text + n - 3, "\xe2\x80\x99", 3) == 0))
        n -= 3;
    return n > 0 && strchr(".!?", text[n - 1]) != NULL;
}

static ml_synth_fault judge(const ml_constraint_order *order, const ml_completion *a, bool is_wrong)
{
    if (!*a->text) return ML_SYNTH_EMPTY;
    if (a->is_cut || !ends_a_sentence(a->text)) return ML_SYNTH_CUT;
    ml_constraint_verdict v = ml_constraints_check(&order->constraints, a->text);
    if (is_wrong ? v.protagonist : !v.protagonist) return is_wrong ? ML_SYNTH_NOT_WRONG : ML_SYNTH_NO_PROTAGONIST;
    if (!v.required) return ML_SYNTH_NO_PHRASE;
    return v.banned ? ML_SYNTH_KEPT : ML_SYNTH_BANNED;
}

/* The prompt as the model is asked: what the check will look for is said. */
static void write_request(const ml_constraint_order *order, bool is_wrong, char *out, size_t size)
{
    const char *prompt = is_wrong ? order->wrong_prompt : order->prompt;
    const ml_constraints *c = is_wrong ? &order->wrong : &order->constraints;
    snprintf(out, size,
             "%.*s\nThe first sentence names %s in exactly these words. Use simple words. Answer with the story alone.",
             (int)strcspn(prompt, "\n"), prompt, c->protagonist);
}

static json_t *describe_reject(const char *id, const char *prompt, const char *text, ml_synth_fault fault, int number)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:i}", "id", id, "prompt", prompt, "response", text, "reason",
                     ml_synth_fault_name(fault), "try", number);
}

static double cost_of(const collection *c)
{
    const ml_synth_endpoint_result *r = c->result;
    return ((double)r->n_prompt_token * c->config->prompt_price +
            (double)r->n_completion_token * c->config->completion_price) /
           1e6;
}

/* Under the lock.  Rejects first: a terminal of 80 columns has no room for all of it. */
static void show(collection *c)
{
    char note[160], money[40] = "";
    const ml_synth_endpoint_result *r = c->result;
    uint64_t n_reject = (uint64_t)c->n_busy_reject;
    for (int i = 1; i < ML_N_SYNTH_FAULT; i++) n_reject += r->n_reject[i];
    if (cost_of(c) > 0) snprintf(money, sizeof money, ", cost %.4f", cost_of(c));
    snprintf(note, sizeof note, "%llu rejected%s, %lld + %lld tokens", (unsigned long long)n_reject, money,
             (long long)(r->n_prompt_token + c->busy_prompt_token),
             (long long)(r->n_completion_token + c->busy_completion_token));
    ml_progress_update(c->config->progress, (double)c->n_kept, note);
}

/* Show an answer at once: a prompt may take several, and a model whose answers are all rejected looks like none. */
static void show_answer(collection *c, const ml_completion *a, bool is_rejected)
{
    pthread_mutex_lock(&c->lock);
    c->busy_prompt_token += a->n_prompt;
    c->busy_completion_token += a->n_completion;
    c->n_busy_reject += is_rejected;
    show(c);
    pthread_mutex_unlock(&c->lock);
}

/* Ask until an answer can be taken, into *text; it stays NULL when none can. */
static ml_status find_answer(collection *c, ml_completion_client *client, const ml_constraint_order *order,
                             bool is_wrong, const char *id, piece *p, char **text, char model[128], ml_error *err)
{
    char request[ML_PROMPT_MAX + 256];
    ml_completion a = { 0 };
    ml_status status = ML_OK;
    write_request(order, is_wrong, request, sizeof request);
    for (int i = 1; i <= N_TRY && status == ML_OK && !*text; i++) {
        status = ml_completion_ask(client, request, &a, err);
        if (status != ML_OK) break;
        p->n_request++;
        p->n_prompt_token += a.n_prompt;
        p->n_completion_token += a.n_completion;
        trim(a.text);
        ml_synth_fault fault = judge(order, &a, is_wrong);
        show_answer(c, &a, fault != ML_SYNTH_KEPT);
        if (fault == ML_SYNTH_KEPT) {
            *text = a.text;
            a.text = NULL;
            snprintf(model, 128, "%s", a.model);
        } else {
            const char *prompt = is_wrong ? order->wrong_prompt : order->prompt;
            json_array_append_new(p->rejects, describe_reject(id, prompt, a.text, fault, i));
        }
    }
    ml_completion_free(&a);
    return status;
}

static json_t *make_row(const collection *c, const char *id, const ml_constraint_order *order, const char *chosen,
                        const char *rejected, const char *model)
{
    const ml_synth_endpoint_config *config = c->config;
    ml_constraint_verdict v = ml_constraints_check(&order->constraints, chosen);
    json_t *j = json_pack("{s:s, s:s, s:s, s:s*, s:o, s:i, s:b, s:{s:s, s:s, s:f}}", "id", id, "prompt", order->prompt,
                          config->pairs ? "chosen" : "response", chosen, "rejected", rejected, "constraints",
                          ml_constraints_to_json(&order->constraints), "sentence_count", v.n_sentence, "sentence_ok",
                          v.sentences, "provenance", "model", model, "endpoint", config->completion.endpoint,
                          "temperature", config->completion.temperature);
    return j;
}

static ml_status work_on(collection *c, ml_completion_client *client, uint64_t index, piece *p, ml_error *err)
{
    const ml_synth_endpoint_config *config = c->config;
    ml_constraint_order order;
    char id[96], model[128] = "", *chosen = NULL, *rejected = NULL;
    ml_constraint_draw_order(config->seed, index, config->split, config->pairs, &order);
    snprintf(id, sizeof id, "endpoint-%s-%s-%llu-%llu", config->pairs ? "preference" : "constraint",
             ml_dataset_split_name(config->split), (unsigned long long)config->seed, (unsigned long long)index);
    *p = (piece){ .rejects = json_array() };
    if (!p->rejects) return ml_fail_memory(err, 0, "a list of rejects");
    ml_status status = find_answer(c, client, &order, false, id, p, &chosen, model, err);
    if (status == ML_OK && chosen && config->pairs)
        status = find_answer(c, client, &order, true, id, p, &rejected, model, err);
    if (status == ML_OK && chosen && (rejected || !config->pairs)) {
        p->row = make_row(c, id, &order, chosen, rejected, model);
        if (!p->row) status = ml_fail_memory(err, 0, "an example");
    }
    ml_free(chosen);
    ml_free(rejected);
    return status;
}

/* ---- all prompts ---- */

static ml_synth_fault find_fault(const char *name)
{
    int i = ML_N_SYNTH_FAULT - 1;
    while (i > 0 && strcmp(ml_synth_fault_name((ml_synth_fault)i), name) != 0) i--;
    return (ml_synth_fault)i;
}

/* Count what an entry of the journal says, new or old. */
static void see_entry(void *arg, const json_t *entry)
{
    collection *c = arg;
    ml_synth_endpoint_result *r = c->result;
    size_t i;
    json_t *reject, *rejects = json_object_get(entry, "rejects");
    size_t index = (size_t)json_integer_value(json_object_get(entry, "index"));
    void *items = c->done;
    ml_error ignored;
    if (ml_grow(&items, &c->done_capacity, index + 1, sizeof *c->done, &ignored) == ML_OK) {
        c->done = items;
        if (index >= c->n_done) {
            memset(c->done + c->n_done, 0, (index + 1 - c->n_done) * sizeof *c->done);
            c->n_done = index + 1;
        }
        c->done[index] = true;
    }
    c->n_kept += json_is_object(json_object_get(entry, "row"));
    r->n_prompt++;
    r->n_request += json_integer_value(json_object_get(entry, "requests"));
    r->n_prompt_token += json_integer_value(json_object_get(entry, "prompt_tokens"));
    r->n_completion_token += json_integer_value(json_object_get(entry, "completion_tokens"));
    json_array_foreach(rejects, i, reject)
    {
        const char *reason = json_string_value(json_object_get(reject, "reason"));
        if (reason) r->n_reject[find_fault(reason)]++;
    }
}

/* Under the lock: the next prompt, unless what is there and under way is enough. */
static bool take_index(collection *c, uint64_t *index)
{
    if (c->status != ML_OK || c->n_kept + c->n_busy >= c->config->n_document) return false;
    while (c->next < c->n_done && c->done[c->next]) c->next++;
    *index = c->next++;
    c->n_busy++;
    return true;
}

static void fail_all(collection *c, ml_status status, const ml_error *err)
{
    if (c->status != ML_OK) return;
    c->status = status;
    c->err = *err;
}

/* Under the lock: keep what came of a prompt. */
static ml_status keep(collection *c, uint64_t index, const piece *p, ml_error *err)
{
    json_t *entry = json_pack("{s:I, s:O?, s:O, s:I, s:I, s:I}", "index", (json_int_t)index, "row", p->row, "rejects",
                              p->rejects, "requests", (json_int_t)p->n_request, "prompt_tokens",
                              (json_int_t)p->n_prompt_token, "completion_tokens", (json_int_t)p->n_completion_token);
    if (!entry) return ml_fail_memory(err, 0, "an example");
    ml_status status = ml_journal_add(&c->journal, entry, err);
    if (status == ML_OK) see_entry(c, entry);
    json_decref(entry);
    c->busy_prompt_token -= p->n_prompt_token;
    c->busy_completion_token -= p->n_completion_token;
    c->n_busy_reject -= (int64_t)json_array_size(p->rejects);
    show(c);
    if (status == ML_OK && c->result->n_prompt >= HOPELESS && 20 * c->n_kept < c->result->n_prompt)
        return ml_fail(err, ML_EFORMAT,
                       "%s: of %llu prompts only %llu had an answer that can be used: ask another model (%s keeps the "
                       "answers)",
                       c->config->completion.endpoint, (unsigned long long)c->result->n_prompt,
                       (unsigned long long)c->n_kept, c->journal.path);
    return status;
}

static void *run_worker(void *arg)
{
    collection *c = arg;
    ml_completion_client *client;
    ml_error err;
    uint64_t index;
    ml_status status = ml_completion_open(&c->config->completion, &client, &err);
    pthread_mutex_lock(&c->lock);
    if (status != ML_OK)
        fail_all(c, status, &err);
    else
        ml_completion_stop_with(client, c->config->progress);
    while (status == ML_OK && take_index(c, &index)) {
        piece p;
        pthread_mutex_unlock(&c->lock);
        status = work_on(c, client, index, &p, &err);
        pthread_mutex_lock(&c->lock);
        c->n_busy--;
        if (status == ML_OK) status = keep(c, index, &p, &err);
        if (status != ML_OK) fail_all(c, status, &err);
        json_decref(p.row);
        json_decref(p.rejects);
    }
    pthread_mutex_unlock(&c->lock);
    if (client) ml_completion_close(client);
    return NULL;
}

/* A thread that finds nothing to do ends, though a prompt under way may yet be rejected: so again until all is there.
 */
static ml_status collect(collection *c, ml_error *err)
{
    const ml_synth_endpoint_config *config = c->config;
    show(c);
    while (c->status == ML_OK && c->n_kept < config->n_document) {
        pthread_t thread[MAX_PARALLEL];
        int64_t n = 0, wanted = config->n_parallel < MAX_PARALLEL ? config->n_parallel : MAX_PARALLEL;
        while (n < wanted && pthread_create(&thread[n], NULL, run_worker, c) == 0) n++;
        if (n == 0) return ml_fail(err, ML_ENOMEM, "no thread can be started");
        for (int64_t i = 0; i < n; i++) pthread_join(thread[i], NULL);
    }
    if (c->status != ML_OK) *err = c->err;
    return c->status;
}

/* ---- the files ---- */

static ml_status write_line(ml_file_writer *file, const json_t *value, uint64_t *n_bytes, ml_error *err)
{
    char *line = json_dumps(value, JSON_COMPACT);
    if (!line) return ml_fail_memory(err, 0, "an example");
    *n_bytes += strlen(line) + 1;
    ml_status status = ml_file_printf(file, err, "%s\n", line);
    free(line);
    return status;
}

/* The first n_document rows by index, and every reject. */
static ml_status write_files(collection *c, const char *rejects_path, ml_error *err)
{
    ml_file_writer file = { 0 }, rejects = { 0 };
    ml_status status;
    json_t *entry = NULL, *reject;
    uint64_t n = 0, ignored = 0;
    size_t k;
    ml_journal_sort(&c->journal);
    ML_TRY_GOTO(ml_file_begin(&file, c->config->out, err));
    ML_TRY_GOTO(ml_file_begin(&rejects, rejects_path, err));
    for (size_t i = 0; i < c->journal.n; i++) {
        json_decref(entry);
        ML_TRY_GOTO(ml_journal_read(&c->journal, i, &entry, err));
        const json_t *row = json_object_get(entry, "row");
        if (json_is_object(row) && n < c->config->n_document) {
            ML_TRY_GOTO(write_line(&file, row, &c->result->n_bytes, err));
            n++;
        }
        json_array_foreach(json_object_get(entry, "rejects"), k, reject)
            ML_TRY_GOTO(write_line(&rejects, reject, &ignored, err));
    }
    ML_TRY_GOTO(ml_file_commit(&rejects, err));
    status = ml_file_commit(&file, err);
done:
    json_decref(entry);
    ml_file_abandon(&file);
    ml_file_abandon(&rejects);
    return status;
}

static json_t *describe_asked(const ml_synth_endpoint_config *c)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:f, s:I}", "kind", c->pairs ? "preferences" : "constraints", "split",
                     ml_dataset_split_name(c->split), "seed", (json_int_t)c->seed, "endpoint", c->completion.endpoint,
                     "model", c->completion.model, "temperature", c->completion.temperature, "max_tokens",
                     (json_int_t)c->completion.max_tokens);
}

static ml_status name_files(const char *out, char part[ML_PATH_MAX], char rejects[ML_PATH_MAX], ml_error *err)
{
    size_t n = strlen(out);
    if (n + 32 > ML_PATH_MAX) return ml_fail(err, ML_EINVAL, "\"%.100s...\": the path is too long", out);
    snprintf(part, ML_PATH_MAX, "%s.part", out);
    if (n > 6 && strcmp(out + n - 6, ".jsonl") == 0) n -= 6;
    snprintf(rejects, ML_PATH_MAX, "%.*s.rejects.jsonl", (int)n, out);
    return ML_OK;
}

ml_status ml_data_synth_endpoint(const ml_synth_endpoint_config *config, ml_synth_endpoint_result *result,
                                 ml_error *err)
{
    char part[ML_PATH_MAX], rejects[ML_PATH_MAX];
    *result = (ml_synth_endpoint_result){ 0 };
    collection c = { .config = config, .result = result };
    ML_TRY(name_files(config->out, part, rejects, err));
    json_t *asked = describe_asked(config);
    if (!asked) return ml_fail(err, ML_EINVAL, "endpoint and model: expected UTF-8, found other bytes");
    pthread_mutex_init(&c.lock, NULL);
    ml_status status = ml_journal_open(&c.journal, part, asked, see_entry, &c, err);
    result->resumed = c.journal.resumed;
    if (status == ML_OK) status = collect(&c, err);
    if (status == ML_OK) status = write_files(&c, rejects, err);
    if (status == ML_OK) status = ml_journal_remove(&c.journal, err);
    if (status == ML_ECANCEL)
        ml_fail(err, ML_ECANCEL, "stopped: %s keeps what there is: run the same command again to go on", part);
    result->cost = cost_of(&c);
    ml_journal_close(&c.journal);
    pthread_mutex_destroy(&c.lock);
    json_decref(asked);
    ml_free(c.done);
    return status;
}
