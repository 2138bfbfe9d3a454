/* moonlight merge --model M --adapter A DST: a model with an adapter's terms in its weights. */
#include "cli/convert.h"

static ml_status merge(const ml_options *o, ml_error *err)
{
    const char *model;
    const char *const *adapter;
    ML_TRY(ml_cli_require(o, "model", &model, err));
    size_t n = ml_options_list(o, "adapter", &adapter);
    if (n != 1) return ml_fail(err, ML_EINVAL, "--adapter: expected one adapter to merge, found %zu", n);
    return ml_cli_convert_model(o, model, adapter[0], ml_options_positional(o, 0), err);
}

ml_status ml_cli_merge(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("merge", NULL, argc, argv, 1, 1, "a folder or GGUF file to write", &o, err));
    ml_status status = merge(o, err);
    ml_options_free(o);
    return status;
}
