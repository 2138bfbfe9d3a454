/* What verbs that talk to a model share: a conversation as JSON, the format its model knows, and its ids. */
#ifndef ML_CLI_CONVERSATION_H
#define ML_CLI_CONVERSATION_H

#include "base/options.h"
#include "cli/load.h"
#include "token/chat.h"
#include "token/chat_output.h"

/* Start zeroed. */
typedef struct {
    const ml_tokenizer *tokenizer;
    ml_chat_format format;
    json_t *messages; /* [{role, content, ...}, ...]: the transcript, as chat_json.h reads it */
    json_t *tools;    /* NULL: none */
    ml_ids *answers;  /* [n] ids of the message at the same place, when a model gave it */
    size_t n, capacity;
    ml_ids stop; /* ids that end an answer */
} ml_cli_conversation;

/* An empty one in the format that --chat-format and the model (of `path`) say, with the tools of --tools. */
ml_status ml_cli_conversation_make(const ml_options *o, const char *path, const ml_loaded *m, ml_cli_conversation *c,
                                   ml_error *err);
void ml_cli_conversation_free(ml_cli_conversation *c);

/* Append a message: its reference is taken over, also when it fails; NULL is ML_ENOMEM.  `ids` [n] are what the model
 * gave, 0 for others. */
ml_status ml_cli_conversation_add(ml_cli_conversation *c, json_t *message, const int32_t *ids, size_t n, ml_error *err);
/* {role, content} with what is no UTF-8 replaced. */
json_t *ml_cli_message(const char *role, const char *text);
/* The system message at its beginning; NULL: none. */
ml_status ml_cli_conversation_set_system(ml_cli_conversation *c, const char *text, ml_error *err);
/* Forget all but the first n messages. */
void ml_cli_conversation_cut(ml_cli_conversation *c, size_t n);
/* All of it as ids, for the model to go on; appended to *out.  Without turns (format none) it is one growing text. */
ml_status ml_cli_conversation_render(const ml_cli_conversation *c, ml_ids *out, ml_error *err);

#endif
