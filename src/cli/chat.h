/* What the files of `moonlight chat` share: the conversation, its model, and one turn of it.
 *
 *   chat.c            the verb: the loop over lines
 *   chat_turn.c       a model and its session; letting it answer
 *   chat_commands.c   what /name does
 *   chat_trace.c      the experts of the last answer */
#ifndef ML_CLI_CHAT_H
#define ML_CLI_CHAT_H

#include "cli/conversation.h"
#include "cli/line_reader.h"
#include "infer/generate.h"
#include "infer/loaded.h"

typedef struct {
    const ml_options *o;
    char *path; /* of the model */
    ml_loaded m;
    ml_cli_conversation talk;
    char *system; /* NULL: the format puts its own */
    ml_session *session;
    ml_sampling sampling;
    ml_sampler *sampler;
    ml_line_reader *reader;
    ml_ids ids; /* the conversation, rendered */
    /* what the model read for its last answer, and the answer but for its last token; none: n 0 */
    ml_ids heard;
    int64_t n_heard_prompt;
    /* the answer as it comes */
    ml_chat_output output;
    size_t shown, shown_thoughts, shown_calls;
    ml_error print_error;
} ml_talk;

/* A remark to the person, on standard error. */
void ml_talk_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Text of the model's.  On a terminal, control characters of its making have no effect. */
void ml_talk_print(const ml_talk *c, const char *p, size_t n, FILE *out);

/* ---- chat_turn.c ---- */

/* Talk to the model at `path` from now on; what was said stays.  Fails without a change. */
ml_status ml_talk_open(ml_talk *c, const char *path, ml_error *err);
void ml_talk_free(ml_talk *c);
ml_status ml_talk_set_sampling(ml_talk *c, const ml_sampling *sampling, ml_error *err);
/* NULL: the format's own.  What was said stays.  ML_EINVAL where the format has no turns. */
ml_status ml_talk_set_system(ml_talk *c, const char *text, ml_error *err);
/* A new conversation, with the system message that was set. */
ml_status ml_talk_begin(ml_talk *c, ml_error *err);
/* Let the model go on, and add what it says. */
ml_status ml_talk_answer(ml_talk *c, ml_error *err);
/* Add a message (its reference is taken over) and let the model answer; a turn that fails leaves the conversation as it
 * was. */
ml_status ml_talk_take_turn(ml_talk *c, json_t *message, ml_error *err);
/* The first call of a tool without a result, of *n_open; NULL: there is none. */
const json_t *ml_talk_open_call(const ml_talk *c, size_t *n_open);
/* What Ctrl-C does while an answer is written. */
void ml_talk_interrupt(int number);

/* ---- chat_commands.c ---- */

/* `line` begins with a slash.  *leave: the conversation is over. */
ml_status ml_talk_command(ml_talk *c, const char *line, bool *leave, ml_error *err);
/* "/name" of each, NULL behind the last. */
const char *const *ml_talk_command_names(void);

/* ---- chat_trace.c ---- */

/* Which experts read and wrote the last answer, in one layer (-1: the first that has experts). */
ml_status ml_talk_trace(ml_talk *c, int64_t layer, ml_error *err);

#endif
