#include "cli/load.h"

#include "base/memory.h"
#include "format/gguf_tokenizer.h"
#include "format/source.h"
#include "infer/open.h"
#include "infer/session.h"

#include <string.h>

/* What the cache, the activations and other programs may want beside the weights. */
static const int64_t MARGIN_BYTES = (int64_t)2 << 30;

ml_status ml_cli_load_weights(const char *path, const char *repack, ml_model **model, ml_error *err)
{
    ML_TRY(ml_model_open(path, model, err));
    if (!strcmp(repack, "off")) return ML_OK;
    /* The file's own pages are given back while its weights are repacked, so they count as available. */
    bool fits = (int64_t)ml_model_repack_bytes(*model) < ml_memory_available() - MARGIN_BYTES;
    if (!strcmp(repack, "auto") && !fits) return ML_OK;
    ml_status status = ml_model_repack(*model, err);
    if (status == ML_OK) return ML_OK;
    ml_model_free(*model);
    *model = NULL;
    return status;
}

/* The tokenizer that goes with a model: inside a GGUF file, in the folder of any other. */
static ml_status open_tokenizer(const char *model, ml_tokenizer **tokenizer, ml_error *err)
{
    char folder[ML_PATH_MAX];
    if (ml_weight_source_kind(model) == ML_SOURCE_GGUF) return ml_gguf_tokenizer_open(model, tokenizer, err);
    if (ml_path_is_dir(model)) return ml_tokenizer_open(model, tokenizer, err);
    ML_TRY(ml_path_parent(folder, model, err));
    return ml_tokenizer_open(folder, tokenizer, err);
}

ml_status ml_cli_load_model(const char *path, const char *repack, ml_model **model, ml_tokenizer **tokenizer,
                            ml_error *err)
{
    char found[ML_PATH_MAX];
    *model = NULL;
    *tokenizer = NULL;
    ML_TRY(ml_model_find(path, found, err)); /* once: a run may get a better checkpoint meanwhile */
    ML_TRY(ml_cli_load_weights(found, repack, model, err));
    ml_status status = open_tokenizer(found, tokenizer, err);
    int64_t vocab = (*model)->config.vocab_size;
    if (status == ML_OK && ml_tokenizer_vocab_size(*tokenizer) > vocab) {
        status =
            ml_fail(err, ML_EINVAL, "%s: the tokenizer has %d ids, the model only %lld: they do not belong together",
                    found, ml_tokenizer_vocab_size(*tokenizer), (long long)vocab);
    }
    if (status != ML_OK) {
        ml_model_free(*model);
        ml_tokenizer_free(*tokenizer);
        *model = NULL;
        *tokenizer = NULL;
    }
    return status;
}

ml_dtype ml_cli_kv_dtype(const ml_options *o)
{
    ml_dtype dtype = ML_SESSION_KV;
    ml_dtype_parse(ml_options_text(o, "kv-cache-type"), &dtype); /* the option is one of the types */
    return dtype;
}
