#include "data/parquet_schema.h"

#include "base/alloc.h"
#include "base/text.h"

#include <string.h>

/* The element being read and the levels there. */
typedef struct {
    ml_parquet_schema *schema;
    size_t at; /* of the next element */
    ml_error *err;
} builder;

static ml_status build_field(builder *b, int def, int rep, int depth, ml_parquet_node **out);

static ml_parquet_node *add_node(builder *b, ml_parquet_kind kind, const ml_parquet_element *e, int def)
{
    ml_parquet_node *node = &b->schema->node[b->schema->n_node++];
    *node = (ml_parquet_node){
        .kind = kind, .element = e, .name = e->name, .def_present = (uint8_t)def, .first_leaf = b->schema->n_leaf
    };
    return node;
}

static ml_parquet_node *close_node(builder *b, ml_parquet_node *node)
{
    node->n_leaf = b->schema->n_leaf - node->first_leaf;
    return node;
}

static ml_parquet_node *build_leaf(builder *b, const ml_parquet_element *e, int def, int rep)
{
    ml_parquet_node *node = add_node(b, ML_PARQUET_LEAF, e, def);
    node->max_def = (uint8_t)def;
    node->max_rep = (uint8_t)rep;
    b->schema->leaf[b->schema->n_leaf++] = node;
    return close_node(b, node);
}

static ml_status build_struct(builder *b, const ml_parquet_element *e, int def, int rep, int depth,
                              ml_parquet_node **out)
{
    ml_parquet_node *node = add_node(b, ML_PARQUET_STRUCT, e, def);
    ml_parquet_node **link = &node->child;
    for (size_t i = 0; i < e->n_child; i++) {
        ML_TRY(build_field(b, def, rep, depth + 1, link));
        link = &(*link)->next;
    }
    *out = close_node(b, node);
    return ML_OK;
}

/* Whether the repeated group of a list is itself the element, as old writers had it (Parquet's LogicalTypes.md,
 * "Backward-compatibility rules"), rather than a wrapper around it. */
static bool is_element(const ml_parquet_element *list, const ml_parquet_element *repeated)
{
    const ml_parquet_element *only = repeated + 1; /* its child, when it has one */
    return repeated->is_leaf || list->is_map || repeated->n_child != 1 || strcmp(repeated->name, "array") == 0 ||
           ml_text_ends_with(repeated->name, "_tuple") || only->repetition == ML_PARQUET_REPEATED;
}

/* What a repeated element holds, its own repetition having been taken into the levels. */
static ml_status build_body(builder *b, const ml_parquet_element *e, int def, int rep, int depth, ml_parquet_node **out)
{
    if (e->is_leaf) {
        *out = build_leaf(b, e, def, rep);
        return ML_OK;
    }
    const ml_parquet_element *repeated = &b->schema->element[b->at];
    if (!e->is_list || e->n_child != 1 || repeated->repetition != ML_PARQUET_REPEATED) {
        return build_struct(b, e, def, rep, depth, out);
    }
    b->at++;
    ml_parquet_node *list = add_node(b, ML_PARQUET_LIST, e, def);
    list->def_element = (uint8_t)(def + 1);
    list->rep = (uint8_t)(rep + 1);
    if (is_element(e, repeated))
        ML_TRY(build_body(b, repeated, def + 1, rep + 1, depth + 1, &list->child));
    else
        ML_TRY(build_field(b, def + 1, rep + 1, depth + 1, &list->child));
    *out = close_node(b, list);
    return ML_OK;
}

/* The next element with all below it. */
static ml_status build_field(builder *b, int def, int rep, int depth, ml_parquet_node **out)
{
    const ml_parquet_element *e = &b->schema->element[b->at++];
    if (depth > ML_PARQUET_MAX_DEPTH) {
        return ml_fail(b->err, ML_EFORMAT, "the schema is nested deeper than %d at \"%s\"", ML_PARQUET_MAX_DEPTH,
                       e->name);
    }
    if (e->repetition == ML_PARQUET_OPTIONAL) def++;
    if (e->repetition != ML_PARQUET_REPEATED) return build_body(b, e, def, rep, depth, out);
    ml_parquet_node *list = add_node(b, ML_PARQUET_LIST, e, def);
    list->def_element = (uint8_t)(def + 1);
    list->rep = (uint8_t)(rep + 1);
    ML_TRY(build_body(b, e, def + 1, rep + 1, depth + 1, &list->child));
    *out = close_node(b, list);
    return ML_OK;
}

/* Every child that is counted is there, and nothing is left over: an element begins a tree of its own. */
static ml_status check_counts(const ml_parquet_schema *s, ml_error *err)
{
    size_t n_open = 1; /* elements still expected */
    for (size_t i = 0; i < s->n_element; i++) {
        const ml_parquet_element *e = &s->element[i];
        if (n_open == 0) return ml_fail(err, ML_EFORMAT, "schema element %zu (\"%s\") belongs to no group", i, e->name);
        if (!e->is_leaf && e->n_child == 0) {
            return ml_fail(err, ML_EFORMAT, "schema element %zu (\"%s\") has neither a type nor children", i, e->name);
        }
        n_open--;
        if (!e->is_leaf) n_open += e->n_child;
        if (n_open > s->n_element - i - 1) {
            return ml_fail(err, ML_EFORMAT, "schema element %zu (\"%s\") has more children than the schema elements", i,
                           e->name);
        }
    }
    if (s->n_element < 2 || s->element[0].is_leaf)
        return ml_fail(err, ML_EFORMAT, "expected a schema with a column, found none");
    return ML_OK;
}

ml_status ml_parquet_schema_build(ml_parquet_schema *schema, ml_error *err)
{
    ML_TRY(check_counts(schema, err));
    /* a repeated field makes two nodes */
    schema->node = ml_calloc(schema->n_element, 2 * sizeof *schema->node);
    schema->leaf = ml_calloc(schema->n_element, sizeof *schema->leaf);
    if (!schema->node || !schema->leaf)
        return ml_fail_memory(err, schema->n_element * 2 * sizeof *schema->node, "the schema");
    builder b = { .schema = schema, .at = 1, .err = err };
    ml_parquet_node *root;
    return build_struct(&b, &schema->element[0], 0, 0, 0, &root);
}

void ml_parquet_schema_free(ml_parquet_schema *schema)
{
    ml_free(schema->element);
    ml_free(schema->node);
    ml_free(schema->leaf);
    ml_free(schema->names);
    *schema = (ml_parquet_schema){ 0 };
}
