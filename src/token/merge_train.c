/* Every word is an array of ids; every pair of neighbours has a count and a list of words that may hold it.
 *
 * A step takes the most frequent pair from a heap, rewrites the words on its list and moves their counts.  Counts only
 * fall for pairs that lose occurrences, so an entry of the heap is an upper bound: one whose count is out of date goes
 * back with the right one.  Pairs that gained occurrences get a new entry when the step is done. */
#include "token/merge_train.h"

#include "base/alloc.h"
#include "token/internal.h"

typedef struct {
    int32_t left, right;
    int64_t count;
    uint32_t *words;
    size_t n_words, words_capacity;
    size_t touched; /* the step that last raised it, to push it once */
} pair;

typedef struct {
    size_t at, n; /* ids in `ids` */
    int64_t count;
} word;

typedef struct {
    int64_t count;
    uint32_t pair;
} heap_entry;

typedef struct {
    ml_tokenizer *t;
    ml_bpe_ties ties;
    int32_t *ids;
    word *words;
    size_t n_words;
    pair *pairs;
    size_t n_pairs, pairs_capacity;
    ml_pair_table index; /* pair -> its place in `pairs` */
    heap_entry *heap;
    size_t n_heap, heap_capacity;
    uint32_t *touched; /* pairs that this step raised */
    size_t n_touched, touched_capacity;
    size_t step;
    ml_piece_table pieces; /* bytes -> id, since two pairs may make the same token */
} merger;

static void merger_free(merger *m)
{
    for (size_t i = 0; i < m->n_pairs; i++) ml_free(m->pairs[i].words);
    ml_free(m->ids);
    ml_free(m->words);
    ml_free(m->pairs);
    ml_free(m->heap);
    ml_free(m->touched);
    ml_pair_table_free(&m->index);
    ml_piece_table_free(&m->pieces);
}

static int compare_pieces(const ml_tokenizer *t, int32_t a, int32_t b)
{
    size_t n_a = t->pieces[a].n_bytes, n_b = t->pieces[b].n_bytes;
    int order = memcmp(ml_piece_bytes(t, a), ml_piece_bytes(t, b), n_a < n_b ? n_a : n_b);
    return order ? order : n_a < n_b ? -1 : n_a > n_b ? 1 : 0;
}

/* Whether entry a is merged before b. */
static bool is_before(const merger *m, heap_entry a, heap_entry b)
{
    if (a.count != b.count) return a.count > b.count;
    const pair *p = &m->pairs[a.pair], *q = &m->pairs[b.pair];
    if (m->ties == ML_BPE_TIES_FIRST) return p->left != q->left ? p->left < q->left : p->right < q->right;
    int order = compare_pieces(m->t, p->left, q->left);
    return (order ? order : compare_pieces(m->t, p->right, q->right)) > 0;
}

static ml_status push(merger *m, uint32_t which, ml_error *err)
{
    ML_TRY(ml_grow((void **)&m->heap, &m->heap_capacity, m->n_heap + 1, sizeof *m->heap, err));
    heap_entry entry = { m->pairs[which].count, which };
    size_t i = m->n_heap++;
    for (; i > 0 && is_before(m, entry, m->heap[(i - 1) / 2]); i = (i - 1) / 2) m->heap[i] = m->heap[(i - 1) / 2];
    m->heap[i] = entry;
    return ML_OK;
}

static heap_entry pop(merger *m)
{
    heap_entry top = m->heap[0], last = m->heap[--m->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= m->n_heap) break;
        if (child + 1 < m->n_heap && is_before(m, m->heap[child + 1], m->heap[child])) child++;
        if (!is_before(m, m->heap[child], last)) break;
        m->heap[i] = m->heap[child];
        i = child;
    }
    m->heap[i] = last;
    return top;
}

/* One word holds the pair more often than before. */
static ml_status raise_pair(merger *m, int32_t left, int32_t right, size_t word_id, ml_error *err)
{
    uint32_t which = ml_pair_rank(&m->index, left, right);
    if (which == UINT32_MAX) {
        if (m->n_pairs >= UINT32_MAX)
            return ml_fail(err, ML_EINVAL, "the corpus has more than 2^32 pairs: use less of it");
        ML_TRY(ml_grow((void **)&m->pairs, &m->pairs_capacity, m->n_pairs + 1, sizeof *m->pairs, err));
        which = (uint32_t)m->n_pairs;
        ML_TRY(ml_pair_insert(&m->index, left, right, which, err));
        m->pairs[m->n_pairs++] = (pair){ .left = left, .right = right, .touched = SIZE_MAX };
    }
    pair *p = &m->pairs[which];
    p->count += m->words[word_id].count;
    if (!p->n_words || p->words[p->n_words - 1] != word_id) {
        ML_TRY(ml_grow((void **)&p->words, &p->words_capacity, p->n_words + 1, sizeof *p->words, err));
        p->words[p->n_words++] = (uint32_t)word_id;
    }
    if (p->touched == m->step) return ML_OK;
    p->touched = m->step;
    ML_TRY(ml_grow((void **)&m->touched, &m->touched_capacity, m->n_touched + 1, sizeof *m->touched, err));
    m->touched[m->n_touched++] = which;
    return ML_OK;
}

static void lower_pair(merger *m, int32_t left, int32_t right, size_t word_id)
{
    uint32_t which = ml_pair_rank(&m->index, left, right);
    m->pairs[which].count -= m->words[word_id].count; // every neighbouring pair has been raised once
}

static ml_status push_touched(merger *m, ml_error *err)
{
    for (size_t i = 0; i < m->n_touched; i++) {
        if (m->pairs[m->touched[i]].count > 0) ML_TRY(push(m, m->touched[i], err));
    }
    m->n_touched = 0;
    m->step++;
    return ML_OK;
}

/* Words of at least two bytes as arrays of ids, with the counts of their pairs. */
static ml_status load_words(merger *m, const ml_words *words, ml_error *err)
{
    if (words->n >= UINT32_MAX) return ml_fail(err, ML_EINVAL, "the corpus has more than 2^32 words: use less of it");
    m->ids = ml_calloc(words->blob.n, sizeof *m->ids);
    m->words = ml_calloc(words->n, sizeof *m->words);
    if (!m->ids || !m->words) return ml_fail_memory(err, words->blob.n * sizeof *m->ids, "the words of the corpus");
    for (size_t i = 0; words->slots && i <= words->mask; i++) {
        const ml_word_slot *slot = &words->slots[i];
        if (!slot->count || slot->n < 2) continue;
        size_t word_id = m->n_words++;
        m->words[word_id] = (word){ slot->at, slot->n, slot->count };
        int32_t *id = m->ids + slot->at;
        for (size_t k = 0; k < slot->n; k++) id[k] = m->t->byte_id[(uint8_t)words->blob.data[slot->at + k]];
        for (size_t k = 0; k + 1 < slot->n; k++) ML_TRY(raise_pair(m, id[k], id[k + 1], word_id, err));
    }
    return push_touched(m, err);
}

/* Replace left right by `result` in a word, from left to right. */
static ml_status rewrite_word(merger *m, size_t word_id, int32_t left, int32_t right, int32_t result, ml_error *err)
{
    word *w = &m->words[word_id];
    int32_t *id = m->ids + w->at;
    size_t n = w->n, k = 0;
    for (size_t i = 0; i < n; i++) {
        if (id[i] != left || i + 1 >= n || id[i + 1] != right) {
            id[k++] = id[i];
            continue;
        }
        if (k > 0) {
            lower_pair(m, id[k - 1], left, word_id);
            ML_TRY(raise_pair(m, id[k - 1], result, word_id, err));
        }
        if (i + 2 < n) {
            lower_pair(m, right, id[i + 2], word_id);
            ML_TRY(raise_pair(m, result, id[i + 2], word_id, err));
        }
        id[k++] = result;
        i++;
    }
    w->n = k;
    return ML_OK;
}

/* The token that left and right make: a new id, or the one that has these bytes already. */
static ml_status make_token(merger *m, int32_t left, int32_t right, int32_t *result, ml_error *err)
{
    ml_tokenizer *t = m->t;
    uint32_t known = ml_pair_rank(&t->pairs, left, right);
    if (known != UINT32_MAX) { // merged before, and made again by a token that two pairs make
        *result = t->merges[known].result;
        return ML_OK;
    }
    ml_chars bytes = { 0 };
    ml_status status = ml_chars_append(&bytes, ml_piece_bytes(t, left), t->pieces[left].n_bytes, err);
    if (status == ML_OK) status = ml_chars_append(&bytes, ml_piece_bytes(t, right), t->pieces[right].n_bytes, err);
    if (status == ML_OK) {
        const uint8_t *p = (const uint8_t *)bytes.data;
        *result = ml_tokenizer_look_up(t, &m->pieces, p, bytes.n, bytes.n);
        if (*result < 0) {
            *result = (int32_t)t->n_pieces;
            status = ml_tokenizer_put_piece(t, *result, p, bytes.n, 0, err);
            ml_key key = bytes.n <= ML_KEY_MAX ? ml_key_pack(p, bytes.n, bytes.n) : ml_key_hash(p, bytes.n);
            if (status == ML_OK) status = ml_piece_insert(&m->pieces, key, *result, err);
        }
    }
    ml_chars_free(&bytes);
    return status == ML_OK ? ml_tokenizer_put_merge(t, left, right, *result, err) : status;
}

static ml_status merge_pair(merger *m, uint32_t which, ml_error *err)
{
    pair p = m->pairs[which];
    m->pairs[which].words = NULL; // its list is done with, and pairs may move
    m->pairs[which].n_words = m->pairs[which].words_capacity = 0;
    int32_t result = -1;
    ml_status status = make_token(m, p.left, p.right, &result, err);
    for (size_t i = 0; i < p.n_words && status == ML_OK; i++) {
        status = rewrite_word(m, p.words[i], p.left, p.right, result, err);
    }
    m->pairs[which].count = 0;
    ml_free(p.words);
    return status == ML_OK ? push_touched(m, err) : status;
}

static ml_status run(merger *m, const ml_bpe_train_config *config, ml_progress *progress, ml_error *err)
{
    enum { REPORT_EVERY = 64 };
    size_t wanted = (size_t)config->vocab_size;
    while (m->t->n_pieces < wanted && m->n_heap) {
        heap_entry top = pop(m);
        int64_t count = m->pairs[top.pair].count;
        if (count != top.count) {
            if (count > 0) ML_TRY(push(m, top.pair, err));
            continue;
        }
        if (count < 1) break;
        ML_TRY(merge_pair(m, top.pair, err));
        if (m->step % REPORT_EVERY) continue;
        ml_progress_update(progress, (double)m->t->n_pieces, NULL);
        if (ml_progress_stopped(progress))
            return ml_fail(err, ML_ECANCEL, "stopped at %zu of %zu tokens", m->t->n_pieces, wanted);
    }
    ml_progress_update(progress, (double)m->t->n_pieces, NULL);
    if (m->t->n_pieces == wanted || config->allow_fewer) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "vocabulary size %zu: the corpus holds only %zu tokens that merge: give more text or ask for %zu",
                   wanted, m->t->n_pieces, m->t->n_pieces);
}

ml_status ml_bpe_merge_words(const ml_bpe_train_config *config, const ml_words *words, ml_progress *progress,
                             ml_tokenizer *t, ml_error *err)
{
    merger m = { .t = t, .ties = config->ties };
    ml_status status = load_words(&m, words, err);
    if (status == ML_OK) status = run(&m, config, progress, err);
    merger_free(&m);
    return status;
}
