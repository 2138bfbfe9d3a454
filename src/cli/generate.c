/* moonlight generate: continue a prompt. */
#include "cli/cli.h"
#include "cli/generate_many.h"
#include "cli/load.h"
#include "cli/sampling.h"
#include "infer/generate.h"

#include <string.h>

typedef struct {
    const ml_options *o;
    ml_model *model;
    ml_tokenizer *tokenizer;
    ml_session *session;
    ml_sampler *sampler;
    ml_ids prompt;
    /* printing as it comes */
    ml_detok detok;
    ml_chars pending;
    ml_error print_error;
} job;

static ml_status encode_prompt(void *arg, const char *text, ml_ids *out, ml_error *err)
{
    const job *j = arg;
    int32_t bos = ml_tokenizer_bos(j->tokenizer);
    if (bos >= 0) ML_TRY(ml_ids_append(out, &bos, 1, err));
    return ml_tokenizer_encode(j->tokenizer, text, strlen(text), ml_options_flag(j->o, "special"), out, err);
}

static ml_status load(job *j, ml_error *err)
{
    const char *path;
    ML_TRY(ml_cli_require(j->o, "model", &path, err));
    if (ml_options_given(j->o, "prompt") == ml_options_given(j->o, "prompts")) {
        return ml_fail(err, ML_EINVAL, "expected either --prompt TEXT or --prompts FILE");
    }
    return ml_cli_load_model(path, ml_options_text(j->o, "repack"), &j->model, &j->tokenizer, err);
}

static ml_status set_up(job *j, ml_error *err)
{
    ML_TRY(encode_prompt(j, ml_options_text(j->o, "prompt"), &j->prompt, err));
    const ml_config *c = &j->model->config;
    ml_sampling sampling = ml_cli_sampling(j->o);
    ML_TRY(ml_sampler_make(&sampling, c->vocab_size, ml_tokenizer_vocab_size(j->tokenizer), &j->sampler, err));
    return ml_session_make_as(j->model, c->max_position_embeddings, ml_options_flag(j->o, "kv-cache"),
                              ml_cli_kv_dtype(j->o), &j->session, err);
}

/* What the last token completed, which may be nothing. */
static void print_pending(const job *j)
{
    if (j->pending.n) fwrite(j->pending.data, 1, j->pending.n, stdout);
    fflush(stdout);
}

static bool print_token(void *arg, int32_t id, double logprob)
{
    (void)logprob;
    job *j = arg;
    j->pending.n = 0;
    if (ml_detok_push(&j->detok, j->tokenizer, id, &j->pending, &j->print_error) != ML_OK) return false;
    print_pending(j);
    return true;
}

/* JSON text is UTF-8: bytes that are not come out as U+FFFD there. */
static ml_status decode(const ml_tokenizer *t, const ml_generation *g, ml_chars *out, ml_error *err)
{
    ml_detok detok = { .skip_special = true, .replace_invalid = true };
    for (int64_t i = 0; i < g->n; i++) ML_TRY(ml_detok_push(&detok, t, g->id[i], out, err));
    return ml_detok_flush(&detok, out, err);
}

static ml_status print_result(job *j, const ml_generation *g, ml_error *err)
{
    j->pending.n = 0;
    ML_TRY(decode(j->tokenizer, g, &j->pending, err));
    json_t *ids = json_array(), *logprobs = json_array();
    for (int64_t i = 0; i < g->n; i++) {
        json_array_append_new(ids, json_integer(g->id[i]));
        json_array_append_new(logprobs, json_real(g->logprob[i]));
    }
    double seconds = g->prefill_seconds + g->decode_seconds;
    json_t *object =
        json_pack("{s:s%, s:o, s:o, s:s, s:I, s:I, s:f, s:f, s:f}", "text", j->pending.n ? j->pending.data : "",
                  j->pending.n, "ids", ids, "logprobs", logprobs, "finish_reason", ml_finish_name(g->finish),
                  "prompt_tokens", (json_int_t)j->prompt.n, "completion_tokens", (json_int_t)g->n, "seconds", seconds,
                  "prefill_seconds", g->prefill_seconds, "decode_seconds", g->decode_seconds);
    return ml_cli_print_json(object, err);
}

static ml_status generate_one(job *j, int32_t eos, ml_error *err)
{
    ML_TRY(set_up(j, err));
    bool json = ml_options_flag(j->o, "json");
    ml_generate_config config = {
        .max_tokens = ml_options_int(j->o, "max-tokens"), .stop_id = &eos, .n_stop = eos >= 0, .arg = j
    };
    if (!json) {
        config.on_token = print_token;
        fputs(ml_options_text(j->o, "prompt"), stdout);
        j->detok.skip_special = true;
    }
    ml_generation g;
    ML_TRY(ml_generate(j->session, j->sampler, j->prompt.id, (int64_t)j->prompt.n, &config, &g, err));
    ml_status status = ML_OK;
    if (json) {
        status = print_result(j, &g, err);
    } else {
        j->pending.n = 0;
        status = ml_detok_flush(&j->detok, &j->pending, err);
        print_pending(j);
        fputc('\n', stdout);
    }
    ml_generation_free(&g);
    return status;
}

static ml_status generate(job *j, ml_error *err)
{
    ML_TRY(load(j, err));
    int32_t eos = (int32_t)j->model->config.eos_token_id;
    if (ml_options_given(j->o, "prompt")) return generate_one(j, eos, err);
    return ml_cli_generate_many(j->o, j->model, j->tokenizer, encode_prompt, j, &eos, eos >= 0, err);
}

ml_status ml_cli_generate(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("generate", NULL, argc, argv, 0, 0, "", &o, err));
    job j = { .o = o };
    ml_status status = generate(&j, err);
    ml_sampler_free(j.sampler);
    ml_session_free(j.session);
    ml_ids_free(&j.prompt);
    ml_chars_free(&j.pending);
    ml_tokenizer_free(j.tokenizer);
    ml_model_free(j.model);
    ml_options_free(o);
    return status;
}
