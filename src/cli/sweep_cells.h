/* What a sweep consists of: its runs, seeds, and the effective options of each pair. */
#ifndef ML_CLI_SWEEP_CELLS_H
#define ML_CLI_SWEEP_CELLS_H

#include "base/options.h"
#include "base/alloc.h"

/* One (run, seed). */
typedef struct {
    size_t run_id;
    int64_t seed;
    ml_options *o;            /* effective */
    char folder[ML_PATH_MAX]; /* <run>/NAME-seedS */
    bool is_done, is_diverged;
    int64_t *eval_step; /* [n_eval] of its log */
    double *eval_loss;
    size_t n_eval;
    double seconds; /* of its steps */
} ml_sweep_cell;

typedef struct {
    const char *folder; /* of the sweep */
    char **name;        /* [n_run] */
    size_t n_run, n_seed;
    ml_sweep_cell *cell; /* [n_seed * n_run]: all runs with the first seed, then with the second, ... */
    size_t n_cell;
} ml_sweep;

/* ML_EINVAL naming the line of the recipe that is wrong.  `sweep` is zeroed before, and freed also after a failure. */
ml_status ml_sweep_read(const ml_options *o, int argc, char **argv, ml_sweep *sweep, ml_error *err);
void ml_sweep_free(ml_sweep *sweep);

#endif
