/* From the regex dialect of tokenizer files to PCRE2. */
#ifndef ML_TOKEN_REGEX_H
#define ML_TOKEN_REGEX_H

#include "token/tokenizer.h"

/* Append to *out the PCRE2 text (without a final 0) that matches what `regex` matches in Rust's regex and in
 * Oniguruma; ML_EINVAL, naming the construct and its offset, for what the engines read differently. */
ml_status ml_regex_rewrite(const char *regex, ml_chars *out, ml_error *err);

#endif
