/* Where a model's weights are computed with: this machine's memory, or a copy on a device.  Names, files and
 * checkpoints always work on this machine's copy; moving shifts the addresses in the tensors and the parameters. */
#include "model/model.h"

/* The tensors of a model that may hold addresses of its own memory. */
enum { N_ENDS = 4, N_LAYER_TENSOR = sizeof(ml_layer) / sizeof(ml_tensor) };
_Static_assert(sizeof(ml_layer) == N_LAYER_TENSOR * sizeof(ml_tensor), "a layer is tensors and nothing else");

static char *values_at(const ml_model *m, const ml_device *device)
{
    return device ? m->device_values : m->values.base;
}

static char *grads_at(const ml_model *m, const ml_device *device)
{
    return device ? m->device_grads : m->grads.base;
}

static void *shift(const void *p, const char *from, char *to)
{
    return p ? to + ((const char *)p - from) : NULL;
}

static void move_tensor(const ml_model *m, ml_tensor *t, ml_device *to)
{
    t->data = shift(t->data, values_at(m, m->device), values_at(m, to));
    t->grad = shift(t->grad, grads_at(m, m->device), grads_at(m, to));
    t->device = to;
}

static void move_addresses(ml_model *m, ml_device *to)
{
    ml_tensor *ends[N_ENDS] = { &m->embed, &m->final_norm, &m->head, &m->head_bias };
    for (int i = 0; i < N_ENDS; i++) move_tensor(m, ends[i], to);
    for (int64_t i = 0; i < m->config.num_hidden_layers; i++) {
        ml_tensor *t = (ml_tensor *)(void *)&m->layer[i];
        for (int j = 0; j < N_LAYER_TENSOR; j++) move_tensor(m, &t[j], to);
    }
    for (size_t i = 0; i < m->n_param; i++) {
        ml_param *p = &m->param[i];
        p->value = shift(p->value, values_at(m, m->device), values_at(m, to));
        p->grad = shift(p->grad, grads_at(m, m->device), grads_at(m, to));
    }
    m->device = to;
}

void ml_model_use(ml_model *m, bool on_device)
{
    ml_device *to = on_device ? m->own_device : NULL;
    if (m->device != to) move_addresses(m, to);
}

ml_status ml_model_move(ml_model *m, ml_device *device, ml_error *err)
{
    void *values, *grads = NULL;
    if (m->source || m->dtype != ML_F32) {
        return ml_fail(err, ML_EINVAL, "a model on the GPU: expected fp32 weights of its own memory");
    }
    ML_TRY(ml_device_alloc(device, m->values.capacity, "the model's weights", &values, err));
    ml_status status = ML_OK;
    if (m->grads.base) status = ml_device_alloc(device, m->grads.capacity, "the weights' gradients", &grads, err);
    if (status != ML_OK) {
        ml_device_release(device, values);
        return status;
    }
    m->own_device = device;
    m->device_values = values;
    m->device_grads = grads;
    ml_model_use(m, true);
    ml_model_zero_grads(m);
    return ml_model_push(m, err);
}

void ml_model_leave_device(ml_model *m)
{
    if (!m->own_device) return;
    ml_model_use(m, false);
    ml_device_release(m->own_device, m->device_values);
    ml_device_release(m->own_device, m->device_grads);
    m->own_device = NULL;
    m->device_values = m->device_grads = NULL;
}

ml_status ml_model_push(ml_model *m, ml_error *err)
{
    if (!m->own_device) return ML_OK;
    return ml_device_upload(m->own_device, m->device_values, m->values.base, m->values.capacity, err);
}

ml_status ml_model_pull(ml_model *m, ml_error *err)
{
    if (!m->own_device) return ML_OK;
    return ml_device_download(m->own_device, m->values.base, m->device_values, m->values.capacity, err);
}

ml_status ml_model_pull_grads(ml_model *m, ml_error *err)
{
    if (!m->own_device || !m->device_grads) return ML_OK;
    return ml_device_download(m->own_device, m->grads.base, m->device_grads, m->grads.capacity, err);
}

void *ml_model_find_here(const ml_model *m, const void *data)
{
    return shift(data, values_at(m, m->device), m->values.base);
}
