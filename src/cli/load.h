/* --model M and --kv-cache-type: what they name. */
#ifndef ML_CLI_LOAD_H
#define ML_CLI_LOAD_H

#include "base/options.h"
#include "infer/loaded.h"

typedef ml_loaded ml_cli_model;

/* ml_loaded_open_weights, ml_loaded_open, ml_loaded_free */
ml_status ml_cli_load_weights(const char *path, const char *repack, ml_model **model, ml_error *err);
ml_status ml_cli_load_model(const char *path, const char *repack, ml_cli_model *out, ml_error *err);
void ml_cli_model_free(ml_cli_model *m);

/* --kv-cache-type */
ml_dtype ml_cli_kv_dtype(const ml_options *o);

#endif
