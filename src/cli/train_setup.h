/* From effective options to what the trainer takes: shared by every training verb. */
#ifndef ML_CLI_TRAIN_SETUP_H
#define ML_CLI_TRAIN_SETUP_H

#include "base/options.h"
#include "train/trainer.h"

/* Fill *out from the sections train, optim, guard, eval, checkpoint and sample. Texts point into `o`. */
ml_status ml_cli_train_config(const ml_options *o, ml_train_config *out, ml_error *err);

/* The architecture: model.preset, then every other model.* key over it; the vocabulary and its special ids follow the
 * tokenizer (may be NULL) unless model.vocab_size is given. */
ml_status ml_cli_model_config(const ml_options *o, const ml_tokenizer *tokenizer, ml_config *out, ml_error *err);

/* Sequences in the whole run; a double, since a plan may be larger than any data. */
double ml_cli_count_sequences(const ml_train_config *train);
/* Print the plan of steps: how many of what size, where the batch grows, where the router's bias rests. */
void ml_cli_print_steps(const ml_train_config *train, const ml_config *model);
/* Print the memory plan, and refuse what does not fit into this machine. */
ml_status ml_cli_check_memory(const ml_train_config *train, const ml_config *model, ml_error *err);

/* Options of a resumed run against those it was started with (options.ini of the run): every difference is printed,
 * and ML_EINVAL when one would change the model or the order of the data. */
ml_status ml_cli_check_resume(const ml_options *o, const char *run_folder, ml_error *err);

/* The table of parameter groups and their optimizers, a line per kind of parameter. */
void ml_cli_print_groups(const ml_optimizer *optimizer);

#endif
