#include "model/layout.h"
#include "model/place.h"
#include "model/place_internal.h"

#include <assert.h>
#include <string.h>

int64_t ml_weight_count(const ml_weight *w)
{
    return w->n_dim == 1 ? w->dim[0] : w->dim[0] * w->dim[1];
}

static ml_status allocate(ml_model *m, const ml_model_layout *n, bool trainable, ml_error *err)
{
    ML_TRY(ml_arena_init(&m->values, n->n_bytes, err));
    if (trainable) ML_TRY(ml_arena_init(&m->grads, n->n_bytes, err));
    m->layer = ml_calloc((size_t)m->config.num_hidden_layers, sizeof *m->layer);
    m->weight = ml_calloc(n->n_weight, sizeof *m->weight);
    m->part = ml_calloc(n->n_part, sizeof *m->part);
    /* The parameters' names lie behind their records. */
    m->param = ml_calloc(1, n->n_param * sizeof *m->param + n->name_bytes);
    m->inv_freq = ml_calloc((size_t)m->config.rotary_dim / 2, sizeof *m->inv_freq);
    if (!m->layer || !m->weight || !m->part || !m->param || !m->inv_freq) {
        return ml_fail_memory(err, n->n_weight * sizeof *m->weight, "a model's tables");
    }
    m->n_weight = n->n_weight;
    m->n_param = n->n_param;
    return ML_OK;
}

static ml_status place(ml_model *m, bool trainable, ml_error *err)
{
    ml_model_layout counted = { .m = m, .err = err };
    ml_model_walk(&counted);
    ML_TRY(counted.status);
    ML_TRY(allocate(m, &counted, trainable, err));
    ml_model_layout placed = { .m = m, .placing = true, .names = (char *)(m->param + counted.n_param), .err = err };
    ml_model_walk(&placed);
    ML_TRY(placed.status);
    assert(placed.n_bytes == counted.n_bytes && placed.n_weight == counted.n_weight);
    ml_model_make_rope(m);
    return ML_OK;
}

static ml_status make(const ml_config *config, ml_dtype dtype, bool trainable, ml_weight_source *source, ml_model **out,
                      ml_error *err)
{
    *out = NULL;
    ml_model *m = ml_calloc(1, sizeof *m);
    if (!m) return ml_fail_memory(err, sizeof *m, "a model");
    m->config = *config;
    m->dtype = dtype;
    m->source = source;
    ml_status status = place(m, trainable, err);
    if (status != ML_OK) {
        m->source = NULL; /* still the caller's */
        ml_model_free(m);
        return status;
    }
    *out = m;
    return ML_OK;
}

ml_status ml_model_make(const ml_config *config, ml_dtype dtype, bool trainable, ml_model **out, ml_error *err)
{
    assert(!trainable || dtype == ML_F32);
    return make(config, dtype, trainable, NULL, out, err);
}

ml_status ml_model_bind(const ml_config *config, ml_weight_source *source, ml_model **out, ml_error *err)
{
    return make(config, ML_F32, false, source, out, err);
}

ml_status ml_model_measure_bind(const ml_config *config, ml_weight_source *source, size_t *stored, size_t *copied,
                                ml_error *err)
{
    ml_model m = { .config = *config, .source = source };
    ml_model_layout counted = { .m = &m, .err = err };
    ml_model_walk(&counted);
    *stored = counted.stored_bytes;
    *copied = counted.n_bytes;
    return counted.status;
}

ml_status ml_model_measure_upload(const ml_config *config, ml_dtype dtype, ml_weight_source *source,
                                  ml_upload_sizes *out, ml_error *err)
{
    size_t n = (size_t)config->num_hidden_layers;
    *out = (ml_upload_sizes){ .n_layer = config->num_hidden_layers, .expert = ml_calloc(n, sizeof *out->expert) };
    if (!out->expert) return ml_fail_memory(err, n * sizeof *out->expert, "sizes of weights");
    ml_model m = { .config = *config, .dtype = dtype, .source = source };
    ml_model_layout counted = { .m = &m, .sizes = out, .err = err };
    ml_model_walk(&counted);
    if (counted.status != ML_OK) ml_upload_sizes_free(out);
    return counted.status;
}

ml_status ml_model_fill(ml_model *m, const ml_weight_source *source, ml_error *err)
{
    assert(!m->source && m->dtype == ML_F32);
    for (size_t i = 0; i < m->n_weight; i++) {
        ml_weight *w = &m->weight[i];
        ml_stored_weight s;
        ML_TRY(source->find(source, w->name, w->n_dim, w->dim, &s, err));
        ML_TRY(source->read_f32(source, &s, 0, w->dim[0], w->data, err));
    }
    return ML_OK;
}

void ml_model_free(ml_model *m)
{
    if (!m) return;
    ml_model_leave_place(m);
    if (m->uploaded) ml_device_release(m->device, m->uploaded);
    if (m->pinned) ml_device_release_pinned(m->device, m->pinned);
    ml_free(m->layer_here);
    ml_arena_free(&m->values);
    ml_arena_free(&m->grads);
    ml_arena_free(&m->panels);
    ml_free(m->layer);
    ml_free(m->weight);
    ml_free(m->part);
    ml_free(m->param);
    ml_free(m->inv_freq);
    if (m->source) m->source->free(m->source);
    if (m->owns_device) ml_device_close(m->device);
    ml_free(m);
}

void ml_model_zero_grads(ml_model *m)
{
    if (m->device)
        ml_place_zero_grads(m);
    else if (m->grads.base)
        memset(m->grads.base, 0, m->grads.capacity);
}

ml_weight *ml_model_find_weight(const ml_model *m, const char *name)
{
    for (size_t i = 0; i < m->n_weight; i++) {
        if (!strcmp(m->weight[i].name, name)) return &m->weight[i];
    }
    return NULL;
}
