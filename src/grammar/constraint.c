#include "grammar/constraint.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_MASKS = 512, MOST_TOKEN_BYTES = 256 };

/* ---- the vocabulary ---- */

typedef struct {
    const char *p;
    size_t n;
    int32_t id;
} entry;

static int compare(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    size_t n = x->n < y->n ? x->n : y->n;
    int order = memcmp(x->p, y->p, n);
    if (order) return order;
    return x->n != y->n ? (x->n > y->n) - (x->n < y->n) : (x->id > y->id) - (x->id < y->id);
}

/* Tokens that are text: special ones are not, whatever they look like. */
static size_t list_tokens(const ml_tokenizer *t, entry *out)
{
    size_t n = 0;
    for (int32_t id = 0; id < ml_tokenizer_vocab_size(t); id++) {
        entry e = { .id = id };
        e.p = ml_tokenizer_is_added(t, id) ? NULL : ml_tokenizer_piece(t, id, &e.n);
        if (e.p && e.n > 0 && e.n <= MOST_TOKEN_BYTES) out[n++] = e;
    }
    return n;
}

static uint16_t common_bytes(const entry *a, const entry *b)
{
    size_t n = 0;
    while (n < a->n && n < b->n && a->p[n] == b->p[n]) n++;
    return (uint16_t)n;
}

ml_status ml_vocabulary_make(const ml_tokenizer *t, ml_vocabulary **out, ml_error *err)
{
    size_t most = (size_t)ml_tokenizer_vocab_size(t);
    *out = NULL;
    entry *list = ml_calloc(most, sizeof *list);
    ml_vocabulary *v = ml_calloc(1, sizeof *v);
    if (v) {
        v->id = ml_calloc(most, sizeof *v->id);
        v->common = ml_calloc(most, sizeof *v->common);
    }
    if (!list || !v || !v->id || !v->common) {
        ml_free(list);
        ml_vocabulary_free(v);
        return ml_fail_memory(err, most * sizeof *list, "a vocabulary");
    }
    v->t = t;
    v->n_vocab = (int32_t)most;
    v->n = list_tokens(t, list);
    qsort(list, v->n, sizeof *list, compare);
    for (size_t i = 0; i < v->n; i++) {
        v->id[i] = list[i].id;
        v->common[i] = i ? common_bytes(&list[i - 1], &list[i]) : 0;
    }
    ml_free(list);
    *out = v;
    return ML_OK;
}

void ml_vocabulary_free(ml_vocabulary *v)
{
    if (!v) return;
    ml_free(v->id);
    ml_free(v->common);
    ml_free(v);
}

/* ---- masks ---- */

typedef struct {
    int32_t state; /* -1: none */
    uint64_t *bit; /* [n_vocab] allowed */
} mask;

struct ml_constraint {
    const ml_vocabulary *v;
    ml_matcher *matcher;
    int32_t *end;
    size_t n_end;
    int32_t mark[ML_MOST_MARKS];
    size_t n_mark;
    int32_t state;
    int64_t n_seen;
    size_t n_word;         /* of a mask */
    mask mask[MOST_MASKS]; /* by state; a newer one takes the place of an older */
};

ml_status ml_constraint_make(const ml_grammar *g, const ml_vocabulary *v, const int32_t *end, size_t n_end,
                             const int32_t *mark, size_t n_mark, ml_constraint **out, ml_error *err)
{
    *out = NULL;
    if (n_mark > ML_MOST_MARKS) {
        return ml_fail(err, ML_EINVAL, "%zu marks: expected %d at most", n_mark, ML_MOST_MARKS);
    }
    ml_constraint *c = ml_calloc(1, sizeof *c);
    if (!c) return ml_fail_memory(err, sizeof *c, "a constraint");
    c->v = v;
    c->n_end = n_end;
    c->n_word = ((size_t)v->n_vocab + 63) / 64;
    for (int i = 0; i < MOST_MASKS; i++) c->mask[i].state = -1;
    c->end = ml_calloc(n_end, sizeof *c->end);
    ml_status status = c->end ? ml_matcher_make(g, &c->matcher, err) : ml_fail_memory(err, n_end, "a constraint");
    if (status != ML_OK) {
        ml_constraint_free(c);
        return status;
    }
    if (n_end) memcpy(c->end, end, n_end * sizeof *end);
    if (n_mark) memcpy(c->mark, mark, n_mark * sizeof *mark);
    c->n_mark = n_mark;
    c->state = ml_matcher_start(c->matcher);
    *out = c;
    return ML_OK;
}

void ml_constraint_free(ml_constraint *c)
{
    if (!c) return;
    for (int i = 0; i < MOST_MASKS; i++) ml_free(c->mask[i].bit);
    ml_matcher_free(c->matcher);
    ml_free(c->end);
    ml_free(c);
}

static ml_status read_token(ml_constraint *c, int32_t id, ml_error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_mark; i++) {
        if (c->mark[i] == id) {
            return ml_matcher_step(c->matcher, c->state, ML_FIRST_MARK + (int32_t)i, &c->state, err);
        }
    }
    const char *p = ml_tokenizer_piece(c->v->t, id, &n);
    for (size_t i = 0; p && i < n; i++) {
        ML_TRY(ml_matcher_step(c->matcher, c->state, (uint8_t)p[i], &c->state, err));
    }
    return ML_OK;
}

/* Which tokens lead from the state to a living one. */
static ml_status fill(ml_constraint *c, uint64_t *bit, ml_error *err)
{
    int32_t path[MOST_TOKEN_BYTES + 1] = { c->state }; /* the state behind each byte of the token at hand */
    size_t n_path = 0;                                 /* bytes of it that were read; what is dead is not */
    memset(bit, 0, c->n_word * sizeof *bit);
    for (size_t i = 0; i < c->v->n; i++) {
        size_t n;
        const char *p = ml_tokenizer_piece(c->v->t, c->v->id[i], &n);
        if (c->v->common[i] < n_path) n_path = c->v->common[i];
        bool dead = n_path < c->v->common[i]; /* what they have in common led nowhere */
        while (!dead && n_path < n) {
            ML_TRY(ml_matcher_step(c->matcher, path[n_path], (uint8_t)p[n_path], &path[n_path + 1], err));
            dead = path[n_path + 1] == ML_STATE_DEAD;
            n_path += !dead;
        }
        if (!dead) bit[c->v->id[i] >> 6] |= (uint64_t)1 << (c->v->id[i] & 63);
    }
    for (size_t i = 0; i < c->n_mark; i++) {
        int32_t next, id = c->mark[i];
        if (id < 0) continue;
        ML_TRY(ml_matcher_step(c->matcher, c->state, ML_FIRST_MARK + (int32_t)i, &next, err));
        if (next != ML_STATE_DEAD) bit[id >> 6] |= (uint64_t)1 << (id & 63);
    }
    return ML_OK;
}

static ml_status find_mask(ml_constraint *c, const uint64_t **out, ml_error *err)
{
    mask *m = &c->mask[c->state % MOST_MASKS];
    if (!m->bit) m->bit = ml_calloc(c->n_word, sizeof *m->bit);
    if (!m->bit) return ml_fail_memory(err, c->n_word * sizeof *m->bit, "a mask");
    *out = m->bit;
    if (m->state == c->state) return ML_OK;
    m->state = -1;
    ML_TRY(fill(c, m->bit, err));
    m->state = c->state;
    return ML_OK;
}

bool ml_constraint_apply(ml_constraint *c, const int32_t *answer, int64_t n, float *logits, int64_t n_logit)
{
    ml_error err;
    const uint64_t *bit;
    for (; c->n_seen < n; c->n_seen++) {
        if (read_token(c, answer[c->n_seen], &err) != ML_OK) return false;
    }
    if (!ml_matcher_continues(c->matcher, c->state)) return false;
    if (find_mask(c, &bit, &err) != ML_OK) return false;
    bool may_end = ml_matcher_accepts(c->matcher, c->state), any = false;
    float kept[16];
    size_t n_kept = c->n_end < 16 ? c->n_end : 16;
    for (size_t i = 0; i < n_kept; i++) kept[i] = logits[c->end[i]];
    for (int64_t i = 0; i < n_logit; i++) {
        bool allowed = i < c->v->n_vocab && (bit[i >> 6] >> (i & 63) & 1);
        any = any || allowed;
        if (!allowed) logits[i] = -INFINITY;
    }
    for (size_t i = 0; may_end && i < n_kept; i++) logits[c->end[i]] = kept[i];
    return any || (may_end && n_kept);
}
