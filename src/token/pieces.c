/* Scores of SentencePiece and merges of Hugging Face's BPE, one from the other.
 *
 * By scores, any two neighbours whose union is a piece may be joined, the piece of highest score first, of equals the
 * leftmost in the text.  By merges, two pieces may be joined where the list says so, the first in the list first.  Both
 * join the same where the list holds every way to cut each piece into two, by falling score, and among equal scores, as
 * Hugging Face's own conversion has it, the longer left part first.  Equal scores come of the ways to cut one piece,
 * and of the runs of spaces that Llama's vocabulary scores alike: there a run grows from its left end either way.
 * (Other ids are possible where two ways to make one piece overlap, x y z with xy = yz, and no left end is there to
 * begin at; no published vocabulary is known where that happens in a text.) */
#include "token/internal.h"

#include "base/alloc.h"
#include "token/scan.h"

#include <stdlib.h>

typedef struct {
    ml_merge merge;
    float score;
    uint32_t n_left, n_right; /* bytes */
} cut_piece;

typedef struct {
    cut_piece *cuts;
    size_t n, capacity;
} cut_list;

static bool is_joined(const ml_tokenizer *t, size_t id)
{
    return t->pieces[id].flags == PIECE_PRESENT;
}

static int32_t find(const ml_tokenizer *t, const uint8_t *p, size_t n)
{
    return ml_tokenizer_look_up(t, &t->whole, p, n, n);
}

/* Append every way to cut piece `id` in two pieces.  *whole: each of its characters is a piece, too. */
static ml_status list_cuts(const ml_tokenizer *t, size_t id, cut_list *list, bool *whole, ml_error *err)
{
    const uint8_t *p = ml_piece_bytes(t, (int32_t)id);
    size_t n = t->pieces[id].n_bytes;
    *whole = true;
    for (size_t at = 0; at < n;) {
        int length = ml_utf8_length(p + at, n - at);
        size_t n_char = length > 0 ? (size_t)length : 1;
        if (n_char < n && find(t, p + at, n_char) < 0) *whole = false;
        at += n_char;
        if (at == n) break;
        int32_t left = find(t, p, at), right = find(t, p + at, n - at);
        if (left < 0 || right < 0) continue;
        ML_TRY(ml_grow((void **)&list->cuts, &list->capacity, list->n + 1, sizeof *list->cuts, err));
        list->cuts[list->n++] =
            (cut_piece){ { left, right, (int32_t)id }, t->pieces[id].score, (uint32_t)at, (uint32_t)(n - at) };
    }
    return ML_OK;
}

static int compare_cuts(const void *a, const void *b)
{
    const cut_piece *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->n_left != y->n_left) return x->n_left > y->n_left ? -1 : 1;
    return x->n_right > y->n_right ? -1 : x->n_right < y->n_right;
}

static ml_status fail_piece(const ml_tokenizer *t, int32_t id, const char *why, ml_error *err)
{
    size_t n = t->pieces[id].n_bytes;
    return ml_fail(err, ML_EINVAL, "token %d \"%.*s\": %s: the scores of this vocabulary cannot be written as merges",
                   id, (int)(n < 100 ? n : 100), (const char *)ml_piece_bytes(t, id), why);
}

/* Two pieces are runs of one and the same character. */
static bool are_runs(const ml_tokenizer *t, int32_t a, int32_t b)
{
    const uint8_t *p = ml_piece_bytes(t, a);
    int length = ml_utf8_length(p, t->pieces[a].n_bytes);
    size_t n_char = length > 0 ? (size_t)length : 1;
    const int32_t both[] = { a, b };
    for (size_t k = 0; k < 2; k++) {
        const uint8_t *q = ml_piece_bytes(t, both[k]);
        size_t n = t->pieces[both[k]].n_bytes;
        if (n % n_char) return false;
        for (size_t i = 0; i < n; i += n_char) {
            if (memcmp(q + i, p, n_char) != 0) return false;
        }
    }
    return true;
}

static ml_status collect_cuts(const ml_tokenizer *t, cut_list *list, ml_error *err)
{
    for (size_t id = 0; id < t->n_pieces; id++) {
        bool whole;
        if (!is_joined(t, id)) continue;
        ML_TRY(list_cuts(t, id, list, &whole, err));
        if (!whole) return fail_piece(t, (int32_t)id, "one of its characters is no token", err);
    }
    if (list->n) qsort(list->cuts, list->n, sizeof *list->cuts, compare_cuts);
    for (size_t i = 1; i < list->n; i++) {
        int32_t before = list->cuts[i - 1].merge.result, id = list->cuts[i].merge.result;
        if (list->cuts[i].score != list->cuts[i - 1].score || id == before || are_runs(t, before, id)) continue;
        return fail_piece(t, id, "another token has the same score", err);
    }
    return ML_OK;
}

ml_status ml_pieces_to_merges(const ml_tokenizer *t, ml_merge **merges, size_t *n, ml_error *err)
{
    cut_list list = { 0 };
    ml_status status = collect_cuts(t, &list, err);
    *merges = NULL;
    *n = 0;
    if (status == ML_OK && list.n) {
        *merges = ml_alloc(list.n * sizeof **merges);
        if (!*merges) status = ml_fail_memory(err, list.n * sizeof **merges, "the merges of a vocabulary");
    }
    for (size_t i = 0; status == ML_OK && i < list.n; i++) (*merges)[i] = list.cuts[i].merge;
    if (status == ML_OK) *n = list.n;
    ml_free(list.cuts);
    return status;
}

/* Merges in a row that one score, or several in a row, amount to. */
typedef struct {
    uint32_t *n_merge; /* [n_pieces] that make this piece */
    uint32_t *last;    /* [n_pieces] rank of the last of them */
} merge_facts;

static void count_merges(const ml_tokenizer *t, merge_facts *facts)
{
    for (size_t i = 0; i < t->n_merges; i++) {
        facts->n_merge[t->merges[i].result]++;
        facts->last[t->merges[i].result] = (uint32_t)i;
    }
}

/* True when the merges that make a piece are all its cuts, and its characters are pieces. */
static ml_status are_all_cuts(const ml_tokenizer *t, const merge_facts *facts, bool *all, ml_error *err)
{
    cut_list list = { 0 };
    ml_status status = ML_OK;
    *all = true;
    for (size_t id = 0; id < t->n_pieces && status == ML_OK && *all; id++) {
        bool whole = true;
        list.n = 0;
        if (is_joined(t, id)) status = list_cuts(t, id, &list, &whole, err);
        if (list.n != facts->n_merge[id] || !whole) *all = false;
    }
    ml_free(list.cuts);
    return status;
}

static bool is_in_order(const ml_tokenizer *t, const ml_merge *a, const ml_merge *b)
{
    uint32_t left_a = t->pieces[a->left].n_bytes, left_b = t->pieces[b->left].n_bytes;
    if (left_a != left_b) return left_a > left_b;
    return t->pieces[a->right].n_bytes > t->pieces[b->right].n_bytes;
}

/* The end of the block of merges that begins at `at`: all merges of each piece in it.  0 unless scores do the same:
 * a block of several pieces must be of runs of one character, all of it in the order of equal scores. */
static size_t block_end(const ml_tokenizer *t, const merge_facts *facts, size_t at)
{
    size_t end = at + 1;
    for (size_t i = at; i < end; i++) {
        size_t last = facts->last[t->merges[i].result];
        if (last + 1 > end) end = last + 1;
        if (i == at) continue;
        int32_t before = t->merges[i - 1].result, id = t->merges[i].result;
        if (!is_in_order(t, &t->merges[i - 1], &t->merges[i]) || (id != before && !are_runs(t, before, id))) return 0;
    }
    return end;
}

/* Scores by block into `scores` [n_pieces]; false when a block is none. */
static bool score_blocks(const ml_tokenizer *t, const merge_facts *facts, float *scores)
{
    float score = 0;
    for (size_t at = 0, end; at < t->n_merges; at = end, score -= 1) {
        end = block_end(t, facts, at);
        if (!end) return false;
        for (size_t i = at; i < end; i++) scores[t->merges[i].result] = score;
    }
    return true;
}

ml_status ml_pieces_find_scores(ml_tokenizer *t, ml_error *err)
{
    size_t n_bytes = t->n_pieces * (2 * sizeof(uint32_t) + sizeof(float));
    uint32_t *memory = ml_calloc(1, n_bytes);
    if (!memory) return ml_fail_memory(err, n_bytes, "the scores of a vocabulary");
    merge_facts facts = { memory, memory + t->n_pieces };
    float *scores = (float *)(void *)(memory + 2 * t->n_pieces);
    bool alike;
    count_merges(t, &facts);
    ml_status status = are_all_cuts(t, &facts, &alike, err);
    if (status == ML_OK && alike && score_blocks(t, &facts, scores)) {
        /* What nothing makes comes last, as characters do in SentencePiece's models. */
        for (size_t id = 0; id < t->n_pieces; id++) {
            bool made = facts.n_merge[id] > 0;
            t->pieces[id].score = made ? scores[id] : is_joined(t, id) ? -(float)t->n_pieces : 0;
        }
        t->scored = true;
    }
    ml_free(memory);
    return status;
}
