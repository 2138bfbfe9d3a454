/* Memory: a counting allocator that tests can make fail, and arenas (stacks with mark and release).
 *
 * Lifetimes in this project are three: model, step, request.  Each is an arena; ml_alloc is for what
 * grows while files are read and objects are set up.  Inside a training step or a decode step nothing
 * calls ml_alloc: a debug build aborts if it happens (ml_alloc_forbid). */
#ifndef ML_BASE_ALLOC_H
#define ML_BASE_ALLOC_H

#include "base/status.h"

#include <stdbool.h>

/* Checked size arithmetic: false when the true result does not fit; *out is then untouched. */
static inline bool ml_size_mul(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

static inline bool ml_size_add(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

/* 64-byte aligned, uninitialised; NULL when memory is out or a test asked for failure.  n = 0 is legal
 * and gives a pointer that can be freed. */
void *ml_alloc(size_t n_bytes);
/* n * size zeroed bytes; NULL also when the product overflows. */
void *ml_calloc(size_t n, size_t size);
/* Grow or shrink; p = NULL allocates.  On failure NULL, and p stays valid. */
void *ml_realloc(void *p, size_t n_bytes); /* ml_free: moonlight.h */
char *ml_strdup(const char *s);

/* Make room for at least `need` elements of `size` bytes in a growing array: *items is reallocated and
 * *capacity updated, doubling.  ML_ENOMEM leaves both as they were. */
ml_status ml_grow(void **items, size_t *capacity, size_t need, size_t size, ml_error *err);

typedef struct {
    int64_t n_live;     /* allocations not yet freed */
    int64_t live_bytes; /* their sizes */
    int64_t n_total;    /* allocations ever made */
} ml_alloc_stats;

ml_alloc_stats ml_alloc_get_stats(void);
/* Tests: let n more allocations succeed and fail every one after that; n < 0 turns it off. */
void ml_alloc_fail_after(int64_t n);
/* Between forbid(true) and forbid(false) a debug build aborts on any allocation. */
void ml_alloc_forbid(bool forbid);

/* A stack of bytes.  Address space is reserved at once and given memory by the kernel as it is touched,
 * so a generous capacity costs nothing; `peak` says what was really used. */
typedef struct {
    char *base;
    size_t capacity;
    size_t used;
    size_t peak;
} ml_arena;

ml_status ml_arena_init(ml_arena *arena, size_t capacity, ml_error *err);
void ml_arena_free(ml_arena *arena);
/* 64-byte aligned, uninitialised; NULL when the arena is full. */
void *ml_arena_alloc(ml_arena *arena, size_t n_bytes);
/* `used` now; give it to ml_arena_release to drop everything allocated since. */
size_t ml_arena_mark(const ml_arena *arena);
void ml_arena_release(ml_arena *arena, size_t mark);

#endif
