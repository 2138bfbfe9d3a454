#include "cli/load.h"

#include "infer/ends.h"
#include "infer/open.h"

#include <string.h>

static ml_status check_sizes(const char *folder, const ml_cli_model *m, ml_error *err)
{
    int64_t vocab = m->model->config.vocab_size;
    if (ml_tokenizer_vocab_size(m->tokenizer) <= vocab) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: the tokenizer has %d ids, the model only %lld: they do not belong together",
                   folder, ml_tokenizer_vocab_size(m->tokenizer), (long long)vocab);
}

ml_status ml_cli_load_model(const char *path, ml_cli_model *out, ml_error *err)
{
    char folder[ML_PATH_MAX];
    *out = (ml_cli_model){ 0 };
    ML_TRY(ml_model_find(path, folder, err)); /* once: a run may get a better checkpoint meanwhile */
    ml_status status = ml_model_open(folder, &out->model, err);
    if (status == ML_OK) status = ml_tokenizer_open(folder, &out->tokenizer, err);
    if (status == ML_OK) status = check_sizes(folder, out, err);
    if (status == ML_OK) status = ml_model_ends(folder, &out->model->config, out->tokenizer, &out->ends, err);
    if (status != ML_OK) ml_cli_model_free(out);
    return status;
}

void ml_cli_model_free(ml_cli_model *m)
{
    ml_model_free(m->model);
    ml_tokenizer_free(m->tokenizer);
    ml_ids_free(&m->ends);
    *m = (ml_cli_model){ 0 };
}
