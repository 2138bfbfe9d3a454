/* --model M: a model folder, or a run folder, of which the best checkpoint is meant. */
#ifndef ML_CLI_LOAD_H
#define ML_CLI_LOAD_H

#include "base/file.h"
#include "model/model.h"
#include "token/tokenizer.h"

/* The model folder that `path` means. */
ml_status ml_cli_find_model(const char *path, char folder[ML_PATH_MAX], ml_error *err);
/* Open it for inference, with its tokenizer.  ML_EINVAL when the tokenizer has more ids than the model. */
ml_status ml_cli_load_model(const char *path, ml_model **model, ml_tokenizer **tokenizer, ml_error *err);

#endif
