#include "train/metrics.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "train/appender.h"
#include "train/tfevents.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct ml_metrics {
    ml_appender log;
    ml_tfevents *events;
    char *line; /* the line in work; kept, so that steady writing allocates nothing */
    size_t n_line, line_capacity;
    ml_tfevents_scalar *scalars;
    size_t n_scalar, scalar_capacity;
    char *tags; /* texts of the scalars' tags, TAG_BYTES each */
    size_t tag_capacity;
    bool has_eval;
};

enum { TAG_BYTES = 64, FIELD_BYTES = 128 };

/* Resuming: what belongs to later steps leaves the log. */

/* Step of the line [text, text + n), and whether it is one of an evaluation. */
static ml_status parse_line(const char *path, size_t number, const char *text, size_t n, int64_t *step, bool *is_eval,
                            ml_error *err)
{
    char where[ML_ERROR_MAX / 2];
    snprintf(where, sizeof where, "%.400s: line %zu", path, number);
    json_t *json;
    ml_status status = ml_json_parse(text, n, where, &json, err);
    if (status == ML_OK) {
        status = ml_json_int(json, "step", where, step, err);
        *is_eval = json_object_get(json, "val_loss") != NULL;
        json_decref(json);
    }
    if (status != ML_EFORMAT) return status;
    size_t used = strlen(err->message);
    snprintf(err->message + used, sizeof err->message - used, ": repair or remove that line, or move the file away");
    return status;
}

/* Copy every whole line of text to head (step <= last) or tail. Both have room for all of it. */
static ml_status split_lines(const char *path, const char *text, size_t size, int64_t last, char *head, size_t *n_head,
                             char *tail, size_t *n_tail, bool *has_eval, ml_error *err)
{
    *n_head = *n_tail = 0;
    *has_eval = false;
    const char *stop = text + size, *end;
    for (size_t number = 1; (end = memchr(text, '\n', (size_t)(stop - text))); number++, text = end + 1) {
        size_t n = (size_t)(end - text);
        int64_t step;
        bool is_eval;
        ML_TRY(parse_line(path, number, text, n, &step, &is_eval, err));
        if (is_eval && step == last) *has_eval = true;
        char *to = step <= last ? head + *n_head : tail + *n_tail;
        memcpy(to, text, n + 1);
        *(step <= last ? n_head : n_tail) += n + 1;
    }
    return ML_OK;
}

/* Saved and synced before it leaves the log: killed in between, lines are in both files, never in neither. */
static ml_status save_tail(const char *folder, int64_t last, const char *tail, size_t n_tail, ml_error *err)
{
    char name[64], path[ML_PATH_MAX];
    snprintf(name, sizeof name, "log.after_%06lld.jsonl", (long long)last);
    ML_TRY(ml_path_join(path, folder, name, err));
    ml_appender file;
    ML_TRY(ml_appender_open(&file, path, err));
    ml_status status = ml_appender_write(&file, tail, n_tail, err);
    if (status == ML_OK) status = ml_appender_sync(&file, err);
    ml_appender_close(&file);
    return status;
}

static ml_status cut_log(const char *folder, const char *path, int64_t last, bool *has_eval, ml_error *err)
{
    if (!ml_path_exists(path)) return ML_OK;
    char *text;
    size_t size, n_head, n_tail;
    ML_TRY(ml_file_read(path, &text, &size, err));
    char *head = ml_alloc(size), *tail = ml_alloc(size);
    ml_status status;
    if (!head || !tail) {
        status = ml_fail_memory(err, size, path);
        goto done;
    }
    ML_TRY_GOTO(split_lines(path, text, size, last, head, &n_head, tail, &n_tail, has_eval, err));
    if (n_tail) ML_TRY_GOTO(save_tail(folder, last, tail, n_tail, err));
    if (n_head < size) ML_TRY_GOTO(ml_file_replace(path, head, n_head, err));
done:
    ml_free(head);
    ml_free(tail);
    ml_free(text);
    return status;
}

ml_status ml_metrics_open(ml_metrics **out, const char *folder, int64_t step, ml_error *err)
{
    *out = NULL;
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, folder, "log.jsonl", err));
    bool has_eval = false;
    ML_TRY(cut_log(folder, path, step, &has_eval, err));
    ml_metrics *m = ml_calloc(1, sizeof *m);
    if (!m) return ml_fail_memory(err, sizeof *m, "metrics");
    m->log.fd = -1;
    m->has_eval = has_eval;
    ml_status status;
    ML_TRY_GOTO(ml_appender_open(&m->log, path, err));
    ML_TRY_GOTO(ml_tfevents_open(&m->events, folder, step > 0 ? step + 1 : -1, err));
    *out = m;
    m = NULL;
done:
    ml_metrics_close(m);
    return status;
}

bool ml_metrics_has_eval(const ml_metrics *m)
{
    return m->has_eval;
}

void ml_metrics_close(ml_metrics *m)
{
    if (!m) return;
    ml_appender_close(&m->log);
    ml_tfevents_close(m->events);
    ml_free(m->line);
    ml_free(m->scalars);
    ml_free(m->tags);
    ml_free(m);
}

/* Building a line.  reserve() has made room for every field, so that these cannot fail. */

/* Room for n fields and as many scalars, and an empty line. */
static ml_status reserve(ml_metrics *m, size_t n, ml_error *err)
{
    ML_TRY(ml_grow((void **)&m->line, &m->line_capacity, (n + 1) * FIELD_BYTES, 1, err));
    ML_TRY(ml_grow((void **)&m->scalars, &m->scalar_capacity, n, sizeof *m->scalars, err));
    ML_TRY(ml_grow((void **)&m->tags, &m->tag_capacity, n * TAG_BYTES, 1, err));
    m->n_line = 0;
    m->n_scalar = 0;
    return ML_OK;
}

static void put_text(ml_metrics *m, const char *text)
{
    size_t n = strlen(text);
    assert(m->n_line + n < m->line_capacity);
    memcpy(m->line + m->n_line, text, n);
    m->n_line += n;
}

/* Names come from the program: letters, digits and _ need no escapes. */
static void put_key(ml_metrics *m, const char *name)
{
    assert(strlen(name) < TAG_BYTES - 16);
    assert(!name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")]);
    put_text(m, m->n_line ? ",\"" : "{\"");
    put_text(m, name);
    put_text(m, "\":");
}

/* The shortest of up to 17 digits that reads back as the same number. */
static void put_number(ml_metrics *m, double value)
{
    char text[40];
    if (!isfinite(value)) {
        put_text(m, "null");
        return;
    }
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    char *comma = strchr(text, ','); /* a locale's decimal point */
    if (comma) *comma = '.';
    put_text(m, text);
}

static void put_float_number(ml_metrics *m, float value)
{
    char text[40];
    if (!isfinite(value)) {
        put_text(m, "null");
        return;
    }
    for (int digits = 4; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    char *comma = strchr(text, ',');
    if (comma) *comma = '.';
    put_text(m, text);
}

static void put_integer(ml_metrics *m, const char *name, int64_t value)
{
    char text[24];
    put_key(m, name);
    snprintf(text, sizeof text, "%lld", (long long)value);
    put_text(m, text);
}

/* A point for TensorBoard: tag is "<group>/<name>", with the layer behind when it is >= 0. */
static void put_scalar(ml_metrics *m, const char *group, const char *name, int layer, double value)
{
    if (!isfinite(value)) return;
    char *tag = m->tags + m->n_scalar * TAG_BYTES;
    if (layer < 0) {
        snprintf(tag, TAG_BYTES, "%s/%s", group, name);
    } else {
        snprintf(tag, TAG_BYTES, "%s/%s_%02d", group, name, layer);
    }
    m->scalars[m->n_scalar++] = (ml_tfevents_scalar){ tag, (float)value };
}

static void put_real(ml_metrics *m, const char *group, const char *name, double value)
{
    put_key(m, name);
    put_number(m, value);
    put_scalar(m, group, name, -1, value);
}

static void put_layers(ml_metrics *m, const char *name, const float *values, int n)
{
    put_key(m, name);
    put_text(m, "[");
    for (int i = 0; i < n; i++) {
        if (i) put_text(m, ",");
        put_float_number(m, values[i]);
        put_scalar(m, "router", name, i, (double)values[i]);
    }
    put_text(m, "]");
}

static ml_status end_line(ml_metrics *m, int64_t step, ml_error *err)
{
    put_text(m, "}\n");
    ML_TRY(ml_appender_write(&m->log, m->line, m->n_line, err));
    return ml_tfevents_write(m->events, step, ml_clock_unix_seconds(), m->scalars, m->n_scalar, err);
}

ml_status ml_metrics_write_step(ml_metrics *m, const ml_metrics_step *s, ml_error *err)
{
    ML_TRY(reserve(m, 16 + 2 * (size_t)s->n_moe_layer + s->n_extra, err));
    put_integer(m, "step", s->step);
    put_integer(m, "tokens", s->tokens);
    put_real(m, "train", "loss", s->loss);
    put_real(m, "train", "ce", s->ce);
    put_real(m, "train", "aux", s->aux);
    put_real(m, "train", "z", s->z);
    put_real(m, "train", "lr", s->lr);
    put_real(m, "train", "grad_norm", s->grad_norm);
    put_real(m, "train", "update_rms", s->update_rms);
    put_layers(m, "max_load", s->max_load, s->n_moe_layer);
    put_layers(m, "router_entropy", s->router_entropy, s->n_moe_layer);
    put_real(m, "speed", "tps", s->tps);
    put_real(m, "speed", "mfu", s->mfu);
    put_real(m, "speed", "mem_mb", s->mem_mb);
    put_real(m, "speed", "seconds", s->seconds);
    for (size_t i = 0; i < s->n_extra; i++) put_real(m, "train", s->extra[i].name, s->extra[i].value);
    return end_line(m, s->step, err);
}

ml_status ml_metrics_write_eval(ml_metrics *m, int64_t step, double val_loss, const ml_metrics_extra *extra,
                                size_t n_extra, ml_error *err)
{
    ML_TRY(reserve(m, 2 + n_extra, err));
    put_integer(m, "step", step);
    put_real(m, "eval", "val_loss", val_loss);
    for (size_t i = 0; i < n_extra; i++) put_real(m, "eval", extra[i].name, extra[i].value);
    return end_line(m, step, err);
}
