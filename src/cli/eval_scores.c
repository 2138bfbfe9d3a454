#include "cli/eval_scores.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"
#include "format/find.h"
#include "format/run.h"
#include "train/appender.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static ml_eval_score *add(ml_eval_scores *s, const char *name)
{
    assert(s->n < ML_EVAL_MAX_SCORE);
    ml_eval_score *score = &s->item[s->n++];
    *score = (ml_eval_score){ .name = name };
    return score;
}

void ml_eval_scores_add_count(ml_eval_scores *s, const char *name, size_t count, size_t of)
{
    ml_eval_score *score = add(s, name);
    score->count = count;
    score->of = of;
}

void ml_eval_scores_add_value(ml_eval_scores *s, const char *name, double value, double error)
{
    ml_eval_score *score = add(s, name);
    score->value = value;
    score->error = error;
}

/* ---- which run ---- */

/* Training writes log.jsonl into its folder before anything else. */
static bool is_run(const char *folder)
{
    char log[ML_PATH_MAX];
    ml_error ignored;
    return ml_path_join(log, folder, "log.jsonl", &ignored) == ML_OK && ml_path_exists(log);
}

/* A run folder stands for its best checkpoint; a step folder lies in its run. */
static bool find_run(const char *path, char run[ML_PATH_MAX], int64_t *step)
{
    char checkpoint[ML_PATH_MAX];
    ml_error ignored;
    if (is_run(path)) {
        snprintf(run, ML_PATH_MAX, "%s", path);
        return ml_run_find(path, ML_RUN_BEST, checkpoint, step, &ignored) == ML_OK;
    }
    char *whole = realpath(path, NULL), *slash = whole ? strrchr(whole, '/') : NULL;
    long long number;
    bool found = slash && sscanf(slash, "/step_%lld", &number) == 1;
    if (found) {
        *slash = 0;
        *step = number;
        snprintf(run, ML_PATH_MAX, "%s", whole);
    }
    free(whole); /* the C library's */
    return found && is_run(run);
}

/* The path of the adapter that the model has; NULL: it has none. */
static const char *find_adapter(const ml_options *o)
{
    const char *const *given, *use = ml_options_text(o, "use"), *path = NULL;
    size_t n = ml_options_list(o, "adapter", &given);
    for (size_t i = 0; i < n && !path; i++) {
        char *name;
        const char *at;
        ml_error ignored;
        if (ml_adapter_split_name(given[i], &name, &at, &ignored) != ML_OK) continue;
        if (!use || !strcmp(use, name)) path = at;
        ml_free(name);
    }
    return path;
}

/* ---- the line ---- */

static json_t *scores_to_json(const ml_eval_scores *s)
{
    json_t *all = json_array();
    for (size_t i = 0; i < s->n; i++) {
        const ml_eval_score *x = &s->item[i];
        json_array_append_new(all, x->of ? json_pack("{s:s, s:I, s:I}", "name", x->name, "count", (json_int_t)x->count,
                                                     "of", (json_int_t)x->of)
                                         : json_pack("{s:s, s:o, s:o}", "name", x->name, "value",
                                                     ml_json_number(x->value), "error", ml_json_number(x->error)));
    }
    return all;
}

static ml_status append_line(const char *run, const json_t *record, ml_error *err)
{
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, run, "evals.jsonl", err));
    char *text = record ? json_dumps(record, JSON_COMPACT) : NULL;
    size_t n = text ? strlen(text) : 0;
    char *line = ml_alloc(n + 2);
    ml_appender file = { .fd = -1 };
    ml_status status = text && line ? ml_appender_open(&file, path, err) : ml_fail_memory(err, n + 2, "scores");
    if (status == ML_OK) {
        snprintf(line, n + 2, "%s\n", text); /* one write, one line, whoever else writes */
        status = ml_appender_write(&file, line, n + 1, err);
    }
    ml_appender_close(&file);
    ml_free(line);
    free(text); /* the C library's */
    return status;
}

void ml_eval_scores_record(const ml_eval_scores *s, const ml_options *o)
{
    char run[ML_PATH_MAX], now[32];
    int64_t step;
    const char *adapter = find_adapter(o);
    if (!ml_options_flag(o, "record") || !find_run(adapter ? adapter : ml_options_text(o, "model"), run, &step)) return;
    time_t seconds = time(NULL);
    struct tm utc;
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&seconds, &utc));
    const char *data = ml_options_text(o, "data"), *slash = strrchr(data, '/');
    json_t *record =
        json_pack("{s:s, s:I, s:s, s:s, s:o}", "time", now, "step", (json_int_t)step, "task",
                  ml_options_text(o, "task"), "data", slash ? slash + 1 : data, "scores", scores_to_json(s));
    ml_error err;
    if (append_line(run, record, &err) != ML_OK) ml_log_warn("the scores are not kept with the run: %s", err.message);
    json_decref(record);
}
