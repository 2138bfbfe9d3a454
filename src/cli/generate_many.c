/* moonlight generate --prompts FILE: answer many prompts at once. */
#include "cli/generate_many.h"

#include "base/clock.h"
#include "base/log.h"
#include "cli/load.h"
#include "cli/prompts.h"
#include "cli/sampling.h"
#include "infer/engine.h"
#include "infer/fit.h"
#include "infer/generate.h"

#include <math.h>
#include <string.h>

/* One prompt and its answer. */
typedef struct {
    char *text;
    const ml_adapter *adapter; /* NULL: the model's */
    ml_ids prompt, answer;
    ml_finish finish;
} item;

typedef struct {
    const ml_options *o;
    const ml_loaded *m;
    ml_model *model;
    ml_tokenizer *tokenizer;
    const int32_t *stop_id;
    int64_t n_stop;
    item *items;
    size_t n, capacity;
    size_t n_done, n_full; /* n_full: that the context had no more room for */
    int64_t n_token;
    ml_progress *progress;
    ml_error error; /* of a callback */
} batch;

static ml_status add_prompt(void *arg, const char *text, size_t n_bytes, const char *adapter, ml_error *err)
{
    batch *b = arg;
    ML_TRY(ml_grow((void **)&b->items, &b->capacity, b->n + 1, sizeof *b->items, err));
    char *copy = ml_alloc(n_bytes + 1);
    if (!copy) return ml_fail_memory(err, n_bytes + 1, "a prompt");
    memcpy(copy, text, n_bytes);
    copy[n_bytes] = 0;
    b->items[b->n++] = (item){ .text = copy };
    return adapter ? ml_cli_find_adapter(b->m, adapter, &b->items[b->n - 1].adapter, err) : ML_OK;
}

/* ---- callbacks of the engine; a request's arg points to one of these ---- */

typedef struct {
    batch *b;
    item *it;
} listener;

static bool take_token(void *arg, int32_t id, double logprob)
{
    listener *l = arg;
    if (isnan(logprob)) {
        ml_fail_nan(&l->b->error);
        return false;
    }
    l->b->n_token++;
    ml_progress_update(l->b->progress, (double)l->b->n_token, NULL);
    return ml_ids_append(&l->it->answer, &id, 1, &l->b->error) == ML_OK && !ml_stop_requested();
}

static void take_end(void *arg, ml_finish finish)
{
    listener *l = arg;
    l->it->finish = finish;
    l->b->n_done++;
    l->b->n_full += finish == ML_FINISH_LENGTH && (int64_t)l->it->answer.n < ml_options_int(l->b->o, "max-tokens");
    char note[64];
    snprintf(note, sizeof note, "%zu of %zu answers", l->b->n_done, l->b->n);
    ml_progress_update(l->b->progress, (double)l->b->n_token, note);
}

static ml_status submit_all(batch *b, ml_engine *e, listener *listeners, ml_error *err)
{
    for (size_t i = 0; i < b->n; i++) {
        listeners[i] = (listener){ b, &b->items[i] };
        ml_request request = { .prompt = b->items[i].prompt.id,
                               .n_prompt = (int64_t)b->items[i].prompt.n,
                               .sampling = ml_cli_sampling(b->o),
                               .max_tokens = ml_options_int(b->o, "max-tokens"),
                               .stop_id = b->stop_id,
                               .n_stop = b->n_stop,
                               .adapter = b->items[i].adapter,
                               .on_token = take_token,
                               .on_end = take_end,
                               .arg = &listeners[i] };
        int64_t id;
        ml_error why;
        if (ml_engine_submit(e, &request, &id, &why) != ML_OK) {
            return ml_fail(err, why.code, "prompt %zu: %s", i + 1, why.message);
        }
    }
    return ML_OK;
}

/* Room for the longest prompt and its answer, not for the model's whole context. */
static int64_t context_of(const batch *b)
{
    int64_t longest = 0, most = b->model->config.max_position_embeddings;
    for (size_t i = 0; i < b->n; i++) {
        if ((int64_t)b->items[i].prompt.n > longest) longest = (int64_t)b->items[i].prompt.n;
    }
    int64_t answer = ml_options_int(b->o, "max-tokens");
    return answer < most - longest ? longest + answer : most;
}

static ml_status run(batch *b, ml_error *err)
{
    int64_t parallel = ml_options_int(b->o, "parallel");
    ml_engine_config config = { .n_slot = parallel < (int64_t)b->n ? parallel : (int64_t)b->n,
                                .capacity = context_of(b),
                                .n_valid = ml_tokenizer_vocab_size(b->tokenizer),
                                .kv_dtype = ml_cli_kv_dtype(b->o) };
    ml_engine *e = NULL;
    ml_memory_budget budget = ml_cli_budget(b->o);
    ML_TRY(ml_fit_check_cache(b->model, config.n_slot * config.capacity, &budget,
                              "fewer at a time (--parallel), fewer --max-tokens", err));
    listener *listeners = ml_calloc(b->n, sizeof *listeners);
    ml_status status = listeners ? ML_OK : ml_fail_memory(err, b->n * sizeof *listeners, "requests");
    if (status == ML_OK) status = ml_engine_make(b->model, &config, &e, err);
    if (status == ML_OK) status = submit_all(b, e, listeners, err);
    b->progress = ml_progress_begin("generating", "tokens", 0);
    while (status == ML_OK && ml_engine_is_busy(e)) {
        if (b->error.code != ML_OK) break;
        status = ml_stop_requested() ? ml_fail(err, ML_ECANCEL, "stopped after %zu of %zu answers", b->n_done, b->n)
                                     : ml_engine_step(e, err);
    }
    ml_progress_end(b->progress);
    if (status == ML_OK && b->error.code != ML_OK) {
        *err = b->error;
        status = err->code;
    }
    ml_engine_free(e);
    ml_free(listeners);
    return status;
}

static json_t *item_to_json(const item *it, const ml_chars *text)
{
    json_t *ids = json_array();
    for (size_t i = 0; i < it->answer.n; i++) json_array_append_new(ids, json_integer(it->answer.id[i]));
    return json_pack("{s:s, s:s%, s:o, s:s, s:I, s:I}", "prompt", it->text, "text", text->n ? text->data : "", text->n,
                     "ids", ids, "finish_reason", ml_finish_name(it->finish), "prompt_tokens", (json_int_t)it->prompt.n,
                     "completion_tokens", (json_int_t)it->answer.n);
}

static ml_status report(const batch *b, double seconds, ml_error *err)
{
    ml_chars text = { 0 };
    json_t *results = ml_options_flag(b->o, "json") ? json_array() : NULL;
    ml_status status = ML_OK;
    for (size_t i = 0; i < b->n && status == ML_OK; i++) {
        const item *it = &b->items[i];
        status = ml_tokenizer_decode_answer(b->tokenizer, &it->prompt, it->answer.id, it->answer.n, &text, err);
        if (status != ML_OK) break;
        if (results) {
            json_array_append_new(results, item_to_json(it, &text));
        } else {
            printf("%s%s%.*s\n", i ? "\n" : "", it->text, (int)text.n, text.n ? text.data : "");
        }
    }
    ml_chars_free(&text);
    if (results && status == ML_OK) {
        return ml_cli_print_json(json_pack("{s:o, s:I, s:f}", "results", results, "completion_tokens",
                                           (json_int_t)b->n_token, "seconds", seconds),
                                 err);
    }
    json_decref(results);
    if (status == ML_OK && b->n_full) {
        ml_log_info("%zu of %zu answers ended because the context of %lld tokens was full", b->n_full, b->n,
                    (long long)b->model->config.max_position_embeddings);
    }
    return status;
}

ml_status ml_cli_generate_many(const ml_options *o, const ml_loaded *m, ml_cli_encode_fn encode, void *arg,
                               const int32_t *stop_id, int64_t n_stop, ml_error *err)
{
    batch b = { .o = o, .m = m, .model = m->model, .tokenizer = m->tokenizer, .stop_id = stop_id, .n_stop = n_stop };
    ml_stop_install();
    ml_status status = ml_cli_read_prompts(ml_options_text(o, "prompts"), add_prompt, &b, err);
    for (size_t i = 0; i < b.n && status == ML_OK; i++) {
        status = encode(arg, b.items[i].text, &b.items[i].prompt, err);
    }
    double start = ml_clock_seconds();
    if (status == ML_OK) status = run(&b, err);
    if (status == ML_OK) status = report(&b, ml_clock_seconds() - start, err);
    for (size_t i = 0; i < b.n; i++) {
        ml_free(b.items[i].text);
        ml_ids_free(&b.items[i].prompt);
        ml_ids_free(&b.items[i].answer);
    }
    ml_free(b.items);
    return status;
}
