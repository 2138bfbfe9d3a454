#include "format/run.h"

#include "base/alloc.h"
#include "format/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define STEP_PREFIX "step_"

struct ml_run {
    char folder[ML_PATH_MAX];
    int lock;
};

/* "step_001000<suffix>" -> 1000; false for any other name. */
static bool parse_step(const char *name, const char *suffix, int64_t *step)
{
    if (strncmp(name, STEP_PREFIX, strlen(STEP_PREFIX))) return false;
    const char *digits = name + strlen(STEP_PREFIX);
    size_t n = strspn(digits, "0123456789");
    if (n < 6 || n > 18 || (n > 6 && *digits == '0') || strcmp(digits + n, suffix)) return false;
    *step = strtoll(digits, NULL, 10);
    return true;
}

ml_status ml_run_step_path(const char *folder, int64_t step, char path[ML_PATH_MAX], ml_error *err)
{
    char name[40];
    if (step < 0 || step > 999999999999999999) {
        return ml_fail(err, ML_EINVAL, "%s: %lld is no step of a run", folder, (long long)step);
    }
    snprintf(name, sizeof name, STEP_PREFIX "%06lld", (long long)step);
    return ml_path_join(path, folder, name, err);
}

/* The lock */

static ml_status fail_locked(int fd, const char *folder, ml_error *err)
{
    char pid[32] = "";
    ssize_t n = pread(fd, pid, sizeof pid - 1, 0);
    if (n <= 0) strcpy(pid, "of unknown id");
    pid[strcspn(pid, "\n")] = 0;
    return ml_fail(err, ML_EINVAL,
                   "%s: the run folder is in use by process %s: wait for it, stop it, or give another run folder",
                   folder, pid);
}

static ml_status lock_folder(ml_run *run, ml_error *err)
{
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, run->folder, "run.lock", err));
    run->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (run->lock < 0) return ml_fail_errno(err, "%s: cannot be opened", path);
    if (flock(run->lock, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) return fail_locked(run->lock, run->folder, err);
        return ml_fail_errno(err, "%s: cannot be locked", path);
    }
    char pid[32];
    int n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    /* The pid is a courtesy to who finds the folder locked: on a full disk the lock holds without it. */
    if (ftruncate(run->lock, 0) != 0 || pwrite(run->lock, pid, (size_t)n, 0) != n) return ML_OK;
    return ML_OK;
}

/* Leftovers of killed processes; see the header for what each means. */

static ml_status clean_name(const char *folder, const char *name, ml_error *err)
{
    char path[ML_PATH_MAX], final[ML_PATH_MAX];
    int64_t step;
    ML_TRY(ml_path_join(path, folder, name, err));
    const char *tmp = strstr(name, ".tmp.");
    if (tmp && tmp[5] && !tmp[5 + strspn(tmp + 5, "0123456789")]) return ml_dir_remove(path, err);
    if (parse_step(name, ".tmp", &step)) return ml_dir_remove(path, err);
    if (!parse_step(name, ".old", &step)) return ML_OK;
    ML_TRY(ml_run_step_path(folder, step, final, err));
    if (ml_path_exists(final)) return ml_dir_remove(path, err);
    if (rename(path, final) != 0) return ml_fail_errno(err, "%s: cannot be renamed to %s", path, final);
    return ml_dir_sync(folder, err);
}

static ml_status clean_folder(const char *folder, ml_error *err)
{
    char **names;
    size_t n;
    ML_TRY(ml_dir_list(folder, &names, &n, err));
    ml_status status = ML_OK;
    for (size_t i = 0; i < n && status == ML_OK; i++) status = clean_name(folder, names[i], err);
    ml_dir_list_free(names, n);
    return status;
}

ml_status ml_run_open(ml_run **out, const char *folder, ml_error *err)
{
    *out = NULL;
    ml_run *run = ml_calloc(1, sizeof *run);
    if (!run) return ml_fail_memory(err, sizeof *run, "a run folder");
    run->lock = -1;
    ml_status status;
    if (strlen(folder) >= ML_PATH_MAX - 64) {
        status = ml_fail(err, ML_EINVAL, "%s: the path is too long", folder);
        goto done;
    }
    strcpy(run->folder, folder);
    ML_TRY_GOTO(ml_dir_make(folder, err));
    ML_TRY_GOTO(lock_folder(run, err));
    ML_TRY_GOTO(clean_folder(folder, err));
    *out = run;
    run = NULL;
done:
    ml_run_close(run);
    return status;
}

void ml_run_close(ml_run *run)
{
    if (!run) return;
    if (run->lock >= 0) close(run->lock);
    ml_free(run);
}

const char *ml_run_folder(const ml_run *run)
{
    return run->folder;
}

/* What is there */

/* Folders that are named like a step, complete or not; names come sorted, but step_1000000 < step_999999. */
static int compare_steps(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

ml_status ml_run_list(const char *folder, int64_t **steps, size_t *n_steps, ml_error *err)
{
    *steps = NULL;
    *n_steps = 0;
    char **names, path[ML_PATH_MAX];
    size_t n, capacity = 0;
    int64_t step;
    ML_TRY(ml_dir_list(folder, &names, &n, err));
    ml_status status = ML_OK;
    for (size_t i = 0; i < n; i++) {
        if (!parse_step(names[i], "", &step)) continue;
        ML_TRY_GOTO(ml_path_join(path, folder, names[i], err));
        ml_error why;
        ml_status verified = ml_manifest_verify(path, ML_VERIFY_SIZES, &why);
        if (verified == ML_EFORMAT) continue; /* incomplete */
        if (verified != ML_OK) {
            *err = why;
            status = verified;
            goto done;
        }
        ML_TRY_GOTO(ml_grow((void **)steps, &capacity, *n_steps + 1, sizeof **steps, err));
        (*steps)[(*n_steps)++] = step;
    }
    if (*n_steps) qsort(*steps, *n_steps, sizeof **steps, compare_steps);
done:
    ml_dir_list_free(names, n);
    if (status != ML_OK) {
        ml_free(*steps);
        *steps = NULL;
        *n_steps = 0;
    }
    return status;
}

static const char *which_name(ml_run_which which)
{
    return which == ML_RUN_BEST ? "best" : "latest";
}

/* The step that `latest` or `best` names; *found is false when there is no such file. */
static ml_status read_pointer(const char *folder, ml_run_which which, bool *found, int64_t *step, ml_error *err)
{
    char path[ML_PATH_MAX], *text;
    *found = false;
    ML_TRY(ml_path_join(path, folder, which_name(which), err));
    if (!ml_path_exists(path)) return ML_OK;
    ML_TRY(ml_file_read(path, &text, NULL, err));
    text[strcspn(text, "\n")] = 0;
    *found = parse_step(text, "", step);
    ml_status status = ML_OK;
    if (!*found) {
        status = ml_fail(err, ML_EFORMAT, "%s: expected the name of a step folder like step_001000, found \"%.40s\"",
                         path, text);
    }
    ml_free(text);
    return status;
}

static ml_status highest_step(const char *folder, int64_t *step, ml_error *err)
{
    int64_t *steps;
    size_t n;
    ML_TRY(ml_run_list(folder, &steps, &n, err));
    if (n) *step = steps[n - 1];
    ml_free(steps);
    if (n) return ML_OK;
    return ml_fail(
        err, ML_EINVAL,
        "%s: has no complete checkpoint: expected a run folder, with step_... in it, or a model folder, with "
        "config.json",
        folder);
}

ml_status ml_run_find(const char *folder, ml_run_which which, char path[ML_PATH_MAX], int64_t *step, ml_error *err)
{
    bool found = false;
    int64_t found_step = -1;
    if (which == ML_RUN_BEST) ML_TRY(read_pointer(folder, ML_RUN_BEST, &found, &found_step, err));
    if (!found) {
        which = ML_RUN_LATEST;
        ML_TRY(read_pointer(folder, which, &found, &found_step, err));
    }
    if (!found) ML_TRY(highest_step(folder, &found_step, err));
    ML_TRY(ml_run_step_path(folder, found_step, path, err));
    ml_status status = ml_manifest_verify(path, ML_VERIFY_SIZES, err);
    if (status != ML_OK) {
        return found ? ml_fail_prefix(err,
                                      "%s: the file \"%s\" names a step that cannot be used (write the name of "
                                      "another into it to go on from there)",
                                      folder, which_name(which))
                     : status;
    }
    if (step) *step = found_step;
    return ML_OK;
}

ml_status ml_run_prepare(const ml_run *run, ml_run_which which, int64_t step, ml_file_writer *w, ml_error *err)
{
    char path[ML_PATH_MAX], step_path[ML_PATH_MAX];
    ML_TRY(ml_run_step_path(run->folder, step, step_path, err));
    ML_TRY(ml_path_join(path, run->folder, which_name(which), err));
    ML_TRY(ml_file_begin(w, path, err));
    ml_status status = ml_file_printf(w, err, "%s\n", strrchr(step_path, '/') + 1);
    if (status == ML_OK && fflush(w->file) != 0) status = ml_fail_errno(err, "%s: could not be written", path);
    if (status != ML_OK) ml_file_abandon(w);
    return status;
}

ml_status ml_run_set(const ml_run *run, ml_run_which which, int64_t step, ml_error *err)
{
    char path[ML_PATH_MAX];
    ml_file_writer w;
    ML_TRY(ml_run_step_path(run->folder, step, path, err));
    ML_TRY(ml_manifest_verify(path, ML_VERIFY_SIZES, err));
    ML_TRY(ml_run_prepare(run, which, step, &w, err));
    return ml_file_commit(&w, err);
}

/* Renamed first: a folder without some of its files never has the name of a checkpoint. */
static ml_status remove_step(const char *folder, int64_t step, ml_error *err)
{
    char path[ML_PATH_MAX], doomed[ML_PATH_MAX];
    ML_TRY(ml_run_step_path(folder, step, path, err));
    if (snprintf(doomed, sizeof doomed, "%s.tmp", path) >= ML_PATH_MAX) {
        return ml_fail(err, ML_EINVAL, "%s: the path is too long", path);
    }
    ML_TRY(ml_dir_remove(doomed, err));
    if (rename(path, doomed) != 0) return ml_fail_errno(err, "%s: cannot be renamed to be removed", path);
    ML_TRY(ml_dir_sync(folder, err));
    return ml_dir_remove(doomed, err);
}

ml_status ml_run_prune(const ml_run *run, int64_t keep, int64_t milestone, ml_error *err)
{
    if (keep < 1) return ML_OK;
    bool has_latest, has_best;
    int64_t latest = -1, best = -1, *steps;
    size_t n;
    ML_TRY(read_pointer(run->folder, ML_RUN_LATEST, &has_latest, &latest, err));
    ML_TRY(read_pointer(run->folder, ML_RUN_BEST, &has_best, &best, err));
    ML_TRY(ml_run_list(run->folder, &steps, &n, err));
    ml_status status = ML_OK;
    for (size_t i = 0; i + (size_t)keep < n && status == ML_OK; i++) {
        if ((has_latest && steps[i] == latest) || (has_best && steps[i] == best)) continue;
        if (milestone > 0 && steps[i] % milestone == 0) continue;
        status = remove_step(run->folder, steps[i], err);
    }
    ml_free(steps);
    return status;
}
