#include "cli/load.h"

#include "infer/session.h"

ml_memory_budget ml_cli_budget(const ml_options *o)
{
    return (ml_memory_budget){ .available = (int64_t)(ml_options_real(o, "memory") * 1e9),
                               .kv_dtype = ml_cli_kv_dtype(o),
                               .stream = ml_options_flag(o, "stream") };
}

ml_dtype ml_cli_kv_dtype(const ml_options *o)
{
    ml_dtype dtype = ML_SESSION_KV;
    ml_dtype_parse(ml_options_text(o, "kv-cache-type"), &dtype); /* the option is one of the types */
    return dtype;
}
