/* moonlight chat: a conversation in the terminal.
 *
 * Each turn renders the whole conversation as the model shall see it and feeds what the session does not hold, so
 * nothing is computed twice, whatever a format does with earlier turns. */
#include "cli/cli.h"
#include "base/log.h"
#include "cli/conversation.h"
#include "cli/line_reader.h"
#include "cli/sampling.h"
#include "infer/generate.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Set by Ctrl-C while an answer is written. */
static volatile sig_atomic_t interrupted;

typedef struct {
    const ml_options *o;
    ml_loaded m;
    ml_cli_conversation talk;
    ml_session *session;
    ml_sampling sampling;
    ml_sampler *sampler;
    ml_line_reader *reader;
    ml_ids ids; /* the conversation, rendered */
    /* the answer as it comes */
    ml_chat_output output;
    size_t shown, shown_thoughts, shown_calls;
    ml_error print_error;
} chat;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

static void say(const char *text)
{
    fprintf(stderr, "%s\n", text);
}

static void say_error(const ml_error *err)
{
    fprintf(stderr, "error: %s\n", err->message);
}

/* ---- conversation ---- */

static ml_status make_sampler(chat *c, const ml_sampling *sampling, ml_error *err)
{
    ml_sampler *fresh;
    int64_t n_vocab = c->m.model->config.vocab_size;
    ML_TRY(ml_sampler_make(sampling, n_vocab, ml_tokenizer_vocab_size(c->m.tokenizer), &fresh, err));
    ml_sampler_free(c->sampler);
    c->sampler = fresh;
    c->sampling = *sampling;
    return ML_OK;
}

static ml_status start(chat *c, ml_error *err)
{
    const char *text = ml_options_text(c->o, "system"); /* without one, the format puts its own */
    ml_cli_conversation_cut(&c->talk, 0);
    return text ? ml_cli_conversation_add(&c->talk, ml_cli_message("system", text), NULL, 0, err) : ML_OK;
}

/* Show text of the model's.  On a terminal, control characters of its making have no effect. */
static void print_text(const chat *c, const char *p, size_t n, FILE *out)
{
    bool terminal = ml_line_reader_is_terminal(c->reader);
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)p[i];
        bool control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f;
        fputc(terminal && control ? '?' : byte, out);
    }
}

static void print_call(const chat *c, const ml_chat_made_call *call)
{
    fputs(c->shown || c->shown_calls ? "\n[" : "[", stdout);
    print_text(c, call->name.data, call->name.n, stdout);
    fputc(' ', stdout);
    print_text(c, call->arguments.data, call->arguments.n, stdout);
    fputc(']', stdout);
}

/* What has come since the last look. */
static void print_news(chat *c)
{
    const ml_chat_output *o = &c->output;
    if (o->reasoning.n > c->shown_thoughts) {
        print_text(c, o->reasoning.data + c->shown_thoughts, o->reasoning.n - c->shown_thoughts, stderr);
        c->shown_thoughts = o->reasoning.n;
    }
    if (o->text.n > c->shown) {
        if (!c->shown && c->shown_thoughts) fputs("\n", stderr);
        print_text(c, o->text.data + c->shown, o->text.n - c->shown, stdout);
        c->shown = o->text.n;
    }
    for (; c->shown_calls < o->n_call && o->calls[c->shown_calls].complete; c->shown_calls++) {
        print_call(c, &o->calls[c->shown_calls]);
    }
}

static bool is_stop(const chat *c, int32_t id)
{
    for (size_t i = 0; i < c->talk.stop.n; i++) {
        if (c->talk.stop.id[i] == id) return true;
    }
    return false;
}

static bool take_token(void *arg, int32_t id, double logprob)
{
    (void)logprob;
    chat *c = arg;
    if (is_stop(c, id)) return true;
    if (ml_chat_output_push(&c->output, id, &c->print_error) != ML_OK) return false;
    print_news(c);
    return fflush(stdout) == 0 && !interrupted;
}

static void say_why_it_ended(const chat *c, ml_finish finish)
{
    if (finish == ML_FINISH_CANCEL) say("(stopped)");
    if (finish != ML_FINISH_LENGTH) return;
    if (ml_session_count(c->session) + 1 >= ml_session_capacity(c->session))
        fprintf(stderr, "(the context of %lld tokens is full; /reset begins anew)\n",
                (long long)ml_session_capacity(c->session));
    else
        fprintf(stderr, "(stopped after --max-tokens %lld)\n", (long long)ml_options_int(c->o, "max-tokens"));
}

/* The last call without a result: where messages end in an answer with calls and results for some of them. */
static const json_t *open_call(const chat *c, size_t *n_open)
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

static ml_status fail_full(const chat *c, ml_error *err)
{
    return ml_fail(err, ML_EINVAL, "this does not fit: the context has %lld tokens; /reset begins anew",
                   (long long)ml_session_capacity(c->session));
}

/* Render, and leave in the session the beginning that it has in common with what it holds.  The last id is run again
 * if all are there: its logits are wanted. */
static ml_status prepare(chat *c, ml_error *err)
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

static ml_status take_answer(chat *c, const ml_generation *g, ml_error *err)
{
    ML_TRY(ml_chat_output_end(&c->output, err));
    print_news(c);
    fputc('\n', stdout);
    fflush(stdout);
    size_t n = (size_t)(g->finish == ML_FINISH_STOP ? g->n - 1 : g->n);
    json_t *message = ml_chat_output_to_json(&c->output);
    ML_TRY(ml_cli_conversation_add(&c->talk, message, g->id, n, err));
    say_why_it_ended(c, g->finish);
    size_t n_open;
    if (open_call(c, &n_open)) say("(/tool RESULT answers the call)");
    return ML_OK;
}

/* Let the model go on, and add what it says. */
static ml_status answer(chat *c, ml_error *err)
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
static ml_status take_turn(chat *c, json_t *message, ml_error *err)
{
    size_t n = c->talk.n;
    ML_TRY(ml_cli_conversation_add(&c->talk, message, NULL, 0, err));
    ml_status status = answer(c, err);
    if (status != ML_OK) ml_cli_conversation_cut(&c->talk, n);
    return status;
}

/* ---- commands ---- */

typedef ml_status (*command_fn)(chat *c, const char *argument, ml_error *err);

static ml_status set_real(chat *c, const char *text, size_t offset, ml_error *err)
{
    ml_sampling s = c->sampling;
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end) return ml_fail(err, ML_EINVAL, "expected a number, found \"%s\"", text);
    memcpy((char *)&s + offset, &value, sizeof value);
    return make_sampler(c, &s, err);
}

static ml_status set_temperature(chat *c, const char *argument, ml_error *err)
{
    return set_real(c, argument, offsetof(ml_sampling, temperature), err);
}

static ml_status set_top_p(chat *c, const char *argument, ml_error *err)
{
    return set_real(c, argument, offsetof(ml_sampling, top_p), err);
}

static ml_status set_seed(chat *c, const char *argument, ml_error *err)
{
    ml_sampling s = c->sampling;
    char *end;
    errno = 0;
    s.seed = strtoull(argument, &end, 10);
    if (end == argument || *end || errno || *argument == '-') {
        return ml_fail(err, ML_EINVAL, "expected a whole number, found \"%s\"", argument);
    }
    return make_sampler(c, &s, err);
}

static ml_status save(chat *c, const char *argument, ml_error *err)
{
    if (!*argument) return ml_fail(err, ML_EINVAL, "/save needs the name of a file");
    json_t *whole = json_pack("{s:O}", "messages", c->talk.messages);
    if (whole && c->talk.tools) json_object_set(whole, "tools", c->talk.tools);
    if (!whole) return ml_fail_memory(err, 0, "the transcript");
    ml_status status = ml_json_save(whole, argument, err);
    json_decref(whole);
    if (status == ML_OK) fprintf(stderr, "(%zu messages in %s)\n", json_array_size(c->talk.messages), argument);
    return status;
}

static ml_status regenerate(chat *c, const char *argument, ml_error *err)
{
    (void)argument;
    size_t n = c->talk.n;
    const json_t *last = n ? json_array_get(c->talk.messages, n - 1) : NULL;
    const char *role = json_string_value(json_object_get(last, "role"));
    if (!role || strcmp(role, "assistant") != 0) return ml_fail(err, ML_EINVAL, "there is no answer yet");
    ml_cli_conversation_cut(&c->talk, n - 1);
    return answer(c, err);
}

/* The result of the first call that has none; when all have one, the model goes on. */
static ml_status give_result(chat *c, const char *argument, ml_error *err)
{
    size_t n_open;
    const json_t *call = open_call(c, &n_open);
    if (!call) return ml_fail(err, ML_EINVAL, "there is no call to answer");
    json_t *message = ml_cli_message("tool", argument);
    if (message) {
        json_object_set(message, "tool_call_id", json_object_get(call, "id"));
        json_object_set(message, "name", json_object_get(json_object_get(call, "function"), "name"));
    }
    if (n_open == 1) return take_turn(c, message, err);
    ML_TRY(ml_cli_conversation_add(&c->talk, message, NULL, 0, err));
    fprintf(stderr, "(%zu more to answer)\n", n_open - 1);
    return ML_OK;
}

static ml_status reset(chat *c, const char *argument, ml_error *err)
{
    (void)argument;
    ML_TRY(start(c, err));
    say("(a new conversation)");
    return ML_OK;
}

static ml_status help(chat *c, const char *argument, ml_error *err);

static const struct {
    const char *name, *argument, *help;
    command_fn run; /* NULL: leave */
} commands[] = {
    { "help", "", "this list", help },
    { "temp", "T", "temperature; 0 takes the likeliest token each time", set_temperature },
    { "top-p", "P", "sample among the likeliest tokens that together reach P", set_top_p },
    { "seed", "N", "start the random choices anew", set_seed },
    { "regen", "", "another answer to the last message", regenerate },
    { "tool", "RESULT", "what a tool that was called gives back", give_result },
    { "reset", "", "a new conversation", reset },
    { "save", "FILE", "write the conversation as JSON", save },
    { "exit", "", "leave; so does Ctrl-D", NULL },
};
enum { N_COMMAND = sizeof commands / sizeof commands[0] };

static ml_status help(chat *c, const char *argument, ml_error *err)
{
    (void)argument;
    (void)err;
    for (size_t i = 0; i < N_COMMAND; i++) {
        char name[32];
        snprintf(name, sizeof name, "/%s %s", commands[i].name, commands[i].argument);
        fprintf(stderr, "  %-12s %s\n", name, commands[i].help);
    }
    fprintf(stderr, "Ctrl-C stops an answer.  Now: temperature %g, top-p %g, seed %llu, %lld of %lld tokens used.\n",
            c->sampling.temperature, c->sampling.top_p, (unsigned long long)c->sampling.seed,
            (long long)ml_session_count(c->session), (long long)ml_session_capacity(c->session));
    return ML_OK;
}

/* `line` begins with a slash.  *leave: the conversation is over. */
static ml_status run_command(chat *c, const char *line, bool *leave, ml_error *err)
{
    size_t n = strcspn(line + 1, " ");
    const char *argument = line + 1 + n;
    argument += strspn(argument, " ");
    for (size_t i = 0; i < N_COMMAND; i++) {
        if (strlen(commands[i].name) != n || strncmp(commands[i].name, line + 1, n) != 0) continue;
        *leave = commands[i].run == NULL;
        return *leave ? ML_OK : commands[i].run(c, argument, err);
    }
    return ml_fail(err, ML_EINVAL, "there is no command /%.*s; /help lists them", (int)n, line + 1);
}

/* ---- the verb ---- */

static void greet(const chat *c)
{
    if (ml_chat_is_none(&c->talk.format)) {
        say("This model has no chat format: it continues the text you type.  /help lists commands, Ctrl-D leaves.");
    } else {
        fprintf(stderr, "Chat in the format %s.  /help lists commands, Ctrl-D leaves.\n",
                ml_chat_name(&c->talk.format));
    }
}

static ml_status converse(chat *c, ml_error *err)
{
    struct sigaction action = { .sa_handler = on_interrupt };
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    if (ml_line_reader_is_terminal(c->reader)) sigaction(SIGINT, &action, NULL);
    bool leave = false;
    const char *line;
    while (!leave && (line = ml_line_reader_next(c->reader))) {
        if (!*line) continue;
        ml_status status =
            *line == '/' ? run_command(c, line, &leave, err) : take_turn(c, ml_cli_message("user", line), err);
        if (status != ML_OK) say_error(err);
        if (ferror(stdout)) return ml_fail(err, ML_EIO, "standard output could not be written");
    }
    if (!leave && ml_line_reader_is_terminal(c->reader)) fputc('\n', stdout);
    return ML_OK;
}

static ml_status set_up(chat *c, ml_error *err)
{
    const char *path;
    ML_TRY(ml_cli_require(c->o, "model", &path, err));
    ml_memory_budget budget = ml_cli_budget(c->o);
    ML_TRY(ml_loaded_open(path, ml_options_text(c->o, "repack"), &budget, &c->m, err));
    ML_TRY(ml_cli_load_adapters(c->o, &c->m, err));
    ML_TRY(ml_cli_conversation_make(c->o, &c->m, &c->talk, err));
    if (ml_chat_is_none(&c->talk.format) && ml_options_given(c->o, "system")) {
        return ml_fail(err, ML_EINVAL, "%s: --system needs a chat format, and there is none here", path);
    }
    ml_sampling sampling = ml_cli_sampling(c->o);
    ML_TRY(make_sampler(c, &sampling, err));
    ML_TRY(ml_session_make_as(c->m.model, c->m.model->config.max_position_embeddings, true, ml_cli_kv_dtype(c->o),
                              &c->session, err));
    ML_TRY(start(c, err));
    return ml_line_reader_make("> ", &c->reader, err);
}

ml_status ml_cli_chat(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("chat", NULL, argc, argv, 0, 0, "", &o, err));
    chat c = { .o = o };
    ml_status status = set_up(&c, err);
    if (status == ML_OK) {
        greet(&c);
        status = converse(&c, err);
    }
    ml_line_reader_free(c.reader);
    ml_chat_output_free(&c.output);
    ml_ids_free(&c.ids);
    ml_session_free(c.session);
    ml_sampler_free(c.sampler);
    ml_cli_conversation_free(&c.talk);
    ml_loaded_free(&c.m);
    ml_options_free(o);
    return status;
}
