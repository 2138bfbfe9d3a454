/* What a model answers, read token by token: thoughts, text, and calls of tools.
 *
 * Each field only grows, so whoever streams it shows what has come since the last look.  Text in which a mark may have
 * begun is held back until it is clear.  Kimi's calls are read by their marks' ids: text that looks like a mark is
 * text. */
#ifndef ML_TOKEN_CHAT_OUTPUT_H
#define ML_TOKEN_CHAT_OUTPUT_H

#include "token/chat.h"

typedef struct {
    ml_chars id; /* as the model wrote it: functions.NAME:N */
    ml_chars name;
    ml_chars arguments;
    bool complete; /* its end has come; id and name are complete as soon as arguments begin */
} ml_chat_made_call;

typedef enum {
    ML_CHAT_IN_START,
    ML_CHAT_IN_THOUGHTS,
    ML_CHAT_IN_TEXT,
    ML_CHAT_IN_SECTION,
    ML_CHAT_IN_CALL,
    ML_CHAT_IN_ARGUMENTS
} ml_chat_place;

typedef struct {
    ml_chars reasoning, text;
    ml_chat_made_call *calls;
    size_t n_call;
    /* The rest is its own. */
    size_t capacity;
    const ml_tokenizer *t;
    ml_chat_place place;
    ml_detok detok;
    ml_chars fresh; /* what the last id became */
    ml_chars held;  /* text that may be the beginning of a mark */
    bool has_thought;
    int32_t mark[5], think[2]; /* -1: the tokenizer has no such token */
} ml_chat_output;

/* Begin, `o` being zeroed or freed, to read what follows the prompt `ids` [n].  With `replace_invalid` all texts become
 * UTF-8.  The tokenizer must outlive it. */
void ml_chat_output_start(ml_chat_output *o, const ml_chat_format *f, const ml_tokenizer *t, const int32_t *ids,
                          size_t n, bool replace_invalid);
/* Take one more id; those that end the answer are to be left out. */
ml_status ml_chat_output_push(ml_chat_output *o, int32_t id, ml_error *err);
/* There is no more: what was held back comes out. */
ml_status ml_chat_output_end(ml_chat_output *o, ml_error *err);
void ml_chat_output_free(ml_chat_output *o);

/* The answer as a message of chat_json.h: {role, content, reasoning_content, tool_calls}, the latter two where there
 * are any, calls without a complete end left out.  NULL when memory is out or a text is not UTF-8. */
json_t *ml_chat_output_to_json(const ml_chat_output *o);

#endif
