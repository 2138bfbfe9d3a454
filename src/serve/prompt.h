/* From what a request holds to the ids of a prompt. */
#ifndef ML_SERVE_PROMPT_H
#define ML_SERVE_PROMPT_H

#include "serve/models.h"

/* A conversation, to be answered; without a chat format its texts one behind the other.  tools may be NULL. */
ml_status ml_prompt_from_messages(ml_web *h, const ml_served *s, const json_t *messages, const json_t *tools,
                                  ml_ids *out, ml_error *err);
/* A text, an array of texts, of ids, or of arrays of ids: *list [*n], each with ml_ids_free, then ml_free. */
ml_status ml_prompts_from_json(ml_web *h, const ml_served *s, const json_t *value, const char *field, ml_ids **list,
                               size_t *n, ml_error *err);
void ml_prompts_free(ml_ids *list, size_t n);

/* A token's text for JSON: bytes that are no UTF-8 become U+FFFD. */
json_t *ml_piece_text(const ml_tokenizer *t, int32_t id);
json_t *ml_piece_bytes(const ml_tokenizer *t, int32_t id);

#endif
