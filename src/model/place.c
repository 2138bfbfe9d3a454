#include "model/place.h"

#include "model/place_internal.h"

#include "model/count.h"
#include "tensor/half.h"

#include <stdlib.h>
#include <string.h>

/* Bytes [begin, end) of the values here are, there, `full` from byte `at` on or, when split, halves at half the
 * offset. */
typedef struct {
    size_t begin, end, at;
    bool split;
} range;

/* What tensors and parameters say when the model is used in one of the places. */
typedef struct {
    ml_tensor end[4]; /* embed, final_norm, head, head_bias */
    ml_layer *layer;
    ml_param *param;
} view;

struct ml_place {
    ml_device *device;
    ml_placing placing;
    char *full, *grads;
    uint16_t *half, *rest; /* NULL where there are none */
    bool rest_is_here;
    range *range; /* [n_range], ascending, without gaps that hold a weight */
    size_t n_range, full_bytes;
    view here, there;
};

enum { N_END = 4, N_LAYER_TENSOR = sizeof(ml_layer) / sizeof(ml_tensor), CHUNK = 1 << 20 /* floats */ };
_Static_assert(sizeof(ml_layer) == N_LAYER_TENSOR * sizeof(ml_tensor), "a layer is tensors and nothing else");

static bool is_split(ml_placing placing)
{
    return placing == ML_PLACE_SPLIT || placing == ML_PLACE_SPLIT_HOST;
}

/* What products read in bf16. */
static bool is_matrix(ml_param_kind kind)
{
    return kind == ML_PARAM_EMBEDDING || kind == ML_PARAM_HEAD || kind == ML_PARAM_MATRIX || kind == ML_PARAM_EXPERT;
}

/* Rows of the embedding go on as they are, so it stays whole, like what is no matrix. */
static bool may_split(ml_param_kind kind)
{
    return is_matrix(kind) && kind != ML_PARAM_EMBEDDING;
}

/* ---- which bytes lie where ---- */

static int compare_ranges(const void *a, const void *b)
{
    const range *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* One range for each weight, then neighbours of the same kind joined, so that what lies together stays together. */
static ml_status make_ranges(const ml_model *m, struct ml_place *p, ml_error *err)
{
    p->range = ml_calloc(m->n_weight, sizeof *p->range);
    if (!p->range) return ml_fail_memory(err, m->n_weight * sizeof *p->range, "a model's place");
    if (!is_split(p->placing)) {
        p->range[0] = (range){ .end = m->values.capacity };
        p->n_range = 1;
        p->full_bytes = m->values.capacity;
        return ML_OK;
    }
    for (size_t i = 0; i < m->n_weight; i++) {
        const ml_weight *w = &m->weight[i];
        size_t begin = (size_t)((const char *)w->data - m->values.base);
        p->range[i] = (range){ .begin = begin,
                               .end = begin + (size_t)ml_weight_count(w) * sizeof(float),
                               .split = may_split(w->kind) };
    }
    qsort(p->range, m->n_weight, sizeof *p->range, compare_ranges);
    size_t n = 0;
    for (size_t i = 1; i < m->n_weight; i++) {
        if (p->range[i].split == p->range[n].split)
            p->range[n].end = p->range[i].end;
        else
            p->range[++n] = p->range[i];
    }
    p->n_range = n + 1;
    for (size_t i = 0; i < p->n_range; i++) {
        if (p->range[i].split) continue;
        p->range[i].at = p->full_bytes;
        p->full_bytes += (p->range[i].end - p->range[i].begin + 255) & ~(size_t)255;
    }
    return ML_OK;
}

static const range *find_range(const struct ml_place *p, size_t at)
{
    size_t low = 0, high = p->n_range;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (p->range[middle].begin <= at)
            low = middle;
        else
            high = middle;
    }
    return &p->range[low];
}

/* ---- memory ---- */

static void release(struct ml_place *p)
{
    ml_device_release(p->device, p->full);
    ml_device_release(p->device, p->grads);
    ml_device_release(p->device, p->half);
    if (p->rest_is_here)
        ml_device_release_pinned(p->device, p->rest);
    else
        ml_device_release(p->device, p->rest);
    ml_free(p->range);
    ml_free(p->here.layer);
    ml_free(p->here.param);
    ml_free(p->there.layer);
    ml_free(p->there.param);
    ml_free(p);
}

static ml_status take(struct ml_place *p, size_t n_bytes, const char *what, char **out, ml_error *err)
{
    void *memory;
    ML_TRY(ml_device_alloc(p->device, n_bytes, what, &memory, err));
    *out = memory;
    return ML_OK;
}

static ml_status allocate(const ml_model *m, struct ml_place *p, ml_error *err)
{
    size_t n_bytes = m->values.capacity, layer_bytes = (size_t)m->config.num_hidden_layers * sizeof(ml_layer);
    char *half = NULL;
    void *rest = NULL;
    p->here.layer = ml_alloc(layer_bytes);
    p->there.layer = ml_alloc(layer_bytes);
    p->here.param = ml_calloc(m->n_param, sizeof(ml_param));
    p->there.param = ml_calloc(m->n_param, sizeof(ml_param));
    if (!p->here.layer || !p->there.layer || !p->here.param || !p->there.param) {
        return ml_fail_memory(err, layer_bytes, "a model's place");
    }
    ML_TRY(take(p, p->full_bytes, "the model's weights", &p->full, err));
    ML_TRY(take(p, n_bytes, "the weights' gradients", &p->grads, err));
    if (p->placing == ML_PLACE_F32) return ML_OK;
    ML_TRY(take(p, n_bytes / 2, "the weights in bf16", &half, err));
    p->half = (uint16_t *)(void *)half;
    if (!is_split(p->placing)) return ML_OK;
    p->rest_is_here = p->placing == ML_PLACE_SPLIT_HOST;
    if (p->rest_is_here)
        ML_TRY(ml_device_alloc_pinned(p->device, n_bytes / 2, "the weights' lower halves", &rest, err));
    else
        ML_TRY(ml_device_alloc(p->device, n_bytes / 2, "the weights' lower halves", &rest, err));
    p->rest = rest;
    return ML_OK;
}

ml_place_bytes ml_model_plan_place(const ml_config *c, ml_placing placing)
{
    /* Halves and rests have places for all weights, used or not. */
    int64_t all = ml_model_weight_bytes(c, ML_F32), embedding = 4 * c->vocab_size * c->hidden_size;
    int64_t matrices = 2 * (all - ml_model_weight_bytes(c, ML_BF16)) - embedding;
    ml_place_bytes n = { .weights = is_split(placing) ? all - matrices : all, .gradients = all };
    if (placing != ML_PLACE_F32) n.weights += all / 2;
    if (placing == ML_PLACE_SPLIT) n.weights += all / 2;
    if (placing == ML_PLACE_SPLIT_HOST) n.pinned = all / 2;
    return n;
}

/* ---- what tensors and parameters say ---- */

static void save_view(const ml_model *m, view *v)
{
    const ml_tensor *end[N_END] = { &m->embed, &m->final_norm, &m->head, &m->head_bias };
    for (int i = 0; i < N_END; i++) v->end[i] = *end[i];
    memcpy(v->layer, m->layer, (size_t)m->config.num_hidden_layers * sizeof *v->layer);
    memcpy(v->param, m->param, m->n_param * sizeof *v->param);
}

static void load_view(ml_model *m, const view *v)
{
    ml_tensor *end[N_END] = { &m->embed, &m->final_norm, &m->head, &m->head_bias };
    for (int i = 0; i < N_END; i++) *end[i] = v->end[i];
    memcpy(m->layer, v->layer, (size_t)m->config.num_hidden_layers * sizeof *v->layer);
    memcpy(m->param, v->param, m->n_param * sizeof *v->param);
}

/* Products read bf16 of every matrix but the router's, which is fp32 throughout. */
static void move_tensor(const ml_model *m, const struct ml_place *p, ml_tensor *t, bool is_router)
{
    t->device = p->device;
    if (!t->data) return;
    size_t at = (size_t)((char *)t->data - m->values.base);
    const range *r = find_range(p, at);
    if (t->grad) t->grad = (float *)(void *)(p->grads + ((char *)t->grad - m->grads.base));
    if (p->half && t->n_dim > 1 && !is_router) t->half = p->half + at / sizeof(float);
    if (r->split) {
        t->dtype = ML_BF16;
        t->data = t->half;
    } else {
        t->data = p->full + r->at + (at - r->begin);
    }
}

static void move_param(const ml_model *m, const struct ml_place *p, ml_param *q)
{
    size_t at = (size_t)((char *)q->value - m->values.base);
    const range *r = find_range(p, at);
    q->grad = (float *)(void *)(p->grads + ((char *)q->grad - m->grads.base));
    q->value = r->split ? NULL : (float *)(void *)(p->full + r->at + (at - r->begin));
    if (p->half && is_matrix(q->kind)) q->half = p->half + at / sizeof(float);
    if (r->split) q->rest = p->rest + at / sizeof(float);
    q->rest_is_here = r->split && p->rest_is_here;
}

static void make_views(ml_model *m, struct ml_place *p)
{
    save_view(m, &p->here);
    save_view(m, &p->there);
    view *v = &p->there;
    for (int i = 0; i < N_END; i++) move_tensor(m, p, &v->end[i], false);
    for (int64_t i = 0; i < m->config.num_hidden_layers; i++) {
        ml_tensor *t = (ml_tensor *)(void *)&v->layer[i];
        for (int j = 0; j < N_LAYER_TENSOR; j++) move_tensor(m, p, &t[j], &t[j] == &v->layer[i].router);
    }
    for (size_t i = 0; i < m->n_param; i++) move_param(m, p, &v->param[i]);
}

/* ---- the calls ---- */

void ml_model_use_place(ml_model *m, bool there)
{
    struct ml_place *p = m->place;
    if (!p) return;
    m->device = there ? p->device : NULL;
    load_view(m, there ? &p->there : &p->here);
}

ml_status ml_model_place(ml_model *m, ml_device *device, ml_placing placing, ml_error *err)
{
    if (m->place || m->source || m->dtype != ML_F32 || !m->grads.base) {
        return ml_fail(err, ML_EINVAL,
                       "a model on the GPU: expected a trainable one with fp32 weights of its own memory");
    }
    struct ml_place *p = ml_calloc(1, sizeof *p);
    if (!p) return ml_fail_memory(err, sizeof *p, "a model's place");
    p->device = device;
    p->placing = placing;
    ml_status status = make_ranges(m, p, err);
    if (status == ML_OK) status = allocate(m, p, err);
    if (status != ML_OK) {
        release(p);
        return status;
    }
    make_views(m, p);
    m->place = p;
    ml_model_use_place(m, true);
    ml_model_zero_grads(m);
    status = ml_model_push(m, err);
    if (status != ML_OK) ml_model_leave_place(m);
    return status;
}

void ml_model_leave_place(ml_model *m)
{
    if (!m->place) return;
    ml_model_use_place(m, false);
    release(m->place);
    m->place = NULL;
}

void ml_place_zero_grads(const ml_model *m)
{
    ml_device_zero(m->device, m->place->grads, m->grads.capacity);
}

/* ---- copies ---- */

/* n floats here become halves there. */
static ml_status push_halves(const struct ml_place *p, const float *x, size_t first, size_t n, uint16_t *buffer,
                             ml_error *err)
{
    uint16_t *half = buffer, *rest = p->rest_is_here ? p->rest + first : buffer + CHUNK;
    for (size_t i = 0; i < n; i++) half[i] = ml_half_split(x[i], &rest[i]);
    ML_TRY(ml_device_upload(p->device, p->half + first, half, n * sizeof *half, err));
    if (!p->rest || p->rest_is_here) return ML_OK;
    return ml_device_upload(p->device, p->rest + first, rest, n * sizeof *rest, err);
}

static ml_status pull_halves(const struct ml_place *p, float *x, size_t first, size_t n, uint16_t *buffer,
                             ml_error *err)
{
    uint16_t *half = buffer, *rest = p->rest_is_here ? p->rest + first : buffer + CHUNK;
    ML_TRY(ml_device_download(p->device, half, p->half + first, n * sizeof *half, err));
    if (!p->rest_is_here) ML_TRY(ml_device_download(p->device, rest, p->rest + first, n * sizeof *rest, err));
    for (size_t i = 0; i < n; i++) x[i] = ml_half_join(half[i], rest[i]);
    return ML_OK;
}

typedef ml_status move_halves(const ml_model *m, size_t first, size_t n, uint16_t *buffer, ml_error *err);

static ml_status push_chunk(const ml_model *m, size_t first, size_t n, uint16_t *buffer, ml_error *err)
{
    return push_halves(m->place, (const float *)(void *)m->values.base + first, first, n, buffer, err);
}

static ml_status pull_chunk(const ml_model *m, size_t first, size_t n, uint16_t *buffer, ml_error *err)
{
    return pull_halves(m->place, (float *)(void *)m->values.base + first, first, n, buffer, err);
}

/* A range in pieces that the buffer holds. */
static ml_status move_range(const ml_model *m, const range *r, move_halves *move, uint16_t *buffer, ml_error *err)
{
    size_t end = r->end / sizeof(float);
    for (size_t at = r->begin / sizeof(float); at < end; at += CHUNK) {
        ML_TRY(move(m, at, end - at < CHUNK ? end - at : CHUNK, buffer, err));
    }
    return ML_OK;
}

static ml_status push_range(const ml_model *m, const range *r, uint16_t *buffer, ml_error *err)
{
    const struct ml_place *p = m->place;
    if (!r->split) {
        ML_TRY(ml_device_upload(p->device, p->full + r->at, m->values.base + r->begin, r->end - r->begin, err));
        if (!p->half) return ML_OK;
    }
    return move_range(m, r, push_chunk, buffer, err);
}

static ml_status pull_range(const ml_model *m, const range *r, uint16_t *buffer, ml_error *err)
{
    const struct ml_place *p = m->place;
    if (r->split) return move_range(m, r, pull_chunk, buffer, err);
    return ml_device_download(p->device, m->values.base + r->begin, p->full + r->at, r->end - r->begin, err);
}

static ml_status move_all(const ml_model *m, ml_status (*move)(const ml_model *, const range *, uint16_t *, ml_error *),
                          ml_error *err)
{
    const struct ml_place *p = m->place;
    if (!p) return ML_OK;
    uint16_t *buffer = ml_alloc(2 * CHUNK * sizeof *buffer);
    if (!buffer) return ml_fail_memory(err, 2 * CHUNK * sizeof *buffer, "copying the weights");
    ml_status status = ML_OK;
    for (size_t i = 0; i < p->n_range && status == ML_OK; i++) status = move(m, &p->range[i], buffer, err);
    if (status == ML_OK) status = ml_device_wait(p->device, err);
    ml_free(buffer);
    return status;
}

ml_status ml_model_push(ml_model *m, ml_error *err)
{
    return move_all(m, push_range, err);
}

ml_status ml_model_pull(ml_model *m, ml_error *err)
{
    return move_all(m, pull_range, err);
}

ml_status ml_model_pull_grads(ml_model *m, ml_error *err)
{
    if (!m->place) return ML_OK;
    return ml_device_download(m->place->device, m->grads.base, m->place->grads, m->grads.capacity, err);
}
