/* moonlight report: runs on one HTML page. */
#include "cli/amount.h"
#include "cli/cli.h"
#include "cli/prompts.h"
#include "cli/svg_to_png.h"

#include "base/alloc.h"
#include "base/log.h"
#include "report/report.h"

#include <string.h>

typedef struct {
    const ml_options *o;
    ml_report report;
    char **prompt; /* [n_prompt] */
    size_t n_prompt, prompt_capacity;
} job;

/* ---- runs ---- */

static ml_status read_runs(job *j, ml_error *err)
{
    size_t n = ml_options_positional_count(j->o);
    ml_report *r = &j->report;
    r->run = ml_calloc(n, sizeof *r->run);
    if (!r->run) return ml_fail_memory(err, n * sizeof *r->run, "runs");
    for (r->n_run = 0; r->n_run < n;) {
        ml_report_run *run = &r->run[r->n_run++]; /* counted before it is whole, so that it is freed */
        ML_TRY(ml_report_run_read(run, ml_options_positional(j->o, r->n_run - 1),
                                  (size_t)ml_options_int(j->o, "checkpoints"), err));
    }
    return ML_OK;
}

/* Two runs of one name are told apart by their folders. */
static ml_status tell_apart(job *j, ml_error *err)
{
    ml_report *r = &j->report;
    for (size_t i = 0; i < r->n_run; i++) {
        bool shared = false;
        for (size_t k = 0; k < r->n_run && !shared; k++) {
            const char *slash = strrchr(r->run[k].folder, '/');
            shared = k != i && !strcmp(slash ? slash + 1 : r->run[k].folder, r->run[i].name);
        }
        if (!shared) continue;
        char *name = ml_strdup(r->run[i].folder);
        if (!name) return ml_fail_memory(err, strlen(r->run[i].folder), "a run");
        ml_free(r->run[i].name);
        r->run[i].name = name;
    }
    return ML_OK;
}

/* ---- prompts ---- */

static ml_status add_prompt(void *arg, const char *text, size_t n, ml_error *err)
{
    job *j = arg;
    for (size_t i = 0; i < j->n_prompt; i++) {
        if (strlen(j->prompt[i]) == n && !memcmp(j->prompt[i], text, n)) return ML_OK;
    }
    ML_TRY(ml_grow((void **)&j->prompt, &j->prompt_capacity, j->n_prompt + 1, sizeof *j->prompt, err));
    char *copy = ml_alloc(n + 1);
    if (!copy) return ml_fail_memory(err, n + 1, "a prompt");
    memcpy(copy, text, n);
    copy[n] = 0;
    j->prompt[j->n_prompt++] = copy;
    return ML_OK;
}

static ml_status add_line(void *arg, const char *text, size_t n, const char *adapter, ml_error *err)
{
    if (adapter) return ml_fail(err, ML_EINVAL, "a report opens no adapters: take \"adapter\" out of its prompts");
    return add_prompt(arg, text, n, err);
}

/* What the runs' own samples began with, each once. */
static ml_status take_prompts_of_runs(job *j, ml_error *err)
{
    for (size_t i = 0; i < j->report.n_run; i++) {
        const ml_report_run *r = &j->report.run[i];
        for (size_t k = 0; k < json_array_size(r->samples); k++) {
            const char *text = json_string_value(json_object_get(json_array_get(r->samples, k), "prompt"));
            if (text) ML_TRY(add_prompt(j, text, strlen(text), err));
        }
    }
    static const char usual[] = "Once upon a time";
    return j->n_prompt ? ML_OK : add_prompt(j, usual, strlen(usual), err);
}

/* ---- models ---- */

static size_t count_checkpoints(const ml_report *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_run; i++) n += r->run[i].n_checkpoint;
    return n;
}

static ml_status ask_run(job *j, size_t i, ml_error *err)
{
    ml_report *r = &j->report;
    const ml_report_run *run = &r->run[i];
    r->probe[i] = ml_calloc(run->n_checkpoint, sizeof **r->probe);
    if (!r->probe[i]) return ml_fail_memory(err, run->n_checkpoint * sizeof **r->probe, "answers");
    for (size_t k = 0; k < run->n_checkpoint; k++) {
        r->asked.measure_speed = run->checkpoint[k].is_best;
        ML_TRY(ml_report_probe_run(run->checkpoint[k].path, &r->asked, &r->probe[i][k], err));
        r->asked.done += (double)j->n_prompt;
    }
    return ML_OK;
}

static ml_status ask_models(job *j, ml_error *err)
{
    ml_report *r = &j->report;
    const char *file = ml_options_text(j->o, "prompts");
    ML_TRY(file ? ml_cli_read_prompts(file, add_line, j, err) : take_prompts_of_runs(j, err));
    r->asked = (ml_report_probe_config){ .prompt = (const char *const *)j->prompt,
                                         .n_prompt = j->n_prompt,
                                         .max_tokens = ml_options_int(j->o, "max-tokens"),
                                         .temperature = 0.7,
                                         .top_p = 0.95,
                                         .seed = (uint64_t)ml_options_int(j->o, "seed") };
    r->probe = ml_calloc(r->n_run, sizeof *r->probe);
    if (!r->probe) return ml_fail_memory(err, r->n_run * sizeof *r->probe, "answers");
    size_t n = count_checkpoints(r);
    r->asked.progress = ml_progress_begin("checkpoints", "answers", (double)(n * j->n_prompt));
    ml_status status = ML_OK;
    for (size_t i = 0; i < r->n_run && status == ML_OK; i++) status = ask_run(j, i, err);
    ml_progress_end(r->asked.progress);
    r->asked.progress = NULL;
    return status;
}

static ml_status report(job *j, ml_error *err)
{
    const char *out = ml_options_text(j->o, "o"), *figures = ml_options_text(j->o, "figures");
    size_t n_figure;
    ML_TRY(ml_file_check(out, err));
    if (figures) ML_TRY(ml_dir_make(figures, err));
    ML_TRY(read_runs(j, err));
    ML_TRY(tell_apart(j, err));
    if (!ml_options_flag(j->o, "no-model") && count_checkpoints(&j->report)) ML_TRY(ask_models(j, err));
    ml_report_export export = { figures, ml_cli_svg_to_png };
    ML_TRY(ml_report_write(&j->report, out, &export, &n_figure, err));
    printf("%s: %s, %s\n", out, ml_cli_count((int64_t)j->report.n_run, "run").text,
           ml_cli_count((int64_t)n_figure, "figure").text);
    if (figures) printf("%s: each figure as .svg and .png\n", figures);
    return ML_OK;
}

static void free_job(job *j)
{
    ml_report *r = &j->report;
    for (size_t i = 0; r->probe && i < r->n_run; i++) {
        for (size_t k = 0; r->probe[i] && k < r->run[i].n_checkpoint; k++) ml_report_probe_free(&r->probe[i][k]);
        ml_free(r->probe[i]);
    }
    ml_free(r->probe);
    for (size_t i = 0; r->run && i < r->n_run; i++) ml_report_run_free(&r->run[i]);
    ml_free(r->run);
    for (size_t i = 0; i < j->n_prompt; i++) ml_free(j->prompt[i]);
    ml_free(j->prompt);
}

ml_status ml_cli_report(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("report", NULL, argc, argv, 1, 1000, "run folders", &o, err));
    ml_stop_install();
    job j = { .o = o };
    ml_status status = report(&j, err);
    free_job(&j);
    ml_options_free(o);
    return status;
}
