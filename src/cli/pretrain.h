/* Training by recipe, for the verb and for sweeps. */
#ifndef ML_CLI_PRETRAIN_H
#define ML_CLI_PRETRAIN_H

#include "base/log.h"
#include "base/options.h"

/* What the program does with what a listener is told: lines and bars on standard error.  *bar is NULL before. */
ml_listener ml_cli_listener(ml_progress **bar);

/* Prepare the data, make the model, train to the end into the folder `run`.  `best_loss` (may be NULL): lowest
 * validation loss, or NaN.  ML_ECANCEL after a stop request, with a checkpoint to resume from. */
ml_status ml_cli_pretrain_run(const ml_options *o, const char *run, bool resume, double *best_loss, ml_error *err);
/* The same for a stage by its name, as moonlight.h has it. */
ml_status ml_cli_train_run(const char *stage, const ml_options *o, const char *run, bool resume, double *best_loss,
                           ml_error *err);

/* The verb of a stage. */
ml_status ml_cli_train(const char *stage, int argc, char **argv, ml_error *err);

#endif
