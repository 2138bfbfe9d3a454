#include "grammar/pattern.h"

#include "base/alloc.h"
#include "grammar/characters.h"
#include "grammar/pattern_tree.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_PLACES = 4096, MOST_STATES = 4000, MOST_ATOMS = 512, N_BUCKET = 4096 };

/* ---- the automaton: places, and steps between them ---- */

typedef enum { PLACE_SPLIT, PLACE_SET, PLACE_BEGIN, PLACE_END, PLACE_MATCH } place_kind;

typedef struct {
    place_kind kind;
    int32_t next, other; /* other: of a split, -1: none */
    int32_t set;         /* tree node of the characters */
} place;

/* A set of places (and one bit more: at the beginning), and how many characters came before. */
typedef struct {
    uint64_t *bit;
    int32_t count, next; /* next: of the bucket */
    ml_symbol rule;
} state;

typedef struct {
    ml_tree tree;
    ml_grammar *g;
    ml_error *err;
    place *place;
    size_t n_place, place_room;
    int32_t start[ML_PATTERN_MOST], match[ML_PATTERN_MOST];
    size_t n_pattern, n_word;
    int64_t fewest, most;
    /* All characters as ranges that no set cuts. */
    int32_t atom[MOST_ATOMS + 1]; /* [n_atom + 1] where each begins */
    int n_atom;
    state *state;
    size_t n_state, state_room;
    int32_t bucket[N_BUCKET];
    uint64_t *next; /* the set being made */
    int32_t *todo;  /* [n_place] */
    int32_t *live;  /* [n_place] places of a state that wait for a character */
    /* Sets of atoms that have a symbol. */
    uint64_t (*known)[MOST_ATOMS / 64];
    ml_symbol *symbol;
    size_t n_known, known_room, symbol_room;
} builder;

static ml_status refuse(const builder *b, const char *what)
{
    return ml_fail(b->err, ML_EINVAL, "a pattern %s", what);
}

static ml_status add_place(builder *b, place p, int32_t *out)
{
    if (b->n_place >= MOST_PLACES) return refuse(b, "has too many repetitions");
    ML_TRY(ml_grow((void **)&b->place, &b->place_room, b->n_place + 1, sizeof *b->place, b->err));
    b->place[b->n_place] = p;
    *out = (int32_t)b->n_place++;
    return ML_OK;
}

static ml_status build(builder *b, int32_t node, int32_t next, int32_t *out);

/* `node` up to `most` times, then `next`; built from the end. */
static ml_status build_repeat(builder *b, const ml_tree_node *n, int32_t next, int32_t *out)
{
    *out = next;
    if (n->most < 0) { /* a split that the last one comes back to */
        int32_t split, body;
        ML_TRY(add_place(b, (place){ .kind = PLACE_SPLIT, .other = next }, &split));
        ML_TRY(build(b, n->a, split, &body));
        b->place[split].next = body;
        *out = split;
    }
    for (int32_t i = n->most < 0 ? n->fewest : n->most; i > 0; i--) {
        int32_t body;
        ML_TRY(build(b, n->a, *out, &body));
        *out = body;
        if (i > n->fewest) ML_TRY(add_place(b, (place){ .kind = PLACE_SPLIT, .next = body, .other = next }, out));
    }
    return ML_OK;
}

/* The place that a tree begins at, `next` being what follows it. */
static ml_status build(builder *b, int32_t node, int32_t next, int32_t *out)
{
    ML_TRY(ml_grammar_spend(b->g, 1, b->err));
    for (; b->tree.node[node].kind == ML_TREE_JOIN; node = b->tree.node[node].a) {
        ML_TRY(build(b, b->tree.node[node].b, next, &next));
    }
    const ml_tree_node n = b->tree.node[node];
    place p = { .next = next, .other = -1, .set = node };
    switch (n.kind) {
    case ML_TREE_JOIN:
    case ML_TREE_EMPTY: *out = next; return ML_OK;
    case ML_TREE_EITHER:
        p.kind = PLACE_SPLIT;
        ML_TRY(build(b, n.a, next, &p.next));
        ML_TRY(build(b, n.b, next, &p.other));
        return add_place(b, p, out);
    case ML_TREE_REPEAT: return build_repeat(b, &n, next, out);
    case ML_TREE_SET: p.kind = PLACE_SET; return add_place(b, p, out);
    case ML_TREE_BEGIN: p.kind = PLACE_BEGIN; return add_place(b, p, out);
    case ML_TREE_END: break;
    }
    p.kind = PLACE_END;
    return add_place(b, p, out);
}

/* A pattern is searched for: any characters before it, any behind it. */
static ml_status build_search(builder *b, size_t i, const char *pattern)
{
    int32_t root, any, match, body, before, loop;
    ML_TRY(ml_tree_read(&b->tree, pattern, &root, b->err));
    ml_tree *t = &b->tree;
    ML_TRY(ml_grow((void **)&t->node, &t->node_room, t->n_node + 1, sizeof *t->node, b->err));
    ML_TRY(ml_grow((void **)&t->range, &t->range_room, t->n_range + 1, sizeof *t->range, b->err));
    any = (int32_t)t->n_node++;
    t->node[any] = (ml_tree_node){ .kind = ML_TREE_SET, .first = (int32_t)t->n_range, .n = 1 };
    t->range[t->n_range++] = (ml_code_range){ 0, ML_CODE_LAST };
    ML_TRY(add_place(b, (place){ .kind = PLACE_MATCH }, &match));
    ML_TRY(add_place(b, (place){ .kind = PLACE_SET, .next = match, .set = any }, &loop));
    b->place[match].next = loop; /* behind a match anything may come */
    ML_TRY(build(b, root, match, &body));
    ML_TRY(add_place(b, (place){ .kind = PLACE_SPLIT, .next = body, .other = -1 }, &before));
    ML_TRY(add_place(b, (place){ .kind = PLACE_SET, .next = before, .set = any }, &loop));
    b->place[before].other = loop;
    b->start[i] = before;
    b->match[i] = match;
    return ML_OK;
}

/* ---- atoms ---- */

static int compare(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static ml_status cut_atoms(builder *b)
{
    size_t n = 2 * b->tree.n_range + 2, kept = 0;
    int32_t *cut = ml_calloc(n, sizeof *cut);
    if (!cut) return ml_fail_memory(b->err, n * sizeof *cut, "a pattern");
    cut[0] = 0;
    cut[1] = ML_CODE_LAST + 1;
    for (size_t i = 0; i < b->tree.n_range; i++) {
        cut[2 * i + 2] = b->tree.range[i].from;
        cut[2 * i + 3] = b->tree.range[i].to + 1;
    }
    qsort(cut, n, sizeof *cut, compare);
    for (size_t i = 0; i < n && kept <= MOST_ATOMS; i++) {
        if (kept && b->atom[kept - 1] == cut[i]) continue;
        if (kept <= MOST_ATOMS) b->atom[kept++] = cut[i];
    }
    bool fits = kept <= MOST_ATOMS;
    b->n_atom = (int)kept - 1;
    ml_free(cut);
    return fits ? ML_OK : refuse(b, "has too many classes of characters");
}

static bool set_has(const builder *b, int32_t set, int32_t code)
{
    const ml_tree_node *n = &b->tree.node[set];
    for (int32_t i = n->first; i < n->first + n->n; i++) {
        if (b->tree.range[i].from <= code && code <= b->tree.range[i].to) return true;
    }
    return false;
}

/* ---- sets of places ---- */

static bool has_bit(const uint64_t *bit, int32_t i)
{
    return bit[i >> 6] >> (i & 63) & 1;
}

static void set_bit(uint64_t *bit, int32_t i)
{
    bit[i >> 6] |= (uint64_t)1 << (i & 63);
}

/* Add a place to a set, and where one comes from it without a character. */
static void reach(builder *b, uint64_t *bit, int32_t from, bool at_begin, bool at_end)
{
    int32_t n = 0;
    if (!has_bit(bit, from)) b->todo[n++] = from;
    set_bit(bit, from);
    while (n > 0) {
        b->g->work++;
        const place *p = &b->place[b->todo[--n]];
        bool passes = p->kind == PLACE_SPLIT || p->kind == PLACE_MATCH || (p->kind == PLACE_BEGIN && at_begin) ||
                      (p->kind == PLACE_END && at_end);
        const int32_t to[] = { p->next, p->kind == PLACE_SPLIT ? p->other : -1 };
        for (int i = 0; i < 2 && passes; i++) {
            if (to[i] < 0 || has_bit(bit, to[i])) continue;
            set_bit(bit, to[i]);
            b->todo[n++] = to[i];
        }
    }
}

/* Whether the text may end here. */
static bool accepts(builder *b, const state *s)
{
    bool at_begin = has_bit(s->bit, (int32_t)b->n_place);
    if (s->count < b->fewest) return false;
    memset(b->next, 0, b->n_word * sizeof *b->next);
    for (int32_t i = 0; i < (int32_t)b->n_place; i++) {
        if (!has_bit(s->bit, i)) continue;
        b->next[i >> 6] &= ~((uint64_t)1 << (i & 63));
        reach(b, b->next, i, at_begin, true);
    }
    for (size_t k = 0; k < b->n_pattern; k++) {
        if (!has_bit(b->next, b->match[k])) return false;
    }
    return true;
}

static uint32_t hash_of(const builder *b, int32_t count)
{
    uint64_t h = (uint64_t)count * 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < b->n_word; i++) h = (h ^ b->next[i] ^ h >> 29) * 0xbf58476d1ce4e5b9u;
    return (uint32_t)(h >> 32) % N_BUCKET;
}

/* The state of b->next. */
static ml_status find_state(builder *b, int32_t count, int32_t *out)
{
    int32_t *bucket = &b->bucket[hash_of(b, count)];
    for (*out = *bucket; *out >= 0; *out = b->state[*out].next) {
        const state *s = &b->state[*out];
        if (s->count == count && !memcmp(s->bit, b->next, b->n_word * sizeof *s->bit)) return ML_OK;
    }
    if (b->n_state >= MOST_STATES) return refuse(b, "needs too many states, with the bounds of its length");
    ML_TRY(ml_grow((void **)&b->state, &b->state_room, b->n_state + 1, sizeof *b->state, b->err));
    state s = { .count = count, .next = *bucket, .bit = ml_calloc(b->n_word, sizeof *s.bit) };
    if (!s.bit) return ml_fail_memory(b->err, b->n_word * sizeof *s.bit, "a pattern");
    memcpy(s.bit, b->next, b->n_word * sizeof *s.bit);
    b->state[b->n_state] = s;
    *out = *bucket = (int32_t)b->n_state++;
    ML_TRY(ml_grammar_rule(b->g, &b->state[*out].rule, b->err));
    if (!accepts(b, &s)) return ML_OK;
    return ml_grammar_add(b->g, b->state[*out].rule, NULL, 0, b->err);
}

/* Where a character of an atom leads from state `from`, whose places that wait are live[n]; -1: nowhere. */
static ml_status step(builder *b, int32_t from, int32_t n, int atom, int32_t *to)
{
    *to = -1;
    int32_t count = b->state[from].count;
    if (b->most >= 0 && count >= b->most) return ML_OK;
    if (b->most >= 0 || count < b->fewest) count++;
    memset(b->next, 0, b->n_word * sizeof *b->next);
    bool any = false;
    ML_TRY(ml_grammar_spend(b->g, n + (int64_t)b->n_word, b->err));
    for (int32_t i = 0; i < n; i++) {
        const place *p = &b->place[b->live[i]];
        b->g->work += b->tree.node[p->set].n;
        if (!set_has(b, p->set, b->atom[atom])) continue;
        reach(b, b->next, p->next, false, false);
        any = true;
    }
    return any ? find_state(b, count, to) : ML_OK;
}

/* ---- rules ---- */

/* One character of a set of atoms. */
static ml_status symbol_of(builder *b, const uint64_t *atoms, ml_symbol *out)
{
    for (size_t i = 0; i < b->n_known; i++) {
        if (memcmp(b->known[i], atoms, sizeof b->known[i]) != 0) continue;
        *out = b->symbol[i];
        return ML_OK;
    }
    ml_code_range range[MOST_ATOMS];
    size_t n = 0;
    for (int a = 0; a < b->n_atom; a++) {
        if (!has_bit(atoms, a)) continue;
        if (n && range[n - 1].to + 1 == b->atom[a]) {
            range[n - 1].to = b->atom[a + 1] - 1;
        } else {
            range[n++] = (ml_code_range){ b->atom[a], b->atom[a + 1] - 1 };
        }
    }
    ML_TRY(ml_characters_compile(b->g, range, n, out, b->err));
    ML_TRY(ml_grow((void **)&b->known, &b->known_room, b->n_known + 1, sizeof *b->known, b->err));
    ML_TRY(ml_grow((void **)&b->symbol, &b->symbol_room, b->n_known + 1, sizeof *b->symbol, b->err));
    memcpy(b->known[b->n_known], atoms, sizeof *b->known);
    b->symbol[b->n_known++] = *out;
    return ML_OK;
}

/* The alternatives of a state: one for each state that comes next. */
static ml_status add_steps(builder *b, int32_t from)
{
    int32_t to[MOST_ATOMS], n = 0;
    for (int32_t i = 0; i < (int32_t)b->n_place; i++) {
        if (b->place[i].kind == PLACE_SET && has_bit(b->state[from].bit, i)) b->live[n++] = i;
    }
    for (int a = 0; a < b->n_atom; a++) ML_TRY(step(b, from, n, a, &to[a]));
    for (int a = 0; a < b->n_atom; a++) {
        if (to[a] < 0) continue;
        uint64_t atoms[MOST_ATOMS / 64] = { 0 };
        int32_t target = to[a];
        for (int k = a; k < b->n_atom; k++) {
            if (to[k] != target) continue;
            set_bit(atoms, k);
            to[k] = -1;
        }
        ml_symbol pair[2] = { 0, b->state[target].rule };
        ML_TRY(symbol_of(b, atoms, &pair[0]));
        ML_TRY(ml_grammar_add(b->g, b->state[from].rule, pair, 2, b->err));
    }
    return ML_OK;
}

static ml_status run(builder *b, const char *const *pattern, size_t n, ml_symbol *out)
{
    int32_t first;
    for (size_t i = 0; i < n; i++) ML_TRY(build_search(b, i, pattern[i]));
    ML_TRY(cut_atoms(b));
    b->n_word = b->n_place / 64 + 1;
    b->next = ml_calloc(b->n_word, sizeof *b->next);
    b->live = ml_calloc(b->n_place + 1, sizeof *b->live);
    b->todo = ml_calloc(b->n_place + 1, sizeof *b->todo);
    if (!b->next || !b->todo || !b->live) return ml_fail_memory(b->err, b->n_place, "a pattern");
    for (size_t i = 0; i < n; i++) reach(b, b->next, b->start[i], true, false);
    set_bit(b->next, (int32_t)b->n_place); /* no character leads back to the beginning */
    ML_TRY(find_state(b, 0, &first));
    for (size_t s = 0; s < b->n_state; s++) ML_TRY(add_steps(b, (int32_t)s));
    *out = b->state[first].rule;
    return ML_OK;
}

ml_status ml_pattern_compile(const char *const *pattern, size_t n, int64_t fewest, int64_t most, ml_grammar *g,
                             ml_symbol *out, ml_error *err)
{
    builder b = { .g = g, .err = err, .n_pattern = n, .fewest = fewest, .most = most };
    for (int i = 0; i < N_BUCKET; i++) b.bucket[i] = -1;
    ml_status status = run(&b, pattern, n, out);
    for (size_t i = 0; i < b.n_state; i++) ml_free(b.state[i].bit);
    ml_free(b.state);
    ml_free(b.place);
    ml_free(b.next);
    ml_free(b.todo);
    ml_free(b.live);
    ml_free(b.known);
    ml_free(b.symbol);
    ml_tree_free(&b.tree);
    return status;
}
