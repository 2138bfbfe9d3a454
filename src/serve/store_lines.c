/* Lines of runs' files in the store: where in a log each step stands, and rollouts. */
#include "base/alloc.h"
#include "serve/store_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- how far a file has been taken in ---- */

static ml_status get_file(ml_store *s, const char *run, const char *name, ml_store_file *out, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    *out = (ml_store_file){ 0 };
    ML_TRY(ml_store_prepare(s, &q, err,
                            "SELECT key, n_byte, n_line, identity FROM run_file WHERE run = ?1 AND name = ?2", "ss",
                            run, name));
    ml_status status = ml_store_step(s, q, &row, err);
    if (status == ML_OK && row) {
        out->key = sqlite3_column_int64(q, 0);
        out->n_byte = sqlite3_column_int64(q, 1);
        out->n_line = sqlite3_column_int64(q, 2);
        snprintf(out->identity, sizeof out->identity, "%s", (const char *)sqlite3_column_text(q, 3));
    }
    sqlite3_finalize(q);
    return status;
}

ml_status ml_store_get_file(ml_store *s, const char *run, const char *name, ml_store_file *out, ml_error *err)
{
    pthread_mutex_lock(&s->lock);
    ml_status status = get_file(s, run, name, out, err);
    pthread_mutex_unlock(&s->lock);
    return status;
}

static ml_status drop(ml_store *s, const char *run, const char *name, ml_error *err)
{
    sqlite3_stmt *q;
    ML_TRY(ml_store_prepare(s, &q, err, "DELETE FROM run_file WHERE run = ?1 AND name = ?2", "ss", run, name));
    return ml_store_finish(s, q, err);
}

ml_status ml_store_drop_file(ml_store *s, const char *run, const char *name, ml_error *err)
{
    ML_TRY(ml_store_begin(s, err));
    return ml_store_end(s, drop(s, run, name, err), err);
}

/* ---- taking lines in ---- */

static ml_status put_file(ml_store *s, const char *run, const char *name, const ml_store_file *to, int64_t *key,
                          ml_error *err)
{
    sqlite3_stmt *q;
    ml_store_file now;
    ML_TRY(ml_store_prepare(s, &q, err,
                            "INSERT INTO run_file(run, name, identity, n_byte, n_line) VALUES(?1, ?2, ?3, ?4, ?5)"
                            " ON CONFLICT(run, name) DO UPDATE SET identity = ?3, n_byte = ?4, n_line = ?5",
                            "sssii", run, name, to->identity, to->n_byte, to->n_line));
    ML_TRY(ml_store_finish(s, q, err));
    ML_TRY(get_file(s, run, name, &now, err));
    *key = now.key;
    return ML_OK;
}

static const char *text_at(const json_t *line, size_t i)
{
    const char *text = json_string_value(json_array_get(line, i));
    return text ? text : "";
}

static ml_status put_line(ml_store *s, ml_store_lines kind, int64_t file, int64_t number, const json_t *line,
                          ml_error *err)
{
    sqlite3_stmt *q;
    if (kind == ML_STORE_METRICS) {
        ML_TRY(ml_store_prepare(
            s, &q, err, "INSERT INTO metric(file, line, step, is_evaluation, place) VALUES(?1, ?2, ?3, ?4, ?5)",
            "iijjj", file, number, json_array_get(line, 0), json_array_get(line, 1), json_array_get(line, 2)));
    } else {
        ML_TRY(ml_store_prepare(
            s, &q, err,
            "INSERT INTO rollout(file, line, step, prompt, text, reward, record) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            "iijssjs", file, number, json_array_get(line, 0), text_at(line, 1), text_at(line, 2),
            json_array_get(line, 3), text_at(line, 4)));
    }
    return ml_store_finish(s, q, err);
}

static ml_status add_lines(ml_store *s, const char *run, const char *name, ml_store_lines kind,
                           const ml_store_file *from, const ml_store_file *to, const json_t *lines, ml_error *err)
{
    ml_store_file now;
    int64_t key;
    ML_TRY(get_file(s, run, name, &now, err));
    if (from->n_byte == 0) {
        ML_TRY(drop(s, run, name, err));
    } else if (now.n_byte != from->n_byte || strcmp(now.identity, from->identity) != 0) {
        return ML_OK; /* somebody was faster */
    }
    ML_TRY(put_file(s, run, name, to, &key, err));
    int64_t number = to->n_line - (int64_t)json_array_size(lines);
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i);
        if (!json_is_null(line)) ML_TRY(put_line(s, kind, key, number + (int64_t)i, line, err));
    }
    return ML_OK;
}

ml_status ml_store_add_lines(ml_store *s, const char *run, const char *name, ml_store_lines kind,
                             const ml_store_file *from, const ml_store_file *to, const json_t *lines, ml_error *err)
{
    ML_TRY(ml_store_begin(s, err));
    return ml_store_end(s, add_lines(s, run, name, kind, from, to, lines, err), err);
}

/* ---- metrics ---- */

static ml_status count_steps(ml_store *s, int64_t file, int64_t after, int64_t *n_step, int64_t *n, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    ML_TRY(ml_store_prepare(
        s, &q, err, "SELECT count(*), count(*) - total(is_evaluation) FROM metric WHERE file = ?1 AND step > ?2", "ii",
        file, after));
    ml_status status = ml_store_step(s, q, &row, err);
    *n = sqlite3_column_int64(q, 0);
    *n_step = sqlite3_column_int64(q, 1);
    sqlite3_finalize(q);
    return status;
}

/* Of n_step steps about `points`, evenly, and the last one: whether the next is kept. */
typedef struct {
    int64_t points, n_step, n_seen, n_kept;
} thinning;

static bool keep(thinning *t, bool is_evaluation)
{
    if (is_evaluation || t->points < 1 || t->n_step <= t->points) return true;
    t->n_seen++;
    if (t->n_seen * t->points / t->n_step == t->n_kept && t->n_seen != t->n_step) return false;
    t->n_kept = t->n_seen * t->points / t->n_step;
    return true;
}

static ml_status find_metrics(ml_store *s, int64_t file, int64_t after, int64_t points, int64_t most, int64_t **place,
                              size_t *n, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    int64_t n_line, step = -1;
    size_t begin = 0; /* of the lines of this step */
    thinning t = { .points = points };
    ML_TRY(count_steps(s, file, after, &t.n_step, &n_line, err));
    if (n_line == 0) return ML_OK;
    *place = ml_calloc((size_t)n_line, sizeof **place);
    if (!*place) return ml_fail_memory(err, (size_t)n_line * sizeof **place, "places in a log");
    ML_TRY(ml_store_prepare(s, &q, err,
                            "SELECT is_evaluation, place, step FROM metric WHERE file = ?1 AND step > ?2 ORDER BY line",
                            "ii", file, after));
    ml_status status;
    while ((status = ml_store_step(s, q, &row, err)) == ML_OK && row) {
        if (step != sqlite3_column_int64(q, 2)) begin = *n;
        step = sqlite3_column_int64(q, 2);
        if (!keep(&t, sqlite3_column_int(q, 0) != 0)) continue;
        if ((int64_t)*n == most) {
            if (begin > 0) *n = begin; /* whole steps, so that one can go on behind the last */
            break;
        }
        (*place)[(*n)++] = sqlite3_column_int64(q, 1);
    }
    sqlite3_finalize(q);
    return status;
}

ml_status ml_store_find_metrics(ml_store *s, int64_t file, int64_t after, int64_t points, int64_t most, int64_t **place,
                                size_t *n, ml_error *err)
{
    *place = NULL;
    *n = 0;
    pthread_mutex_lock(&s->lock);
    ml_status status = find_metrics(s, file, after, points, most, place, n, err);
    pthread_mutex_unlock(&s->lock);
    return status;
}

/* ---- rollouts ---- */

/* ?1 run, ?2 file, ?3 what is looked for, ?4 after which step */
#define ROLLOUTS                                                                                                       \
    " FROM rollout r JOIN run_file f ON r.file = f.key WHERE f.run = ?1 AND (?2 IS NULL OR f.name = ?2)"               \
    " AND (?3 IS NULL OR instr(lower(r.prompt), lower(?3)) OR instr(lower(r.text), lower(?3)))"                        \
    " AND (?4 < 0 OR r.step > ?4)"

static ml_status list_files(ml_store *s, const char *run, json_t *out, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    ML_TRY(ml_store_prepare(s, &q, err,
                            "SELECT f.name, count(*), avg(r.reward) FROM run_file f JOIN rollout r ON r.file = f.key"
                            " WHERE f.run = ?1 GROUP BY f.key ORDER BY f.name",
                            "s", run));
    ml_status status;
    while ((status = ml_store_step(s, q, &row, err)) == ML_OK && row) {
        json_t *mean = sqlite3_column_type(q, 2) == SQLITE_NULL ? json_null() : json_real(sqlite3_column_double(q, 2));
        json_array_append_new(out, json_pack("{s:o, s:I, s:o}", "file", ml_store_text_of(q, 0), "n",
                                             (json_int_t)sqlite3_column_int64(q, 1), "mean_reward", mean));
    }
    sqlite3_finalize(q);
    return status;
}

static ml_status count_rollouts(ml_store *s, const ml_store_rollout_query *c, json_t *out, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    ML_TRY(ml_store_prepare(s, &q, err, "SELECT count(*)" ROLLOUTS, "sssi", c->run, c->file, c->search, c->after));
    ml_status status = ml_store_step(s, q, &row, err);
    json_object_set_new(out, "total", json_integer(sqlite3_column_int64(q, 0)));
    sqlite3_finalize(q);
    return status;
}

static json_t *number_of(sqlite3_stmt *q, int i)
{
    switch (sqlite3_column_type(q, i)) {
    case SQLITE_INTEGER: return json_integer(sqlite3_column_int64(q, i));
    case SQLITE_FLOAT: return json_real(sqlite3_column_double(q, i));
    default: return json_null();
    }
}

static ml_status list_rollouts(ml_store *s, const ml_store_rollout_query *c, json_t *out, ml_error *err)
{
    static const char *const orders[][2] = { { "newest", "r.step DESC, f.name, r.line DESC" },
                                             { "oldest", "r.step, f.name, r.line" },
                                             { "best", "r.reward DESC, r.step, f.name, r.line" },
                                             { "worst", "r.reward, r.step, f.name, r.line" } };
    char sql[1024];
    const char *order = orders[0][1];
    sqlite3_stmt *q;
    bool row;
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        if (!strcmp(orders[i][0], c->order)) order = orders[i][1];
    }
    snprintf(sql, sizeof sql,
             "SELECT f.name, r.line, r.step, r.prompt, r.text, r.reward, r.record" ROLLOUTS
             " ORDER BY %s LIMIT ?5 OFFSET ?6",
             order);
    ML_TRY(ml_store_prepare(s, &q, err, sql, "sssiii", c->run, c->file, c->search, c->after, c->limit, c->offset));
    ml_status status;
    while ((status = ml_store_step(s, q, &row, err)) == ML_OK && row) {
        json_array_append_new(out, json_pack("{s:o, s:I, s:o, s:o, s:o, s:o, s:o}", "file", ml_store_text_of(q, 0),
                                             "line", (json_int_t)sqlite3_column_int64(q, 1), "step", number_of(q, 2),
                                             "prompt", ml_store_text_of(q, 3), "text", ml_store_text_of(q, 4), "reward",
                                             number_of(q, 5), "record", ml_store_json_of(q, 6)));
    }
    sqlite3_finalize(q);
    return status;
}

ml_status ml_store_find_rollouts(ml_store *s, const ml_store_rollout_query *query, json_t **out, ml_error *err)
{
    *out = json_pack("{s:[], s:[]}", "files", "rollouts");
    if (!*out) return ml_fail_memory(err, 0, "rollouts");
    pthread_mutex_lock(&s->lock);
    ml_status status = list_files(s, query->run, json_object_get(*out, "files"), err);
    if (status == ML_OK) status = count_rollouts(s, query, *out, err);
    if (status == ML_OK) status = list_rollouts(s, query, json_object_get(*out, "rollouts"), err);
    pthread_mutex_unlock(&s->lock);
    return status;
}
