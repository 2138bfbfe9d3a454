/* A model, its session, and letting it answer.
 *
 * Each turn renders the whole conversation as the model shall see it and feeds what the session does not hold, so
 * nothing is computed twice, whatever a format does with earlier turns. */
#include "base/alloc.h"
#include "cli/chat.h"

#include <signal.h>
#include <stdarg.h>
#include <string.h>

/* Set by Ctrl-C while an answer is written. */
static volatile sig_atomic_t interrupted;

void ml_talk_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

/* ---- what is shown ---- */

void ml_talk_say(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
}

void ml_talk_print(const ml_talk *c, const char *p, size_t n, FILE *out)
{
    bool terminal = ml_line_reader_is_terminal(c->reader);
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)p[i];
        bool control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f;
        fputc(terminal && control ? '?' : byte, out);
    }
}

static void print_call(const ml_talk *c, const ml_chat_made_call *call)
{
    fputs(c->shown || c->shown_calls ? "\n[" : "[", stdout);
    ml_talk_print(c, call->name.data, call->name.n, stdout);
    fputc(' ', stdout);
    ml_talk_print(c, call->arguments.data, call->arguments.n, stdout);
    fputc(']', stdout);
}

/* What has come since the last look. */
static void print_news(ml_talk *c)
{
    const ml_chat_output *o = &c->output;
    if (o->reasoning.n > c->shown_thoughts) {
        ml_talk_print(c, o->reasoning.data + c->shown_thoughts, o->reasoning.n - c->shown_thoughts, stderr);
        c->shown_thoughts = o->reasoning.n;
    }
    if (o->text.n > c->shown) {
        if (!c->shown && c->shown_thoughts) fputs("\n", stderr);
        ml_talk_print(c, o->text.data + c->shown, o->text.n - c->shown, stdout);
        c->shown = o->text.n;
    }
    for (; c->shown_calls < o->n_call && o->calls[c->shown_calls].complete; c->shown_calls++) {
        print_call(c, &o->calls[c->shown_calls]);
    }
}

static bool is_stop(const ml_talk *c, int32_t id)
{
    for (size_t i = 0; i < c->talk.stop.n; i++) {
        if (c->talk.stop.id[i] == id) return true;
    }
    return false;
}

static bool take_token(void *arg, int32_t id, double logprob)
{
    (void)logprob;
    ml_talk *c = arg;
    if (is_stop(c, id)) return true;
    if (ml_chat_output_push(&c->output, id, &c->print_error) != ML_OK) return false;
    print_news(c);
    return fflush(stdout) == 0 && !interrupted;
}

static void say_why_it_ended(const ml_talk *c, ml_finish finish)
{
    if (finish == ML_FINISH_CANCEL) ml_talk_say("(stopped)");
    if (finish != ML_FINISH_LENGTH) return;
    if (ml_session_count(c->session) + 1 >= ml_session_capacity(c->session))
        ml_talk_say("(the context of %lld tokens is full; /reset begins anew)",
                    (long long)ml_session_capacity(c->session));
    else
        ml_talk_say("(stopped after --max-tokens %lld)", (long long)ml_options_int(c->o, "max-tokens"));
}

/* The last call without a result: where messages end in an answer with calls and results for some of them. */
const json_t *ml_talk_open_call(const ml_talk *c, size_t *n_open)
{
    size_t n = json_array_size(c->talk.messages), n_result = 0;
    const json_t *message = NULL;
    while (n && (message = json_array_get(c->talk.messages, n - 1)) && json_object_get(message, "tool_call_id")) {
        n--;
        n_result++;
    }
    const json_t *calls = n ? json_object_get(message, "tool_calls") : NULL;
    size_t n_call = json_array_size(calls);
    *n_open = n_call > n_result ? n_call - n_result : 0;
    return *n_open ? json_array_get(calls, n_result) : NULL;
}

static ml_status fail_full(const ml_talk *c, ml_error *err)
{
    return ml_fail(err, ML_EINVAL, "this does not fit: the context has %lld tokens; /reset begins anew",
                   (long long)ml_session_capacity(c->session));
}

/* Render, and leave in the session the beginning that it has in common with what it holds.  The last id is run again
 * if all are there: its logits are wanted. */
static ml_status prepare(ml_talk *c, ml_error *err)
{
    c->ids.n = 0;
    ML_TRY(ml_cli_conversation_render(&c->talk, &c->ids, err));
    if ((int64_t)c->ids.n >= ml_session_capacity(c->session)) return fail_full(c, err);
    const int32_t *held = ml_session_ids(c->session);
    size_t n_held = (size_t)ml_session_count(c->session), n = 0;
    while (n < n_held && n < c->ids.n && held[n] == c->ids.id[n]) n++;
    if (n && n == c->ids.n) n--;
    ml_session_truncate(c->session, (int64_t)n);
    return ML_OK;
}

static ml_status take_answer(ml_talk *c, const ml_generation *g, ml_error *err)
{
    ML_TRY(ml_chat_output_end(&c->output, err));
    print_news(c);
    fputc('\n', stdout);
    fflush(stdout);
    size_t n = (size_t)(g->finish == ML_FINISH_STOP ? g->n - 1 : g->n);
    c->heard.n = 0;
    c->n_heard_prompt = (int64_t)c->ids.n;
    ML_TRY(ml_ids_append(&c->heard, ml_session_ids(c->session), (size_t)ml_session_count(c->session), err));
    json_t *message = ml_chat_output_to_json(&c->output);
    ML_TRY(ml_cli_conversation_add(&c->talk, message, g->id, n, err));
    say_why_it_ended(c, g->finish);
    size_t n_open;
    if (ml_talk_open_call(c, &n_open)) ml_talk_say("(/tool RESULT answers the call)");
    return ML_OK;
}

/* Let the model go on, and add what it says. */
ml_status ml_talk_answer(ml_talk *c, ml_error *err)
{
    ml_generate_config config = { .max_tokens = ml_options_int(c->o, "max-tokens"),
                                  .stop_id = c->talk.stop.id,
                                  .n_stop = (int64_t)c->talk.stop.n,
                                  .on_token = take_token,
                                  .arg = c };
    ml_generation g;
    ML_TRY(prepare(c, err));
    size_t held = (size_t)ml_session_count(c->session);
    /* The transcript is JSON, and so UTF-8. */
    ml_chat_output_free(&c->output);
    ml_chat_output_start(&c->output, &c->talk.format, c->m.tokenizer, c->ids.id, c->ids.n, true);
    c->shown = c->shown_thoughts = c->shown_calls = 0;
    interrupted = 0;
    ML_TRY(ml_generate(c->session, c->sampler, c->ids.id + held, (int64_t)(c->ids.n - held), &config, &g, err));
    ml_status status = take_answer(c, &g, err);
    ml_generation_free(&g);
    return status;
}

/* Add a message and let the model answer; a turn that fails leaves the conversation as it was. */
ml_status ml_talk_take_turn(ml_talk *c, json_t *message, ml_error *err)
{
    size_t n = c->talk.n;
    ML_TRY(ml_cli_conversation_add(&c->talk, message, NULL, 0, err));
    ml_status status = ml_talk_answer(c, err);
    if (status != ML_OK) ml_cli_conversation_cut(&c->talk, n);
    return status;
}

/* ---- the model ---- */

ml_status ml_talk_set_sampling(ml_talk *c, const ml_sampling *sampling, ml_error *err)
{
    ml_sampler *fresh;
    int64_t n_vocab = c->m.model->config.vocab_size;
    ML_TRY(ml_sampler_make(sampling, n_vocab, ml_tokenizer_vocab_size(c->m.tokenizer), &fresh, err));
    ml_sampler_free(c->sampler);
    c->sampler = fresh;
    c->sampling = *sampling;
    return ML_OK;
}

ml_status ml_talk_begin(ml_talk *c, ml_error *err)
{
    ml_cli_conversation_cut(&c->talk, 0);
    c->heard.n = 0;
    c->n_heard_prompt = 0;
    return c->system ? ml_cli_conversation_add(&c->talk, ml_cli_message("system", c->system), NULL, 0, err) : ML_OK;
}

/* What was said to another model, without its ids: they are of another vocabulary. */
static ml_status copy_messages(const ml_cli_conversation *from, ml_cli_conversation *to, ml_error *err)
{
    size_t i;
    json_t *message;
    json_array_foreach(from->messages, i, message)
    {
        ML_TRY(ml_cli_conversation_add(to, json_incref(message), NULL, 0, err));
    }
    return ML_OK;
}

static void close_model(ml_talk *c)
{
    ml_session_free(c->session);
    ml_sampler_free(c->sampler);
    ml_cli_conversation_free(&c->talk);
    ml_loaded_free(&c->m);
    ml_free(c->path);
}

/* Everything that belongs to one model, of `fresh`, which has nothing yet. */
static ml_status open_model(ml_talk *fresh, const char *path, const ml_talk *former, ml_error *err)
{
    ml_memory_budget budget = former->path ? ml_cli_budget(fresh->o) : ml_cli_budget_with_adapters(fresh->o);
    fresh->path = ml_strdup(path);
    if (!fresh->path) return ml_fail_memory(err, strlen(path) + 1, "a path");
    ML_TRY(ml_loaded_open(path, ml_options_text(fresh->o, "repack"), &budget, &fresh->m, err));
    ml_cli_say_device(fresh->o, fresh->m.model);
    ml_cli_say_weights(fresh->o, fresh->m.model);
    if (!former->path) ML_TRY(ml_cli_load_adapters(fresh->o, &fresh->m, err)); /* they are of the first model */
    ML_TRY(ml_cli_conversation_make(fresh->o, path, &fresh->m, &fresh->talk, err));
    if (former->talk.messages) ML_TRY(copy_messages(&former->talk, &fresh->talk, err));
    if (ml_chat_is_none(&fresh->talk.format) && fresh->system) {
        return ml_fail(err, ML_EINVAL, "%s: %s needs a chat format, and there is none here", path,
                       former->path ? "the system message (/system - drops it)" : "--system");
    }
    ML_TRY(ml_talk_set_sampling(fresh, &fresh->sampling, err));
    return ml_session_make_as(fresh->m.model, fresh->m.model->config.max_position_embeddings, true,
                              ml_cli_kv_dtype(fresh->o), &fresh->session, err);
}

ml_status ml_talk_open(ml_talk *c, const char *path, ml_error *err)
{
    ml_talk fresh = { .o = c->o, .system = c->system, .sampling = c->sampling };
    ml_status status = open_model(&fresh, path, c, err);
    if (status != ML_OK) {
        close_model(&fresh);
        return status;
    }
    close_model(c);
    ml_chat_output_free(&c->output); /* it belongs to the former tokenizer */
    c->ids.n = c->heard.n = 0;
    c->n_heard_prompt = 0;
    c->path = fresh.path;
    c->m = fresh.m;
    c->talk = fresh.talk;
    c->session = fresh.session;
    c->sampler = fresh.sampler;
    return ML_OK;
}

void ml_talk_free(ml_talk *c)
{
    ml_line_reader_free(c->reader);
    ml_chat_output_free(&c->output);
    ml_ids_free(&c->ids);
    ml_ids_free(&c->heard);
    close_model(c);
    ml_free(c->system);
}

ml_status ml_talk_set_system(ml_talk *c, const char *text, ml_error *err)
{
    if (text && ml_chat_is_none(&c->talk.format)) {
        return ml_fail(err, ML_EINVAL, "a system message needs a chat format, and this model has none");
    }
    char *copy = text ? ml_strdup(text) : NULL;
    if (text && !copy) return ml_fail_memory(err, strlen(text) + 1, "a system message");
    ml_status status = ml_cli_conversation_set_system(&c->talk, copy, err);
    if (status != ML_OK) {
        ml_free(copy);
        return status;
    }
    ml_free(c->system);
    c->system = copy;
    return ML_OK;
}
