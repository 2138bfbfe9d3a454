/* --model M: a model folder, or a run folder, of which the best checkpoint is meant. */
#ifndef ML_CLI_LOAD_H
#define ML_CLI_LOAD_H

#include "model/model.h"
#include "token/tokenizer.h"

/* Start zeroed. */
typedef struct {
    ml_model *model;
    ml_tokenizer *tokenizer;
    ml_ids ends; /* ids that end a text */
} ml_cli_model;

/* Open it for inference, with its tokenizer.  ML_EINVAL when the tokenizer has more ids than the model. */
ml_status ml_cli_load_model(const char *path, ml_cli_model *out, ml_error *err);
void ml_cli_model_free(ml_cli_model *m);

#endif
