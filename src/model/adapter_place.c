/* Where an adapter's numbers lie: here, or on the device of its model. */
#include "model/adapter.h"

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
    for (size_t i = 0; i < a->n_param; i++) move_param(a, &a->param[i], there);
    a->is_there = there;
}

ml_status ml_adapter_place(ml_adapter *a, ml_device *device, ml_error *err)
{
    void *values, *grads;
    if (a->device || !a->grads.base || a->model->device != device) {
        return ml_fail(err, ML_EINVAL, "an adapter on the GPU: expected one to be trained, beside a model there");
    }
    ML_TRY(ml_device_alloc(device, a->values.capacity, "the adapter", &values, err));
    ml_status status = ml_device_alloc(device, a->grads.capacity, "the adapter's gradients", &grads, err);
    if (status != ML_OK) {
        ml_device_release(device, values);
        return status;
    }
    a->device = device;
    a->values_there = values;
    a->grads_there = grads;
    ml_adapter_use_place(a, true);
    ml_adapter_zero_grads(a);
    status = ml_adapter_push(a, err);
    if (status != ML_OK) ml_adapter_leave_place(a);
    return status;
}

void ml_adapter_leave_place(ml_adapter *a)
{
    if (!a->device) return;
    ml_adapter_use_place(a, false);
    ml_device_release(a->device, a->values_there);
    ml_device_release(a->device, a->grads_there);
    a->device = NULL;
    a->values_there = a->grads_there = NULL;
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
    return a->device ? ml_device_download(a->device, a->grads.base, a->grads_there, a->grads.capacity, err) : ML_OK;
}

ml_status ml_adapter_queue_norms(ml_ctx *ctx, const ml_adapter *a)
{
    for (size_t i = 0; i < a->n_term && a->dora; i++) ML_TRY(ml_cuda_adapter_norms(ctx, a->model, &a->term[i]));
    return ctx->error.code;
}
