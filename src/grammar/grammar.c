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

/* Whether all rules of an alternative are known to. */
static bool ends(const ml_grammar *g, const bool *productive, int32_t alternative)
{
    const ml_symbol *s = g->symbol + g->alternative[alternative].place;
    for (; *s != ML_SYMBOL_END; s++) {
        if (*s >= 0 && !productive[*s]) return false;
    }
    return true;
}

static bool find_more(const ml_grammar *g, bool *productive)
{
    bool more = false;
    for (size_t r = g->n_rule; r-- > 0;) {
        for (int32_t a = g->rule[r].first; a >= 0 && !productive[r]; a = g->alternative[a].next) {
            if (ends(g, productive, a)) more = productive[r] = true;
        }
    }
    return more;
}

ml_status ml_grammar_prune(ml_grammar *g, ml_error *err)
{
    bool *productive = ml_calloc(g->n_rule, sizeof *productive);
    if (!productive) return ml_fail_memory(err, g->n_rule, "a grammar");
    while (find_more(g, productive)) continue;
    for (size_t r = 0; r < g->n_rule; r++) {
        int32_t *link = &g->rule[r].first;
        while (*link >= 0) {
            if (ends(g, productive, *link)) {
                link = &g->alternative[*link].next;
            } else {
                *link = g->alternative[*link].next;
            }
        }
    }
    bool any = productive[g->root];
    ml_free(productive);
    return any ? ML_OK : ml_fail(err, ML_EINVAL, "no value can be what the schema asks for");
}
