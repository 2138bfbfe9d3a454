#include "cli/load.h"

#include "format/hf.h"
#include "format/run.h"

#include <string.h>

ml_status ml_cli_find_model(const char *path, char folder[ML_PATH_MAX], ml_error *err)
{
    char config[ML_PATH_MAX];
    ML_TRY(ml_path_join(config, path, "config.json", err));
    if (!ml_path_is_dir(path)) {
        return ml_fail(err, ML_EINVAL,
                       "%s: there is no such folder: expected a model folder (with config.json) or a run "
                       "folder",
                       path);
    }
    if (!ml_path_exists(config)) return ml_run_find(path, ML_RUN_BEST, folder, NULL, err);
    strcpy(folder, path);
    return ML_OK;
}

ml_status ml_cli_load_model(const char *path, ml_model **model, ml_tokenizer **tokenizer, ml_error *err)
{
    char folder[ML_PATH_MAX];
    ml_dtype dtype;
    *model = NULL;
    *tokenizer = NULL;
    ML_TRY(ml_cli_find_model(path, folder, err));
    ML_TRY(ml_hf_stored_dtype(folder, &dtype, err));
    ML_TRY(ml_hf_load(folder, dtype, false, model, err));
    ml_status status = ml_tokenizer_open(folder, tokenizer, err);
    int64_t vocab = (*model)->config.vocab_size;
    if (status == ML_OK && ml_tokenizer_vocab_size(*tokenizer) > vocab) {
        status =
            ml_fail(err, ML_EINVAL, "%s: the tokenizer has %d ids, the model only %lld: they do not belong together",
                    folder, ml_tokenizer_vocab_size(*tokenizer), (long long)vocab);
    }
    if (status != ML_OK) {
        ml_model_free(*model);
        ml_tokenizer_free(*tokenizer);
        *model = NULL;
        *tokenizer = NULL;
    }
    return status;
}
