#include "grammar/grammar.h"

#include "base/alloc.h"

#include <string.h>

enum { MOST_SYMBOLS = 200000, MOST_WORK = 50000000 };

void ml_grammar_free(ml_grammar *g)
{
    ml_free(g->symbol);
    ml_free(g->rule);
    ml_free(g->alternative);
    ml_free(g->byte_class);
    *g = (ml_grammar){ 0 };
}

ml_status ml_grammar_spend(ml_grammar *g, int64_t n, ml_error *err)
{
    g->work += n;
    return g->work <= MOST_WORK ? ML_OK : ml_fail(err, ML_EINVAL, "the schema is too complex: simplify it");
}

ml_status ml_grammar_rule(ml_grammar *g, int32_t *rule, ml_error *err)
{
    ML_TRY(ml_grow((void **)&g->rule, &g->rule_room, g->n_rule + 1, sizeof *g->rule, err));
    g->rule[g->n_rule] = (ml_rule){ -1 };
    *rule = (int32_t)g->n_rule++;
    return ML_OK;
}

ml_status ml_grammar_add(ml_grammar *g, int32_t rule, const ml_symbol *symbol, size_t n, ml_error *err)
{
    if (g->n_symbol + n + 1 > MOST_SYMBOLS)
        return ml_fail(err, ML_EINVAL, "the schema describes too much: simplify it");
    ML_TRY(ml_grow((void **)&g->symbol, &g->symbol_room, g->n_symbol + n + 1, sizeof *g->symbol, err));
    ML_TRY(ml_grow((void **)&g->alternative, &g->alternative_room, g->n_alternative + 1, sizeof *g->alternative, err));
    g->alternative[g->n_alternative] = (ml_alternative){ (int32_t)g->n_symbol, g->rule[rule].first };
    g->rule[rule].first = (int32_t)g->n_alternative++;
    if (n) memcpy(g->symbol + g->n_symbol, symbol, n * sizeof *symbol);
    g->symbol[g->n_symbol + n] = ML_SYMBOL_END;
    g->n_symbol += n + 1;
    return ML_OK;
}

/* The class, which may be there already. */
static ml_status add_class(ml_grammar *g, ml_byte_class c, ml_symbol *out, ml_error *err)
{
    for (size_t i = 0; i < g->n_class; i++) {
        if (memcmp(&g->byte_class[i], &c, sizeof c) != 0) continue;
        *out = ml_symbol_class((int32_t)i);
        return ML_OK;
    }
    ML_TRY(ml_grow((void **)&g->byte_class, &g->class_room, g->n_class + 1, sizeof c, err));
    g->byte_class[g->n_class] = c;
    *out = ml_symbol_class((int32_t)g->n_class++);
    return ML_OK;
}

ml_status ml_grammar_class(ml_grammar *g, const char *ranges, size_t n_range, ml_symbol *out, ml_error *err)
{
    ml_byte_class c = { { 0 } };
    for (size_t i = 0; i < n_range; i++) {
        unsigned from = (unsigned char)ranges[2 * i], to = (unsigned char)ranges[2 * i + 1];
        for (unsigned b = from; b <= to; b++) c.bit[b >> 6] |= (uint64_t)1 << (b & 63);
    }
    return add_class(g, c, out, err);
}

ml_status ml_grammar_mark(ml_grammar *g, int i, ml_symbol *out, ml_error *err)
{
    ml_byte_class c = { { 0 } };
    int unit = ML_FIRST_MARK + i;
    c.bit[unit >> 6] = (uint64_t)1 << (unit & 63);
    return add_class(g, c, out, err);
}

ml_status ml_grammar_literal(ml_grammar *g, const char *text, size_t n, ml_symbol *out, ml_error *err)
{
    ml_symbol *symbol = ml_calloc(n + 1, sizeof *symbol);
    if (!symbol) return ml_fail_memory(err, n * sizeof *symbol, "a grammar");
    ml_status status = ml_grammar_rule(g, out, err);
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        const char range[2] = { text[i], text[i] };
        status = ml_grammar_class(g, range, 1, &symbol[i], err);
    }
    if (status == ML_OK) status = ml_grammar_add(g, *out, symbol, n, err);
    ml_free(symbol);
    return status;
}

/* ---- what can come to an end ---- */

/* Which rules can, found from those that are only bytes up: each symbol is looked at once. */
typedef struct {
    bool *ends;       /* [n_rule] */
    int32_t *owner;   /* [n_alternative] its rule */
    int32_t *missing; /* [n_alternative] how many of its symbols are rules of which it is not known */
    int32_t *last;    /* [n_rule] rule r is named by the alternatives user[last[r - 1] .. last[r]) */
    int32_t *user;    /* [n_symbol] */
    int32_t *todo;    /* [n_rule] rules that can, whose users have not been told */
    size_t n_todo;
} endings;

static ml_status alloc_endings(const ml_grammar *g, endings *e, ml_error *err)
{
    size_t n = 2 * g->n_alternative + 2 * g->n_rule + g->n_symbol;
    *e = (endings){ .ends = ml_calloc(g->n_rule, sizeof *e->ends), .owner = ml_calloc(n, sizeof *e->owner) };
    if (!e->ends || !e->owner) return ml_fail_memory(err, n * sizeof *e->owner, "a grammar");
    e->missing = e->owner + g->n_alternative;
    e->last = e->missing + g->n_alternative;
    e->todo = e->last + g->n_rule;
    e->user = e->todo + g->n_rule;
    return ML_OK;
}

static const ml_symbol *symbols_of(const ml_grammar *g, size_t alternative)
{
    return g->symbol + g->alternative[alternative].place;
}

/* Who names each rule: counted, summed, then filled in, which moves last[r] from the first to behind the last. */
static void find_users(const ml_grammar *g, endings *e)
{
    int32_t sum = 0;
    for (size_t a = 0; a < g->n_alternative; a++) {
        for (const ml_symbol *s = symbols_of(g, a); *s != ML_SYMBOL_END; s++) {
            if (*s >= 0) e->last[*s]++;
        }
    }
    for (size_t r = 0; r < g->n_rule; r++) {
        int32_t n = e->last[r];
        e->last[r] = sum;
        sum += n;
    }
    for (size_t a = 0; a < g->n_alternative; a++) {
        for (const ml_symbol *s = symbols_of(g, a); *s != ML_SYMBOL_END; s++) {
            if (*s < 0) continue;
            e->user[e->last[*s]++] = (int32_t)a;
            e->missing[a]++;
        }
    }
}

static void note_end(endings *e, int32_t rule)
{
    if (e->ends[rule]) return;
    e->ends[rule] = true;
    e->todo[e->n_todo++] = rule;
}

static void find_ends(const ml_grammar *g, endings *e)
{
    find_users(g, e);
    for (size_t r = 0; r < g->n_rule; r++) {
        for (int32_t a = g->rule[r].first; a >= 0; a = g->alternative[a].next) {
            e->owner[a] = (int32_t)r;
            if (e->missing[a] == 0) note_end(e, (int32_t)r);
        }
    }
    while (e->n_todo > 0) {
        int32_t rule = e->todo[--e->n_todo];
        for (int32_t i = rule ? e->last[rule - 1] : 0; i < e->last[rule]; i++) {
            if (--e->missing[e->user[i]] == 0) note_end(e, e->owner[e->user[i]]);
        }
    }
}

ml_status ml_grammar_prune(ml_grammar *g, ml_error *err)
{
    endings e;
    ml_status status = alloc_endings(g, &e, err);
    if (status == ML_OK) {
        find_ends(g, &e);
        for (size_t r = 0; r < g->n_rule; r++) {
            int32_t *link = &g->rule[r].first;
            while (*link >= 0) {
                if (e.missing[*link] == 0) {
                    link = &g->alternative[*link].next;
                } else {
                    *link = g->alternative[*link].next;
                }
            }
        }
        if (!e.ends[g->root]) status = ml_fail(err, ML_EINVAL, "no value can be what the schema asks for");
    }
    ml_free(e.ends);
    ml_free(e.owner);
    return status;
}
