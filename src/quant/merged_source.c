#include "quant/merged_source.h"

#include "base/alloc.h"
#include "format/find.h"
#include "format/source.h"

#include <string.h>

/* One matrix that changes. */
typedef struct {
    char name[ML_WEIGHT_NAME_MAX];
    const ml_adapter_term *term;
    int64_t matrix;
} merged;

typedef struct {
    ml_weight_source base;
    ml_weight_source *inner;
    ml_model *model; /* bound to a source of its own */
    ml_adapter *adapter;
    merged *item; /* [n] */
    size_t n;
} merged_source;

static const merged *find_item(const merged_source *s, const char *name)
{
    for (size_t i = 0; i < s->n; i++) {
        if (!strcmp(s->item[i].name, name)) return &s->item[i];
    }
    return NULL;
}

static bool has(const ml_weight_source *source, const char *name)
{
    const merged_source *s = (const merged_source *)source;
    return s->inner->has(s->inner, name);
}

static ml_status find(const ml_weight_source *source, const char *name, int n_dim, const int64_t *dim,
                      ml_stored_weight *out, ml_error *err)
{
    const merged_source *s = (const merged_source *)source;
    ML_TRY(s->inner->find(s->inner, name, n_dim, dim, out, err));
    const merged *item = find_item(s, name);
    if (!item) return ML_OK;
    out->data = NULL;
    out->entry = item;
    out->first = 0;
    return ML_OK;
}

static ml_status read_f32(const ml_weight_source *source, const ml_stored_weight *w, int64_t row, int64_t n_row,
                          float *out, ml_error *err)
{
    const merged_source *s = (const merged_source *)source;
    for (size_t i = 0; i < s->n; i++) {
        if (w->entry != &s->item[i]) continue;
        return ml_adapter_read_merged(s->adapter, s->item[i].term, s->item[i].matrix, row, n_row, out, err);
    }
    return s->inner->read_f32(s->inner, w, row, n_row, out, err);
}

static void drop(const ml_weight_source *source, const void *data, size_t n_bytes)
{
    const merged_source *s = (const merged_source *)source;
    if (s->inner->drop) s->inner->drop(s->inner, data, n_bytes);
}

static void free_merged(ml_weight_source *source)
{
    merged_source *s = (merged_source *)source;
    if (!s) return;
    if (s->inner) s->inner->free(s->inner);
    ml_adapter_free(s->adapter);
    ml_model_free(s->model);
    ml_free(s->item);
    ml_free(s);
}

static ml_status add_items(merged_source *s, ml_error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < s->adapter->n_term; i++) n += (size_t)s->adapter->term[i].module.n_matrix;
    s->item = ml_calloc(n + 1, sizeof *s->item);
    if (!s->item) return ml_fail_memory(err, n * sizeof *s->item, "names of weights");
    for (size_t i = 0; i < s->adapter->n_term; i++) {
        const ml_adapter_term *t = &s->adapter->term[i];
        for (int64_t e = 0; e < t->module.n_matrix; e++) {
            merged *item = &s->item[s->n++];
            *item = (merged){ .term = t, .matrix = e };
            ml_adapter_name_weight(&t->module, e, item->name);
        }
    }
    return ML_OK;
}

static ml_status open_adapter(merged_source *s, const char *from, const char *adapter, ml_error *err)
{
    ml_config config;
    ml_weight_source *source;
    ML_TRY(ml_weight_source_open(from, &config, &source, err));
    ml_status status = ml_model_bind(&config, source, &s->model, err);
    if (status != ML_OK) {
        source->free(source);
        return status;
    }
    ML_TRY(ml_adapter_open(adapter, s->model, &s->adapter, err));
    return add_items(s, err);
}

ml_status ml_merged_source_make(ml_weight_source *inner, const char *from, const char *adapter, ml_weight_source **out,
                                ml_error *err)
{
    *out = NULL;
    merged_source *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "a merged model");
    s->base = (ml_weight_source){
        .where = inner->where, .has = has, .find = find, .read_f32 = read_f32, .drop = drop, .free = free_merged
    };
    ml_status status = open_adapter(s, from, adapter, err);
    if (status != ML_OK) {
        free_merged(&s->base);
        return status;
    }
    s->inner = inner;
    *out = &s->base;
    return ML_OK;
}
