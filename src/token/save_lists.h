/* The two long lists of tokenizer.json, as text: entries of the object "vocab" and of the array "merges", indented as
 * in the "model" they belong to.  Written straight, as a tree of a hundred thousand JSON values costs more than
 * encoding many megabytes of text. */
#ifndef ML_TOKEN_SAVE_LISTS_H
#define ML_TOKEN_SAVE_LISTS_H

#include "token/internal.h"

#define ML_SAVE_WIDE_SPACE "\xE2\x96\x81" /* U+2581, for a space in SentencePiece's tokens */

/* The text of a token in model.vocab, with a final 0. */
ml_status ml_save_vocab_text(const ml_tokenizer *t, int32_t id, ml_chars *text, ml_error *err);
/* {"token": id, ...}.  ML_EINVAL when a text is not UTF-8 or two tokens are written alike. */
ml_status ml_save_vocab(const ml_tokenizer *t, ml_chars *out, ml_error *err);
/* ["left right", ...]: its merges, or those that its scores amount to. */
ml_status ml_save_merges(const ml_tokenizer *t, ml_chars *out, ml_error *err);

#endif
