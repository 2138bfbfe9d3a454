/* Lines of a run's files: metrics at once and live, samples, rollouts. */
#include "base/alloc.h"
#include "serve/handlers.h"
#include "serve/limits.h"
#include "serve/runs.h"
#include "serve/server_internal.h"

#include <string.h>
#include <time.h>

/* ---- reading ---- */

/* A file of JSON lines, read as it grows; a line without its end waits for it. */
typedef struct {
    char path[ML_PATH_MAX];
    long place; /* of the first line that has not been read */
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
    if (fseek(file, 0, SEEK_END) == 0 && ftell(file) < t->place) t->place = 0; /* a resume rewrote the log */
    bool there = fseek(file, t->place, SEEK_SET) == 0;
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

static bool is_evaluation(const json_t *line)
{
    return json_object_get(line, "val_loss") != NULL;
}

/* About `most` of the lines, evenly; evaluations all stay. */
static json_t *thin(json_t *lines, int64_t most)
{
    int64_t n = (int64_t)json_array_size(lines), n_kept = 0, seen = 0, n_step = 0;
    for (int64_t i = 0; i < n; i++) n_step += !is_evaluation(json_array_get(lines, (size_t)i));
    if (most < 1 || n_step <= most) return lines;
    json_t *out = json_array();
    for (int64_t i = 0; i < n; i++) {
        json_t *line = json_array_get(lines, (size_t)i);
        if (is_evaluation(line)) {
            json_array_append(out, line);
            continue;
        }
        seen++;
        if (seen * most / n_step == n_kept && seen != n_step) continue;
        n_kept = seen * most / n_step;
        json_array_append(out, line);
    }
    json_decref(lines);
    return out;
}

static ml_status reply_lines(ml_web *h, const char *name, const char *key, int64_t points, ml_error *err)
{
    tail t;
    ML_TRY(open_tail(h, name, &t, err));
    json_t *lines = json_array();
    read_lines(&t, lines, ML_LIMIT_RUN_LINE);
    return ml_web_reply_json(h, 200, json_pack("{s:o}", key, thin(lines, points)), err);
}

ml_status ml_api_run_metrics(ml_web *h, ml_error *err)
{
    int64_t points;
    ML_TRY(ml_web_int_argument(h, "points", 1, ML_LIMIT_RUN_LINE, 0, &points, err));
    return reply_lines(h, "log.jsonl", "lines", points, err);
}

ml_status ml_api_run_samples(ml_web *h, ml_error *err)
{
    return reply_lines(h, "samples.jsonl", "samples", 0, err);
}

ml_status ml_api_run_rollouts(ml_web *h, ml_error *err)
{
    return reply_lines(h, "rollouts.jsonl", "rollouts", 0, err);
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

ml_status ml_api_run_stream(ml_web *h, ml_error *err)
{
    tail *t = ml_alloc(sizeof *t);
    if (!t) return ml_fail_memory(err, sizeof *t, "a request");
    ml_status status = open_tail(h, "log.jsonl", t, err);
    if (status != ML_OK) {
        ml_free(t);
        return status;
    }
    const ml_web_source source = { t, next_lines, ml_free, true };
    return ml_web_stream(h, "text/event-stream", &source, err);
}
