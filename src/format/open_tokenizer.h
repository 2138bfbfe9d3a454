/* A tokenizer from whatever holds one: the files of token/open.c, or a GGUF file.
 *
 * ml_tokenizer_open, declared in moonlight.h, is this without extras. */
#ifndef ML_FORMAT_OPEN_TOKENIZER_H
#define ML_FORMAT_OPEN_TOKENIZER_H

#include "model/config.h"
#include "token/tokenizer.h"

/* ML_EINVAL for extras beside a GGUF file, which says all by itself. */
ml_status ml_tokenizer_open_any(const char *path, const ml_tokenizer_extra *extra, ml_tokenizer **out, ml_error *err);

/* The tokenizer of a model, with what its files do not say: a model with the chat format moonlight-moe has the marks of
 * turns at the ids behind GPT-2's last token, <|endoftext|>, and GPT-2's files know nothing of them.  A tokenizer that
 * has marks, ends in another token, or leaves no room for them in the model's vocabulary stays as it is. */
ml_status ml_tokenizer_open_for(const char *path, const ml_config *config, ml_tokenizer **out, ml_error *err);

#endif
