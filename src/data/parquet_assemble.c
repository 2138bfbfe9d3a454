/* Rows out of columns: the record assembly of Dremel ("Dremel: Interactive Analysis of Web-Scale Datasets", 2010,
 * section 4.3) on the tree of parquet_schema.h.
 *
 * Of every leaf a cursor stands at its next entry of the row.  A node that is there has an entry in each of its leaves
 * for every element; a node that is null, or a list that is empty, has exactly one, whose definition level says so. */
#include "data/parquet.h"

#include "data/parquet_internal.h"
#include "token/scan.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    size_t entry, end, value;
} cursor;

typedef struct {
    const ml_parquet_batch *batch;
    ml_arena *arena;
    cursor *at; /* [n_leaf] */
    ml_error *err;
} assembly;

static ml_status read_node(assembly *a, const ml_parquet_node *node, ml_value *out);

static ml_status fail_levels(const assembly *a, const ml_parquet_node *node)
{
    return ml_fail(a->err, ML_EFORMAT, "column \"%s\": the levels of its values do not fit together", node->name);
}

/* ---- values ---- */

static ml_status fail_full(const assembly *a)
{
    return ml_fail_memory(a->err, sizeof(ml_value), "a value: the row is too large");
}

static double half_to_double(const char *bytes)
{
    unsigned bits = (unsigned)(uint8_t)bytes[0] | (unsigned)(uint8_t)bytes[1] << 8;
    int exponent = bits >> 10 & 31;
    double fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
    if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

static void set_real(ml_value *out, double x)
{
    out->kind = isfinite(x) ? ML_VALUE_REAL : ML_VALUE_NULL;
    out->real = x;
}

static void set_integer(ml_value *out, int64_t x)
{
    out->kind = ML_VALUE_INTEGER;
    out->integer = x;
}

/* A text that is not in the file. */
static ml_status set_made_text(const assembly *a, ml_value *out, const char *text)
{
    char *copy = ml_arena_alloc(a->arena, strlen(text) + 1);
    if (!copy) return fail_full(a);
    strcpy(copy, text);
    out->kind = ML_VALUE_TEXT;
    out->text = copy;
    out->n = strlen(text);
    return ML_OK;
}

/* Big-endian two's complement to decimal digits; -1 when there are too many for out[size]. */
static int decimal_digits(const uint8_t *bytes, size_t n, char *out, size_t size)
{
    uint8_t left[32];
    if (n > sizeof left || size < 3 * n + 2) return -1;
    bool negative = n && bytes[0] & 0x80;
    unsigned carry = negative;
    for (size_t i = n; i-- > 0;) {
        unsigned x = negative ? (bytes[i] ^ 0xffu) + carry : bytes[i];
        left[i] = (uint8_t)x;
        carry = negative ? x >> 8 : 0;
    }
    char digit[128];
    int n_digit = 0;
    bool more = true;
    while (more) {
        unsigned rest = 0;
        more = false;
        for (size_t i = 0; i < n; i++) {
            unsigned x = rest << 8 | left[i];
            left[i] = (uint8_t)(x / 10);
            rest = x % 10;
            more = more || left[i];
        }
        digit[n_digit++] = (char)('0' + rest);
    }
    int k = 0;
    if (negative) out[k++] = '-';
    while (n_digit) out[k++] = digit[--n_digit];
    out[k] = 0;
    return k;
}

static ml_status fail_value(const assembly *a, const ml_parquet_node *node, const char *expected)
{
    return ml_fail(a->err, ML_EFORMAT, "column \"%s\": expected %s, found other bytes", node->name, expected);
}

/* digits * 10^-scale: a number where a double holds every value of the column, else a text. */
static ml_status set_decimal(const assembly *a, const ml_parquet_node *node, const char *digits, ml_value *out)
{
    enum { EXACT = 15, MAX_SCALE = 100 };
    char text[256];
    const ml_parquet_element *e = node->element;
    bool negative = digits[0] == '-', is_number = e->precision <= EXACT;
    const char *d = digits + negative;
    int n = (int)strlen(d), scale = e->scale, whole = n > scale ? n - scale : 0;
    if (scale > MAX_SCALE || (is_number && n > EXACT)) return fail_value(a, node, "a decimal of its precision");
    int used = snprintf(text, sizeof text, "%s%.*s%s", negative ? "-" : "", whole, d, whole ? "" : "0");
    if (scale) text[used++] = '.';
    for (int i = n; i < scale; i++) text[used++] = '0';
    snprintf(text + used, sizeof text - (size_t)used, "%s", d + whole);
    if (!is_number) return set_made_text(a, out, text);
    if (scale)
        set_real(out, strtod(text, NULL));
    else
        set_integer(out, strtoll(text, NULL, 10));
    return ML_OK;
}

static ml_status set_uuid(const assembly *a, const char *bytes, ml_value *out)
{
    char text[40];
    int n = 0;
    for (int i = 0; i < 16; i++) {
        n += snprintf(text + n, sizeof text - (size_t)n, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                      (unsigned)(uint8_t)bytes[i]);
    }
    return set_made_text(a, out, text);
}

static ml_status set_bytes(const assembly *a, const ml_parquet_node *node, const char *bytes, size_t n, ml_value *out)
{
    char digits[128];
    switch (node->element->meaning) {
    case ML_PARQUET_DECIMAL:
        if (decimal_digits((const uint8_t *)bytes, n, digits, sizeof digits) < 0)
            return fail_value(a, node, "a decimal of at most 32 bytes");
        return set_decimal(a, node, digits, out);
    case ML_PARQUET_FLOAT16: set_real(out, half_to_double(bytes)); return ML_OK;
    case ML_PARQUET_UUID: return set_uuid(a, bytes, out);
    default: break;
    }
    if (ml_utf8_valid_prefix((const uint8_t *)bytes, n) < n) return fail_value(a, node, "UTF-8 text");
    out->kind = ML_VALUE_TEXT;
    out->text = bytes;
    out->n = n;
    return ML_OK;
}

static ml_status set_word(const assembly *a, const ml_parquet_node *node, int64_t word, ml_value *out)
{
    double x;
    char digits[32];
    const ml_parquet_element *e = node->element;
    if (e->type == ML_PARQUET_BOOLEAN) {
        out->kind = ML_VALUE_BOOL;
        out->truth = word != 0;
    } else if (e->type == ML_PARQUET_FLOAT || e->type == ML_PARQUET_DOUBLE) {
        memcpy(&x, &word, sizeof x);
        set_real(out, x);
    } else if (e->meaning == ML_PARQUET_DECIMAL) {
        snprintf(digits, sizeof digits, "%lld", (long long)word);
        return set_decimal(a, node, digits, out);
    } else if (e->meaning == ML_PARQUET_UNSIGNED && e->type == ML_PARQUET_INT32) {
        set_integer(out, (int64_t)(uint32_t)(uint64_t)word);
    } else if (e->meaning == ML_PARQUET_UNSIGNED && word < 0) {
        set_real(out, (double)(uint64_t)word);
    } else {
        set_integer(out, word);
    }
    return ML_OK;
}

static ml_status read_leaf(assembly *a, const ml_parquet_node *node, ml_value *out)
{
    const ml_parquet_values *v = &a->batch->column[node->first_leaf].values;
    cursor *at = &a->at[node->first_leaf];
    size_t i = at->value++, n;
    at->entry++;
    if (i >= v->n) return fail_levels(a, node);
    if (node->element->type < ML_PARQUET_BYTES) return set_word(a, node, v->word[i], out);
    const char *bytes = ml_parquet_values_text(v, i, &n);
    return set_bytes(a, node, bytes, n, out);
}

/* ---- structure ---- */

/* Take one entry of every leaf below a node that is null or empty. */
static ml_status skip_entry(assembly *a, const ml_parquet_node *node)
{
    for (size_t i = node->first_leaf; i < node->first_leaf + node->n_leaf; i++) {
        if (a->at[i].entry == a->at[i].end) return fail_levels(a, node);
        a->at[i].entry++;
    }
    return ML_OK;
}

/* A node for the next child of a struct or list. */
static ml_status add_child(const assembly *a, const ml_value ***link, ml_value **out)
{
    ml_value *node = *out = ml_arena_alloc(a->arena, sizeof *node);
    if (!node) return fail_full(a);
    *node = (ml_value){ 0 };
    **link = node;
    *link = &node->next;
    return ML_OK;
}

static ml_status read_member(assembly *a, const ml_parquet_node *node, const ml_value ***link, ml_value *parent)
{
    ml_value *value;
    ML_TRY(add_child(a, link, &value));
    value->key = node->name;
    value->key_bytes = strlen(node->name);
    parent->n++;
    return read_node(a, node, value);
}

static ml_status read_struct(assembly *a, const ml_parquet_node *node, ml_value *out)
{
    const ml_value **link = &out->child;
    out->kind = ML_VALUE_OBJECT;
    for (const ml_parquet_node *child = node->child; child; child = child->next)
        ML_TRY(read_member(a, child, &link, out));
    return ML_OK;
}

/* At an entry of the list's first element.  Elements go on while entries repeat at the list's level. */
static ml_status read_list(assembly *a, const ml_parquet_node *node, ml_value *out)
{
    const ml_parquet_entries *first = &a->batch->column[node->first_leaf];
    const cursor *at = &a->at[node->first_leaf];
    const ml_value **link = &out->child;
    out->kind = ML_VALUE_ARRAY;
    do {
        ml_value *value;
        ML_TRY(add_child(a, &link, &value));
        ML_TRY(read_node(a, node->child, value));
        out->n++;
    } while (at->entry < at->end && first->rep[at->entry] == node->rep);
    if (at->entry < at->end && first->rep[at->entry] > node->rep) return fail_levels(a, node);
    return ML_OK;
}

/* Into a zeroed value. */
static ml_status read_node(assembly *a, const ml_parquet_node *node, ml_value *out)
{
    const cursor *at = &a->at[node->first_leaf];
    if (at->entry == at->end) return fail_levels(a, node);
    uint8_t def = a->batch->column[node->first_leaf].def[at->entry];
    if (def < node->def_present) return skip_entry(a, node); /* null */
    if (node->kind == ML_PARQUET_LEAF) return read_leaf(a, node, out);
    if (node->kind == ML_PARQUET_STRUCT) return read_struct(a, node, out);
    if (def >= node->def_element) return read_list(a, node, out);
    out->kind = ML_VALUE_ARRAY;
    return skip_entry(a, node);
}

/* ---- rows ---- */

static void begin_row(assembly *a, size_t row, const ml_parquet_node *column)
{
    for (size_t i = column->first_leaf; i < column->first_leaf + column->n_leaf; i++) {
        const ml_parquet_entries *e = &a->batch->column[i];
        size_t end = row + 1 < e->n_row ? e->row_entry[row + 1] : e->n_entry;
        a->at[i] = (cursor){ e->row_entry[row], end, e->row_value[row] };
    }
}

static ml_status end_row(const assembly *a, const ml_parquet_node *column)
{
    for (size_t i = column->first_leaf; i < column->first_leaf + column->n_leaf; i++) {
        if (a->at[i].entry != a->at[i].end) return fail_levels(a, column);
    }
    return ML_OK;
}

static ml_status read_row(assembly *a, size_t row, ml_value *out)
{
    const ml_parquet *p = a->batch->parquet;
    const ml_value **link = &out->child;
    out->kind = ML_VALUE_OBJECT;
    for (size_t i = 0; i < p->n_column; i++) {
        if (!p->selected[i]) continue;
        begin_row(a, row, p->column[i]);
        ML_TRY(read_member(a, p->column[i], &link, out));
        ML_TRY(end_row(a, p->column[i]));
    }
    return ML_OK;
}

ml_status ml_parquet_row(const ml_parquet_batch *batch, size_t row, ml_arena *arena, const ml_value **out,
                         ml_error *err)
{
    ml_value *object = ml_arena_alloc(arena, sizeof *object);
    assembly a = { .batch = batch, .arena = arena, .err = err };
    size_t n_bytes;
    *out = NULL;
    a.at = ml_size_mul(batch->n_column, sizeof *a.at, &n_bytes) ? ml_arena_alloc(arena, n_bytes) : NULL;
    if (!object || !a.at) return fail_full(&a);
    *object = (ml_value){ 0 };
    if (read_row(&a, row, object) != ML_OK)
        return ml_fail_prefix(err, "%s: row %llu", batch->parquet->name,
                              (unsigned long long)(batch->first_row + row + 1));
    *out = object;
    return ML_OK;
}

void ml_parquet_text(const ml_parquet_batch *batch, size_t row, size_t column, const char **text, size_t *n_bytes)
{
    const ml_parquet_node *node = batch->parquet->column[column];
    const ml_parquet_entries *e = &batch->column[node->first_leaf];
    *text = NULL;
    *n_bytes = 0;
    if (e->def[e->row_entry[row]] < node->max_def) return;
    *text = ml_parquet_values_text(&e->values, e->row_value[row], n_bytes);
}
