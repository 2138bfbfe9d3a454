#include "report/log.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"

#include <math.h>
#include <string.h>

enum { MAX_COLUMN = 10000 };

/* ---- tables ---- */

const double *ml_report_find(const ml_report_table *t, const char *name)
{
    for (size_t i = 0; i < t->n_column; i++) {
        if (!strcmp(t->column[i].name, name)) return t->column[i].value;
    }
    return NULL;
}

size_t ml_report_count(const ml_report_table *t, const char *name)
{
    char element[64];
    for (size_t n = 0;; n++) {
        snprintf(element, sizeof element, "%.40s.%zu", name, n);
        if (!ml_report_find(t, element)) return n;
    }
}

static ml_status add_column(ml_report_table *t, const char *name, double **out, ml_error *err)
{
    if (t->n_column == MAX_COLUMN) return ml_fail(err, ML_EFORMAT, "more than %d different names", MAX_COLUMN);
    ML_TRY(ml_grow((void **)&t->column, &t->column_capacity, t->n_column + 1, sizeof *t->column, err));
    ml_report_column *c = &t->column[t->n_column];
    snprintf(c->name, sizeof c->name, "%s", name);
    c->value = ml_calloc(t->row_capacity, sizeof *c->value);
    if (!c->value) return ml_fail_memory(err, t->row_capacity * sizeof *c->value, "a column of a log");
    for (size_t i = 0; i < t->row_capacity; i++) c->value[i] = NAN;
    t->n_column++;
    *out = c->value;
    return ML_OK;
}

/* Put a number into the last row. */
static ml_status put(ml_report_table *t, const char *name, const json_t *number, ml_error *err)
{
    if (!json_is_number(number)) return ML_OK; /* null: it was not finite */
    char key[sizeof t->column->name];
    snprintf(key, sizeof key, "%s", name);
    double *value = (double *)(uintptr_t)ml_report_find(t, key);
    if (!value) ML_TRY(add_column(t, key, &value, err));
    value[t->n_row - 1] = json_number_value(number);
    return ML_OK;
}

static ml_status put_array(ml_report_table *t, const char *name, const json_t *array, ml_error *err)
{
    char element[64];
    for (size_t i = 0; i < json_array_size(array); i++) {
        snprintf(element, sizeof element, "%.36s.%zu", name, i);
        ML_TRY(put(t, element, json_array_get(array, i), err));
    }
    return ML_OK;
}

static void free_table(ml_report_table *t)
{
    for (size_t i = 0; i < t->n_column; i++) ml_free(t->column[i].value);
    ml_free(t->column);
    *t = (ml_report_table){ 0 };
}

/* ---- lines ---- */

static ml_status add_line(ml_report_log *log, const char *where, const char *text, size_t n, ml_error *err)
{
    json_t *line, *value;
    const char *name;
    int64_t step;
    ML_TRY(ml_json_parse(text, n, where, &line, err));
    ml_status status;
    ML_TRY_GOTO(ml_json_int(line, "step", where, &step, err));
    ml_report_table *t = json_object_get(line, "val_loss") ? &log->eval : &log->step;
    t->n_row++;
    json_object_foreach(line, name, value)
    {
        ml_error why;
        status = json_is_array(value) ? put_array(t, name, value, &why) : put(t, name, value, &why);
        if (status != ML_OK) {
            status = ml_fail(err, why.code, "%s: %s", where, why.message);
            goto done;
        }
    }
done:
    json_decref(line);
    return status;
}

ml_status ml_report_log_read(const char *path, ml_report_log *out, ml_error *err)
{
    *out = (ml_report_log){ 0 };
    char *text, where[ML_PATH_MAX + 32];
    size_t size, n_line = 0, number = 0;
    ML_TRY(ml_file_read(path, &text, &size, err));
    for (size_t i = 0; i < size; i++) n_line += text[i] == '\n';
    out->step.row_capacity = out->eval.row_capacity = n_line;
    ml_status status = ML_OK;
    for (char *line = text, *end; status == ML_OK; line = end + 1) {
        end = memchr(line, '\n', (size_t)(text + size - line));
        if (!end) break;
        snprintf(where, sizeof where, "%s:%zu", path, ++number);
        status = add_line(out, where, line, (size_t)(end - line), err);
    }
    ml_free(text);
    if (status != ML_OK) ml_report_log_free(out);
    return status;
}

void ml_report_log_free(ml_report_log *log)
{
    free_table(&log->step);
    free_table(&log->eval);
}
