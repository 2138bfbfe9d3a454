/* From effective options to what the trainer takes: shared by every stage. */
#ifndef ML_RECIPE_SETUP_H
#define ML_RECIPE_SETUP_H

#include "base/options.h"
#include "train/loop.h"

/* Fill *out from the sections train, optim, guard, eval, checkpoint and sample. Texts point into `o`.  The listener is
 * told where a schedule was fitted to fewer steps. */
ml_status ml_recipe_train_config(const ml_options *o, const ml_listener *listener, ml_train_config *out, ml_error *err);

/* What a device computes with and how its memory is used: from train.precision, train.memory and optim.moments, for a
 * model of this configuration (or an adapter beside it), into *train (whose device is set: NULL is the processor).
 * ML_EINVAL for what only a GPU can do where there is none.
 *   taken  bytes on the device, and as many here, that something else is going to have
 *   way    the name of how weights lie on the device */
ml_status ml_recipe_device_config(const ml_options *o, const ml_config *config, bool has_adapter, int64_t taken,
                                  ml_train_config *train, const char **way, ml_error *err);

/* From section adapter: *has_adapter false when its kind is none.  ML_EINVAL when other keys are set all the same.
 * Texts point into `o`. */
ml_status ml_recipe_adapter_config(const ml_options *o, bool *has_adapter, ml_adapter_config *out, ml_error *err);

/* The learning rate over `steps` steps, from section optim. */
ml_status ml_recipe_schedule(const ml_options *o, const ml_listener *listener, int64_t steps, ml_schedule *out,
                             ml_error *err);

/* The architecture: model.preset, then every other model.* key over it; the vocabulary and its special ids follow the
 * tokenizer unless model.vocab_size is given.  Without a tokenizer, because it is to be trained, the vocabulary is that
 * of data.vocab_size where it is given.  ML_EINVAL for a model.vocab_size smaller than the tokenizer's. */
ml_status ml_recipe_model_config(const ml_options *o, const ml_tokenizer *tokenizer, ml_config *out, ml_error *err);

/* Options of a resumed run against those it was started with (options.ini of the run): the listener is told every
 * difference, and ML_EINVAL when one would change the model or the order of the data. */
ml_status ml_recipe_check_resume(const ml_options *o, const ml_listener *listener, const char *run_folder,
                                 ml_error *err);

/* Sequences in the whole run; a double, since a plan may be larger than any data. */
double ml_recipe_count_sequences(const ml_train_config *train);
/* Tell the plan of steps: how many of what size, where the batch grows, where the router's bias rests. */
void ml_recipe_say_steps(const ml_train_config *train, const ml_config *model, const ml_listener *listener);
/* Tell the parameter groups and their optimizers, a line per kind of parameter. */
void ml_recipe_say_groups(const ml_optimizer *optimizer, const ml_listener *listener);

#endif
