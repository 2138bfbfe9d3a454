/* Samples of a model in training: what it writes after each prompt, appended to samples.jsonl of the run. */
#include "train/loop_internal.h"

#include "infer/generate.h"
#include "infer/session.h"

#include <stdio.h>
#include <string.h>

/* JSON text is UTF-8: bytes that are not come out as U+FFFD. */
static ml_status decode(const ml_loop *t, const ml_generation *g, ml_chars *text, ml_error *err)
{
    const ml_detok how = { .skip_special = true, .replace_invalid = true, .inside = true };
    return ml_detok_append(how, t->tokenizer, g->id, (size_t)g->n, text, err);
}

static ml_status append_line(const ml_loop *t, json_t *line, ml_error *err)
{
    char path[ML_PATH_MAX];
    if (!line) return ml_fail_memory(err, 0, "a sample");
    ML_TRY(ml_path_join(path, ml_run_folder(t->run), "samples.jsonl", err));
    FILE *file = fopen(path, "ae");
    if (!file) return ml_fail_errno(err, "%s: cannot be opened", path);
    bool written = json_dumpf(line, file, JSON_COMPACT) == 0 && fputc('\n', file) != EOF;
    if (fclose(file) != 0 || !written) return ml_fail_errno(err, "%s: could not be written", path);
    return ML_OK;
}

static ml_status write_line(ml_loop *t, const char *prompt, const ml_generation *g, ml_error *err)
{
    ml_chars text = { 0 };
    ml_status status = decode(t, g, &text, err);
    const char *data = text.n ? text.data : "";
    if (status == ML_OK) {
        json_t *j = json_pack("{s:I, s:s, s:s%, s:s}", "step", (json_int_t)t->step, "prompt", prompt, "text", data,
                              text.n, "finish_reason", ml_finish_name(g->finish));
        status = append_line(t, j, err);
        json_decref(j);
    }
    if (status == ML_OK) ml_loop_say(t, "sample: %s%.*s", prompt, text.n > 400 ? 400 : (int)text.n, data);
    ml_chars_free(&text);
    return status;
}

static ml_status write_sample(ml_loop *t, ml_session *session, ml_sampler *sampler, const char *prompt, ml_error *err)
{
    ml_ids ids = { 0 };
    int32_t eos = ml_tokenizer_eos(t->tokenizer);
    ml_generation g = { 0 };
    ml_generate_config config = { .max_tokens = t->config.sample_tokens, .stop_id = &eos, .n_stop = eos >= 0 };
    ml_status status = ML_OK;
    ML_TRY_GOTO(ml_tokenizer_append_prefix(t->tokenizer, &ids, err));
    ML_TRY_GOTO(ml_tokenizer_encode(t->tokenizer, prompt, strlen(prompt), false, &ids, err));
    if (ids.n > 0) ML_TRY_GOTO(ml_generate(session, sampler, ids.id, (int64_t)ids.n, &config, &g, err));
    if (ids.n > 0) ML_TRY_GOTO(write_line(t, prompt, &g, err));
done:
    ml_generation_free(&g);
    ml_ids_free(&ids);
    return status;
}

int64_t ml_train_count_sample_tokens(const ml_train_config *config, const ml_config *model)
{
    const int64_t prefix = 8; /* at most: a prompt has no more tokens than bytes */
    int64_t longest = 0, all;
    for (size_t i = 0; i < config->n_prompt; i++) {
        int64_t n = (int64_t)strlen(config->prompt[i]);
        if (n > longest) longest = n;
    }
    all = prefix + longest + config->sample_tokens;
    return all < model->max_position_embeddings ? all : model->max_position_embeddings;
}

int64_t ml_train_plan_samples(const ml_train_config *config, const ml_config *model)
{
    if (config->sample_every == 0 || config->n_prompt == 0) return 0;
    return ml_session_plan_device(model, ml_train_count_sample_tokens(config, model), ml_train_widest_bytes(model));
}

static ml_status write_all(ml_loop *t, ml_error *err)
{
    const ml_config *c = &t->model->config;
    ml_sampling sampling = ml_sampling_default();
    sampling.temperature = 0.7;
    sampling.top_p = 0.95;
    sampling.seed = t->config.seed;
    ml_status status = ML_OK;
    for (size_t i = 0; i < t->config.n_prompt && status == ML_OK; i++) {
        ml_session *session = NULL;
        ml_sampler *sampler = NULL;
        status = ml_session_make(t->model, ml_train_count_sample_tokens(&t->config, c), true, &session, err);
        if (status == ML_OK && t->config.adapter) ml_session_set_adapter(session, t->config.adapter);
        int64_t n_valid = ml_tokenizer_vocab_size(t->tokenizer);
        if (status == ML_OK) status = ml_sampler_make(&sampling, c->vocab_size, n_valid, &sampler, err);
        if (status == ML_OK) status = write_sample(t, session, sampler, t->config.prompt[i], err);
        ml_sampler_free(sampler);
        ml_session_free(session);
    }
    return status;
}

/* Samples are made where the model is trained, with the weights as they are now. */
ml_status ml_loop_write_samples(ml_loop *t, ml_error *err)
{
    return t->tokenizer ? write_all(t, err) : ML_OK;
}
