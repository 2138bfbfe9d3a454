#include "report/probe.h"

#include "base/alloc.h"
#include "format/ends.h"
#include "infer/generate.h"
#include "infer/runner.h"

#include <math.h>
#include <string.h>

enum { N_REPEAT = 3, N_SPEED_TOKEN = 64, PASS = 512 };

typedef struct {
    const ml_report_probe_config *config;
    ml_report_probe *out;
    ml_model *model;
    ml_tokenizer *tokenizer;
    ml_ids ends;
    int64_t *count; /* [n_layer, n_expert] */
    int64_t n_seen; /* tokens x layers */
} probe;

static ml_status check_stop(ml_error *err)
{
    return ml_stop_requested() ? ml_fail(err, ML_ECANCEL, "stopped: no page was written") : ML_OK;
}

/* ---- routing ---- */

/* The highest of a token's probabilities. */
static double confidence_of(const float *logit, int64_t n, bool is_sigmoid)
{
    double most = -INFINITY, sum = 0;
    for (int64_t e = 0; e < n; e++) most = fmax(most, (double)logit[e]);
    if (!is_sigmoid) {
        for (int64_t e = 0; e < n; e++) sum += exp((double)logit[e] - most);
        return 1 / sum;
    }
    for (int64_t e = 0; e < n; e++) sum += 1 / (1 + exp(-(double)logit[e]));
    return 1 / (1 + exp(-most)) / sum;
}

static void hear_routing(void *arg, int64_t layer_id, const ml_routing *routing)
{
    probe *p = arg;
    ml_report_probe *out = p->out;
    int64_t *count = p->count + (layer_id - out->first_layer) * out->n_expert;
    int64_t n = routing->id->dim[0], top_k = routing->id->dim[1], n_expert = out->n_expert;
    for (int64_t i = 0; i < n * top_k; i++) {
        int32_t id = ml_i32(routing->id)[i];
        if (id >= 0) count[id]++;
    }
    bool is_sigmoid = p->model->config.scoring == ML_SCORE_SIGMOID;
    for (int64_t t = 0; t < n; t++) {
        double c = confidence_of(ml_f32(routing->logit) + t * n_expert, n_expert, is_sigmoid);
        int bin = (int)(c * ML_REPORT_N_BIN);
        out->confidence[bin < 0 ? 0 : bin >= ML_REPORT_N_BIN ? ML_REPORT_N_BIN - 1 : bin] += 1;
        p->n_seen++;
    }
}

/* Room for the counts of a model's layers with experts, which follow one another. */
static ml_status make_counts(probe *p, ml_error *err)
{
    const ml_config *c = &p->model->config;
    ml_report_probe *out = p->out;
    out->first_layer = -1;
    for (int64_t i = 0; i < c->num_hidden_layers; i++) {
        if (!ml_config_layer_is_moe(c, i)) continue;
        if (out->first_layer < 0) out->first_layer = i;
        out->n_layer = i - out->first_layer + 1;
    }
    if (!out->n_layer) return ML_OK;
    out->n_expert = c->n_routed_experts;
    size_t n = (size_t)(out->n_layer * out->n_expert);
    p->count = ml_calloc(n, sizeof *p->count);
    out->load = ml_calloc(n, sizeof *out->load);
    return p->count && out->load ? ML_OK : ml_fail_memory(err, n * sizeof *p->count, "counts of experts");
}

/* A sequence once more through the model, with somebody listening. */
static ml_status observe(probe *p, const int32_t *id, int64_t n, ml_error *err)
{
    ml_runner_config config = { .n_seq = 1, .capacity = n, .max_token = PASS, .kv_dtype = ML_SESSION_KV };
    ml_runner *r;
    int32_t pos[PASS], seq[PASS] = { 0 };
    ml_routing_observer observer = { p, hear_routing };
    ML_TRY(ml_runner_make(p->model, &config, &r, err));
    ml_runner_observe(r, &observer);
    ml_status status = ML_OK;
    if (!ml_pages_reserve(ml_runner_pages(r), 0, n)) status = ml_fail(err, ML_ENOMEM, "the cache is too small");
    for (int64_t at = 0; at < n && status == ML_OK; at += PASS) {
        int64_t size = n - at < PASS ? n - at : PASS;
        for (int64_t i = 0; i < size; i++) pos[i] = (int32_t)(at + i);
        status = ml_runner_forward(r, size, 0, id + at, pos, seq, err);
    }
    ml_runner_free(r);
    p->out->n_token += n;
    return status;
}

/* From counts to shares. */
static void finish_counts(probe *p)
{
    ml_report_probe *out = p->out;
    for (int64_t l = 0; l < out->n_layer; l++) {
        const int64_t *count = p->count + l * out->n_expert;
        int64_t total = 0;
        for (int64_t e = 0; e < out->n_expert; e++) total += count[e];
        for (int64_t e = 0; e < out->n_expert && total; e++) {
            out->load[l * out->n_expert + e] = (double)count[e] * (double)out->n_expert / (double)total;
        }
    }
    for (int i = 0; i < ML_REPORT_N_BIN && p->n_seen; i++) out->confidence[i] /= (double)p->n_seen;
}

/* ---- answers ---- */

static ml_status encode(const probe *p, const char *text, ml_ids *out, ml_error *err)
{
    ML_TRY(ml_tokenizer_append_prefix(p->tokenizer, out, err));
    return ml_tokenizer_encode(p->tokenizer, text, strlen(text), false, out, err);
}

static ml_status take_answer(probe *p, const ml_ids *prompt, const ml_generation *g, ml_report_answer *answer,
                             ml_error *err)
{
    ml_ids all = { 0 };
    answer->n_token = g->n;
    answer->finish = g->finish;
    ML_TRY(ml_tokenizer_decode(p->tokenizer, g->id, (size_t)g->n, true, &answer->text, &answer->n_bytes, err));
    if (!p->out->n_layer) return ML_OK;
    /* The last token was never run while writing, and its routing is nobody's. */
    int64_t n_run = g->n > 0 ? g->n - 1 : 0;
    ml_status status = ml_ids_append(&all, prompt->id, prompt->n, err);
    if (status == ML_OK) status = ml_ids_append(&all, g->id, (size_t)n_run, err);
    if (status == ML_OK) status = observe(p, all.id, (int64_t)all.n, err);
    ml_ids_free(&all);
    return status;
}

static ml_status write_answer(probe *p, const char *text, ml_report_answer *answer, ml_error *err)
{
    const ml_config *c = &p->model->config;
    ml_sampling sampling = ml_sampling_default();
    sampling.temperature = p->config->temperature;
    sampling.top_p = p->config->top_p;
    sampling.seed = p->config->seed;
    ml_ids prompt = { 0 };
    ml_session *session = NULL;
    ml_sampler *sampler = NULL;
    ml_generation g = { 0 };
    ml_generate_config config = { .max_tokens = p->config->max_tokens,
                                  .stop_id = p->ends.id,
                                  .n_stop = (int64_t)p->ends.n };
    ml_status status;
    ML_TRY_GOTO(encode(p, text, &prompt, err));
    ML_TRY_GOTO(ml_session_make(p->model, c->max_position_embeddings, true, &session, err));
    ML_TRY_GOTO(ml_sampler_make(&sampling, c->vocab_size, ml_tokenizer_vocab_size(p->tokenizer), &sampler, err));
    ML_TRY_GOTO(ml_generate(session, sampler, prompt.id, (int64_t)prompt.n, &config, &g, err));
    ML_TRY_GOTO(take_answer(p, &prompt, &g, answer, err));
done:
    ml_generation_free(&g);
    ml_sampler_free(sampler);
    ml_session_free(session);
    ml_ids_free(&prompt);
    return status;
}

static ml_status write_answers(probe *p, ml_error *err)
{
    const ml_report_probe_config *c = p->config;
    p->out->answer = ml_calloc(c->n_prompt, sizeof *p->out->answer);
    if (!p->out->answer) return ml_fail_memory(err, c->n_prompt * sizeof *p->out->answer, "answers");
    p->out->n_prompt = c->n_prompt;
    for (size_t i = 0; i < c->n_prompt; i++) {
        ML_TRY(check_stop(err));
        ml_status status = write_answer(p, c->prompt[i], &p->out->answer[i], err);
        if (status != ML_OK) return ml_fail_prefix(err, "prompt %zu", i + 1);
        ml_progress_update(c->progress, c->done + (double)i + 1, NULL);
    }
    return ML_OK;
}

/* ---- speed ---- */

static ml_status decode_once(probe *p, const ml_ids *prompt, int64_t n_gen, bool use_cache, ml_generation *g,
                             ml_error *err)
{
    const ml_config *c = &p->model->config;
    ml_sampling sampling = ml_sampling_default(); /* greedy */
    ml_session *session = NULL;
    ml_sampler *sampler = NULL;
    ml_generate_config config = { .max_tokens = n_gen };
    ml_status status;
    ML_TRY_GOTO(check_stop(err));
    ML_TRY_GOTO(ml_session_make(p->model, (int64_t)prompt->n + n_gen, use_cache, &session, err));
    ML_TRY_GOTO(ml_sampler_make(&sampling, c->vocab_size, ml_tokenizer_vocab_size(p->tokenizer), &sampler, err));
    ML_TRY_GOTO(ml_generate(session, sampler, prompt->id, (int64_t)prompt->n, &config, g, err));
done:
    ml_sampler_free(sampler);
    ml_session_free(session);
    return status;
}

static ml_rate rate_of(const double *x)
{
    double mean = 0, squares = 0;
    for (int i = 0; i < N_REPEAT; i++) mean += x[i] / N_REPEAT;
    for (int i = 0; i < N_REPEAT; i++) squares += (x[i] - mean) * (x[i] - mean);
    return (ml_rate){ mean, sqrt(squares / (N_REPEAT - 1)) };
}

/* With and without the cache in turn, so that a busy moment of the machine meets both. */
static ml_status measure_pair(probe *p, const ml_ids *prompt, int repeat, double rate[2][N_REPEAT], ml_error *err)
{
    ml_generation g[2] = { { 0 } };
    ml_status status = ML_OK;
    int64_t n = p->out->n_gen;
    for (int k = 0; k < 2 && status == ML_OK; k++) {
        status = decode_once(p, prompt, n, k == 0, &g[k], err);
        /* The first token comes with the prompt. */
        if (status == ML_OK) rate[k][repeat] = g[k].decode_seconds > 0 ? (double)(n - 1) / g[k].decode_seconds : 0;
    }
    if (status == ML_OK && memcmp(g[0].id, g[1].id, (size_t)n * sizeof *g->id) != 0) p->out->is_equal = false;
    ml_generation_free(&g[0]);
    ml_generation_free(&g[1]);
    return status;
}

static ml_status measure_speed(probe *p, ml_error *err)
{
    ml_ids prompt = { 0 };
    double rate[2][N_REPEAT];
    ml_status status = encode(p, p->config->prompt[0], &prompt, err);
    int64_t room = p->model->config.max_position_embeddings - (int64_t)prompt.n;
    p->out->n_gen = room < 2 ? 0 : room < N_SPEED_TOKEN ? room : N_SPEED_TOKEN;
    p->out->is_equal = true;
    for (int i = 0; i < N_REPEAT && status == ML_OK && p->out->n_gen; i++) {
        status = measure_pair(p, &prompt, i, rate, err);
    }
    if (status == ML_OK && p->out->n_gen) {
        p->out->cached = rate_of(rate[0]);
        p->out->uncached = rate_of(rate[1]);
    }
    ml_ids_free(&prompt);
    return status;
}

/* ---- all ---- */

static ml_status run(probe *p, const char *path, ml_error *err)
{
    ML_TRY(ml_model_open(path, &p->model, err));
    ML_TRY(ml_tokenizer_open(path, &p->tokenizer, err));
    ML_TRY(ml_model_ends(path, &p->model->config, p->tokenizer, &p->ends, err));
    ML_TRY(make_counts(p, err));
    ML_TRY(write_answers(p, err));
    finish_counts(p);
    return p->config->measure_speed && p->config->n_prompt ? measure_speed(p, err) : ML_OK;
}

ml_status ml_report_probe_run(const char *path, const ml_report_probe_config *config, ml_report_probe *out,
                              ml_error *err)
{
    *out = (ml_report_probe){ 0 };
    probe p = { .config = config, .out = out };
    ml_status status = run(&p, path, err);
    ml_model_free(p.model);
    ml_tokenizer_free(p.tokenizer);
    ml_ids_free(&p.ends);
    ml_free(p.count);
    if (status == ML_OK) return ML_OK;
    ml_report_probe_free(out);
    return status == ML_ECANCEL ? status : ml_fail_prefix(err, "%s", path);
}

void ml_report_probe_free(ml_report_probe *p)
{
    for (size_t i = 0; p->answer && i < p->n_prompt; i++) ml_free(p->answer[i].text);
    ml_free(p->answer);
    ml_free(p->load);
    *p = (ml_report_probe){ 0 };
}
