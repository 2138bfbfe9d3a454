/* What the options of memory and cache say. */
#ifndef ML_CLI_LOAD_H
#define ML_CLI_LOAD_H

#include "base/options.h"
#include "infer/loaded.h"

/* --memory, --stream and --kv-cache-type */
ml_memory_budget ml_cli_budget(const ml_options *o);

/* --kv-cache-type */
ml_dtype ml_cli_kv_dtype(const ml_options *o);

#endif
