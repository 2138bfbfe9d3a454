/* One pretraining run, for the verb and for sweeps. */
#ifndef ML_CLI_PRETRAIN_H
#define ML_CLI_PRETRAIN_H

#include "base/options.h"

/* Prepare the data, make the model, train to the end into the folder `run`.  `best_loss` (may be NULL): lowest
 * validation loss.  ML_ECANCEL after a stop request, with a checkpoint to resume from. */
ml_status ml_cli_pretrain_run(const ml_options *o, const char *run, bool resume, double *best_loss, ml_error *err);

#endif
