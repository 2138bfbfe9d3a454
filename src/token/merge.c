/* Merging the bytes of one piece: always the pair of lowest rank, the leftmost of equals.
 *
 * Short pieces (nearly all) scan an array of ranks for the minimum.  Long ones, such as a megabyte of one letter, keep
 * (rank, position) in a heap over a linked list; an entry is stale when the pair at its position has another rank now.
 */
#include "token/internal.h"

#include "base/alloc.h"
#include "token/char_class.h"

enum { SHORT_MAX = 48 };
static const uint32_t none = UINT32_MAX;

void ml_merge_scratch_free(ml_merge_scratch *s)
{
    ml_free(s->id);
    ml_free(s->rank);
    ml_free(s->next);
    ml_free(s->previous);
    ml_free(s->heap);
    *s = (ml_merge_scratch){ 0 };
}

static ml_status reserve(ml_merge_scratch *s, size_t n, ml_error *err)
{
    if (n <= s->capacity) return ML_OK;
    if (n >= none) return ml_fail(err, ML_EINVAL, "a piece of text has %zu bytes, expected fewer than 2^32 - 1", n);
    size_t capacity = 0;
    ML_TRY(ml_grow((void **)&s->id, &capacity, n, sizeof *s->id, err));
    capacity = 0;
    ML_TRY(ml_grow((void **)&s->rank, &capacity, n, sizeof *s->rank, err));
    capacity = 0;
    ML_TRY(ml_grow((void **)&s->next, &capacity, n, sizeof *s->next, err));
    capacity = 0;
    ML_TRY(ml_grow((void **)&s->previous, &capacity, n, sizeof *s->previous, err));
    s->capacity = n;
    return ML_OK;
}

/* ml_pair_rank for neighbours in a text, most of which are no pair: a bit of the filter says so without a visit to the
 * table, which is larger than the caches. */
static inline uint32_t rank_of(const ml_tokenizer *t, int32_t left, int32_t right)
{
    if (t->pair_filter) {
        size_t h = ml_pair_hash((uint32_t)left, (uint32_t)right) & t->pair_filter_mask;
        if (!(t->pair_filter[h / 64] >> h % 64 & 1)) return none;
    }
    return ml_pair_rank(&t->pairs, left, right);
}

static size_t merge_short(const ml_tokenizer *t, ml_merge_scratch *s, size_t n)
{
    int32_t *id = s->id;
    uint32_t *rank = s->rank; // rank[i] of the pair (i, i + 1), filled by the caller
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (rank[i] < rank[best]) best = i;
        }
        if (rank[best] == none) break;
        id[best] = t->merges[rank[best]].result;
        n--;
        for (size_t i = best + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i - 1] = rank[i];
        }
        if (best > 0) rank[best - 1] = rank_of(t, id[best - 1], id[best]);
        if (best + 1 < n) rank[best] = rank_of(t, id[best], id[best + 1]);
    }
    return n;
}

static ml_status heap_push(ml_merge_scratch *s, uint32_t rank, size_t at, ml_error *err)
{
    if (s->n_heap == s->heap_capacity) {
        ML_TRY(ml_grow((void **)&s->heap, &s->heap_capacity, s->n_heap + 1, sizeof *s->heap, err));
    }
    uint64_t entry = (uint64_t)rank << 32 | at;
    size_t i = s->n_heap++;
    for (; i > 0 && s->heap[(i - 1) / 2] > entry; i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = entry;
    return ML_OK;
}

static uint64_t heap_pop(ml_merge_scratch *s)
{
    uint64_t top = s->heap[0], last = s->heap[--s->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= s->n_heap) break;
        if (child + 1 < s->n_heap && s->heap[child + 1] < s->heap[child]) child++;
        if (s->heap[child] >= last) break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

/* Note the rank of the pair that begins at `at`. */
static ml_status note_pair(const ml_tokenizer *t, ml_merge_scratch *s, size_t at, ml_error *err)
{
    uint32_t next = s->next[at];
    s->rank[at] = next == none ? none : rank_of(t, s->id[at], s->id[next]);
    return s->rank[at] == none ? ML_OK : heap_push(s, s->rank[at], at, err);
}

static ml_status merge_long(const ml_tokenizer *t, ml_merge_scratch *s, size_t n, size_t *n_ids, ml_error *err)
{
    s->n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        s->next[i] = i + 1 < n ? (uint32_t)i + 1 : none;
        s->previous[i] = i ? (uint32_t)i - 1 : none;
    }
    for (size_t i = 0; i < n; i++) ML_TRY(note_pair(t, s, i, err));
    while (s->n_heap) {
        uint64_t top = heap_pop(s);
        uint32_t at = (uint32_t)top, rank = (uint32_t)(top >> 32);
        if (s->rank[at] != rank) continue;
        uint32_t gone = s->next[at], next = s->next[gone];
        s->id[at] = t->merges[rank].result;
        s->rank[gone] = none;
        s->next[at] = next;
        if (next != none) s->previous[next] = at;
        ML_TRY(note_pair(t, s, at, err));
        if (s->previous[at] != none) ML_TRY(note_pair(t, s, s->previous[at], err));
    }
    size_t k = 0;
    for (uint32_t i = 0; i != none; i = s->next[i]) s->id[k++] = s->id[i];
    *n_ids = k;
    return ML_OK;
}

/* What merging begins with: bytes, and characters where that makes no difference. */
static size_t make_symbols(const ml_tokenizer *t, ml_merge_scratch *s, const uint8_t *p, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        if (t->char_id && p[i] >= 0xC2 && p[i] < 0xF0) {
            size_t n_char;
            int32_t id = t->char_id[ml_char_decode(p + i, &n_char)];
            if (id >= 0) {
                s->id[k++] = id;
                i += n_char;
                continue;
            }
        }
        s->id[k++] = t->byte_id[p[i++]];
    }
    return k;
}

ml_status ml_merge_bytes(const ml_tokenizer *t, ml_merge_scratch *s, const uint8_t *p, size_t n, size_t *n_ids,
                         ml_error *err)
{
    ML_TRY(reserve(s, n, err));
    size_t k = make_symbols(t, s, p, n);
    if (k > SHORT_MAX) return merge_long(t, s, k, n_ids, err);
    if (k == n && t->byte_pair_rank) {
        for (size_t i = 0; i + 1 < k; i++) s->rank[i] = t->byte_pair_rank[p[i] << 8 | p[i + 1]];
    } else {
        for (size_t i = 0; i + 1 < k; i++) s->rank[i] = rank_of(t, s->id[i], s->id[i + 1]);
    }
    *n_ids = merge_short(t, s, k);
    return ML_OK;
}
