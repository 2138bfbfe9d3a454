#include "cli/load.h"

#include "infer/session.h"

ml_status ml_cli_load_weights(const char *path, const char *repack, ml_model **model, ml_error *err)
{
    return ml_loaded_open_weights(path, repack, model, err);
}

ml_status ml_cli_load_model(const char *path, const char *repack, ml_cli_model *out, ml_error *err)
{
    return ml_loaded_open(path, repack, out, err);
}

void ml_cli_model_free(ml_cli_model *m)
{
    ml_loaded_free(m);
}

ml_dtype ml_cli_kv_dtype(const ml_options *o)
{
    ml_dtype dtype = ML_SESSION_KV;
    ml_dtype_parse(ml_options_text(o, "kv-cache-type"), &dtype); /* the option is one of the types */
    return dtype;
}
