#include "grammar/call_rules.h"

#include "base/alloc.h"
#include "grammar/schema.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    const ml_call_rules *r;
    ml_grammar *g;
    ml_symbol mark[ML_N_RULE_MARK];
    ml_symbol bytes, any;        /* any text, without and with thoughts */
    ml_symbol *name, *arguments; /* [n_tool] "functions.NAME:", and what is behind the mark */
    size_t n_tool;
    ml_error *err;
} maker;

static ml_status add(maker *m, int32_t rule, const ml_symbol *symbol, size_t n)
{
    return ml_grammar_add(m->g, rule, symbol, n, m->err);
}

static ml_status make_any(maker *m)
{
    static const char all[2] = { 0, (char)0xff };
    ml_symbol byte;
    ML_TRY(ml_grammar_class(m->g, all, 1, &byte, m->err));
    ML_TRY(ml_grammar_rule(m->g, &m->bytes, m->err));
    ML_TRY(add(m, m->bytes, NULL, 0));
    ML_TRY(add(m, m->bytes, (const ml_symbol[]){ byte, m->bytes }, 2));
    ML_TRY(ml_grammar_rule(m->g, &m->any, m->err));
    ML_TRY(add(m, m->any, NULL, 0));
    ML_TRY(add(m, m->any, (const ml_symbol[]){ byte, m->any }, 2));
    ML_TRY(add(m, m->any, (const ml_symbol[]){ m->mark[ML_MARK_THINK], m->any }, 2));
    return add(m, m->any, (const ml_symbol[]){ m->mark[ML_MARK_THOUGHT], m->any }, 2);
}

/* ---- one tool ---- */

static ml_status make_arguments(maker *m, const json_t *function, const char *name, ml_symbol *out)
{
    const json_t *parameters = json_object_get(function, "parameters");
    const json_t *strict = json_object_get(function, "strict");
    if (strict && !json_is_boolean(strict) && !json_is_null(strict)) {
        return ml_fail(m->err, ML_EINVAL, "tools: %.100s: strict: expected true or false", name);
    }
    if (!m->r->required && !json_is_true(strict)) {
        *out = m->bytes;
        return ML_OK;
    }
    if (json_is_null(parameters)) parameters = NULL;
    ml_status status = ml_schema_add_object(parameters, m->g, out, m->err);
    return status == ML_OK ? ML_OK : ml_fail_prefix(m->err, "tools: %.100s", name);
}

static ml_status add_tool(maker *m, const json_t *tool)
{
    const json_t *function = json_object_get(tool, "function");
    const char *name = json_string_value(json_object_get(function, "name"));
    if (!name || !*name) return ml_fail(m->err, ML_EINVAL, "tools: expected a function with a name in each");
    if (m->r->only && strcmp(m->r->only, name) != 0) return ML_OK;
    size_t n = strlen(name) + 16;
    char *text = ml_alloc(n);
    if (!text) return ml_fail_memory(m->err, n, "a grammar");
    snprintf(text, n, "functions.%s:", name);
    ml_status status = ml_grammar_literal(m->g, text, strlen(text), &m->name[m->n_tool], m->err);
    ml_free(text);
    ML_TRY(status);
    ML_TRY(make_arguments(m, function, name, &m->arguments[m->n_tool]));
    m->n_tool++;
    return ML_OK;
}

static ml_status add_tools(maker *m)
{
    size_t n = json_array_size(m->r->tools);
    m->name = ml_calloc(n + 1, sizeof *m->name);
    m->arguments = ml_calloc(n + 1, sizeof *m->arguments);
    if (!m->name || !m->arguments) return ml_fail_memory(m->err, n, "a grammar");
    for (size_t i = 0; i < n; i++) ML_TRY(add_tool(m, json_array_get(m->r->tools, i)));
    if (m->n_tool) return ML_OK;
    return ml_fail(m->err, ML_EINVAL, "tool_choice: there is no tool %.100s", m->r->only ? m->r->only : "to call");
}

/* ---- the section ---- */

/* Call number i of the answer: of any tool. */
static ml_status make_call(maker *m, int64_t i, ml_symbol *out)
{
    char text[24];
    ml_symbol number;
    snprintf(text, sizeof text, "%lld", (long long)(m->r->first + i));
    ML_TRY(ml_grammar_literal(m->g, text, strlen(text), &number, m->err));
    ML_TRY(ml_grammar_rule(m->g, out, m->err));
    for (size_t k = 0; k < m->n_tool; k++) {
        const ml_symbol all[] = { m->mark[ML_MARK_CALL_BEGIN], m->name[k],      number,
                                  m->mark[ML_MARK_ARGUMENTS],  m->arguments[k], m->mark[ML_MARK_CALL_END] };
        ML_TRY(add(m, *out, all, sizeof all / sizeof all[0]));
    }
    return ML_OK;
}

static ml_status make_section(maker *m, ml_symbol *out)
{
    ml_symbol rest, call;
    ML_TRY(ml_grammar_rule(m->g, &rest, m->err)); /* what may follow the last call */
    ML_TRY(add(m, rest, &m->mark[ML_MARK_SECTION_END], 1));
    for (int64_t i = m->r->single ? 1 : ML_MOST_CALLS; i-- > 0;) {
        ml_symbol next;
        ML_TRY(make_call(m, i, &call));
        ML_TRY(ml_grammar_rule(m->g, &next, m->err));
        ML_TRY(add(m, next, (const ml_symbol[]){ call, rest }, 2));
        if (i > 0) ML_TRY(add(m, next, &m->mark[ML_MARK_SECTION_END], 1));
        rest = next;
    }
    ML_TRY(ml_grammar_rule(m->g, out, m->err));
    return add(m, *out, (const ml_symbol[]){ m->mark[ML_MARK_SECTION_BEGIN], rest }, 2);
}

/* ---- the whole ---- */

static ml_status make_root(maker *m, ml_symbol section)
{
    ml_grammar *g = m->g;
    ml_symbol value;
    ML_TRY(ml_grammar_rule(g, &g->root, m->err));
    const ml_symbol thoughts[] = { m->mark[ML_MARK_THINK], m->bytes, m->mark[ML_MARK_THOUGHT], section };
    if (m->r->required && m->r->thoughts) ML_TRY(add(m, g->root, thoughts, 4));
    if (m->r->required) return add(m, g->root, &section, 1);
    if (m->r->schema || m->r->any_object) { /* a value or calls */
        ML_TRY(ml_schema_add(m->r->schema, g, &value, m->err));
        ML_TRY(add(m, g->root, &value, 1));
        return add(m, g->root, &section, 1);
    }
    ML_TRY(add(m, g->root, &m->any, 1));
    return add(m, g->root, (const ml_symbol[]){ m->any, section }, 2);
}

static ml_status compile(maker *m)
{
    ml_symbol section;
    for (int i = 0; i < ML_N_RULE_MARK; i++) ML_TRY(ml_grammar_mark(m->g, i, &m->mark[i], m->err));
    ML_TRY(make_any(m));
    ML_TRY(add_tools(m));
    ML_TRY(make_section(m, &section));
    return make_root(m, section);
}

ml_status ml_call_rules_compile(const ml_call_rules *r, ml_grammar *g, ml_error *err)
{
    maker m = { .r = r, .g = g, .err = err };
    *g = (ml_grammar){ 0 };
    ml_status status = compile(&m);
    ml_free(m.name);
    ml_free(m.arguments);
    return status == ML_OK ? ml_grammar_prune(g, err) : status;
}
