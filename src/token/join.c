/* SentencePiece BPE: a text becomes its characters, and again and again two neighbours become one piece: those of the
 * merge of lowest rank, or where pieces have scores, those whose union is the piece of highest score; the leftmost pair
 * of equals.  What is then no piece falls back to the tokens of its bytes.
 *
 * Symbols are a linked list over an array; pairs wait in a heap, and one is stale when either symbol has changed. */
#include "token/internal.h"

#include "base/alloc.h"
#include "token/scan.h"

#define WIDE_SPACE "\xE2\x96\x81" /* U+2581, which models write for a space */

/* n_bytes 0: joined to the one before. */
typedef struct ml_join_symbol {
    uint32_t at, n_bytes, previous, next;
    int32_t id; /* -1: no piece */
} ml_join_symbol;

typedef struct ml_join_pair {
    uint32_t order;                /* lower ones first */
    uint32_t left, right, n_bytes; /* of both together when the pair was noted */
    int32_t id;                    /* what they make */
} ml_join_pair;

static const uint32_t none = UINT32_MAX;

void ml_join_scratch_free(ml_join_scratch *s)
{
    ml_free(s->symbols);
    ml_free(s->heap);
    ml_chars_free(&s->text);
    *s = (ml_join_scratch){ 0 };
}

static bool comes_before(const ml_join_pair *a, const ml_join_pair *b)
{
    return a->order < b->order || (a->order == b->order && a->left < b->left);
}

static ml_status push(ml_join_scratch *s, ml_join_pair pair, ml_error *err)
{
    ML_TRY(ml_grow((void **)&s->heap, &s->heap_capacity, s->n_heap + 1, sizeof *s->heap, err));
    size_t i = s->n_heap++;
    for (; i > 0 && comes_before(&pair, &s->heap[(i - 1) / 2]); i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = pair;
    return ML_OK;
}

static ml_join_pair pop(ml_join_scratch *s)
{
    ml_join_pair top = s->heap[0], last = s->heap[--s->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= s->n_heap) break;
        if (child + 1 < s->n_heap && comes_before(&s->heap[child + 1], &s->heap[child])) child++;
        if (!comes_before(&s->heap[child], &last)) break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

static int32_t find_piece(const ml_tokenizer *t, const ml_join_scratch *s, size_t at, size_t n)
{
    if (n > t->longest) return -1;
    return ml_tokenizer_look_up(t, &t->whole, (const uint8_t *)s->text.data + at, n, s->text.n - at);
}

/* A number that rises as the score falls. */
static uint32_t order_of(float score)
{
    uint32_t bits;
    score += 0.0f; // no negative zero
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~bits & 0x7FFFFFFFu;
}

/* Note the pair of a symbol and the one behind it, if they may be joined. */
static ml_status note(const ml_tokenizer *t, ml_join_scratch *s, uint32_t left, ml_error *err)
{
    uint32_t right = left == none ? none : s->symbols[left].next;
    if (right == none) return ML_OK;
    const ml_join_symbol *l = &s->symbols[left], *r = &s->symbols[right];
    ml_join_pair pair = { .left = left, .right = right, .n_bytes = l->n_bytes + r->n_bytes };
    if (t->n_merges) {
        pair.order = l->id < 0 || r->id < 0 ? none : ml_pair_rank(&t->pairs, l->id, r->id);
        if (pair.order == none) return ML_OK;
        pair.id = t->merges[pair.order].result;
    } else {
        pair.id = find_piece(t, s, l->at, pair.n_bytes);
        if (pair.id < 0) return ML_OK;
        pair.order = order_of(t->pieces[pair.id].score);
    }
    return push(s, pair, err);
}

/* Characters, and bytes that begin none. */
static ml_status cut(const ml_tokenizer *t, ml_join_scratch *s, size_t *n_symbol, ml_error *err)
{
    size_t n = s->text.n, k = 0;
    ML_TRY(ml_grow((void **)&s->symbols, &s->capacity, n, sizeof *s->symbols, err));
    for (size_t at = 0; at < n; k++) {
        int length = ml_utf8_length((const uint8_t *)s->text.data + at, n - at);
        uint32_t n_bytes = length > 0 ? (uint32_t)length : 1;
        s->symbols[k] = (ml_join_symbol){ .at = (uint32_t)at,
                                          .n_bytes = n_bytes,
                                          .previous = k ? (uint32_t)k - 1 : none,
                                          .next = (uint32_t)k + 1,
                                          .id = find_piece(t, s, at, n_bytes) };
        at += n_bytes;
    }
    s->symbols[k - 1].next = none;
    *n_symbol = k;
    return ML_OK;
}

static ml_status join(const ml_tokenizer *t, ml_join_scratch *s, size_t n_symbol, ml_error *err)
{
    s->n_heap = 0;
    for (size_t i = 0; i < n_symbol; i++) ML_TRY(note(t, s, (uint32_t)i, err));
    while (s->n_heap) {
        ml_join_pair pair = pop(s);
        ml_join_symbol *left = &s->symbols[pair.left], *right = &s->symbols[pair.right];
        if (!left->n_bytes || !right->n_bytes || left->n_bytes + right->n_bytes != pair.n_bytes) continue;
        left->n_bytes = pair.n_bytes;
        left->id = pair.id;
        right->n_bytes = 0;
        left->next = right->next;
        if (right->next != none) s->symbols[right->next].previous = pair.left;
        ML_TRY(note(t, s, left->previous, err));
        ML_TRY(note(t, s, pair.left, err));
    }
    return ML_OK;
}

/* A character that is no piece: the tokens of its bytes, or when one has none, the unknown token. */
static ml_status emit_bytes(const ml_tokenizer *t, const uint8_t *p, size_t n, size_t first, ml_ids *out, ml_error *err)
{
    int32_t ids[4], unk = t->role[ML_ROLE_UNK];
    size_t n_known = 0;
    while (n_known < n && (ids[n_known] = t->byte_id[p[n_known]]) >= 0) n_known++;
    if (n_known == n) return ml_ids_append(out, ids, n, err);
    if (unk < 0) {
        return ml_fail(err, ML_EINVAL, "byte 0x%02x has no token and the tokenizer has no unknown token", p[n_known]);
    }
    bool fused = t->fuse_unk && out->n > first && out->id[out->n - 1] == unk;
    return fused ? ML_OK : ml_ids_append(out, &unk, 1, err);
}

/* The text as pieces are written, in s->text. */
static ml_status take_text(ml_join_scratch *s, const uint8_t *p, size_t n, bool space, ml_error *err)
{
    const size_t n_wide = strlen(WIDE_SPACE);
    s->text.n = 0;
    if (space) ML_TRY(ml_chars_append(&s->text, " ", 1, err));
    for (size_t done = 0; done < n;) {
        const uint8_t *wide = memmem(p + done, n - done, WIDE_SPACE, n_wide);
        size_t end = wide ? (size_t)(wide - p) : n;
        ML_TRY(ml_chars_append(&s->text, p + done, end - done, err));
        if (wide) ML_TRY(ml_chars_append(&s->text, " ", 1, err));
        done = wide ? end + n_wide : n;
    }
    return ML_OK;
}

ml_status ml_join_encode(const ml_tokenizer *t, ml_join_scratch *s, const uint8_t *p, size_t n, bool space, ml_ids *out,
                         ml_error *err)
{
    size_t n_symbol, first = out->n;
    if (!n) return ML_OK;
    if (n >= none - 1) return ml_fail(err, ML_EINVAL, "a text has %zu bytes, expected fewer than 2^32 - 2", n);
    ML_TRY(take_text(s, p, n, space, err));
    ML_TRY(cut(t, s, &n_symbol, err));
    ML_TRY(join(t, s, n_symbol, err));
    for (uint32_t i = 0; i != none; i = s->symbols[i].next) {
        const ml_join_symbol *symbol = &s->symbols[i];
        if (symbol->id >= 0) {
            ML_TRY(ml_ids_append(out, &symbol->id, 1, err));
        } else {
            ML_TRY(emit_bytes(t, (const uint8_t *)s->text.data + symbol->at, symbol->n_bytes, first, out, err));
        }
    }
    return ML_OK;
}
