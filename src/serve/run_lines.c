/* Lines of a run's files: metrics at once and live, samples. */
#include "base/alloc.h"
#include "serve/handlers.h"
#include "serve/limits.h"
#include "serve/run_index.h"
#include "serve/runs.h"
#include "serve/server_internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- reading ---- */

/* A file of JSON lines, read as it grows; a line without its end waits for it. */
typedef struct {
    char path[ML_PATH_MAX];
    int64_t place; /* of the first line that has not been read */
    int64_t after;
} tail;

static ml_status open_tail(ml_web *h, const char *name, tail *t, ml_error *err)
{
    char folder[ML_PATH_MAX];
    *t = (tail){ 0 };
    ML_TRY(ml_run_folder_of(h, folder, err));
    ML_TRY(ml_web_int_argument(h, "after", -1, INT64_MAX / 2, -1, &t->after, err));
    return ml_path_join(t->path, folder, name, err);
}

/* The next complete lines of a step behind `after`, `most` at most, appended to *out. */
static void read_lines(tail *t, json_t *out, size_t most)
{
    FILE *file = fopen(t->path, "re");
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    if (!file) return;
    if (fseeko(file, 0, SEEK_END) == 0 && ftello(file) < t->place) t->place = 0; /* a resume rewrote the log */
    bool there = fseeko(file, t->place, SEEK_SET) == 0;
    while (there && json_array_size(out) < most && (n = getline(&line, &capacity, file)) > 0 && line[n - 1] == '\n') {
        t->place += n;
        json_t *v = json_loadb(line, (size_t)n, 0, NULL);
        json_int_t step = json_integer_value(json_object_get(v, "step"));
        if (json_is_object(v) && step > t->after) {
            json_array_append_new(out, v);
        } else {
            json_decref(v);
        }
    }
    free(line);
    fclose(file);
}

static ml_status update_log(ml_web *h, const char *folder, ml_store_file *log, ml_error *err)
{
    return ml_run_index_update(h->server->store, h->id, folder, "log.jsonl", ML_STORE_METRICS, log, err);
}

/* The lines of a log that begin at some places. */
static json_t *read_places(const char *path, const int64_t *place, size_t n)
{
    json_t *lines = json_array();
    char *line = NULL;
    size_t capacity = 0;
    FILE *file = n ? fopen(path, "re") : NULL;
    for (size_t i = 0; i < n && file; i++) {
        if (fseeko(file, place[i], SEEK_SET) != 0) break;
        ssize_t size = getline(&line, &capacity, file);
        json_t *v = size > 0 ? json_loadb(line, (size_t)size, 0, NULL) : NULL;
        if (json_is_object(v)) {
            json_array_append_new(lines, v);
        } else {
            json_decref(v);
        }
    }
    free(line);
    if (file) fclose(file);
    return lines;
}

ml_status ml_api_run_metrics(ml_web *h, ml_error *err)
{
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    int64_t points, after, *place;
    size_t n;
    ml_store_file log;
    ML_TRY(ml_run_folder_of(h, folder, err));
    ML_TRY(ml_path_join(path, folder, "log.jsonl", err));
    ML_TRY(ml_web_int_argument(h, "points", 1, ML_LIMIT_RUN_LINE, 0, &points, err));
    ML_TRY(ml_web_int_argument(h, "after", -1, INT64_MAX / 2, -1, &after, err));
    ML_TRY(update_log(h, folder, &log, err));
    ml_status status =
        ml_store_find_metrics(h->server->store, log.key, after, points, ML_LIMIT_RUN_LINE, &place, &n, err);
    json_t *lines = status == ML_OK ? read_places(path, place, n) : NULL;
    ml_free(place);
    return status == ML_OK ? ml_web_reply_json(h, 200, json_pack("{s:o}", "lines", lines), err) : status;
}

static json_int_t step_of(const json_t *lines, size_t i)
{
    return json_integer_value(json_object_get(json_array_get(lines, i), "step"));
}

/* Of more lines than `most` the first ones, and of their steps only whole ones, so that one can go on behind the last.
 */
static void cut_lines(json_t *lines, size_t most)
{
    size_t n = most;
    if (json_array_size(lines) <= most) return;
    while (n > 0 && step_of(lines, n - 1) == step_of(lines, most)) n--;
    if (n == 0) n = most;
    while (json_array_size(lines) > n) json_array_remove(lines, json_array_size(lines) - 1);
}

ml_status ml_api_run_samples(ml_web *h, ml_error *err)
{
    tail t;
    ML_TRY(open_tail(h, "samples.jsonl", &t, err));
    json_t *lines = json_array();
    read_lines(&t, lines, ML_LIMIT_RUN_LINE + 1);
    cut_lines(lines, ML_LIMIT_RUN_LINE);
    return ml_web_reply_json(h, 200, json_pack("{s:o}", "samples", lines), err);
}

/* ---- live ---- */

static ml_status next_lines(void *arg, ml_chars *out, bool *end, ml_error *err)
{
    tail *t = arg;
    json_t *lines = json_array();
    *end = false;
    read_lines(t, lines, 1000);
    size_t n = json_array_size(lines);
    ml_status status = ML_OK;
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        status = ml_web_put_event(out, json_incref(json_array_get(lines, i)), err);
    }
    json_decref(lines);
    if (n == 0) nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
    return status;
}

/* Where the lines behind t->after begin. */
static ml_status find_start(ml_web *h, tail *t, ml_error *err)
{
    char folder[ML_PATH_MAX];
    ml_store_file log;
    int64_t *place;
    size_t n;
    ML_TRY(ml_run_folder_of(h, folder, err));
    ML_TRY(update_log(h, folder, &log, err));
    ML_TRY(ml_store_find_metrics(h->server->store, log.key, t->after, 0, 1, &place, &n, err));
    t->place = n ? place[0] : log.n_byte;
    ml_free(place);
    return ML_OK;
}

ml_status ml_api_run_stream(ml_web *h, ml_error *err)
{
    tail *t = ml_alloc(sizeof *t);
    if (!t) return ml_fail_memory(err, sizeof *t, "a request");
    ml_status status = open_tail(h, "log.jsonl", t, err);
    if (status == ML_OK) status = find_start(h, t, err);
    if (status != ML_OK) {
        ml_free(t);
        return status;
    }
    const ml_web_source source = { t, next_lines, ml_free, true };
    return ml_web_stream(h, "text/event-stream", &source, err);
}
