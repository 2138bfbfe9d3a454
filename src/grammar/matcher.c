#include "grammar/matcher.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

enum { BOTTOM = -1, MOST_STATES = 1 << 16, UNKNOWN = -2, N_BUCKET = 1 << 14 };

/* A stack: a place in the grammar, and the stack below it. */
typedef struct {
    int32_t place, below, next; /* next: of the same bucket */
} node;

typedef struct {
    size_t first; /* of its nodes in `member` */
    int32_t n, next_in_bucket;
    bool accepts;
    int32_t *to; /* [ML_N_UNIT] */
} state;

struct ml_matcher {
    const ml_grammar *g;
    node *node;
    state *state;
    int32_t *member; /* nodes of all states */
    size_t n_node, node_room, n_state, state_room, n_member, member_room;
    int32_t node_bucket[N_BUCKET], state_bucket[N_BUCKET];
    /* the set being made */
    int32_t *work, *set;
    size_t n_work, work_room, n_set, set_room;
    bool *in_work; /* [n_node] */
    size_t in_work_room;
    bool accepts;
};

static uint32_t mix(uint32_t h, uint32_t v)
{
    h = (h ^ v) * 0x9e3779b1u;
    return h ^ h >> 15;
}

/* ---- nodes ---- */

static ml_status find_node(ml_matcher *m, int32_t place, int32_t below, int32_t *out, ml_error *err)
{
    int32_t *bucket = &m->node_bucket[mix(mix(1, (uint32_t)place), (uint32_t)below) % N_BUCKET];
    for (int32_t i = *bucket; i >= 0; i = m->node[i].next) {
        if (m->node[i].place != place || m->node[i].below != below) continue;
        *out = i;
        return ML_OK;
    }
    ML_TRY(ml_grow((void **)&m->node, &m->node_room, m->n_node + 1, sizeof *m->node, err));
    ML_TRY(ml_grow((void **)&m->in_work, &m->in_work_room, m->n_node + 1, sizeof *m->in_work, err));
    m->in_work[m->n_node] = false;
    m->node[m->n_node] = (node){ place, below, *bucket };
    *out = *bucket = (int32_t)m->n_node++;
    return ML_OK;
}

/* ---- the set being made ---- */

/* A stack whose top is not yet at a class of bytes; each once. */
static ml_status push(ml_matcher *m, int32_t place, int32_t below, ml_error *err)
{
    int32_t i;
    while (m->g->symbol[place] == ML_SYMBOL_END) { /* the rule has ended: go on below */
        if (below == BOTTOM) {
            m->accepts = true;
            return ML_OK;
        }
        place = m->node[below].place;
        below = m->node[below].below;
    }
    ML_TRY(find_node(m, place, below, &i, err));
    if (m->in_work[i]) return ML_OK;
    ML_TRY(ml_grow((void **)&m->work, &m->work_room, m->n_work + 1, sizeof *m->work, err));
    m->in_work[i] = true;
    m->work[m->n_work++] = i;
    return ML_OK;
}

/* In place of a stack at a rule, one for each of its alternatives.  Where nothing follows the rule, nothing is put on
 * the stack for its end, so that lists do not let it grow. */
static ml_status expand(ml_matcher *m, node top, ml_error *err)
{
    int32_t rule = m->g->symbol[top.place], below = top.below;
    if (m->g->symbol[top.place + 1] != ML_SYMBOL_END) ML_TRY(find_node(m, top.place + 1, top.below, &below, err));
    for (int32_t a = m->g->rule[rule].first; a >= 0; a = m->g->alternative[a].next) {
        ML_TRY(push(m, m->g->alternative[a].place, below, err));
    }
    return ML_OK;
}

/* From `work`, which grows, the stacks at classes of bytes. */
static ml_status close_set(ml_matcher *m, ml_error *err)
{
    m->n_set = 0;
    for (size_t i = 0; i < m->n_work; i++) {
        node top = m->node[m->work[i]];
        if (m->g->symbol[top.place] >= 0) {
            ML_TRY(expand(m, top, err));
            continue;
        }
        ML_TRY(ml_grow((void **)&m->set, &m->set_room, m->n_set + 1, sizeof *m->set, err));
        m->set[m->n_set++] = m->work[i];
    }
    return ML_OK;
}

static void clear_work(ml_matcher *m)
{
    for (size_t i = 0; i < m->n_work; i++) m->in_work[m->work[i]] = false;
    m->n_work = 0;
    m->accepts = false;
}

static int compare(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* ---- states ---- */

static bool is_same(const ml_matcher *m, const state *s)
{
    return (size_t)s->n == m->n_set && s->accepts == m->accepts &&
           memcmp(m->member + s->first, m->set, m->n_set * sizeof *m->set) == 0;
}

static ml_status find_state(ml_matcher *m, int32_t *out, ml_error *err)
{
    *out = ML_STATE_DEAD;
    if (m->n_set == 0 && !m->accepts) return ML_OK;
    uint32_t hash = m->accepts;
    if (m->n_set) qsort(m->set, m->n_set, sizeof *m->set, compare);
    for (size_t i = 0; i < m->n_set; i++) hash = mix(hash, (uint32_t)m->set[i]);
    int32_t *bucket = &m->state_bucket[hash % N_BUCKET];
    for (*out = *bucket; *out >= 0 && !is_same(m, &m->state[*out]);) *out = m->state[*out].next_in_bucket;
    if (*out >= 0) return ML_OK;
    if (m->n_state >= MOST_STATES) return ml_fail(err, ML_ENOMEM, "the schema has more states than are kept");
    ML_TRY(ml_grow((void **)&m->state, &m->state_room, m->n_state + 1, sizeof *m->state, err));
    ML_TRY(ml_grow((void **)&m->member, &m->member_room, m->n_member + m->n_set + 1, sizeof *m->member, err));
    int32_t *to = ml_alloc(ML_N_UNIT * sizeof *to);
    if (!to) return ml_fail_memory(err, ML_N_UNIT * sizeof *to, "a state");
    for (int i = 0; i < ML_N_UNIT; i++) to[i] = UNKNOWN;
    if (m->n_set) memcpy(m->member + m->n_member, m->set, m->n_set * sizeof *m->set);
    m->state[m->n_state] = (state){ m->n_member, (int32_t)m->n_set, *bucket, m->accepts, to };
    m->n_member += m->n_set;
    *out = *bucket = (int32_t)m->n_state++;
    return ML_OK;
}

static ml_status finish_set(ml_matcher *m, int32_t *out, ml_error *err)
{
    ml_status status = close_set(m, err);
    if (status == ML_OK) status = find_state(m, out, err);
    clear_work(m);
    return status;
}

static const ml_byte_class *class_of(const ml_matcher *m, int32_t i)
{
    return &m->g->byte_class[-1 - m->g->symbol[m->node[i].place]];
}

ml_status ml_matcher_step(ml_matcher *m, int32_t from, int32_t unit, int32_t *next, ml_error *err)
{
    *next = ML_STATE_DEAD;
    if (from == ML_STATE_DEAD) return ML_OK;
    *next = m->state[from].to[unit];
    if (*next != UNKNOWN) return ML_OK;
    for (int32_t k = 0; k < m->state[from].n; k++) {
        int32_t i = m->member[m->state[from].first + (size_t)k];
        if (!ml_byte_class_has(class_of(m, i), unit)) continue;
        ml_status status = push(m, m->node[i].place + 1, m->node[i].below, err);
        if (status == ML_OK) continue;
        clear_work(m);
        return status;
    }
    ML_TRY(finish_set(m, next, err));
    m->state[from].to[unit] = *next;
    return ML_OK;
}

ml_status ml_matcher_make(const ml_grammar *g, ml_matcher **out, ml_error *err)
{
    *out = NULL;
    ml_matcher *m = ml_calloc(1, sizeof *m);
    if (!m) return ml_fail_memory(err, sizeof *m, "an automaton");
    m->g = g;
    for (int i = 0; i < N_BUCKET; i++) m->node_bucket[i] = m->state_bucket[i] = -1;
    ml_status status = ML_OK;
    for (int32_t a = g->rule[g->root].first; a >= 0 && status == ML_OK; a = g->alternative[a].next) {
        status = push(m, g->alternative[a].place, BOTTOM, err);
    }
    int32_t start;
    if (status == ML_OK) status = finish_set(m, &start, err); /* the first state is number 0 */
    if (status == ML_OK && start != 0) status = ml_fail(err, ML_EINVAL, "the grammar makes nothing");
    if (status != ML_OK) {
        ml_matcher_free(m);
        return status;
    }
    *out = m;
    return ML_OK;
}

void ml_matcher_free(ml_matcher *m)
{
    if (!m) return;
    for (size_t i = 0; i < m->n_state; i++) ml_free(m->state[i].to);
    ml_free(m->node);
    ml_free(m->state);
    ml_free(m->member);
    ml_free(m->work);
    ml_free(m->set);
    ml_free(m->in_work);
    ml_free(m);
}

int32_t ml_matcher_start(const ml_matcher *m)
{
    (void)m;
    return 0;
}

bool ml_matcher_accepts(const ml_matcher *m, int32_t i)
{
    return i != ML_STATE_DEAD && m->state[i].accepts;
}

bool ml_matcher_continues(const ml_matcher *m, int32_t i)
{
    return i != ML_STATE_DEAD && m->state[i].n > 0;
}
