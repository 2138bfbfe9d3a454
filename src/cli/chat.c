/* moonlight chat: a conversation in the terminal. */
#include "cli/chat.h"

#include "base/alloc.h"
#include "cli/cli.h"
#include "cli/sampling.h"

#include <signal.h>
#include <string.h>

static void greet(const ml_talk *c)
{
    if (ml_chat_is_none(&c->talk.format)) {
        ml_talk_say(
            "This model has no chat format: it continues the text you type.  /help lists commands, Ctrl-D leaves.");
    } else {
        ml_talk_say("Chat in the format %s.  /help lists commands, Ctrl-D leaves.", ml_chat_name(&c->talk.format));
    }
}

static ml_status converse(ml_talk *c, ml_error *err)
{
    struct sigaction action = { .sa_handler = ml_talk_interrupt };
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    if (ml_line_reader_is_terminal(c->reader)) sigaction(SIGINT, &action, NULL);
    bool leave = false;
    const char *line;
    while (!leave && (line = ml_line_reader_next(c->reader))) {
        if (!*line) continue;
        ml_status status = *line == '/' ? ml_talk_command(c, line, &leave, err)
                                        : ml_talk_take_turn(c, ml_cli_message("user", line), err);
        if (status != ML_OK) ml_talk_say("error: %s", err->message);
        if (ferror(stdout)) return ml_fail(err, ML_EIO, "standard output could not be written");
    }
    if (!leave && ml_line_reader_is_terminal(c->reader)) fputc('\n', stdout);
    return ML_OK;
}

static ml_status set_up(ml_talk *c, ml_error *err)
{
    const char *path, *system = ml_options_text(c->o, "system");
    ML_TRY(ml_cli_require(c->o, "model", &path, err));
    c->system = system ? ml_strdup(system) : NULL;
    if (system && !c->system) return ml_fail_memory(err, strlen(system) + 1, "a system message");
    c->sampling = ml_cli_sampling(c->o);
    ML_TRY(ml_talk_open(c, path, err));
    ML_TRY(ml_talk_begin(c, err));
    return ml_line_reader_make("> ", ml_talk_command_names(), &c->reader, err);
}

ml_status ml_cli_chat(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("chat", NULL, argc, argv, 0, 0, "", &o, err));
    ml_talk c = { .o = o };
    ml_status status = set_up(&c, err);
    if (status == ML_OK) {
        greet(&c);
        status = converse(&c, err);
    }
    ml_talk_free(&c);
    ml_options_free(o);
    return status;
}
