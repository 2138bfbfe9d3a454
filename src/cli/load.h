/* What the options of memory, cache and adapters say. */
#ifndef ML_CLI_LOAD_H
#define ML_CLI_LOAD_H

#include "base/options.h"
#include "infer/loaded.h"

/* --memory, --stream, --device and --kv-cache-type */
ml_memory_budget ml_cli_budget(const ml_options *o);
/* With those of --adapter. */
ml_memory_budget ml_cli_budget_with_adapters(const ml_options *o);
/* Say of a model just opened what is odd about its files; where it computes, when that was asked or is a GPU; how its
 * weights lie, when that was asked (--repack) or they are large. */
void ml_cli_say_opened(const ml_options *o, const ml_model *m);

/* --kv-cache-type */
ml_dtype ml_cli_kv_dtype(const ml_options *o);

/* --adapter [NAME=]PATH, loaded side by side, and --use: which of them the model has from now on. */
ml_status ml_cli_load_adapters(const ml_options *o, ml_loaded *m, ml_error *err);
/* The adapter of that name; "none": &ml_adapter_none.  ML_EINVAL lists the loaded ones. */
ml_status ml_cli_find_adapter(const ml_loaded *m, const char *name, const ml_adapter **out, ml_error *err);

#endif
