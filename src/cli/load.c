#include "cli/load.h"

#include "base/memory.h"
#include "format/source.h"
#include "infer/ends.h"
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

ml_status ml_cli_load_model(const char *path, const char *repack, ml_cli_model *out, ml_error *err)
{
    char found[ML_PATH_MAX];
    *out = (ml_cli_model){ 0 };
    ML_TRY(ml_model_find(path, found, err)); /* once: a run may get a better checkpoint meanwhile */
    ml_status status = ml_cli_load_weights(found, repack, &out->model, err);
    if (status == ML_OK) status = open_beside(found, out, err);
    if (status != ML_OK) ml_cli_model_free(out);
    return status;
}

/* ---- adapters ---- */

/* "NAME=PATH", or a path alone: then its last name is its own. */
static ml_status split_adapter(const char *given, char **name, const char **path, ml_error *err)
{
    const char *equals = strchr(given, '='), *begin = given;
    size_t n = equals ? (size_t)(equals - given) : strlen(given);
    *path = equals ? equals + 1 : given;
    if (!equals) {
        while (n > 1 && given[n - 1] == '/') n--;
        for (size_t i = 0; i + 1 < n; i++) {
            if (given[i] == '/') begin = given + i + 1;
        }
        n -= (size_t)(begin - given);
    }
    if (n == 0 || (n == 4 && !memcmp(begin, "none", 4)) || !**path) {
        return ml_fail(err, ML_EINVAL, "--adapter %s: expected PATH or NAME=PATH, with another name than none", given);
    }
    *name = ml_calloc(n + 1, 1);
    if (!*name) return ml_fail_memory(err, n, "a name");
    memcpy(*name, begin, n);
    return ML_OK;
}

static ml_status add_adapter(ml_cli_model *m, const char *given, ml_error *err)
{
    char *name;
    const char *path;
    ML_TRY(split_adapter(given, &name, &path, err));
    m->adapter_name[m->n_adapter] = name;
    m->n_adapter++; /* its name is freed with the model whatever comes */
    for (size_t i = 0; i + 1 < m->n_adapter; i++) {
        if (strcmp(m->adapter_name[i], name)) continue;
        return ml_fail(err, ML_EINVAL, "--adapter: two are called %s: name one of them, as in NAME=%s", name, path);
    }
    return ml_adapter_open(path, m->model, &m->adapter[m->n_adapter - 1], err);
}

ml_status ml_cli_find_adapter(const ml_cli_model *m, const char *name, const ml_adapter **out, ml_error *err)
{
    char names[256] = "";
    *out = &ml_adapter_none;
    if (!strcmp(name, "none")) return ML_OK;
    for (size_t i = 0; i < m->n_adapter; i++) {
        *out = m->adapter[i];
        if (!strcmp(m->adapter_name[i], name)) return ML_OK;
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, ", %s", m->adapter_name[i]);
    }
    return ml_fail(err, ML_EINVAL, "there is no adapter \"%.80s\": expected one of none%s", name, names);
}

ml_status ml_cli_load_adapters(const ml_options *o, ml_cli_model *m, ml_error *err)
{
    const char *const *given, *use = ml_options_text(o, "use");
    const ml_adapter *chosen;
    size_t n = ml_options_list(o, "adapter", &given);
    m->adapter = ml_calloc(n + 1, sizeof *m->adapter);
    m->adapter_name = ml_calloc(n + 1, sizeof *m->adapter_name);
    if (!m->adapter || !m->adapter_name) return ml_fail_memory(err, n * sizeof *m->adapter, "adapters");
    for (size_t i = 0; i < n; i++) ML_TRY(add_adapter(m, given[i], err));
    m->model->adapter = n ? m->adapter[0] : NULL;
    if (!use) return ML_OK;
    ML_TRY(ml_cli_find_adapter(m, use, &chosen, err));
    m->model->adapter = chosen;
    return ML_OK;
}

void ml_cli_model_free(ml_cli_model *m)
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
    *m = (ml_cli_model){ 0 };
}

ml_dtype ml_cli_kv_dtype(const ml_options *o)
{
    ml_dtype dtype = ML_SESSION_KV;
    ml_dtype_parse(ml_options_text(o, "kv-cache-type"), &dtype); /* the option is one of the types */
    return dtype;
}
