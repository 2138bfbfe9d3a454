/* The characters that GPT-2 and Hugging Face files write for bytes: printable Latin-1 for itself, the other 68 bytes as
 * U+0100 and up in order, so that every token is a text without spaces or controls ("\u0120the" is " the"). */
#ifndef ML_TOKEN_BYTEMAP_H
#define ML_TOKEN_BYTEMAP_H

#include "token/tokenizer.h"

/* Append the bytes that a text of such characters stands for; *mapped is false, and nothing appended, when a character
 * is none of the 256. */
ml_status ml_bytemap_decode(const char *text, size_t n, ml_chars *out, bool *mapped, ml_error *err);
/* Append the UTF-8 text that stands for n bytes. */
ml_status ml_bytemap_encode(const char *bytes, size_t n, ml_chars *out, ml_error *err);

/* The 256 bytes in the order of their characters: the alphabet of GPT-2 and of Hugging Face trainers. */
void ml_bytemap_order(uint8_t order[256]);

#endif
