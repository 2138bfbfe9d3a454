/* What the runs of a sweep measured, out of their logs, and the files that say it. */
#ifndef ML_CLI_SWEEP_RESULTS_H
#define ML_CLI_SWEEP_RESULTS_H

#include "cli/sweep_cells.h"

/* Take the evaluations of a run from its log.jsonl, in place of those taken before. */
ml_status ml_sweep_read_log(ml_sweep_cell *cell, ml_error *err);
void ml_sweep_forget_log(ml_sweep_cell *cell);
/* Lowest validation loss, and its step; NaN and -1 when there is none. */
double ml_sweep_lowest_loss(const ml_sweep_cell *cell, int64_t *step);
/* sweep.jsonl, sweep.md and sweep.svg in the folder of the sweep, of the cells that are done. */
ml_status ml_sweep_write_results(const ml_sweep *sweep, ml_error *err);

#endif
