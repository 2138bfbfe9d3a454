#include "report/run.h"

#include "base/alloc.h"
#include "format/run.h"

#include <math.h>
#include <string.h>

/* ---- settings ---- */

static ml_status add_setting(ml_report_run *r, size_t *capacity, const char *section, const char *key, size_t n_key,
                             const char *value, bool is_given, ml_error *err)
{
    char name[256];
    snprintf(name, sizeof name, "%.100s.%.*s", section, n_key > 100 ? 100 : (int)n_key, key);
    /* A list is a line for each of its values. */
    for (size_t i = r->n_setting; i-- > 0 && is_given;) {
        if (strcmp(r->setting[i].name, name) != 0) continue;
        size_t n = strlen(r->setting[i].value) + strlen(value) + 3;
        char *both = ml_alloc(n);
        if (!both) return ml_fail_memory(err, n, "settings of a run");
        snprintf(both, n, "%s\n%s", r->setting[i].value, value);
        ml_free(r->setting[i].value);
        r->setting[i].value = both;
        return ML_OK;
    }
    ML_TRY(ml_grow((void **)&r->setting, capacity, r->n_setting + 1, sizeof *r->setting, err));
    ml_report_setting s = { .name = ml_strdup(name), .value = ml_strdup(value), .is_given = is_given };
    r->setting[r->n_setting++] = s;
    return s.name && s.value ? ML_OK : ml_fail_memory(err, strlen(name) + strlen(value), "settings of a run");
}

/* options.ini as base/options_print.c writes it: above each value a comment that says where it is from. */
static ml_status read_settings(ml_report_run *r, char *text, ml_error *err)
{
    char section[64] = "";
    bool is_given = false;
    size_t capacity = 0;
    sscanf(text, "; Effective options of moonlight %15[a-z]", r->stage);
    for (char *line = text, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        char *equals = strstr(line, " =");
        if (*line == '[') {
            sscanf(line, "[%63[^]]", section);
        } else if (*line == ';') {
            is_given = strcmp(line, "; default") != 0 && strcmp(line, "; not set") != 0;
        } else if (equals && *section) {
            const char *value = equals + 2 + strspn(equals + 2, " ");
            ML_TRY(add_setting(r, &capacity, section, line, (size_t)(equals - line), value, is_given, err));
        }
    }
    return ML_OK;
}

static ml_status read_options(ml_report_run *r, ml_error *err)
{
    char path[ML_PATH_MAX];
    snprintf(r->stage, sizeof r->stage, "run");
    ML_TRY(ml_path_join(path, r->folder, "options.ini", err));
    if (!ml_path_exists(path)) return ML_OK;
    ML_TRY(ml_file_read(path, &r->options, NULL, err));
    char *copy = ml_strdup(r->options);
    if (!copy) return ml_fail_memory(err, strlen(r->options), path);
    ml_status status = read_settings(r, copy, err);
    ml_free(copy);
    return status;
}

const char *ml_report_run_setting(const ml_report_run *r, const char *name)
{
    for (size_t i = 0; i < r->n_setting; i++) {
        if (!strcmp(r->setting[i].name, name)) return r->setting[i].value;
    }
    return NULL;
}

/* ---- samples and evaluations ---- */

/* The objects of a file of JSON lines in the run's folder; none where it is not there.  A last line without its end is
 * being written. */
static ml_status read_lines(const ml_report_run *r, const char *name, json_t **out, ml_error *err)
{
    char path[ML_PATH_MAX], where[ML_PATH_MAX + 32], *text;
    *out = json_array();
    if (!*out) return ml_fail_memory(err, 0, name);
    ML_TRY(ml_path_join(path, r->folder, name, err));
    if (!ml_path_exists(path)) return ML_OK;
    ML_TRY(ml_file_read(path, &text, NULL, err));
    ml_status status = ML_OK;
    size_t number = 0;
    for (char *line = text, *end; status == ML_OK && (end = strchr(line, '\n')); line = end + 1) {
        json_t *object;
        snprintf(where, sizeof where, "%s:%zu", path, ++number);
        status = ml_json_parse(line, (size_t)(end - line), where, &object, err);
        if (status == ML_OK && json_array_append_new(*out, object) != 0) status = ml_fail_memory(err, 0, path);
    }
    ml_free(text);
    return status;
}

/* ---- checkpoints ---- */

static ml_status add_checkpoint(ml_report_run *r, int64_t step, int64_t best, ml_error *err)
{
    ml_report_checkpoint *c = &r->checkpoint[r->n_checkpoint++];
    c->step = step;
    c->is_best = step == best;
    return ml_run_step_path(r->folder, step, c->path, err);
}

/* The best, and of the others evenly so many that there are `most`, the last one among them. */
static ml_status choose_checkpoints(ml_report_run *r, const int64_t *step, size_t n, size_t most, ml_error *err)
{
    char path[ML_PATH_MAX];
    int64_t best;
    ML_TRY(ml_run_find(r->folder, ML_RUN_BEST, path, &best, err));
    r->checkpoint = ml_calloc(n, sizeof *r->checkpoint);
    if (!r->checkpoint) return ml_fail_memory(err, n * sizeof *r->checkpoint, "checkpoints");
    size_t n_other = most > 0 ? most - 1 : 0, at = 0, n_rest = n > 0 ? n - 1 : 0;
    if (n_other > n_rest) n_other = n_rest;
    for (size_t i = 0; i < n; i++) {
        bool keep = step[i] == best;
        if (!keep) {
            /* of n_rest others, number `at` (from 0) is in when it fills the next of n_other places */
            keep = (at + 1) * n_other / n_rest > at * n_other / n_rest;
            at++;
        }
        if (keep) ML_TRY(add_checkpoint(r, step[i], best, err));
    }
    return ML_OK;
}

/* Checkpoints of an adapter are no models: there is nothing to ask without the one beside which it was trained. */
static ml_status holds_adapter(const ml_report_run *r, int64_t step, bool *found, ml_error *err)
{
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    ML_TRY(ml_run_step_path(r->folder, step, folder, err));
    ML_TRY(ml_path_join(path, folder, "adapter_config.json", err));
    *found = ml_path_exists(path);
    return ML_OK;
}

static ml_status find_checkpoints(ml_report_run *r, size_t most, ml_error *err)
{
    int64_t *step;
    size_t n;
    bool is_adapter = false;
    ML_TRY(ml_run_list(r->folder, &step, &n, err));
    ml_status status = n ? holds_adapter(r, step[0], &is_adapter, err) : ML_OK;
    if (is_adapter) n = 0;
    if (status == ML_OK) status = n ? choose_checkpoints(r, step, n, most, err) : ML_OK;
    ml_free(step);
    for (size_t i = 0; i < r->n_checkpoint && status == ML_OK; i++) {
        char path[ML_PATH_MAX];
        if (!r->checkpoint[i].is_best) continue;
        ML_TRY(ml_path_join(path, r->checkpoint[i].path, "config.json", err));
        status = ml_config_load(path, &r->config, err);
        r->has_config = status == ML_OK;
    }
    return status;
}

/* ---- a run ---- */

static ml_status read_all(ml_report_run *r, size_t max_checkpoint, ml_error *err)
{
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, r->folder, "log.jsonl", err));
    if (!ml_path_exists(path)) {
        return ml_fail(err, ML_EINVAL, "%s is no run folder: expected log.jsonl in it, as training writes it",
                       r->folder);
    }
    ML_TRY(ml_report_log_read(path, &r->log, err));
    ML_TRY(read_options(r, err));
    ML_TRY(read_lines(r, "samples.jsonl", &r->samples, err));
    ML_TRY(read_lines(r, "evals.jsonl", &r->evals, err));
    return find_checkpoints(r, max_checkpoint, err);
}

ml_status ml_report_run_read(ml_report_run *r, const char *folder, size_t max_checkpoint, ml_error *err)
{
    size_t n = strlen(folder);
    while (n > 1 && folder[n - 1] == '/') n--;
    if (n >= sizeof r->folder) return ml_fail(err, ML_EINVAL, "%.100s...: the path is too long", folder);
    snprintf(r->folder, sizeof r->folder, "%.*s", (int)n, folder);
    const char *slash = strrchr(r->folder, '/');
    r->name = ml_strdup(slash && slash[1] ? slash + 1 : r->folder);
    if (!r->name) return ml_fail_memory(err, n, "a run");
    return read_all(r, max_checkpoint, err);
}

void ml_report_run_free(ml_report_run *r)
{
    for (size_t i = 0; i < r->n_setting; i++) {
        ml_free(r->setting[i].name);
        ml_free(r->setting[i].value);
    }
    ml_free(r->setting);
    ml_free(r->options);
    ml_free(r->name);
    ml_free(r->checkpoint);
    json_decref(r->samples);
    json_decref(r->evals);
    ml_report_log_free(&r->log);
    *r = (ml_report_run){ 0 };
}

/* ---- numbers ---- */

double ml_report_run_best_loss(const ml_report_run *r, int64_t *step)
{
    const double *loss = ml_report_find(&r->log.eval, "val_loss"), *at = ml_report_find(&r->log.eval, "step");
    double lowest = NAN;
    *step = -1;
    for (size_t i = 0; loss && i < r->log.eval.n_row; i++) {
        if (!(isnan(lowest) || loss[i] < lowest)) continue;
        lowest = loss[i];
        *step = (int64_t)at[i];
    }
    return lowest;
}

double ml_report_run_last(const ml_report_run *r, const char *name)
{
    const double *value = ml_report_find(&r->log.step, name);
    return value ? value[r->log.step.n_row - 1] : NAN;
}

static double fold(const ml_report_run *r, const char *name, size_t *n, double *most)
{
    const double *value = ml_report_find(&r->log.step, name);
    double sum = 0;
    *n = 0;
    *most = NAN;
    for (size_t i = 0; value && i < r->log.step.n_row; i++) {
        if (!isfinite(value[i])) continue;
        sum += value[i];
        ++*n;
        *most = fmax(*most, value[i]); /* of NaN and a number, the number */
    }
    return sum;
}

double ml_report_run_sum(const ml_report_run *r, const char *name)
{
    size_t n;
    double most;
    return fold(r, name, &n, &most);
}

double ml_report_run_mean(const ml_report_run *r, const char *name)
{
    size_t n;
    double most, sum = fold(r, name, &n, &most);
    return n ? sum / (double)n : NAN;
}

double ml_report_run_max(const ml_report_run *r, const char *name)
{
    size_t n;
    double most;
    fold(r, name, &n, &most);
    return most;
}
