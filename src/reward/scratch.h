/* Scratch memory of one comparison: a block that is filled from the front and dropped as a whole.  When it runs out
 * nothing breaks: ml_scratch_take gives NULL, `full` stays set, and the comparison ends as "cannot tell". */
#ifndef ML_REWARD_SCRATCH_H
#define ML_REWARD_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* n bytes of text somewhere, without a 0 behind them. */
typedef struct {
    const char *at;
    size_t n;
} ml_span;

typedef struct {
    char *base;
    size_t used, capacity;
    bool full;
} ml_scratch;

/* Uninitialised, aligned for any of this module's types. */
static inline void *ml_scratch_take(ml_scratch *s, size_t n)
{
    size_t at = (s->used + 15) & ~(size_t)15;
    if (s->full || at > s->capacity || n > s->capacity - at) {
        s->full = true;
        return NULL;
    }
    s->used = at + n;
    return s->base + at;
}

static inline ml_span ml_span_of(const char *text)
{
    return (ml_span){ text, strlen(text) };
}

static inline bool ml_span_equal(ml_span a, ml_span b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.at, b.at, a.n) == 0);
}

static inline bool ml_span_is(ml_span a, const char *text)
{
    return ml_span_equal(a, ml_span_of(text));
}

static inline ml_span ml_span_skip(ml_span a, size_t n)
{
    return n ? (ml_span){ a.at + n, a.n - n } : a; /* nothing is added to a NULL */
}

#endif
