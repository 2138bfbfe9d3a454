/* A conversation to learn from, and what records call it.
 *
 *   prompt, response   {"prompt" or "question": ..., "response" or "completion" or "answer": ...}, also "system"
 *   messages           {"messages": [{"role": "system" | "user" | "assistant", "content": ...}, ...]}, or the array
 *   ShareGPT           {"conversations": [{"from": "system" | "human" | "gpt", "value": ...}, ...]}
 *   alpaca             {"instruction": ..., "input": ..., "output": ...}
 *   preference         {"prompt" or "conversations": text or messages, "chosen": text, message or messages,
 *                      "rejected": the same}; of messages the last is the answer, and without "prompt" those before it
 *                      are
 *
 * Texts point into the record. */
#ifndef ML_DATA_DIALOG_H
#define ML_DATA_DIALOG_H

#include "data/value.h"
#include "token/chat.h"

typedef struct {
    ml_chat_role role;
    ml_text text;
} ml_turn;

/* Start zeroed. */
typedef struct {
    ml_turn *turn; /* [n] */
    size_t n, capacity;
    char *own; /* a text that had to be made */
} ml_dialog;

/* A prompt and two answers to it. */
typedef struct {
    ml_dialog prompt;
    ml_text chosen, rejected;
} ml_preference;

void ml_dialog_free(ml_dialog *d);
void ml_preference_free(ml_preference *p);
ml_status ml_dialog_add(ml_dialog *d, ml_chat_role role, const char *text, size_t n_bytes, ml_error *err);

/* Fill *out, which is emptied before.  ML_EFORMAT, saying what was expected and found, for a record of none of these
 * forms. */
ml_status ml_dialog_read(const ml_value *record, ml_dialog *out, ml_error *err);
ml_status ml_preference_read(const ml_value *record, ml_preference *out, ml_error *err);

#endif
