/* Running a sweep: one process per run, started here by fork before this process has any threads. */
#include "cli/sweep.h"

#include "base/log.h"
#include "base/thread.h"
#include "cli/pretrain.h"
#include "cli/sweep_results.h"
#include "format/run.h"
#include "recipe/data.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- processes ---- */

typedef struct {
    pid_t pid;
    int result; /* read end of a pipe: the child writes its ml_error, and its end closes it */
    ml_sweep_cell *cell;
} child;

typedef ml_status (*child_work)(void *arg, ml_error *err);

static void redirect_output(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd < 0) return;
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    close(fd);
}

/* In the child.  A group of its own keeps the terminal's Ctrl-C from it: the parent passes every stop on, once. */
static void run_child(int result, pid_t parent, const char *output, child_work work, void *arg)
{
    ml_error err = { 0 };
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    if (output) redirect_output(output);
    if (work(arg, &err) == ML_OK) err.code = ML_OK;
    if (output && err.code != ML_OK) ml_log_info("%s", err.message);
    ssize_t n = write(result, &err, sizeof err);
    fflush(stdout);
    _exit(n == (ssize_t)sizeof err ? 0 : 1);
}

static ml_status start_child(child *c, const char *output, child_work work, void *arg, ml_error *err)
{
    int ends[2];
    pid_t parent = getpid();
    if (pipe(ends) != 0) return ml_fail_errno(err, "a pipe cannot be made");
    fflush(NULL);
    c->pid = fork();
    if (c->pid == 0) {
        close(ends[0]);
        run_child(ends[1], parent, output, work, arg);
    }
    close(ends[1]);
    c->result = ends[0];
    if (c->pid > 0) return ML_OK;
    close(ends[0]);
    return ml_fail_errno(err, "a process cannot be started");
}

/* Collect a child whose end of the pipe is closed: what it returned. */
static ml_status finish_child(child *c, ml_error *err)
{
    ml_error said = { 0 };
    int exit_status = 0;
    ssize_t n = read(c->result, &said, sizeof said);
    close(c->result);
    while (waitpid(c->pid, &exit_status, 0) < 0 && errno == EINTR) continue;
    if (n == (ssize_t)sizeof said) {
        said.message[sizeof said.message - 1] = 0;
        if (said.code != ML_OK) *err = said;
        return said.code;
    }
    if (WIFSIGNALED(exit_status)) {
        return ml_fail(err, ML_EIO, "its process was ended by signal %d (%s)", WTERMSIG(exit_status),
                       strsignal(WTERMSIG(exit_status)));
    }
    return ml_fail(err, ML_EIO, "its process ended without a word");
}

/* Wait until one of the children ends; its index.  A stop request is passed on to all of them, once. */
static size_t wait_for_one(const child *c, size_t n, bool *passed_on)
{
    for (;;) {
        if (ml_stop_requested() && !*passed_on) {
            for (size_t i = 0; i < n; i++) kill(c[i].pid, SIGTERM);
            *passed_on = true;
        }
        for (size_t i = 0; i < n; i++) {
            struct pollfd p = { .fd = c[i].result, .events = POLLIN };
            if (poll(&p, 1, i ? 0 : 200) > 0) return i;
        }
    }
}

/* ---- what children do ---- */

static ml_status prepare_data(void *arg, ml_error *err)
{
    ml_progress *bar = NULL;
    ml_listener listener = ml_cli_listener(&bar);
    ml_recipe_data data;
    ml_status status = ml_recipe_data_find(arg, &data, err);
    if (status == ML_OK) status = ml_recipe_data_prepare(&data, &listener, err);
    ml_recipe_data_free(&data);
    return status;
}

static ml_status count_checkpoints(const char *folder, int64_t steps, bool *any, bool *last, ml_error *err)
{
    int64_t *step;
    size_t n;
    *any = *last = false;
    if (!ml_path_exists(folder)) return ML_OK;
    ML_TRY(ml_run_list(folder, &step, &n, err));
    *any = n > 0;
    *last = n > 0 && step[n - 1] >= steps;
    ml_free(step);
    return ML_OK;
}

static ml_status train_cell(void *arg, ml_error *err)
{
    const ml_sweep_cell *c = arg;
    bool resume, is_done;
    if (ml_options_int(c->o, "threads") == 0) {
        int64_t n = ml_thread_count() / ml_options_int(c->o, "sweep.jobs");
        ml_thread_set_count(n < 1 ? 1 : (int)n);
    }
    ML_TRY(count_checkpoints(c->folder, ml_options_int(c->o, "train.steps"), &resume, &is_done, err));
    return ml_cli_pretrain_run(c->o, c->folder, resume, NULL, err);
}

/* ---- the sweep ---- */

typedef struct {
    ml_sweep sweep;
    child *child; /* [n_jobs] */
    size_t n_child, n_jobs, next, n_done;
    bool passed_on;
    ml_status status; /* the first failure that ends the sweep */
    ml_error *err;
    ml_progress *progress;
} runner;

typedef struct {
    char first[256];
} comparison;

/* A finished run that was made with other options is not this recipe's. */
static void note_difference(void *arg, const char *section, const char *name, const char *old_value,
                            const char *new_value)
{
    static const char *const counts[] = { "model", "data", "train", "optim", "guard", "eval" };
    comparison *c = arg;
    bool relevant = strcmp(section, "data") || strcmp(name, "dir");
    for (size_t i = 0; i < sizeof counts / sizeof counts[0] && relevant && !*c->first; i++) {
        if (strcmp(section, counts[i]) != 0) continue;
        snprintf(c->first, sizeof c->first, "%s.%s %.60s, not %.60s", section, name, old_value, new_value);
    }
}

/* The last checkpoint is written before the evaluation that belongs to it: a run that was killed between the two has to
 * be resumed for its result. */
static ml_status is_evaluated(ml_sweep_cell *c, bool *out, ml_error *err)
{
    ML_TRY(ml_sweep_read_log(c, err));
    int64_t last = c->n_eval > 0 ? c->eval_step[c->n_eval - 1] : -1;
    *out = last >= ml_options_int(c->o, "train.steps") || ml_options_int(c->o, "eval.windows") == 0;
    if (!*out) ml_sweep_forget_log(c); /* results are of finished runs */
    return ML_OK;
}

/* Whether the cell is finished; ML_EINVAL when its folder holds something else. */
static ml_status look_at_cell(ml_sweep_cell *c, ml_error *err)
{
    bool any;
    char path[ML_PATH_MAX];
    comparison compare = { 0 };
    ML_TRY(count_checkpoints(c->folder, ml_options_int(c->o, "train.steps"), &any, &c->is_done, err));
    ML_TRY(ml_path_join(path, c->folder, "options.ini", err));
    if (!any || !ml_path_exists(path)) return ML_OK;
    ML_TRY(ml_options_compare_ini(c->o, path, note_difference, &compare, err));
    if (c->is_done) ML_TRY(is_evaluated(c, &c->is_done, err));
    if (*compare.first) {
        return ml_fail(err, ML_EINVAL, "%s was made with %s: give another --run, or remove that folder", c->folder,
                       compare.first);
    }
    return ML_OK;
}

static ml_status start_cell(runner *r, ml_sweep_cell *cell, ml_error *err)
{
    char output[ML_PATH_MAX];
    ML_TRY(ml_dir_make(cell->folder, err));
    ML_TRY(ml_path_join(output, cell->folder, "output.txt", err));
    child *c = &r->child[r->n_child];
    c->cell = cell;
    ML_TRY(start_child(c, output, train_cell, cell, err));
    r->n_child++;
    return ML_OK;
}

/* Results after a run that is done. */
static ml_status take_result(runner *r, ml_sweep_cell *c, ml_error *err)
{
    int64_t step;
    c->is_done = true;
    ML_TRY(ml_sweep_read_log(c, err));
    ml_progress_update(r->progress, (double)++r->n_done, NULL);
    if (c->is_diverged)
        ml_log_info("%s diverged", c->folder);
    else
        ml_log_info("%s: lowest validation loss %.4f", c->folder, ml_sweep_lowest_loss(c, &step));
    return ml_sweep_write_results(&r->sweep, err);
}

static void finish_one(runner *r)
{
    size_t i = wait_for_one(r->child, r->n_child, &r->passed_on);
    child done = r->child[i];
    ml_error err = { 0 };
    r->child[i] = r->child[--r->n_child];
    ml_status status = finish_child(&done, &err);
    done.cell->is_diverged = status == ML_ENUMERIC;
    if (status == ML_OK || status == ML_ENUMERIC) {
        status = take_result(r, done.cell, &err);
    } else if (status != ML_ECANCEL) {
        ml_fail_prefix(&err, "%s (its output.txt has more)", done.cell->folder);
    }
    if (status == ML_OK || r->status != ML_OK) return;
    r->status = status;
    *r->err = err;
}

static ml_status run_cells(runner *r, ml_error *err)
{
    ml_sweep *s = &r->sweep;
    r->err = err;
    for (;;) {
        while (r->n_child < r->n_jobs && r->next < s->n_cell && r->status == ML_OK && !ml_stop_requested()) {
            ml_sweep_cell *c = &s->cell[r->next++];
            if (!c->is_done) r->status = start_cell(r, c, err);
        }
        if (r->n_child == 0) break;
        finish_one(r);
    }
    if (r->status == ML_OK && ml_stop_requested()) return ml_fail(err, ML_ECANCEL, "stopped between two runs");
    return r->status;
}

static ml_status run_sweep(runner *r, const ml_options *o, int argc, char **argv, ml_error *err)
{
    ml_sweep *s = &r->sweep;
    child first = { 0 };
    ML_TRY(ml_sweep_read(o, argc, argv, s, err));
    ML_TRY(ml_dir_make(s->folder, err));
    for (size_t i = 0; i < s->n_cell; i++) {
        ML_TRY(look_at_cell(&s->cell[i], err));
        r->n_done += s->cell[i].is_done;
    }
    ml_log_info("a sweep into %s: %zu runs x %zu seeds, %zu of them done", s->folder, s->n_run, s->n_seed, r->n_done);
    ML_TRY(start_child(&first, NULL, prepare_data, s->cell[0].o, err));
    wait_for_one(&first, 1, &r->passed_on);
    ML_TRY(finish_child(&first, err));
    r->n_jobs = (size_t)ml_options_int(o, "sweep.jobs");
    r->child = ml_calloc(r->n_jobs, sizeof *r->child);
    if (!r->child) return ml_fail_memory(err, r->n_jobs * sizeof *r->child, "the list of processes");
    r->progress = ml_progress_begin("sweep", "runs", (double)s->n_cell);
    ml_progress_update(r->progress, (double)r->n_done, NULL);
    ml_status status = run_cells(r, err);
    ml_progress_end(r->progress);
    ML_TRY(status);
    return ml_sweep_write_results(s, err);
}

ml_status ml_cli_sweep(const ml_options *o, int argc, char **argv, ml_error *err)
{
    runner r = { 0 };
    ml_status status = run_sweep(&r, o, argc, argv, err);
    if (status == ML_OK) {
        ml_log_info("done; %s/sweep.md has the table, sweep.svg the curves", r.sweep.folder);
    } else if (status == ML_ECANCEL) {
        ml_log_info("what is done is kept; the same command goes on from there");
    }
    ml_free(r.child);
    ml_sweep_free(&r.sweep);
    return status;
}
