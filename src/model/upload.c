/* A model's weights on a device, as they are: one allocation, every tensor (or run of parts of one type) at a multiple
 * of 256 bytes, so that rows that divide by 16 bytes begin at such multiples too.  Experts that find no room lie in
 * another one, pinned here, and look to kernels as the others do. */
#include "model/model.h"

#include <string.h>

enum { N_LAYER_TENSOR = sizeof(ml_layer) / sizeof(ml_tensor), ALIGN = ML_UPLOAD_ALIGN };
_Static_assert(sizeof(ml_layer) == N_LAYER_TENSOR * sizeof(ml_tensor), "a layer is tensors and nothing else");

typedef struct {
    char *base;
    size_t n_bytes;
    bool here;
} place;

typedef struct {
    ml_model *m;
    ml_device *device; /* NULL: only counting */
    place there, pinned;
    place *to;        /* one of these */
    int64_t n_pinned; /* layers whose experts stay here */
    size_t expert_bytes;
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
    *to = u->to->base + u->to->n_bytes;
    u->to->n_bytes += n_bytes;
    if (!u->device) return ML_OK;
    if (u->to->here) {
        memcpy(*to, from, n_bytes);
    } else {
        ML_TRY(ml_device_upload(u->device, *to, from, n_bytes, u->err));
    }
    const char *values = u->m->values.base, *at = from;
    bool is_stored = source && !(at >= values && at < values + u->m->values.capacity);
    if (is_stored && source->drop) source->drop(source, from, n_bytes);
    return ML_OK;
}

static void align(upload *u)
{
    u->to->n_bytes = (u->to->n_bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

/* Whole rows, perhaps strided (experts whose gate and up alternate). */
static ml_status copy_tensor(upload *u, ml_tensor *t, void **to)
{
    size_t row = ml_dtype_row_bytes(t->dtype, ml_tensor_row_count(t)), stride = ml_dtype_row_bytes(t->dtype, t->stride);
    *to = u->to->base + u->to->n_bytes;
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

static ml_status upload_layer(upload *u, int64_t layer_id)
{
    ml_model *m = u->m;
    ml_layer *y = &m->layer[layer_id];
    ml_tensor *t = (ml_tensor *)(void *)y, *expert[] = { &y->expert_gate, &y->expert_up, &y->expert_down };
    for (int j = 0; j < N_LAYER_TENSOR; j++) {
        bool is_expert = &t[j] == expert[0] || &t[j] == expert[1] || &t[j] == expert[2];
        u->to = is_expert && layer_id >= m->config.num_hidden_layers - u->n_pinned ? &u->pinned : &u->there;
        size_t before = u->to->n_bytes;
        ML_TRY(upload_tensor(u, &t[j]));
        if (is_expert) u->expert_bytes += u->to->n_bytes - before;
    }
    u->to = &u->there;
    return ML_OK;
}

static ml_status walk(upload *u)
{
    u->to = &u->there;
    ml_model *m = u->m;
    bool tied = m->head.data == m->embed.data;
    ml_tensor *ends[] = { &m->embed, &m->final_norm, &m->head_bias, &m->head };
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        if (ends[i] == &m->head && tied) continue;
        ML_TRY(upload_tensor(u, ends[i]));
    }
    if (tied && u->device) m->head = m->embed;
    for (int64_t i = 0; i < m->config.num_hidden_layers; i++) ML_TRY(upload_layer(u, i));
    return ML_OK;
}

/* With the experts of the last n_pinned layers here.  Counting cannot fail. */
static upload count(const ml_model *m, int64_t n_pinned)
{
    upload u = { .m = (ml_model *)(uintptr_t)m, .pinned.here = true, .n_pinned = n_pinned };
    (void)walk(&u);
    return u;
}

size_t ml_model_upload_bytes(const ml_model *m, size_t *experts)
{
    upload u = count(m, 0);
    *experts = u.expert_bytes;
    return u.there.n_bytes;
}

void ml_upload_sizes_free(ml_upload_sizes *sizes)
{
    ml_free(sizes->expert);
    sizes->expert = NULL;
}

int64_t ml_upload_divide(const ml_upload_sizes *sizes, int64_t most_bytes, int64_t *there, int64_t *elsewhere)
{
    int64_t n = 0, out = 0, in = sizes->rest;
    for (int64_t i = 0; i < sizes->n_layer; i++) in += sizes->expert[i];
    for (; most_bytes > 0 && in > most_bytes && n < sizes->n_layer; n++) {
        int64_t bytes = sizes->expert[sizes->n_layer - 1 - n];
        in -= bytes;
        out += bytes;
    }
    *there = in;
    *elsewhere = out;
    return most_bytes > 0 && in > most_bytes ? -1 : n;
}

static ml_status divide(ml_model *m, int64_t most_bytes, ml_error *err)
{
    ml_upload_sizes sizes;
    int64_t there, elsewhere;
    ML_TRY(ml_model_measure_upload(&m->config, m->dtype, m->source, &sizes, err));
    m->n_layer_pinned = ml_upload_divide(&sizes, most_bytes, &there, &elsewhere);
    ml_upload_sizes_free(&sizes);
    if (m->n_layer_pinned >= 0) return ML_OK;
    return ml_fail(err, ML_ENOMEM,
                   "the GPU has %.2f GiB for weights, but they take %.2f GiB there with all experts in this machine's "
                   "memory: give a model of fewer bits (--quant of moonlight convert), or --device cpu",
                   (double)most_bytes / 0x1p30, (double)there / 0x1p30);
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

ml_status ml_model_upload(ml_model *m, ml_device *device, size_t most_bytes, ml_error *err)
{
    ML_TRY(check(m, err));
    size_t n_layer = (size_t)m->config.num_hidden_layers;
    m->layer_here = ml_calloc(n_layer, sizeof *m->layer_here);
    if (!m->layer_here) return ml_fail_memory(err, n_layer * sizeof *m->layer_here, "a model's tables");
    memcpy(m->layer_here, m->layer, n_layer * sizeof *m->layer_here);
    ML_TRY(divide(m, (int64_t)most_bytes, err));
    upload counted = count(m, m->n_layer_pinned);
    m->device = device;
    ML_TRY(ml_device_alloc(device, counted.there.n_bytes, "the model's weights", &m->uploaded, err));
    if (counted.pinned.n_bytes > 0) {
        ML_TRY(ml_device_alloc_pinned(device, counted.pinned.n_bytes, "experts in this machine's memory", &m->pinned,
                                      err));
    }
    upload u = { .m = m,
                 .device = device,
                 .there.base = m->uploaded,
                 .pinned = { .base = m->pinned, .here = true },
                 .n_pinned = m->n_layer_pinned,
                 .err = err };
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
