/* moonlight generate: continue a prompt, or answer a conversation. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/conversation.h"
#include "cli/generate_many.h"
#include "cli/sampling.h"
#include "infer/fit.h"
#include "infer/generate.h"
#include "token/chat_json.h"

#include <string.h>

typedef struct {
    const ml_options *o;
    ml_loaded m;
    bool is_chat;
    ml_cli_conversation talk; /* with --messages */
    ml_session *session;
    ml_sampler *sampler;
    ml_ids prompt;
    ml_ids stop;
    /* printing as it comes */
    ml_detok detok;
    ml_chars pending;
    ml_chat_output output;
    size_t shown;
    ml_error print_error;
} job;

/* ---- what the model gets ---- */

/* What stands before texts goes before the prompt, unless the prompt begins with it itself (--special). */
static ml_status encode_prompt(void *arg, const char *text, ml_ids *out, ml_error *err)
{
    const job *j = arg;
    ml_ids prefix = { 0 };
    ml_status status = ml_tokenizer_append_prefix(j->m.tokenizer, &prefix, err);
    ml_ids ids = { 0 };
    if (status == ML_OK) {
        status = ml_tokenizer_encode(j->m.tokenizer, text, strlen(text), ml_options_flag(j->o, "special"), &ids, err);
    }
    bool has_prefix = prefix.n && ids.n >= prefix.n && !memcmp(ids.id, prefix.id, prefix.n * sizeof *ids.id);
    if (status == ML_OK && !has_prefix) status = ml_ids_append(out, prefix.id, prefix.n, err);
    if (status == ML_OK) status = ml_ids_append(out, ids.id, ids.n, err);
    ml_ids_free(&prefix);
    ml_ids_free(&ids);
    return status;
}

/* An array of messages, or an object with "messages" and maybe "tools", which --tools replaces. */
static ml_status take_messages(job *j, const json_t *root, const char *path, ml_error *err)
{
    const json_t *list = json_is_object(root) ? json_object_get(root, "messages") : root;
    json_t *tools = json_is_object(root) ? json_object_get(root, "tools") : NULL;
    if (!json_is_array(list)) {
        return ml_fail(err, ML_EINVAL, "%s: expected an array of messages, or an object with one at \"messages\"",
                       path);
    }
    if (tools && !json_is_null(tools) && !j->talk.tools) {
        ML_TRY(ml_chat_check_tools(tools, path, err));
        j->talk.tools = json_incref(tools);
    }
    ml_chat_messages checked = { 0 }; /* errors name the file */
    ML_TRY(ml_chat_read_messages(list, path, &checked, err));
    ml_chat_messages_free(&checked);
    for (size_t i = 0; i < json_array_size(list); i++) {
        ML_TRY(ml_cli_conversation_add(&j->talk, json_incref(json_array_get(list, i)), NULL, 0, err));
    }
    return ML_OK;
}

static ml_status read_messages(job *j, const char *path, ml_error *err)
{
    json_t *root;
    ML_TRY(ml_cli_conversation_make(j->o, ml_options_text(j->o, "model"), &j->m, &j->talk, err));
    ML_TRY(ml_json_load(path, &root, err));
    ml_status status = take_messages(j, root, path, err);
    json_decref(root);
    return status == ML_OK ? ml_cli_conversation_render(&j->talk, &j->prompt, err) : status;
}

/* Exactly one of the ways to say what is wanted. */
static ml_status check_input(const job *j, ml_error *err)
{
    int n = ml_options_given(j->o, "prompt") + ml_options_given(j->o, "prompts") + ml_options_given(j->o, "messages");
    if (n != 1) {
        return ml_fail(err, ML_EINVAL, "expected one of --prompt TEXT, --prompts FILE and --messages FILE, found %s",
                       n ? "several" : "none");
    }
    if (ml_options_text(j->o, "tools") && !ml_options_given(j->o, "messages")) {
        return ml_fail(err, ML_EINVAL, "--tools goes with --messages, not with --prompt");
    }
    return ML_OK;
}

static ml_status set_up(job *j, ml_error *err)
{
    const char *messages = ml_options_text(j->o, "messages");
    j->is_chat = messages != NULL;
    ML_TRY(messages ? read_messages(j, messages, err)
                    : encode_prompt(j, ml_options_text(j->o, "prompt"), &j->prompt, err));
    const ml_ids *stop = j->is_chat ? &j->talk.stop : &j->m.ends;
    ML_TRY(ml_ids_append(&j->stop, stop->id, stop->n, err));
    const ml_config *c = &j->m.model->config;
    ml_memory_budget budget = ml_cli_budget(j->o);
    int64_t n = (int64_t)j->prompt.n + ml_options_int(j->o, "max-tokens"), most = c->max_position_embeddings;
    ML_TRY(ml_fit_check_cache(j->m.model, n < most ? n : most, &budget, "fewer --max-tokens", err));
    ml_sampling sampling = ml_cli_sampling(j->o);
    ML_TRY(ml_sampler_make(&sampling, c->vocab_size, ml_tokenizer_vocab_size(j->m.tokenizer), &j->sampler, err));
    /* A device's cache takes its memory at once. */
    int64_t capacity = j->m.model->device && n < most ? n : most;
    return ml_session_make_as(j->m.model, capacity, ml_options_flag(j->o, "kv-cache"), ml_cli_kv_dtype(j->o),
                              &j->session, err);
}

/* ---- what it gives ---- */

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
    if (ml_detok_push(&j->detok, j->m.tokenizer, id, &j->pending, &j->print_error) != ML_OK) return false;
    print_pending(j);
    return true;
}

static bool is_stop(const job *j, int32_t id)
{
    for (size_t i = 0; i < j->stop.n; i++) {
        if (j->stop.id[i] == id) return true;
    }
    return false;
}

static bool take_token(void *arg, int32_t id, double logprob)
{
    (void)logprob;
    job *j = arg;
    if (is_stop(j, id)) return true;
    if (ml_chat_output_push(&j->output, id, &j->print_error) != ML_OK) return false;
    if (ml_options_flag(j->o, "json")) return true;
    fwrite(j->output.text.data ? j->output.text.data + j->shown : "", 1, j->output.text.n - j->shown, stdout);
    j->shown = j->output.text.n;
    fflush(stdout);
    return true;
}

/* JSON text is UTF-8: bytes that are not come out as U+FFFD there. */
static ml_status decode(job *j, const ml_generation *g, ml_error *err)
{
    return ml_tokenizer_decode_answer(j->m.tokenizer, &j->prompt, g->id, (size_t)g->n, &j->pending, err);
}

static ml_status print_result(job *j, const ml_generation *g, ml_error *err)
{
    ML_TRY(decode(j, g, err));
    json_t *ids = json_array(), *logprobs = json_array();
    for (int64_t i = 0; i < g->n; i++) {
        json_array_append_new(ids, json_integer(g->id[i]));
        json_array_append_new(logprobs, ml_json_number(g->logprob[i]));
    }
    double seconds = g->prefill_seconds + g->decode_seconds;
    json_t *object =
        json_pack("{s:s%, s:o, s:o, s:s, s:I, s:I, s:f, s:f, s:f}", "text", j->pending.n ? j->pending.data : "",
                  j->pending.n, "ids", ids, "logprobs", logprobs, "finish_reason", ml_finish_name(g->finish),
                  "prompt_tokens", (json_int_t)j->prompt.n, "completion_tokens", (json_int_t)g->n, "seconds", seconds,
                  "prefill_seconds", g->prefill_seconds, "decode_seconds", g->decode_seconds);
    if (object && j->is_chat) {
        json_object_set_new(object, "message", ml_chat_output_to_json(&j->output));
        json_object_set_new(object, "chat_format", json_string(ml_chat_name(&j->talk.format)));
    }
    return ml_cli_print_json(object, err);
}

/* The end of a text of n tokens that was printed as it came. */
static ml_status print_end(job *j, int64_t n, ml_finish finish, ml_error *err)
{
    if (j->is_chat) {
        fwrite(j->output.text.data ? j->output.text.data + j->shown : "", 1, j->output.text.n - j->shown, stdout);
        for (size_t i = 0; i < j->output.n_call; i++) {
            const ml_chat_made_call *call = &j->output.calls[i];
            if (call->complete) {
                printf("\n[%.*s %.*s]", (int)call->name.n, call->name.data, (int)call->arguments.n,
                       call->arguments.data);
            }
        }
    } else {
        j->pending.n = 0;
        ML_TRY(ml_detok_flush(&j->detok, &j->pending, err));
        print_pending(j);
    }
    fputc('\n', stdout);
    fflush(stdout);
    if (finish == ML_FINISH_LENGTH && n < ml_options_int(j->o, "max-tokens")) {
        ml_log_info("the context of %lld tokens is full", (long long)j->m.model->config.max_position_embeddings);
    }
    return ML_OK;
}

static ml_status generate_one(job *j, ml_error *err)
{
    ML_TRY(set_up(j, err));
    bool json = ml_options_flag(j->o, "json");
    ml_generate_config config = { .max_tokens = ml_options_int(j->o, "max-tokens"),
                                  .stop_id = j->stop.id,
                                  .n_stop = (int64_t)j->stop.n,
                                  .on_token = j->is_chat ? take_token
                                              : json     ? NULL
                                                         : print_token,
                                  .arg = j };
    if (j->is_chat) {
        ml_chat_output_start(&j->output, &j->talk.format, j->m.tokenizer, j->prompt.id, j->prompt.n, json);
    } else if (!json) {
        fputs(ml_options_text(j->o, "prompt"), stdout);
        j->detok = (ml_detok){ .skip_special = true, .inside = ml_tokenizer_continues(j->m.tokenizer, &j->prompt) };
    }
    ml_generation g;
    ML_TRY(ml_generate(j->session, j->sampler, j->prompt.id, (int64_t)j->prompt.n, &config, &g, err));
    ml_status status = j->is_chat ? ml_chat_output_end(&j->output, err) : ML_OK;
    if (status == ML_OK) status = json ? print_result(j, &g, err) : print_end(j, g.n, g.finish, err);
    ml_generation_free(&g);
    return status;
}

static ml_status generate(job *j, ml_error *err)
{
    const char *path;
    ML_TRY(ml_cli_require(j->o, "model", &path, err));
    ML_TRY(check_input(j, err));
    ml_memory_budget budget = ml_cli_budget_with_adapters(j->o);
    ML_TRY(ml_loaded_open(path, ml_options_text(j->o, "repack"), &budget, &j->m, err));
    ml_cli_say_opened(j->o, j->m.model);
    ML_TRY(ml_cli_load_adapters(j->o, &j->m, err));
    if (!ml_options_given(j->o, "prompts")) return generate_one(j, err);
    const ml_ids *ends = &j->m.ends;
    return ml_cli_generate_many(j->o, &j->m, encode_prompt, j, ends->id, (int64_t)ends->n, err);
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
    ml_ids_free(&j.stop);
    ml_chars_free(&j.pending);
    ml_chat_output_free(&j.output);
    ml_cli_conversation_free(&j.talk);
    ml_loaded_free(&j.m);
    ml_options_free(o);
    return status;
}
