/* A model's weights on a device, as they are: one allocation, every tensor (or run of parts of one type) at a multiple
 * of 256 bytes, so that rows that divide by 16 bytes begin at such multiples too. */
#include "model/model.h"

#include <string.h>

enum { N_LAYER_TENSOR = sizeof(ml_layer) / sizeof(ml_tensor), ALIGN = 256 };
_Static_assert(sizeof(ml_layer) == N_LAYER_TENSOR * sizeof(ml_tensor), "a layer is tensors and nothing else");

typedef struct {
    ml_model *m;
    ml_device *device; /* NULL: only counting */
    size_t n_bytes;
    ml_error *err;
} upload;

static size_t bytes_of(const ml_tensor *t)
{
    return (size_t)t->dim[0] * ml_dtype_row_bytes(t->dtype, ml_tensor_row_count(t));
}

/* n_bytes from here to the next place. */
static ml_status copy(upload *u, const void *from, size_t n_bytes, void **to)
{
    const ml_weight_source *source = u->m->source;
    *to = (char *)u->m->uploaded + u->n_bytes;
    u->n_bytes += n_bytes;
    if (!u->device) return ML_OK;
    ML_TRY(ml_device_upload(u->device, *to, from, n_bytes, u->err));
    const char *values = u->m->values.base, *at = from;
    bool is_stored = source && !(at >= values && at < values + u->m->values.capacity);
    if (is_stored && source->drop) source->drop(source, from, n_bytes);
    return ML_OK;
}

static void align(upload *u)
{
    u->n_bytes = (u->n_bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

/* Whole rows, perhaps strided (experts whose gate and up alternate). */
static ml_status copy_tensor(upload *u, ml_tensor *t, void **to)
{
    size_t row = ml_dtype_row_bytes(t->dtype, ml_tensor_row_count(t)), stride = ml_dtype_row_bytes(t->dtype, t->stride);
    *to = (char *)u->m->uploaded + u->n_bytes;
    if (ml_tensor_is_contiguous(t)) return copy(u, t->data, bytes_of(t), to);
    for (int64_t i = 0; i < t->dim[0]; i++) {
        void *ignored;
        ML_TRY(copy(u, (const char *)t->data + (size_t)i * stride, row, &ignored));
    }
    return ML_OK;
}

static bool have_one_type(const ml_tensor *t)
{
    for (int64_t i = 1; i < t->n_part; i++) {
        if (t->part[i].dtype != t->part[0].dtype) return false;
    }
    return true;
}

static ml_status upload_parts(upload *u, ml_tensor *t)
{
    bool one = have_one_type(t);
    for (int64_t i = 0; i < t->n_part; i++) {
        ml_tensor *part = (ml_tensor *)(uintptr_t)&t->part[i];
        void *to;
        if (!one) align(u);
        ML_TRY(copy_tensor(u, part, &to));
        if (!u->device) continue;
        part->data = to;
        part->device = u->device;
    }
    if (!u->device) return ML_OK;
    t->data = t->part[0].data;
    t->device = u->device;
    if (!one) return ML_OK;
    t->part = NULL;
    t->n_part = 0;
    t->stride = ml_tensor_row_count(t);
    return ML_OK;
}

static ml_status upload_tensor(upload *u, ml_tensor *t)
{
    if (!t->data) return ML_OK;
    align(u);
    if (t->part) return upload_parts(u, t);
    void *to;
    ML_TRY(copy_tensor(u, t, &to));
    if (!u->device) return ML_OK;
    t->stride = ml_tensor_row_count(t);
    t->data = to;
    t->device = u->device;
    return ML_OK;
}

static ml_status walk(upload *u)
{
    ml_model *m = u->m;
    bool tied = m->head.data == m->embed.data;
    ml_tensor *ends[] = { &m->embed, &m->final_norm, &m->head_bias, &m->head };
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        if (ends[i] == &m->head && tied) continue;
        ML_TRY(upload_tensor(u, ends[i]));
    }
    if (tied && u->device) m->head = m->embed;
    for (int64_t i = 0; i < m->config.num_hidden_layers; i++) {
        ml_tensor *t = (ml_tensor *)(void *)&m->layer[i];
        for (int j = 0; j < N_LAYER_TENSOR; j++) ML_TRY(upload_tensor(u, &t[j]));
    }
    return ML_OK;
}

size_t ml_model_upload_bytes(const ml_model *m)
{
    ml_error ignored;
    upload u = { .m = (ml_model *)(uintptr_t)m, .err = &ignored };
    (void)walk(&u); /* counting cannot fail */
    return u.n_bytes;
}

static ml_status check(const ml_model *m, ml_error *err)
{
    if (m->device) return ml_fail(err, ML_EINVAL, "the model's weights are on a device already");
    if (m->panels.base) {
        return ml_fail(err, ML_EINVAL, "the weights are repacked for the processor: open them with --repack off");
    }
    if (m->grads.base) return ml_fail(err, ML_EINVAL, "a model that is being trained: its weights are not only read");
    return ML_OK;
}

ml_status ml_model_upload(ml_model *m, ml_device *device, ml_error *err)
{
    ML_TRY(check(m, err));
    size_t n_layer = (size_t)m->config.num_hidden_layers;
    m->layer_here = ml_calloc(n_layer, sizeof *m->layer_here);
    if (!m->layer_here) return ml_fail_memory(err, n_layer * sizeof *m->layer_here, "a model's tables");
    memcpy(m->layer_here, m->layer, n_layer * sizeof *m->layer_here);
    ML_TRY(ml_device_alloc(device, ml_model_upload_bytes(m), "the model's weights", &m->uploaded, err));
    m->device = device;
    upload u = { .m = m, .device = device, .err = err };
    ML_TRY(walk(&u));
    return ml_device_wait(device, err);
}

static size_t as_f32(const ml_tensor *t)
{
    return t->data && (t->dtype != ML_F32 || t->part) ? (size_t)ml_tensor_count(t) * sizeof(float) : 0;
}

size_t ml_model_widest_bytes(const ml_model *m)
{
    size_t most = as_f32(&m->head);
    for (int64_t i = 0; i < m->config.num_hidden_layers; i++) {
        const ml_layer *y = &m->layer[i];
        size_t all[] = {
            as_f32(&y->attn_in),  as_f32(&y->q_b),
            as_f32(&y->attn_out), as_f32(&y->gate_up),
            as_f32(&y->down),     as_f32(&y->expert_gate) + as_f32(&y->expert_up) + as_f32(&y->expert_down)
        };
        for (size_t j = 0; j < sizeof all / sizeof all[0]; j++) most = all[j] > most ? all[j] : most;
    }
    return most;
}
