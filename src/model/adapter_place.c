/* Where an adapter's numbers lie: here, or on the device of its model. */
#include "model/adapter_internal.h"

#include "model/cuda/adapter.h"

/* One of its tensors, from one place to the other. */
static void move(const ml_adapter *a, ml_tensor *t, bool there)
{
    char *values[2] = { a->values.base, a->values_there }, *grads[2] = { a->grads.base, a->grads_there };
    if (!t->data) return;
    t->data = values[there] + ((char *)t->data - values[!there]);
    t->device = there ? a->device : NULL;
    if (t->grad) t->grad = (float *)(void *)(grads[there] + ((char *)t->grad - grads[!there]));
}

static void move_param(const ml_adapter *a, ml_param *p, bool there)
{
    char *values[2] = { a->values.base, a->values_there }, *grads[2] = { a->grads.base, a->grads_there };
    p->value = (float *)(void *)(values[there] + ((char *)p->value - values[!there]));
    p->grad = (float *)(void *)(grads[there] + ((char *)p->grad - grads[!there]));
}

void ml_adapter_use_place(ml_adapter *a, bool there)
{
    if (!a->device || a->is_there == there) return;
    for (size_t i = 0; i < a->n_term; i++) {
        ml_tensor *t[] = { &a->term[i].a, &a->term[i].b, &a->term[i].m, &a->term[i].norm };
        for (size_t j = 0; j < sizeof t / sizeof t[0]; j++) move(a, t[j], there);
    }
    for (size_t i = 0; i < a->n_param && a->grads.base; i++) move_param(a, &a->param[i], there);
    a->is_there = there;
}

/* ---- a place ---- */

static size_t table_bytes(const ml_config *c)
{
    return (size_t)c->num_hidden_layers * ML_N_SLOT * sizeof(ml_token_term);
}

int64_t ml_adapter_place_bytes(const ml_adapter *a)
{
    return (int64_t)(a->values.capacity + a->grads.capacity + table_bytes(&a->model->config));
}

ml_status ml_adapter_measure(const ml_config *config, bool dora, ml_adapter_choose_fn *choose, void *arg,
                             int64_t *n_bytes, ml_error *err)
{
    ml_model named = { .config = *config };
    ml_adapter a = { .model = &named, .dora = dora };
    ML_TRY(ml_adapter_make_terms(&a, choose, arg, err));
    *n_bytes = (int64_t)(ml_adapter_values_bytes(&a) + table_bytes(config));
    ml_free(a.term);
    return ML_OK;
}

/* The table of terms that lie there. */
static ml_status push_table(ml_adapter *a, ml_error *err)
{
    size_t n_bytes = table_bytes(&a->model->config);
    ml_token_term *table = ml_calloc(1, n_bytes);
    if (!table) return ml_fail_memory(err, n_bytes, "an adapter's terms");
    for (size_t i = 0; i < a->n_term; i++) {
        const ml_adapter_term *t = &a->term[i];
        table[t->module.layer * ML_N_SLOT + t->module.slot] = (ml_token_term){ .a = ml_f32(&t->a),
                                                                               .b = ml_f32(&t->b),
                                                                               .m = ml_f32(&t->m),
                                                                               .norm = ml_f32(&t->norm),
                                                                               .rank = t->rank,
                                                                               .n_in = t->module.cols,
                                                                               .n_out = t->module.rows,
                                                                               .scale = t->scale };
    }
    ml_status status = ml_device_upload(a->device, a->terms_there, table, n_bytes, err);
    ml_free(table);
    return status;
}

/* Norms of an adapter for inference; scratch is for kv_b as fp32. */
static ml_status make_norms(ml_adapter *a, ml_error *err)
{
    ml_ctx ctx;
    size_t most = 0;
    for (size_t i = 0; i < a->n_term; i++) {
        size_t n = (size_t)(a->term[i].module.rows * a->term[i].module.cols) * sizeof(float);
        if (a->term[i].module.slot == ML_SLOT_KV_B && n > most) most = n;
    }
    ML_TRY(ml_ctx_init_on(&ctx, a->device, most + 4096, 0, err));
    ml_status status = ml_adapter_queue_norms(&ctx, a);
    if (status != ML_OK) status = ml_ctx_status(&ctx, err);
    if (status == ML_OK) status = ml_device_wait(a->device, err);
    ml_ctx_free(&ctx);
    return status;
}

static ml_status allocate(ml_adapter *a, ml_error *err)
{
    void *table;
    ML_TRY(ml_device_alloc(a->device, a->values.capacity, "the adapter", &a->values_there, err));
    ML_TRY(ml_device_alloc(a->device, table_bytes(&a->model->config), "the adapter's terms", &table, err));
    a->terms_there = table;
    if (!a->grads.base) return ML_OK;
    return ml_device_alloc(a->device, a->grads.capacity, "the adapter's gradients", &a->grads_there, err);
}

static ml_status fill(ml_adapter *a, ml_error *err)
{
    ml_adapter_use_place(a, true);
    ml_adapter_zero_grads(a);
    ML_TRY(ml_adapter_push(a, err));
    ML_TRY(push_table(a, err));
    return a->dora && !a->grads.base ? make_norms(a, err) : ML_OK;
}

ml_status ml_adapter_place(ml_adapter *a, ml_device *device, ml_error *err)
{
    if (a->device || !device || a->model->device != device) {
        return ml_fail(err, ML_EINVAL, "an adapter on the GPU: expected one without a place, beside a model there");
    }
    ml_device_enter(device);
    a->device = device;
    ml_status status = allocate(a, err);
    if (status == ML_OK) status = fill(a, err);
    if (status != ML_OK) ml_adapter_leave_place(a);
    return status;
}

void ml_adapter_leave_place(ml_adapter *a)
{
    if (!a->device) return;
    ml_device_enter(a->device);
    ml_adapter_use_place(a, false);
    ml_device_release(a->device, a->values_there);
    ml_device_release(a->device, a->grads_there);
    ml_device_release(a->device, a->terms_there);
    a->device = NULL;
    a->values_there = a->grads_there = NULL;
    a->terms_there = NULL;
}

ml_status ml_adapter_push(ml_adapter *a, ml_error *err)
{
    return a->device ? ml_device_upload(a->device, a->values_there, a->values.base, a->values.capacity, err) : ML_OK;
}

ml_status ml_adapter_pull(ml_adapter *a, ml_error *err)
{
    return a->device ? ml_device_download(a->device, a->values.base, a->values_there, a->values.capacity, err) : ML_OK;
}

ml_status ml_adapter_pull_grads(ml_adapter *a, ml_error *err)
{
    return a->device && a->grads.base
               ? ml_device_download(a->device, a->grads.base, a->grads_there, a->grads.capacity, err)
               : ML_OK;
}

/* m of experts that lack a term, once their norms are there. */
static void queue_lacking(ml_ctx *ctx, const ml_adapter_term *t)
{
    for (int64_t i = 0; t->lacks && i < t->module.n_matrix; i++) {
        int64_t first = i * t->module.rows;
        size_t n_bytes = (size_t)t->module.rows * sizeof(float);
        if (t->lacks[i]) ml_device_queue_copy(ctx->device, ml_f32(&t->m) + first, ml_f32(&t->norm) + first, n_bytes);
    }
}

ml_status ml_adapter_queue_norms(ml_ctx *ctx, const ml_adapter *a)
{
    for (size_t i = 0; i < a->n_term && a->dora; i++) {
        ML_TRY(ml_cuda_adapter_norms(ctx, a->model, &a->term[i]));
        queue_lacking(ctx, &a->term[i]);
    }
    return ctx->error.code;
}
