/* POST /api/bench: how fast a model answers with the key/value cache and without. */
#include "base/alloc.h"
#include "base/clock.h"
#include "infer/generate.h"
#include "infer/session.h"
#include "serve/handlers.h"
#include "serve/limits.h"
#include "serve/server_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    ml_web *h;
    ml_served *named, *served;
    const char *model;
    int64_t n_prompt, n_gen, repeat;
    int32_t *prompt;    /* [n_prompt] */
    int32_t *answer[2]; /* [repeat, n_gen] with and without the cache */
    double *rate[2];    /* [repeat] tokens per second */
    bool gone;
} bench;

static ml_status read_number(ml_web *h, const json_t *body, const char *key, int64_t most, int64_t *out, ml_error *err)
{
    const json_t *v = json_object_get(body, key);
    if (!v) return ML_OK;
    *out = json_integer_value(v);
    if (json_is_integer(v) && *out >= 1 && *out <= most) return ML_OK;
    return ml_web_refuse(h, err, 400, key, "%s: expected a whole number from 1 to %lld", key, (long long)most);
}

static ml_status read_body(bench *b, ml_error *err)
{
    json_t *body;
    const char *key;
    json_t *v;
    ML_TRY(ml_web_json(b->h, &body, err));
    json_object_foreach(body, key, v)
    {
        bool model = !strcmp(key, "model") && json_is_string(v);
        if (model) b->model = json_string_value(v);
        if (model || !strcmp(key, "prompt_tokens") || !strcmp(key, "gen_tokens") || !strcmp(key, "repeat")) continue;
        return ml_web_refuse(b->h, err, 400, key, "%.100s: expected model, prompt_tokens, gen_tokens, repeat", key);
    }
    ML_TRY(read_number(b->h, body, "prompt_tokens", ML_LIMIT_BENCH_TOKEN, &b->n_prompt, err));
    ML_TRY(read_number(b->h, body, "gen_tokens", ML_LIMIT_BENCH_TOKEN, &b->n_gen, err));
    return read_number(b->h, body, "repeat", ML_LIMIT_BENCH_REPEAT, &b->repeat, err);
}

/* Somebody waits for the model to be unloaded, the client has gone, or the server ends. */
static bool is_over(bench *b)
{
    b->gone = b->gone || ml_web_is_gone(b->h) || ml_server_is_stopping(b->h->server) ||
              ml_models_is_closing(b->h->server->models, b->named);
    return b->gone;
}

static bool on_token(void *arg, int32_t id, double logprob)
{
    (void)id;
    (void)logprob;
    return !is_over(arg);
}

static ml_status measure_once(bench *b, int mode, int64_t turn, ml_error *err)
{
    ml_session *s = NULL;
    ml_sampler *sampler = NULL;
    ml_generation g = { 0 };
    ml_sampling greedy = ml_sampling_default();
    ml_model *m = b->served->m.model;
    ml_generate_config config = { .max_tokens = b->n_gen, .on_token = on_token, .arg = b };
    ml_status status;
    ML_TRY_GOTO(ml_session_make_as(m, b->n_prompt + b->n_gen, mode == 0, b->served->config.kv_dtype, &s, err));
    ml_session_set_adapter(s, b->named->adapter);
    ML_TRY_GOTO(ml_sampler_make(&greedy, m->config.vocab_size, b->served->config.n_valid, &sampler, err));
    ML_TRY_GOTO(ml_generate(s, sampler, b->prompt, b->n_prompt, &config, &g, err));
    if (b->gone) status = ml_fail(err, ML_ECANCEL, "the benchmark was stopped");
    if (status == ML_OK && g.n == b->n_gen) {
        memcpy(b->answer[mode] + turn * b->n_gen, g.id, (size_t)g.n * sizeof *g.id);
        double seconds = g.prefill_seconds + g.decode_seconds;
        b->rate[mode][turn] = seconds > 0 ? (double)g.n / seconds : 0;
    }
done:
    ml_generation_free(&g);
    ml_sampler_free(sampler);
    ml_session_free(s);
    return status;
}

/* One round of each mode before the measured ones; the modes take turns. */
static ml_status measure(bench *b, ml_error *err)
{
    ML_TRY(measure_once(b, 0, 0, err));
    for (int64_t turn = 0; turn < b->repeat; turn++) {
        ML_TRY(measure_once(b, 0, turn, err));
        ML_TRY(measure_once(b, 1, turn, err));
    }
    return ML_OK;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static json_t *mode_object(const bench *b, int mode)
{
    double mean = 0, sorted[ML_LIMIT_BENCH_REPEAT];
    int64_t n = b->repeat;
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) {
        mean += b->rate[mode][i] / (double)n;
        json_array_append_new(list, ml_json_number(b->rate[mode][i]));
    }
    memcpy(sorted, b->rate[mode], (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, compare);
    return json_pack("{s:b, s:o, s:o, s:o}", "kv_cache", mode == 0, "mean", ml_json_number(mean), "median",
                     ml_json_number(0.5 * (sorted[(n - 1) / 2] + sorted[n / 2])), "tokens_per_second", list);
}

static ml_status reply(bench *b, bool undisturbed, ml_error *err)
{
    bool equal = memcmp(b->answer[0], b->answer[1], (size_t)(b->repeat * b->n_gen) * sizeof(int32_t)) == 0;
    json_t *modes = json_pack("[o, o]", mode_object(b, 0), mode_object(b, 1));
    return ml_web_reply_json(b->h, 200,
                             json_pack("{s:s, s:I, s:I, s:I, s:b, s:b, s:o}", "model", b->named->id, "prompt_tokens",
                                       (json_int_t)b->n_prompt, "gen_tokens", (json_int_t)b->n_gen, "repeat",
                                       (json_int_t)b->repeat, "equal", equal, "undisturbed", undisturbed, "modes",
                                       modes),
                             err);
}

static ml_status run(bench *b, ml_error *err)
{
    int64_t context = b->served->m.model->config.max_position_embeddings;
    if (b->n_prompt + b->n_gen > context) {
        return ml_web_refuse(b->h, err, 400, "gen_tokens", "%lld and %lld tokens do not fit into a context of %lld",
                             (long long)b->n_prompt, (long long)b->n_gen, (long long)context);
    }
    size_t n = (size_t)(b->repeat * b->n_gen), n_repeat = (size_t)b->repeat;
    b->prompt = ml_calloc((size_t)b->n_prompt, sizeof *b->prompt);
    bool all = b->prompt != NULL;
    for (int mode = 0; mode < 2; mode++) {
        b->answer[mode] = ml_calloc(n, sizeof(int32_t));
        b->rate[mode] = ml_calloc(n_repeat, sizeof(double));
        all = all && b->answer[mode] && b->rate[mode];
    }
    if (!all) return ml_fail_memory(err, n * sizeof(int32_t), "a benchmark");
    ml_rng rng = ml_rng_make(1, 0);
    uint64_t n_valid = (uint64_t)b->served->config.n_valid;
    for (int64_t i = 0; i < b->n_prompt; i++) b->prompt[i] = (int32_t)ml_rng_below(&rng, n_valid);
    int64_t before = ml_models_passes(b->h->server->models);
    ML_TRY(measure(b, err));
    return reply(b, ml_models_passes(b->h->server->models) == before, err);
}

ml_status ml_api_bench(ml_web *h, ml_error *err)
{
    bench b = { .h = h, .n_prompt = 64, .n_gen = 32, .repeat = 3 };
    ML_TRY(read_body(&b, err));
    ML_TRY(ml_models_acquire(h, b.model, &b.named, err));
    b.served = ml_served_model(b.named);
    ml_status status = run(&b, err);
    ml_models_release(h->server->models, b.named);
    ml_free(b.prompt);
    for (int mode = 0; mode < 2; mode++) {
        ml_free(b.answer[mode]);
        ml_free(b.rate[mode]);
    }
    return status;
}
