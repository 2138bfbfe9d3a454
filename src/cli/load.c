#include "cli/load.h"

#include "base/memory.h"
#include "format/source.h"
#include "infer/ends.h"
#include "infer/session.h"

#include <string.h>

/* What the cache, the activations and other programs may want beside the weights. */
static const int64_t MARGIN_BYTES = (int64_t)2 << 30;

ml_memory_budget ml_cli_budget(const ml_options *o)
{
    return (ml_memory_budget){ .available = (int64_t)(ml_options_real(o, "memory") * 1e9),
                               .kv_dtype = ml_cli_kv_dtype(o),
                               .stream = ml_options_flag(o, "stream") };
}

static const ml_memory_budget usual_budget = { .kv_dtype = ML_SESSION_KV };

/* The file's own pages are given back while its weights are repacked, so they count as available. */
static bool has_room_to_repack(const ml_model *m, const ml_memory_budget *b)
{
    int64_t available = ml_memory_available(), need = (int64_t)ml_model_repack_bytes(m) + MARGIN_BYTES;
    if (b->available && b->available < available) available = b->available;
    return need < available;
}

ml_status ml_cli_load_weights_within(const char *path, const char *repack, const ml_memory_budget *budget,
                                     ml_model **model, ml_error *err)
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

ml_status ml_cli_load_weights(const char *path, const char *repack, ml_model **model, ml_error *err)
{
    return ml_cli_load_weights_within(path, repack, &usual_budget, model, err);
}

static ml_status check_sizes(const char *found, const ml_cli_model *m, ml_error *err)
{
    int64_t vocab = m->model->config.vocab_size;
    if (ml_tokenizer_vocab_size(m->tokenizer) <= vocab) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: the tokenizer has %d ids, the model only %lld: they do not belong together",
                   found, ml_tokenizer_vocab_size(m->tokenizer), (long long)vocab);
}

/* The tokenizer and the ends that go with a model: inside a GGUF file, in the folder of any other. */
static ml_status open_beside(const char *found, ml_cli_model *m, ml_error *err)
{
    char folder[ML_PATH_MAX];
    bool inside = ml_path_is_dir(found) || ml_weight_source_kind(found) == ML_SOURCE_GGUF;
    if (!inside) ML_TRY(ml_path_parent(folder, found, err));
    const char *where = inside ? found : folder;
    ML_TRY(ml_tokenizer_open(where, &m->tokenizer, err));
    ML_TRY(check_sizes(found, m, err));
    return ml_model_ends(where, &m->model->config, m->tokenizer, &m->ends, err);
}

ml_status ml_cli_load_model_within(const char *path, const char *repack, const ml_memory_budget *budget,
                                   ml_cli_model *out, ml_error *err)
{
    char found[ML_PATH_MAX];
    *out = (ml_cli_model){ 0 };
    ML_TRY(ml_model_find(path, found, err)); /* once: a run may get a better checkpoint meanwhile */
    ml_status status = ml_cli_load_weights_within(found, repack, budget, &out->model, err);
    if (status == ML_OK) status = open_beside(found, out, err);
    if (status != ML_OK) ml_cli_model_free(out);
    return status;
}

ml_status ml_cli_load_model(const char *path, const char *repack, ml_cli_model *out, ml_error *err)
{
    return ml_cli_load_model_within(path, repack, &usual_budget, out, err);
}

void ml_cli_model_free(ml_cli_model *m)
{
    ml_model_free(m->model);
    ml_tokenizer_free(m->tokenizer);
    ml_ids_free(&m->ends);
    *m = (ml_cli_model){ 0 };
}

ml_dtype ml_cli_kv_dtype(const ml_options *o)
{
    ml_dtype dtype = ML_SESSION_KV;
    ml_dtype_parse(ml_options_text(o, "kv-cache-type"), &dtype); /* the option is one of the types */
    return dtype;
}
