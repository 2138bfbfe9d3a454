/* A conversation as token ids.
 *
 *   kimi           <|im_system|>system<|im_middle|>S<|im_end|><|im_user|>user<|im_middle|>U<|im_end|>
 *                  <|im_assistant|>assistant<|im_middle|>A<|im_end|> ...
 *   moonlight-moe  <|system|>S<|user|>U1<|assistant|>A1<|user|>U2<|assistant|>A2<|endoftext|>
 *                  the end stands behind the last answer only
 *
 * Marks are ids, never text: whatever a message contains, it cannot begin another turn. */
#ifndef ML_TOKEN_CHAT_H
#define ML_TOKEN_CHAT_H

#include "token/tokenizer.h"

typedef enum { ML_CHAT_NONE, ML_CHAT_MOONLIGHT_MOE, ML_CHAT_KIMI, ML_N_CHAT } ml_chat_kind;
typedef enum { ML_ROLE_SYSTEM, ML_ROLE_USER, ML_ROLE_ASSISTANT, ML_N_ROLE } ml_chat_role;

typedef struct {
    ml_chat_kind kind;
    int32_t role[ML_N_ROLE]; /* begins a message */
    int32_t middle;          /* kimi: between the role's name and the text; else -1 */
    int32_t end;             /* ends an answer */
} ml_chat_format;

typedef struct {
    ml_chat_role role;
    ml_text text;
} ml_chat_message;

/* "none", "moonlight-moe", "kimi" */
const char *ml_chat_name(ml_chat_kind kind);
/* "system", "user", "assistant" */
const char *ml_chat_role_name(ml_chat_role role);
/* What stands in for a system message that is missing. */
extern const char *const ml_chat_default_system;

/* The format with this name, or for NULL the one whose tokens the tokenizer has (none if it has no set of them).
 * ML_EINVAL for an unknown name, or a format of which the tokenizer lacks a token. */
ml_status ml_chat_choose(const ml_tokenizer *t, const char *name, ml_chat_format *out, ml_error *err);

/* Append one message, given what came before: `follows` is the role of the message before it, or ML_N_ROLE at the
 * start.  A first message that is not the system's gets the default system message before it. */
ml_status ml_chat_append(const ml_chat_format *f, const ml_tokenizer *t, ml_chat_role follows,
                         const ml_chat_message *message, ml_ids *out, ml_error *err);
/* Append what makes the model answer the user's message that came before. */
ml_status ml_chat_open_answer(const ml_chat_format *f, const ml_tokenizer *t, ml_ids *out, ml_error *err);
/* A whole conversation.  `answer`: the model is to go on; otherwise it is complete, and a last answer ends. */
ml_status ml_chat_render(const ml_chat_format *f, const ml_tokenizer *t, const ml_chat_message *messages,
                         size_t n_message, bool answer, ml_ids *out, ml_error *err);

#endif
