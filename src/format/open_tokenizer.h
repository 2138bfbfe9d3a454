/* A tokenizer from whatever holds one: the files of token/open.c, or a GGUF file.
 *
 * ml_tokenizer_open, declared in moonlight.h, is this without extras. */
#ifndef ML_FORMAT_OPEN_TOKENIZER_H
#define ML_FORMAT_OPEN_TOKENIZER_H

#include "token/tokenizer.h"

/* ML_EINVAL for extras beside a GGUF file, which says all by itself. */
ml_status ml_tokenizer_open_any(const char *path, const ml_tokenizer_extra *extra, ml_tokenizer **out, ml_error *err);

#endif
