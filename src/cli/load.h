/* --model M: what it names, ready for inference. */
#ifndef ML_CLI_LOAD_H
#define ML_CLI_LOAD_H

#include "base/options.h"
#include "infer/open.h"
#include "model/model.h"
#include "token/tokenizer.h"

/* Start zeroed. */
typedef struct {
    ml_model *model;
    ml_tokenizer *tokenizer;
    ml_ids ends; /* ids that end a text */
} ml_cli_model;

/* Open the weights of a model folder, a file, or a run folder (its best checkpoint).  repack: "on", "off", or "auto":
 * when there is room for the weights a second time. */
ml_status ml_cli_load_weights(const char *path, const char *repack, ml_model **model, ml_error *err);
/* The same with its tokenizer.  ML_EINVAL when the tokenizer has more ids than the model. */
ml_status ml_cli_load_model(const char *path, const char *repack, ml_cli_model *out, ml_error *err);
void ml_cli_model_free(ml_cli_model *m);

/* Both within another budget of memory than the usual one. */
ml_status ml_cli_load_weights_within(const char *path, const char *repack, const ml_memory_budget *budget,
                                     ml_model **model, ml_error *err);
ml_status ml_cli_load_model_within(const char *path, const char *repack, const ml_memory_budget *budget,
                                   ml_cli_model *out, ml_error *err);
/* --memory, --stream and --kv-cache-type */
ml_memory_budget ml_cli_budget(const ml_options *o);

/* --kv-cache-type */
ml_dtype ml_cli_kv_dtype(const ml_options *o);

#endif
