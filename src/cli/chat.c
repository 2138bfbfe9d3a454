/* moonlight chat: a conversation in the terminal.
 *
 * `ids` is the whole conversation as the model shall see it; the session holds a beginning of it.  Each turn feeds
 * what is missing, so nothing is computed twice. */
#include "cli/cli.h"
#include "base/log.h"
#include "cli/line_reader.h"
#include "cli/load.h"
#include "cli/sampling.h"
#include "infer/generate.h"
#include "token/chat.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Set by Ctrl-C while an answer is written. */
static volatile sig_atomic_t interrupted;

typedef struct {
    const ml_options *o;
    ml_model *model;
    ml_tokenizer *tokenizer;
    ml_chat_format format;
    ml_session *session;
    ml_sampling sampling;
    ml_sampler *sampler;
    ml_line_reader *reader;
    ml_ids ids;
    ml_chat_role last;  /* role of the last message; ML_N_ROLE: none yet */
    size_t answer_at;   /* where the last answer begins in ids; 0: there is none */
    json_t *transcript; /* [{role, content}, ...] */
    ml_detok detok;
    ml_chars text; /* what the last ids became */
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
    ML_TRY(ml_sampler_make(sampling, c->model->config.vocab_size, ml_tokenizer_vocab_size(c->tokenizer), &fresh, err));
    ml_sampler_free(c->sampler);
    c->sampler = fresh;
    c->sampling = *sampling;
    return ML_OK;
}

/* Readable text of ids, whatever the bytes were. */
static json_t *text_of(chat *c, const int32_t *id, size_t n, ml_error *err)
{
    ml_detok detok = { .skip_special = true, .replace_invalid = true };
    ml_status status = ML_OK;
    c->text.n = 0;
    for (size_t i = 0; i < n && status == ML_OK; i++)
        status = ml_detok_push(&detok, c->tokenizer, id[i], &c->text, err);
    if (status == ML_OK) status = ml_detok_flush(&detok, &c->text, err);
    if (status != ML_OK) return NULL;
    json_t *text = json_stringn(c->text.n ? c->text.data : "", c->text.n);
    if (!text) ml_fail_memory(err, c->text.n, "the transcript");
    return text;
}

static ml_status note_message(chat *c, ml_chat_role role, size_t from, ml_error *err)
{
    json_t *text = text_of(c, c->ids.id + from, c->ids.n - from, err);
    if (!text) return err->code;
    json_t *message = json_pack("{s:s, s:o}", "role", ml_chat_role_name(role), "content", text);
    return json_array_append_new(c->transcript, message) ? ml_fail_memory(err, 0, "the transcript") : ML_OK;
}

static ml_status add_message(chat *c, ml_chat_role role, const char *text, ml_error *err)
{
    ml_chat_message message = { role, { text, strlen(text) } };
    ML_TRY(ml_chat_append(&c->format, c->tokenizer, c->last, &message, &c->ids, err));
    c->last = role;
    json_t *entry = json_pack("{s:s, s:s}", "role", ml_chat_role_name(role), "content", text);
    if (!entry) entry = json_pack("{s:s, s:s}", "role", ml_chat_role_name(role), "content", "(not UTF-8)");
    return json_array_append_new(c->transcript, entry) ? ml_fail_memory(err, 0, "the transcript") : ML_OK;
}

static ml_status start(chat *c, ml_error *err)
{
    c->ids.n = 0;
    c->last = ML_N_ROLE;
    c->answer_at = 0;
    json_array_clear(c->transcript);
    ml_session_truncate(c->session, 0);
    const char *text = ml_options_text(c->o, "system");
    if (c->format.kind != ML_CHAT_NONE) {
        return add_message(c, ML_ROLE_SYSTEM, text ? text : ml_chat_default_system, err);
    }
    int32_t bos = ml_tokenizer_bos(c->tokenizer);
    return bos >= 0 ? ml_ids_append(&c->ids, &bos, 1, err) : ML_OK;
}

/* Show c->text.  On a terminal, control characters of the model's making have no effect. */
static void print_text(chat *c)
{
    for (size_t i = 0; i < c->text.n && ml_line_reader_is_terminal(c->reader); i++) {
        unsigned char byte = (unsigned char)c->text.data[i];
        if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f) c->text.data[i] = '?';
    }
    if (c->text.n) fwrite(c->text.data, 1, c->text.n, stdout);
}

static bool print_token(void *arg, int32_t id, double logprob)
{
    (void)logprob;
    chat *c = arg;
    c->text.n = 0;
    if (ml_detok_push(&c->detok, c->tokenizer, id, &c->text, &c->print_error) != ML_OK) return false;
    print_text(c);
    return fflush(stdout) == 0 && !interrupted;
}

static void say_why_it_ended(const chat *c, ml_finish finish)
{
    if (finish == ML_FINISH_CANCEL) say("(stopped)");
    if (finish != ML_FINISH_LENGTH) return;
    if ((int64_t)c->ids.n >= ml_session_capacity(c->session))
        fprintf(stderr, "(the context of %lld tokens is full; /reset begins anew)\n",
                (long long)ml_session_capacity(c->session));
    else
        fprintf(stderr, "(stopped after --max-tokens %lld)\n", (long long)ml_options_int(c->o, "max-tokens"));
}

/* Any mark ends an answer, not only the right one. */
static int64_t stop_ids(const chat *c, int32_t stop[5])
{
    int64_t n = 0;
    int32_t eos = (int32_t)c->model->config.eos_token_id;
    if (eos >= 0) stop[n++] = eos;
    if (c->format.kind == ML_CHAT_NONE) return n;
    stop[n++] = c->format.end;
    for (int i = 0; i < ML_N_ROLE; i++) stop[n++] = c->format.role[i];
    return n;
}

/* Let the model go on from ids, and add what it says. */
static ml_status answer(chat *c, ml_error *err)
{
    int32_t stop[5];
    int64_t in_session = ml_session_count(c->session);
    ml_generate_config config = { .max_tokens = ml_options_int(c->o, "max-tokens"),
                                  .stop_id = stop,
                                  .n_stop = stop_ids(c, stop),
                                  .on_token = print_token,
                                  .arg = c };
    ml_generation g;
    c->detok = (ml_detok){ .skip_special = true, .replace_invalid = ml_line_reader_is_terminal(c->reader) };
    interrupted = 0;
    ML_TRY(
        ml_generate(c->session, c->sampler, c->ids.id + in_session, (int64_t)c->ids.n - in_session, &config, &g, err));
    c->text.n = 0;
    ml_status status = ml_detok_flush(&c->detok, &c->text, err);
    print_text(c);
    fputc('\n', stdout);
    fflush(stdout);
    c->answer_at = c->ids.n;
    size_t n = (size_t)(g.finish == ML_FINISH_STOP ? g.n - 1 : g.n);
    if (status == ML_OK) status = ml_ids_append(&c->ids, g.id, n, err);
    if (status == ML_OK) status = note_message(c, ML_ROLE_ASSISTANT, c->answer_at, err);
    c->last = ML_ROLE_ASSISTANT;
    say_why_it_ended(c, g.finish);
    ml_generation_free(&g);
    return status;
}

static ml_status fail_full(const chat *c, ml_error *err)
{
    return ml_fail(err, ML_EINVAL, "this does not fit: the context has %lld tokens; /reset begins anew",
                   (long long)ml_session_capacity(c->session));
}

static ml_status add_turn(chat *c, const char *line, ml_error *err)
{
    if (c->format.kind == ML_CHAT_NONE) {
        size_t from = c->ids.n;
        ML_TRY(ml_tokenizer_encode(c->tokenizer, line, strlen(line), false, &c->ids, err));
        return note_message(c, ML_ROLE_USER, from, err);
    }
    ML_TRY(add_message(c, ML_ROLE_USER, line, err));
    return ml_chat_open_answer(&c->format, c->tokenizer, &c->ids, err);
}

/* A turn that fails leaves the conversation as it was. */
static ml_status take_turn(chat *c, const char *line, ml_error *err)
{
    size_t n = c->ids.n, n_message = json_array_size(c->transcript);
    ml_chat_role last = c->last;
    ml_status status = add_turn(c, line, err);
    if (status == ML_OK && (int64_t)c->ids.n >= ml_session_capacity(c->session)) status = fail_full(c, err);
    if (status == ML_OK) status = answer(c, err);
    if (status == ML_OK) return ML_OK;
    c->ids.n = n;
    c->last = last;
    while (json_array_size(c->transcript) > n_message) json_array_remove(c->transcript, n_message);
    ml_session_truncate(c->session, (int64_t)n);
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
    json_t *whole = json_pack("{s:O}", "messages", c->transcript);
    if (!whole) return ml_fail_memory(err, 0, "the transcript");
    ml_status status = ml_json_save(whole, argument, err);
    json_decref(whole);
    if (status == ML_OK) fprintf(stderr, "(%zu messages in %s)\n", json_array_size(c->transcript), argument);
    return status;
}

static ml_status regenerate(chat *c, const char *argument, ml_error *err)
{
    (void)argument;
    if (c->answer_at == 0) return ml_fail(err, ML_EINVAL, "there is no answer yet");
    c->ids.n = c->answer_at;
    json_array_remove(c->transcript, json_array_size(c->transcript) - 1);
    ml_session_truncate(c->session, (int64_t)c->ids.n - 1); /* the last token is run again for its logits */
    return answer(c, err);
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
    fprintf(stderr, "Ctrl-C stops an answer.  Now: temperature %g, top-p %g, seed %llu, %zu of %lld tokens used.\n",
            c->sampling.temperature, c->sampling.top_p, (unsigned long long)c->sampling.seed, c->ids.n,
            (long long)ml_session_capacity(c->session));
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
    if (c->format.kind == ML_CHAT_NONE) {
        say("This model has no chat format: it continues the text you type.  /help lists commands, Ctrl-D leaves.");
    } else {
        fprintf(stderr, "Chat in the format %s.  /help lists commands, Ctrl-D leaves.\n", ml_chat_name(c->format.kind));
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
        ml_status status = *line == '/' ? run_command(c, line, &leave, err) : take_turn(c, line, err);
        if (status != ML_OK) say_error(err);
        if (ferror(stdout)) return ml_fail(err, ML_EIO, "standard output could not be written");
    }
    if (!leave && ml_line_reader_is_terminal(c->reader)) fputc('\n', stdout);
    return ML_OK;
}

static ml_status set_up(chat *c, ml_error *err)
{
    const char *path, *format = ml_options_text(c->o, "chat-format");
    ML_TRY(ml_cli_require(c->o, "model", &path, err));
    ML_TRY(ml_cli_load_model(path, ml_options_text(c->o, "repack"), &c->model, &c->tokenizer, err));
    ML_TRY(ml_chat_choose(c->tokenizer, strcmp(format, "auto") ? format : NULL, &c->format, err));
    if (c->format.kind == ML_CHAT_NONE && ml_options_given(c->o, "system")) {
        return ml_fail(err, ML_EINVAL, "%s: --system needs a chat format, and there is none here", path);
    }
    ml_sampling sampling = ml_cli_sampling(c->o);
    ML_TRY(make_sampler(c, &sampling, err));
    ML_TRY(ml_session_make_as(c->model, c->model->config.max_position_embeddings, true, ml_cli_kv_dtype(c->o),
                              &c->session, err));
    c->transcript = json_array();
    if (!c->transcript) return ml_fail_memory(err, 0, "the transcript");
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
    json_decref(c.transcript);
    ml_chars_free(&c.text);
    ml_ids_free(&c.ids);
    ml_session_free(c.session);
    ml_sampler_free(c.sampler);
    ml_tokenizer_free(c.tokenizer);
    ml_model_free(c.model);
    ml_options_free(o);
    return status;
}
