#include "base/alloc.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ML_ALIGN = 64 };

/* Each block is preceded by one alignment unit that holds its size, so that stats and realloc know it. */
static _Atomic int64_t n_live, live_bytes, n_total;
static _Atomic int64_t fail_after = -1;
static _Atomic bool forbidden;

static bool may_allocate(void)
{
#ifndef NDEBUG
    assert(!atomic_load(&forbidden) && "allocation inside a step");
#endif
    if (atomic_load(&fail_after) < 0) return true;
    int64_t left = atomic_fetch_sub(&fail_after, 1);
    if (left > 0) return true;
    atomic_store(&fail_after, 0);
    return false;
}

void *ml_alloc(size_t n_bytes)
{
    size_t total;
    if (!may_allocate() || !ml_size_add(n_bytes, 2 * ML_ALIGN - 1, &total)) return NULL;
    total &= ~(size_t)(ML_ALIGN - 1);
    char *block = aligned_alloc(ML_ALIGN, total);
    if (!block) return NULL;
    memcpy(block, &n_bytes, sizeof n_bytes);
    atomic_fetch_add(&n_live, 1);
    atomic_fetch_add(&n_total, 1);
    atomic_fetch_add(&live_bytes, (int64_t)n_bytes);
    return block + ML_ALIGN;
}

void *ml_calloc(size_t n, size_t size)
{
    size_t n_bytes;
    if (!ml_size_mul(n, size, &n_bytes)) return NULL;
    void *p = ml_alloc(n_bytes);
    if (p) memset(p, 0, n_bytes);
    return p;
}

static size_t block_size(const void *p)
{
    size_t n_bytes;
    memcpy(&n_bytes, (const char *)p - ML_ALIGN, sizeof n_bytes);
    return n_bytes;
}

void *ml_realloc(void *p, size_t n_bytes)
{
    void *q = ml_alloc(n_bytes);
    if (q && p) {
        size_t old = block_size(p);
        memcpy(q, p, old < n_bytes ? old : n_bytes);
        ml_free(p);
    }
    return q;
}

void ml_free(void *p)
{
    if (!p) return;
    atomic_fetch_sub(&n_live, 1);
    atomic_fetch_sub(&live_bytes, (int64_t)block_size(p));
    free((char *)p - ML_ALIGN);
}

char *ml_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *copy = ml_alloc(n);
    if (copy) memcpy(copy, s, n);
    return copy;
}

ml_status ml_grow(void **items, size_t *capacity, size_t need, size_t size, ml_error *err)
{
    if (need <= *capacity) return ML_OK;
    size_t want = *capacity ? *capacity : 16;
    while (want < need) {
        if (!ml_size_mul(want, 2, &want)) return ml_fail_memory(err, need, "a growing array");
    }
    size_t n_bytes;
    if (!ml_size_mul(want, size, &n_bytes)) return ml_fail_memory(err, want, "a growing array");
    void *grown = ml_realloc(*items, n_bytes);
    if (!grown) return ml_fail_memory(err, n_bytes, "a growing array");
    *items = grown;
    *capacity = want;
    return ML_OK;
}

ml_alloc_stats ml_alloc_get_stats(void)
{
    return (ml_alloc_stats){ atomic_load(&n_live), atomic_load(&live_bytes), atomic_load(&n_total) };
}

void ml_alloc_fail_after(int64_t n)
{
    atomic_store(&fail_after, n);
}

void ml_alloc_forbid(bool forbid)
{
    atomic_store(&forbidden, forbid);
}

ml_status ml_arena_init(ml_arena *arena, size_t capacity, ml_error *err)
{
    *arena = (ml_arena){ 0 };
    if (!may_allocate()) return ml_fail_memory(err, capacity, "an arena");
    if (capacity == 0) capacity = ML_ALIGN;
    void *base = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return ml_fail_memory(err, capacity, "an arena");
    /* Large activations are walked from end to end every step: fewer TLB misses with huge pages. */
    (void)madvise(base, capacity, MADV_HUGEPAGE);
    arena->base = base;
    arena->capacity = capacity;
    return ML_OK;
}

void ml_arena_free(ml_arena *arena)
{
    if (arena->base) munmap(arena->base, arena->capacity);
    *arena = (ml_arena){ 0 };
}

void *ml_arena_alloc(ml_arena *arena, size_t n_bytes)
{
    size_t rounded;
    if (!ml_size_add(n_bytes, ML_ALIGN - 1, &rounded)) return NULL;
    rounded &= ~(size_t)(ML_ALIGN - 1);
    if (rounded > arena->capacity - arena->used) return NULL;
    void *p = arena->base + arena->used;
    arena->used += rounded;
    if (arena->used > arena->peak) arena->peak = arena->used;
    return p;
}

size_t ml_arena_mark(const ml_arena *arena)
{
    return arena->used;
}

void ml_arena_release(ml_arena *arena, size_t mark)
{
    assert(mark <= arena->used);
    arena->used = mark;
}
