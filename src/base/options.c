/* The set of values: making it, putting values in, getting them out. */
#include "base/options.h"

#include "base/alloc.h"
#include "base/options_internal.h"

#include <assert.h>
#include <string.h>

bool ml_option_in_scope(const ml_option_row *row, const char *verb)
{
    size_t group = strcspn(verb, ":");
    for (const char *word = row->scope; *word;) {
        size_t n = strcspn(word, " ");
        if (n == 1 && *word == '*') return true;
        if (strncmp(word, verb, n) == 0 && (verb[n] == 0 || n == group)) return true;
        word += n;
        word += strspn(word, " ");
    }
    return false;
}

size_t ml_options_find(const ml_options *o, const char *section, const char *name)
{
    for (size_t i = 0; i < o->n_rows; i++) {
        const ml_option_row *row = &o->rows[i];
        if (strcmp(row->name, name) == 0 && strcmp(row->section, section) == 0 && ml_option_in_scope(row, o->verb)) {
            return i;
        }
    }
    return o->n_rows;
}

bool ml_options_has(const ml_options *o, const char *section, const char *name)
{
    return ml_options_find(o, section, name) < o->n_rows;
}

static void free_texts(char **items, size_t n)
{
    for (size_t i = 0; i < n; i++) ml_free(items[i]);
    ml_free(items);
}

ml_status ml_options_make(const ml_option_row *rows, size_t n_rows, const char *verb, const char *open_section,
                          ml_options **out, ml_error *err)
{
    *out = NULL;
    ml_options *o = ml_calloc(1, sizeof *o);
    if (!o) return ml_fail_memory(err, sizeof *o, "options");
    o->rows = rows;
    o->n_rows = n_rows;
    o->values = ml_calloc(n_rows, sizeof *o->values);
    o->verb = ml_strdup(verb);
    o->open_section = open_section ? ml_strdup(open_section) : NULL;
    ml_status status = ML_OK;
    if (!o->values || !o->verb || (open_section && !o->open_section)) {
        status = ml_fail_memory(err, n_rows * sizeof *o->values, "options");
    }
    for (size_t i = 0; i < n_rows && status == ML_OK; i++) {
        if (!rows[i].default_value || !ml_option_in_scope(&rows[i], verb)) continue;
        status = ml_options_store(o, i, rows[i].default_value, (ml_origin){ 0 }, err);
        if (status == ML_EINVAL) ml_fail_prefix(err, "default of %s.%s", rows[i].section, rows[i].name);
    }
    if (status != ML_OK) {
        ml_options_free(o);
        return status;
    }
    *out = o;
    return ML_OK;
}

void ml_options_free(ml_options *o)
{
    if (!o) return;
    for (size_t i = 0; o->values && i < o->n_rows; i++) free_texts(o->values[i].items, o->values[i].n_items);
    for (size_t i = 0; i < o->n_open; i++) {
        ml_free(o->open[i].name);
        ml_free(o->open[i].value);
    }
    free_texts(o->positional, o->n_positional);
    free_texts(o->files, o->n_files);
    ml_free(o->open);
    ml_free(o->values);
    ml_free(o->open_section);
    ml_free(o->verb);
    ml_free(o);
}

ml_status ml_options_append_text(char ***items, size_t *n, size_t *capacity, const char *text, ml_error *err)
{
    void *grown = *items;
    ML_TRY(ml_grow(&grown, capacity, *n + 1, sizeof **items, err));
    *items = grown;
    char *copy = ml_strdup(text);
    if (!copy) return ml_fail_memory(err, strlen(text) + 1, "an option");
    (*items)[(*n)++] = copy;
    return ML_OK;
}

static bool same_origin(ml_origin a, ml_origin b)
{
    return a.rank == b.rank && (a.rank != ML_ORIGIN_FILE || a.file == b.file);
}

static ml_status fail_twice(const ml_options *o, ml_origin first, ml_error *err)
{
    return ml_fail(err, ML_EINVAL, "is given twice; the first is at %s:%d", o->files[first.file], first.line);
}

ml_status ml_options_store(ml_options *o, size_t row, const char *text, ml_origin origin, ml_error *err)
{
    ml_option_value *value = &o->values[row];
    ml_option_value parsed = { 0 };
    ML_TRY(ml_option_check(&o->rows[row], text, &parsed, err));
    if (origin.rank < value->origin.rank) return ML_OK;
    bool list = o->rows[row].type == ML_OPTION_LIST;
    bool again = value->n_items && same_origin(origin, value->origin);
    if (again && !list && origin.rank == ML_ORIGIN_FILE) return fail_twice(o, value->origin, err);
    size_t n_old = again && list ? 0 : value->n_items;
    ML_TRY(ml_options_append_text(&value->items, &value->n_items, &value->capacity, text, err));
    for (size_t i = 0; i < n_old; i++) ml_free(value->items[i]);
    value->n_items -= n_old;
    memmove(value->items, value->items + n_old, value->n_items * sizeof *value->items);
    value->integer = parsed.integer;
    value->real = parsed.real;
    value->origin = origin;
    return ML_OK;
}

ml_status ml_options_store_open(ml_options *o, const char *name, const char *text, ml_origin origin, ml_error *err)
{
    size_t i = 0;
    while (i < o->n_open && strcmp(o->open[i].name, name) != 0) i++;
    if (i < o->n_open) {
        ml_open_item *item = &o->open[i];
        if (origin.rank < item->origin.rank) return ML_OK;
        if (origin.rank == ML_ORIGIN_FILE && same_origin(origin, item->origin)) return fail_twice(o, item->origin, err);
    } else {
        void *grown = o->open;
        ML_TRY(ml_grow(&grown, &o->open_capacity, o->n_open + 1, sizeof *o->open, err));
        o->open = grown;
    }
    char *value_copy = ml_strdup(text);
    char *name_copy = i < o->n_open ? o->open[i].name : ml_strdup(name);
    if (!value_copy || !name_copy) {
        ml_free(value_copy);
        if (i == o->n_open) ml_free(name_copy);
        return ml_fail_memory(err, strlen(text) + strlen(name) + 2, "an option");
    }
    if (i == o->n_open)
        o->n_open++;
    else
        ml_free(o->open[i].value);
    o->open[i] = (ml_open_item){ name_copy, value_copy, origin };
    return ML_OK;
}

/* The value at "section.name" or "name"; asserts that the table has it with this type. */
static const ml_option_value *value_at(const ml_options *o, const char *path, unsigned type_set)
{
    for (size_t i = 0; i < o->n_rows; i++) {
        const ml_option_row *row = &o->rows[i];
        size_t n = strlen(row->section);
        if (n && (strncmp(path, row->section, n) != 0 || path[n] != '.')) continue;
        if (strcmp(path + (n ? n + 1 : 0), row->name) != 0 || !ml_option_in_scope(row, o->verb)) continue;
        assert(type_set & 1u << row->type);
        (void)type_set;
        return &o->values[i];
    }
    assert(0 && "an option that the table does not have");
    return NULL;
}

bool ml_options_flag(const ml_options *o, const char *path)
{
    return value_at(o, path, 1u << ML_OPTION_FLAG)->integer != 0;
}

int64_t ml_options_int(const ml_options *o, const char *path)
{
    return value_at(o, path, 1u << ML_OPTION_INT)->integer;
}

double ml_options_real(const ml_options *o, const char *path)
{
    return value_at(o, path, 1u << ML_OPTION_REAL)->real;
}

const char *ml_options_text(const ml_options *o, const char *path)
{
    const ml_option_value *value = value_at(o, path, 1u << ML_OPTION_TEXT | 1u << ML_OPTION_CHOICE);
    return value->n_items ? value->items[0] : NULL;
}

size_t ml_options_list(const ml_options *o, const char *path, const char *const **items)
{
    const ml_option_value *value = value_at(o, path, 1u << ML_OPTION_LIST);
    *items = (const char *const *)value->items;
    return value->n_items;
}

bool ml_options_given(const ml_options *o, const char *path)
{
    return value_at(o, path, ~0u)->origin.rank != ML_ORIGIN_DEFAULT;
}

bool ml_options_overridden(const ml_options *o, const char *path)
{
    return value_at(o, path, ~0u)->origin.rank == ML_ORIGIN_ARGS;
}

typedef struct {
    char **items;
    size_t n, capacity;
} text_list;

static ml_status append_override(text_list *list, const char *section, const char *name, const char *value,
                                 ml_error *err)
{
    size_t size = strlen(section) + strlen(name) + strlen(value) + 3;
    char *text = ml_alloc(size);
    if (!text) return ml_fail_memory(err, size, "an option");
    snprintf(text, size, "%s.%s=%s", section, name, value);
    ml_status status = ml_options_append_text(&list->items, &list->n, &list->capacity, text, err);
    ml_free(text);
    return status;
}

static ml_status list_overrides(const ml_options *o, text_list *list, ml_error *err)
{
    for (size_t i = 0; i < o->n_rows; i++) {
        const ml_option_value *value = &o->values[i];
        if (!*o->rows[i].section || value->origin.rank != ML_ORIGIN_ARGS) continue;
        for (size_t k = 0; k < value->n_items; k++) {
            ML_TRY(append_override(list, o->rows[i].section, o->rows[i].name, value->items[k], err));
        }
    }
    for (size_t i = 0; i < o->n_open; i++) {
        if (o->open[i].origin.rank != ML_ORIGIN_ARGS) continue;
        ML_TRY(append_override(list, o->open_section, o->open[i].name, o->open[i].value, err));
    }
    return ML_OK;
}

ml_status ml_options_list_overrides(const ml_options *o, char ***items, size_t *n, ml_error *err)
{
    text_list list = { 0 };
    ml_status status = list_overrides(o, &list, err);
    if (status != ML_OK) {
        free_texts(list.items, list.n);
        list = (text_list){ 0 };
    }
    *items = list.items;
    *n = list.n;
    return status;
}

void ml_options_free_overrides(char **items, size_t n)
{
    free_texts(items, n);
}

size_t ml_options_open_count(const ml_options *o)
{
    return o->n_open;
}

void ml_options_open_item(const ml_options *o, size_t i, const char **name, const char **value)
{
    assert(i < o->n_open);
    *name = o->open[i].name;
    *value = o->open[i].value;
}

size_t ml_options_positional_count(const ml_options *o)
{
    return o->n_positional;
}

const char *ml_options_positional(const ml_options *o, size_t i)
{
    assert(i < o->n_positional);
    return o->positional[i];
}
