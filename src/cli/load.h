/* --model M: what it names, ready for inference. */
#ifndef ML_CLI_LOAD_H
#define ML_CLI_LOAD_H

#include "base/options.h"
#include "model/adapter.h"
#include "token/tokenizer.h"

/* Start zeroed. */
typedef struct {
    ml_model *model;
    ml_tokenizer *tokenizer;
    ml_ids ends;          /* ids that end a text */
    ml_adapter **adapter; /* [n_adapter] of --adapter */
    char **adapter_name;
    size_t n_adapter;
} ml_cli_model;

/* Open the weights of a model folder, a file, or a run folder (its best checkpoint).  repack: "on", "off", or "auto":
 * when there is room for the weights a second time. */
ml_status ml_cli_load_weights(const char *path, const char *repack, ml_model **model, ml_error *err);
/* The same with its tokenizer.  ML_EINVAL when the tokenizer has more ids than the model. */
ml_status ml_cli_load_model(const char *path, const char *repack, ml_cli_model *out, ml_error *err);
/* --adapter [NAME=]PATH, loaded side by side, and --use: which of them the model has from now on. */
ml_status ml_cli_load_adapters(const ml_options *o, ml_cli_model *m, ml_error *err);
/* The adapter of that name; "none": &ml_adapter_none.  ML_EINVAL lists the loaded ones. */
ml_status ml_cli_find_adapter(const ml_cli_model *m, const char *name, const ml_adapter **out, ml_error *err);
void ml_cli_model_free(ml_cli_model *m);

/* --kv-cache-type */
ml_dtype ml_cli_kv_dtype(const ml_options *o);

#endif
