/* What verbs with --model share (infer/loaded.h), under the names that they use. */
#ifndef ML_CLI_LOAD_H
#define ML_CLI_LOAD_H

#include "base/options.h"
#include "infer/loaded.h"

typedef ml_loaded ml_cli_model;
#define ml_cli_load_weights ml_loaded_open_weights
#define ml_cli_load_weights_within ml_loaded_open_weights_within
#define ml_cli_load_model ml_loaded_open
#define ml_cli_load_model_within ml_loaded_open_within
#define ml_cli_model_free ml_loaded_free

/* --memory, --stream and --kv-cache-type */
ml_memory_budget ml_cli_budget(const ml_options *o);
/* --kv-cache-type */
ml_dtype ml_cli_kv_dtype(const ml_options *o);

#endif
