/* A trainable parameter as the optimizer, the checkpoint and the printed tables see it. */
#ifndef ML_MODEL_PARAM_H
#define ML_MODEL_PARAM_H

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    ML_PARAM_EMBEDDING, /* token embedding (and the head tied to it) */
    ML_PARAM_HEAD,      /* untied output head */
    ML_PARAM_NORM,      /* RMSNorm gains */
    ML_PARAM_BIAS,      /* additive biases of linear layers and of the head */
    ML_PARAM_ROUTER,
    ML_PARAM_MATRIX, /* projections of attention, dense and shared MLPs */
    ML_PARAM_EXPERT, /* routed experts */
    ML_PARAM_LORA_A, /* an adapter's (model/adapter.h) */
    ML_PARAM_LORA_B,
    ML_PARAM_MAGNITUDE,
    ML_N_PARAM_KIND
} ml_param_kind;

/* n_matrix matrices [rows, cols], one after another (a stack of experts; gate and up of one expert are two).
 * One-dimensional parameters are one matrix of one row. */
typedef struct {
    const char *name; /* e.g. "model.layers.3.self_attn.q_proj.weight"; a stack of experts has "experts.*" */
    ml_param_kind kind;
    float *value; /* fp32 master, [n_matrix * rows * cols] */
    float *grad;  /* same layout; summed over the micro-steps of one step */
    int64_t n_matrix, rows, cols;
    /* On a device (model/place.h), same layout; NULL elsewhere. */
    uint16_t *half;    /* the values rounded to bf16: whoever changes values keeps it; or, with rest ... */
    uint16_t *rest;    /* ... the values themselves (tensor/half.h); then `value` is NULL */
    bool rest_is_here; /* rest lies in pinned memory of this machine */
} ml_param;

static inline int64_t ml_param_count(const ml_param *p)
{
    return p->n_matrix * p->rows * p->cols;
}

#endif
