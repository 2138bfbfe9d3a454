#include "cli/load.h"

#include "infer/open.h"

#include <string.h>

ml_status ml_cli_load_model(const char *path, ml_model **model, ml_tokenizer **tokenizer, ml_error *err)
{
    char folder[ML_PATH_MAX];
    *model = NULL;
    *tokenizer = NULL;
    ML_TRY(ml_model_find(path, folder, err)); /* once: a run may get a better checkpoint meanwhile */
    ML_TRY(ml_model_open(folder, model, err));
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
