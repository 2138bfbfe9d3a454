/* What /name does in a chat. */
#include "cli/chat.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef ml_status (*command_fn)(ml_talk *c, const char *argument, ml_error *err);

static ml_status set_real(ml_talk *c, const char *text, size_t offset, ml_error *err)
{
    ml_sampling s = c->sampling;
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end) return ml_fail(err, ML_EINVAL, "expected a number, found \"%s\"", text);
    memcpy((char *)&s + offset, &value, sizeof value);
    return ml_talk_set_sampling(c, &s, err);
}

static ml_status set_temperature(ml_talk *c, const char *argument, ml_error *err)
{
    return set_real(c, argument, offsetof(ml_sampling, temperature), err);
}

static ml_status set_top_p(ml_talk *c, const char *argument, ml_error *err)
{
    return set_real(c, argument, offsetof(ml_sampling, top_p), err);
}

static ml_status set_seed(ml_talk *c, const char *argument, ml_error *err)
{
    ml_sampling s = c->sampling;
    char *end;
    errno = 0;
    s.seed = strtoull(argument, &end, 10);
    if (end == argument || *end || errno || *argument == '-') {
        return ml_fail(err, ML_EINVAL, "expected a whole number, found \"%s\"", argument);
    }
    return ml_talk_set_sampling(c, &s, err);
}

static ml_status save(ml_talk *c, const char *argument, ml_error *err)
{
    if (!*argument) return ml_fail(err, ML_EINVAL, "/save needs the name of a file");
    json_t *whole = json_pack("{s:O}", "messages", c->talk.messages);
    if (whole && c->talk.tools) json_object_set(whole, "tools", c->talk.tools);
    if (!whole) return ml_fail_memory(err, 0, "the transcript");
    ml_status status = ml_json_save(whole, argument, err);
    json_decref(whole);
    if (status == ML_OK) ml_talk_say("(%zu messages in %s)", json_array_size(c->talk.messages), argument);
    return status;
}

static ml_status regenerate(ml_talk *c, const char *argument, ml_error *err)
{
    (void)argument;
    size_t n = c->talk.n;
    const json_t *last = n ? json_array_get(c->talk.messages, n - 1) : NULL;
    const char *role = json_string_value(json_object_get(last, "role"));
    if (!role || strcmp(role, "assistant") != 0) return ml_fail(err, ML_EINVAL, "there is no answer yet");
    ml_cli_conversation_cut(&c->talk, n - 1);
    return ml_talk_answer(c, err);
}

/* The result of the first call that has none; when all have one, the model goes on. */
static ml_status give_result(ml_talk *c, const char *argument, ml_error *err)
{
    size_t n_open;
    const json_t *call = ml_talk_open_call(c, &n_open);
    if (!call) return ml_fail(err, ML_EINVAL, "there is no call to answer");
    json_t *message = ml_cli_message("tool", argument);
    if (message) {
        json_object_set(message, "tool_call_id", json_object_get(call, "id"));
        json_object_set(message, "name", json_object_get(json_object_get(call, "function"), "name"));
    }
    if (n_open == 1) return ml_talk_take_turn(c, message, err);
    ML_TRY(ml_cli_conversation_add(&c->talk, message, NULL, 0, err));
    ml_talk_say("(%zu more to answer)", n_open - 1);
    return ML_OK;
}

static ml_status reset(ml_talk *c, const char *argument, ml_error *err)
{
    (void)argument;
    ML_TRY(ml_talk_begin(c, err));
    ml_talk_say("(a new conversation)");
    return ML_OK;
}

/* Without a text: which one there is; "-": none of one's own. */
static ml_status set_system(ml_talk *c, const char *argument, ml_error *err)
{
    if (*argument) ML_TRY(ml_talk_set_system(c, strcmp(argument, "-") ? argument : NULL, err));
    if (c->system) {
        ml_talk_say("(system: %s)", c->system);
    } else if (*ml_chat_default_system(&c->talk.format)) {
        ml_talk_say("(system, as the format has it: %s)", ml_chat_default_system(&c->talk.format));
    } else {
        ml_talk_say("(no system message)");
    }
    return ML_OK;
}

static void say_model(const ml_talk *c)
{
    ml_model_info info = ml_model_get_info(c->m.model);
    ml_talk_say("(model: %s, %s, %.3g million parameters, format %s, context %lld)", c->path, info.class_name,
                (double)info.n_params / 1e6, ml_chat_name(&c->talk.format), (long long)ml_session_capacity(c->session));
}

static ml_status switch_model(ml_talk *c, const char *argument, ml_error *err)
{
    if (*argument) ML_TRY(ml_talk_open(c, argument, err));
    say_model(c);
    return ML_OK;
}

static ml_status show_trace(ml_talk *c, const char *argument, ml_error *err)
{
    char *end;
    long layer = *argument ? strtol(argument, &end, 10) : -1;
    if (*argument && (end == argument || *end || layer < 0 || layer > INT32_MAX)) {
        return ml_fail(err, ML_EINVAL, "expected the number of a layer, found \"%s\"", argument);
    }
    return ml_talk_trace(c, layer, err);
}

static ml_status help(ml_talk *c, const char *argument, ml_error *err);

static const struct {
    const char *name, *argument, *help;
    command_fn run; /* NULL: leave */
} commands[] = {
    { "help", "", "this list", help },
    { "system", "TEXT", "another system message; - for none, nothing to see it", set_system },
    { "temp", "T", "temperature; 0 takes the likeliest token each time", set_temperature },
    { "top-p", "P", "sample among the likeliest tokens that together reach P", set_top_p },
    { "seed", "N", "start the random choices anew", set_seed },
    { "model", "PATH", "go on with another model; nothing to see which it is", switch_model },
    { "trace", "LAYER", "the experts of the last answer", show_trace },
    { "regen", "", "another answer to the last message", regenerate },
    { "tool", "RESULT", "what a tool that was called gives back", give_result },
    { "reset", "", "a new conversation", reset },
    { "save", "FILE", "write the conversation as JSON", save },
    { "exit", "", "leave; so does Ctrl-D", NULL },
};
enum { N_COMMAND = sizeof commands / sizeof commands[0] };

static ml_status help(ml_talk *c, const char *argument, ml_error *err)
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

ml_status ml_talk_command(ml_talk *c, const char *line, bool *leave, ml_error *err)
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

const char *const *ml_talk_command_names(void)
{
    static char name[N_COMMAND][16];
    static const char *list[N_COMMAND + 1];
    for (size_t i = 0; i < N_COMMAND; i++) {
        snprintf(name[i], sizeof name[i], "/%s", commands[i].name);
        list[i] = name[i];
    }
    return list;
}
