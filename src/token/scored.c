/* SentencePiece BPE: a text becomes its characters, and the two neighbours whose union is the piece of highest score
 * become one, the leftmost pair of equals, until no union is a piece.  What is then no piece falls back to the tokens
 * of its bytes.
 *
 * Symbols are a linked list over an array; pairs wait in a heap, and one is stale when either symbol has changed. */
#include "token/internal.h"

#include "base/alloc.h"
#include "token/scan.h"

/* n_bytes 0: joined to the one before. */
typedef struct ml_scored_symbol {
    uint32_t at, n_bytes, previous, next;
} ml_scored_symbol;

typedef struct ml_scored_pair {
    float score;
    uint32_t left, right, n_bytes; /* of both together when the pair was noted */
} ml_scored_pair;

static const uint32_t none = UINT32_MAX;

void ml_scored_scratch_free(ml_scored_scratch *s)
{
    ml_free(s->symbols);
    ml_free(s->heap);
    ml_chars_free(&s->text);
    *s = (ml_scored_scratch){ 0 };
}

static bool comes_before(const ml_scored_pair *a, const ml_scored_pair *b)
{
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static ml_status push(ml_scored_scratch *s, ml_scored_pair pair, ml_error *err)
{
    ML_TRY(ml_grow((void **)&s->heap, &s->heap_capacity, s->n_heap + 1, sizeof *s->heap, err));
    size_t i = s->n_heap++;
    for (; i > 0 && comes_before(&pair, &s->heap[(i - 1) / 2]); i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = pair;
    return ML_OK;
}

static ml_scored_pair pop(ml_scored_scratch *s)
{
    ml_scored_pair top = s->heap[0], last = s->heap[--s->n_heap];
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

static int32_t find_piece(const ml_tokenizer *t, const ml_scored_scratch *s, size_t at, size_t n)
{
    if (n > t->longest) return -1;
    return ml_tokenizer_look_up(t, &t->whole, (const uint8_t *)s->text.data + at, n, s->text.n - at);
}

/* Note the pair of a symbol and the one behind it, if together they are a piece. */
static ml_status note(const ml_tokenizer *t, ml_scored_scratch *s, uint32_t left, ml_error *err)
{
    uint32_t right = left == none ? none : s->symbols[left].next;
    if (right == none) return ML_OK;
    uint32_t n = s->symbols[left].n_bytes + s->symbols[right].n_bytes;
    int32_t id = find_piece(t, s, s->symbols[left].at, n);
    if (id < 0) return ML_OK;
    return push(s, (ml_scored_pair){ t->pieces[id].score, left, right, n }, err);
}

/* Characters, and bytes that begin none. */
static ml_status cut(ml_scored_scratch *s, size_t *n_symbol, ml_error *err)
{
    size_t n = s->text.n, k = 0;
    ML_TRY(ml_grow((void **)&s->symbols, &s->capacity, n, sizeof *s->symbols, err));
    for (size_t at = 0; at < n; k++) {
        int length = ml_utf8_length((const uint8_t *)s->text.data + at, n - at);
        uint32_t n_bytes = length > 0 ? (uint32_t)length : 1;
        s->symbols[k] = (ml_scored_symbol){ (uint32_t)at, n_bytes, k ? (uint32_t)k - 1 : none, (uint32_t)k + 1 };
        at += n_bytes;
    }
    s->symbols[k - 1].next = none;
    *n_symbol = k;
    return ML_OK;
}

static ml_status join(const ml_tokenizer *t, ml_scored_scratch *s, size_t n_symbol, ml_error *err)
{
    s->n_heap = 0;
    for (size_t i = 0; i < n_symbol; i++) ML_TRY(note(t, s, (uint32_t)i, err));
    while (s->n_heap) {
        ml_scored_pair pair = pop(s);
        ml_scored_symbol *left = &s->symbols[pair.left], *right = &s->symbols[pair.right];
        if (!left->n_bytes || !right->n_bytes || left->n_bytes + right->n_bytes != pair.n_bytes) continue;
        left->n_bytes = pair.n_bytes;
        right->n_bytes = 0;
        left->next = right->next;
        if (right->next != none) s->symbols[right->next].previous = pair.left;
        ML_TRY(note(t, s, left->previous, err));
        ML_TRY(note(t, s, pair.left, err));
    }
    return ML_OK;
}

/* The tokens of bytes that are no piece; without byte tokens, one unknown token for a row of them. */
static ml_status emit_bytes(const ml_tokenizer *t, const uint8_t *p, size_t n, size_t first, ml_ids *out, ml_error *err)
{
    for (size_t i = 0; i < n; i++) {
        int32_t id = t->byte_id[p[i]], unk = t->role[ML_ROLE_UNK];
        if (id < 0 && unk < 0) {
            return ml_fail(err, ML_EINVAL, "byte 0x%02x has no token and the tokenizer has no unknown token", p[i]);
        }
        if (id < 0 && out->n > first && out->id[out->n - 1] == unk) continue;
        if (id < 0) id = unk;
        ML_TRY(ml_ids_append(out, &id, 1, err));
    }
    return ML_OK;
}

ml_status ml_scored_encode(const ml_tokenizer *t, ml_scored_scratch *s, const uint8_t *p, size_t n, bool space,
                           ml_ids *out, ml_error *err)
{
    size_t n_symbol, first = out->n;
    if (!n) return ML_OK;
    if (n >= none) return ml_fail(err, ML_EINVAL, "a text has %zu bytes, expected fewer than 2^32 - 1", n);
    s->text.n = 0;
    if (space) ML_TRY(ml_chars_append(&s->text, " ", 1, err));
    ML_TRY(ml_chars_append(&s->text, p, n, err));
    ML_TRY(cut(s, &n_symbol, err));
    ML_TRY(join(t, s, n_symbol, err));
    for (uint32_t i = 0; i != none; i = s->symbols[i].next) {
        const ml_scored_symbol *symbol = &s->symbols[i];
        int32_t id = find_piece(t, s, symbol->at, symbol->n_bytes);
        if (id >= 0) {
            ML_TRY(ml_ids_append(out, &id, 1, err));
        } else {
            ML_TRY(emit_bytes(t, (const uint8_t *)s->text.data + symbol->at, symbol->n_bytes, first, out, err));
        }
    }
    return ML_OK;
}
