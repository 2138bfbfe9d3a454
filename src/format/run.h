/* The run folder: who holds it, and which checkpoints it has.
 *
 *   run/  run.lock   step_001000/  step_002000/   latest  best      (and options.ini, log.jsonl, ...)
 *
 * `latest` and `best` hold the name of a step folder and are replaced atomically.  A step folder exists only
 * complete: it is written as `step_001000.tmp`, closed by its manifest, synced and renamed (checkpoint.h).
 * What a killed process leaves behind:
 *   step_N.tmp   half written, or half deleted: removed (and any "<name>.tmp.<pid>" of file.h)
 *   step_N.old   the former step_N while a new one takes its place: put back if step_N is missing, else removed
 *
 * Readers (generate, inspect, report) need no lock. */
#ifndef ML_FORMAT_RUN_H
#define ML_FORMAT_RUN_H

#include "base/file.h"

typedef struct ml_run ml_run;

/* Make the folder if needed, lock it until closed or the process ends, however it ends, and clean what an
 * earlier process left.  ML_EINVAL naming the pid when another process has it. */
ml_status ml_run_open(ml_run **out, const char *folder, ml_error *err);
void ml_run_close(ml_run *run);
const char *ml_run_folder(const ml_run *run);

/* Steps of the complete checkpoints (manifest there, sizes right), ascending; ml_free(*steps). */
ml_status ml_run_list(const char *folder, int64_t **steps, size_t *n_steps, ml_error *err);

typedef enum { ML_RUN_LATEST, ML_RUN_BEST } ml_run_which;

/* The step folder that `latest` or `best` names, its sizes verified; `step` may be NULL.  Without a file `best`
 * the latest is meant; without `latest`, the highest complete step.  ML_EFORMAT when the file names a step that
 * is missing or incomplete (no other is taken in silence); ML_EINVAL when the run has no checkpoint. */
ml_status ml_run_find(const char *folder, ml_run_which which, char path[ML_PATH_MAX], int64_t *step, ml_error *err);
/* Path of one step's folder, there or not. */
ml_status ml_run_step_path(const char *folder, int64_t step, char path[ML_PATH_MAX], ml_error *err);

/* Name a complete step in `best` or `latest` (committing a checkpoint does the latter). */
ml_status ml_run_set(const ml_run *run, ml_run_which which, int64_t step, ml_error *err);

/* The first half of set: the new file is written but not yet in place, so that a full disk shows before a step
 * folder takes its name.  ml_file_commit(w) puts it there. */
ml_status ml_run_prepare(const ml_run *run, ml_run_which which, int64_t step, ml_file_writer *w, ml_error *err);

/* Delete all but the `keep` newest checkpoints (keep < 1: delete none), the ones `latest` and `best` name, and
 * every step that is a multiple of `milestone` (0: none).  Safe to be killed in. */
ml_status ml_run_prune(const ml_run *run, int64_t keep, int64_t milestone, ml_error *err);

#endif
