/* Cutting text into the pieces that merges never cross.
 *
 * A split is a chain of stages; each cuts every piece of the stage before it.  A stage is a regex: its matches are
 * pieces, and so is whatever lies between two matches, so pieces always cover the text.  Three patterns have names
 * and a hand-written scanner over tables of PCRE2's own character properties; everything else runs on PCRE2 (with JIT
 * where the machine allows it).
 *
 * Patterns are written in the dialect that Hugging Face and tiktoken files use (Rust regex, Oniguruma) and rewritten
 * for PCRE2: \s is Unicode White_Space, \p{Script} is the Script property.  What these engines read differently (\w,
 * \b,
 * ^, $, nested classes, {n,m}+) is refused rather than guessed. */
#ifndef ML_TOKEN_SPLIT_H
#define ML_TOKEN_SPLIT_H

#include "base/status.h"

#include <stdbool.h>

typedef struct ml_pattern ml_pattern;

/* The names "gpt2", "gpt4" (cl100k) and "moonlight", or a regex.  Adds a stage behind those in *split; *split starts
 * NULL and stays valid when this fails. */
ml_status ml_pattern_add(ml_pattern **split, const char *pattern, ml_error *err);
void ml_pattern_free(ml_pattern *split);
size_t ml_pattern_stage_count(const ml_pattern *split);
/* The pattern of a stage in the files' dialect. */
const char *ml_pattern_stage_regex(const ml_pattern *split, size_t stage);
/* The name of a one-stage split that has one, else NULL. */
const char *ml_pattern_name(const ml_pattern *split);
/* Turn the scanners off, so that a test can compare. */
void ml_pattern_use_scanner(ml_pattern *split, bool use);
/* True when text may be cut into separate texts after a line feed that stands between two ASCII letters or digits
 * without changing any piece. */
bool ml_pattern_can_cut_lines(const ml_pattern *split);

static inline bool ml_pattern_is_word(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* Walks over the pieces of texts; one per thread. */
typedef struct ml_pattern_cursor ml_pattern_cursor;

ml_status ml_pattern_cursor_make(const ml_pattern *split, ml_pattern_cursor **out, ml_error *err);
void ml_pattern_cursor_free(ml_pattern_cursor *cursor);
/* Begin on text that is valid UTF-8 and outlives the walk. */
void ml_pattern_cursor_start(ml_pattern_cursor *cursor, const uint8_t *text, size_t n_bytes);
/* Ends (offsets into the text) of the next pieces, at most `capacity`: each begins where the one before ends.
 * *n_ends is 0 at the end of the text.  Fails with ML_EINVAL when PCRE2 gives up on a pattern. */
ml_status ml_pattern_cursor_next(ml_pattern_cursor *cursor, size_t *ends, size_t capacity, size_t *n_ends,
                                 ml_error *err);

#endif
