#include "infer/loaded.h"

#include "base/alloc.h"
#include "base/memory.h"
#include "format/source.h"
#include "format/ends.h"

#include <string.h>

/* What the cache, the activations and other programs may want beside the weights. */
static const int64_t MARGIN_BYTES = (int64_t)2 << 30;

/* The file's own pages are given back while its weights are repacked, so they count as available. */
static bool has_room_to_repack(const ml_model *m, const ml_memory_budget *b)
{
    int64_t available = ml_memory_available(), need = (int64_t)ml_model_repack_bytes(m) + MARGIN_BYTES;
    if (b->available && b->available < available) available = b->available;
    return need < available;
}

ml_status ml_loaded_open_weights(const char *path, const char *repack, const ml_memory_budget *budget, ml_model **model,
                                 ml_error *err)
{
    ML_TRY(ml_model_open_within(path, budget, model, err));
    if (!strcmp(repack, "off")) return ML_OK;
    if (!strcmp(repack, "auto") && !has_room_to_repack(*model, budget)) return ML_OK;
    ml_status status = ml_model_repack(*model, err);
    if (status == ML_OK) return ML_OK;
    ml_model_free(*model);
    *model = NULL;
    return status;
}

static ml_status check_sizes(const char *found, const ml_loaded *m, ml_error *err)
{
    int64_t vocab = m->model->config.vocab_size;
    if (ml_tokenizer_vocab_size(m->tokenizer) <= vocab) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: the tokenizer has %d ids, the model only %lld: they do not belong together",
                   found, ml_tokenizer_vocab_size(m->tokenizer), (long long)vocab);
}

/* The tokenizer and the ends that go with a model: inside a GGUF file, in the folder of any other. */
static ml_status open_beside(const char *found, ml_loaded *m, ml_error *err)
{
    char folder[ML_PATH_MAX];
    bool inside = ml_path_is_dir(found) || ml_weight_source_kind(found) == ML_SOURCE_GGUF;
    if (!inside) ML_TRY(ml_path_parent(folder, found, err));
    const char *where = inside ? found : folder;
    ML_TRY(ml_tokenizer_open(where, &m->tokenizer, err));
    ML_TRY(check_sizes(found, m, err));
    return ml_model_ends(where, &m->model->config, m->tokenizer, &m->ends, err);
}

ml_status ml_loaded_open(const char *path, const char *repack, const ml_memory_budget *budget, ml_loaded *out,
                         ml_error *err)
{
    char found[ML_PATH_MAX];
    *out = (ml_loaded){ 0 };
    ML_TRY(ml_model_find(path, found, err)); /* once: a run may get a better checkpoint meanwhile */
    ml_status status = ml_loaded_open_weights(found, repack, budget, &out->model, err);
    if (status == ML_OK) status = open_beside(found, out, err);
    if (status != ML_OK) ml_loaded_free(out);
    return status;
}

void ml_loaded_free(ml_loaded *m)
{
    for (size_t i = 0; i < m->n_adapter; i++) {
        ml_adapter_free(m->adapter[i]);
        ml_free(m->adapter_name[i]);
    }
    ml_free(m->adapter);
    ml_free(m->adapter_name);
    ml_model_free(m->model);
    ml_tokenizer_free(m->tokenizer);
    ml_ids_free(&m->ends);
    *m = (ml_loaded){ 0 };
}
