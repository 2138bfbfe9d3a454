/* --model M: a model folder or file, or a run folder, of which the best checkpoint is meant. */
#ifndef ML_CLI_LOAD_H
#define ML_CLI_LOAD_H

#include "base/options.h"
#include "model/model.h"
#include "token/tokenizer.h"

/* Open it for inference.  repack: "on", "off", or "auto": when there is room for the weights a second time. */
ml_status ml_cli_load_weights(const char *path, const char *repack, ml_model **model, ml_error *err);
/* The same with its tokenizer.  ML_EINVAL when the tokenizer has more ids than the model. */
ml_status ml_cli_load_model(const char *path, const char *repack, ml_model **model, ml_tokenizer **tokenizer,
                            ml_error *err);

/* --kv-cache-type */
ml_dtype ml_cli_kv_dtype(const ml_options *o);

#endif
