/* The optimizer: AdamW, and Muon with AdamW for what is not a matrix (arXiv:2502.16982).
 *
 * Owns its own copy of the parameter records (not the values and gradients they point to), the moments, and all
 * scratch memory: a step allocates nothing.  The same inputs give the same bits whatever the number of threads.
 *
 * Muon, for each matrix W [A, B] by itself (every expert, its gate and its up, is a matrix):
 *     g = grad_scale * grad;   m <- momentum * m + g;   u = g + momentum * m  (or m without Nesterov)
 *     O = NewtonSchulz(u)                                    (optim/newton_schulz.h)
 *     W <- W - lr * weight_decay * W;   W <- W - lr * rms_scale * sqrt(max(A, B)) * O
 * AdamW (Loshchilov and Hutter, arXiv:1711.05101), t = 1 at the first step:
 *     m <- beta1 * m + (1 - beta1) * g;   v <- beta2 * v + (1 - beta2) * g * g
 *     W <- W - lr * weight_decay * W;   W <- W - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
 * Both take the same lr and weight_decay: rms_scale makes Muon's update as large as AdamW's. */
#ifndef ML_OPTIM_OPTIMIZER_H
#define ML_OPTIM_OPTIMIZER_H

#include "base/status.h"
#include "model/param.h"
#include "tensor/device.h"

#include <stdbool.h>

typedef enum { ML_OPTIM_ADAMW, ML_OPTIM_MUON } ml_optim_name;

/* A set of parameter kinds, one bit each. */
typedef uint32_t ml_param_kinds;
#define ML_KIND_BIT(kind) ((ml_param_kinds)1 << (kind))

typedef struct {
    ml_optim_name name;
    double beta1, beta2, eps; /* AdamW, also for what Muon leaves to it */
    double weight_decay;
    double momentum; /* Muon, in [0, 1) */
    bool nesterov;
    int ns_steps;
    double rms_scale;
    ml_param_kinds muon;     /* kinds that Muon updates; without effect under ML_OPTIM_ADAMW */
    ml_param_kinds no_decay; /* kinds that do not decay, under either name */
} ml_optim_config;

/* beta 0.9, 0.95, eps 1e-8, decay 0.1 on everything; Muon: momentum 0.95, Nesterov, 5 steps, scale 0.2, for
 * MATRIX, EXPERT and ROUTER. */
ml_optim_config ml_optim_default_config(ml_optim_name name);

/* "embedding, norm, bias" -> a set; "none" or "" -> the empty one.  Names: embedding head norm bias router matrix
 * expert.  ML_EINVAL names the unknown word. */
ml_status ml_optim_parse_kinds(const char *list, ml_param_kinds *kinds, ml_error *err);
/* "router"; for tables and messages. */
const char *ml_param_kind_name(ml_param_kind kind);

typedef enum {
    ML_GROUP_MUON,
    ML_GROUP_MUON_NO_DECAY,
    ML_GROUP_ADAMW,
    ML_GROUP_ADAMW_NO_DECAY,
    ML_N_OPTIM_GROUP
} ml_optim_group;
/* "muon", "muon, no decay", "adamw", "adamw, no decay" */
const char *ml_optim_group_name(ml_optim_group group);

typedef struct ml_optimizer ml_optimizer;

/* `param` is copied; the names, values and gradients it points to must outlive the optimizer.  Fails with
 * ML_EINVAL on a configuration out of range and ML_ENOMEM. */
ml_status ml_optimizer_make(const ml_optim_config *config, const ml_param *param, int64_t n_param, ml_optimizer **out,
                            ml_error *err);
/* The same for parameters whose values and gradients lie on a device, where the moments then lie too; NULL: here. */
ml_status ml_optimizer_make_on(ml_device *device, const ml_optim_config *config, const ml_param *param, int64_t n_param,
                               ml_optimizer **out, ml_error *err);
void ml_optimizer_free(ml_optimizer *opt);

/* ml_clip_compute_norm over the optimizer's parameters, where they lie. */
ml_status ml_optimizer_compute_norm(ml_optimizer *opt, double *norm, ml_error *err);

/* One row of the table printed at the start of a run, in the order of the parameters. */
typedef struct {
    const ml_param *param;
    ml_optim_group group;
    double lr_factor;    /* the update is lr * lr_factor * (an O with |O| <= about 1, or AdamW's quotient) */
    double weight_decay; /* 0 where it does not decay */
} ml_optim_row;
int64_t ml_optimizer_n_row(const ml_optimizer *opt);
ml_optim_row ml_optimizer_get_row(const ml_optimizer *opt, int64_t i);

/* RMS over elements of (change of the parameter without its decay) / lr, and how many elements; 0 for an empty
 * group.  About 0.2 for both algorithms when all is well. */
typedef struct {
    double rms[ML_N_OPTIM_GROUP], rms_all;
    int64_t n[ML_N_OPTIM_GROUP], n_all;
} ml_optim_stats;

/* Update every parameter from its gradient times grad_scale (the clip factor, loss scale or 1).  Gradients are left
 * as they are.  `stats` may be NULL.  ML_EINVAL when lr or grad_scale is not finite: nothing is then changed.
 * Gradients must be finite: see optim/clip.h, which finds out and says where. */
ml_status ml_optimizer_step(ml_optimizer *opt, double lr, double grad_scale, ml_optim_stats *stats, ml_error *err);

/* What a checkpoint saves beside the parameters: buffers of fp32 in the layout of their parameter, to be written
 * to by a load, and the number of steps made. */
typedef struct {
    const char *name; /* "<parameter>.momentum", "<parameter>.exp_avg" or "<parameter>.exp_avg_sq" */
    const ml_param *param;
    float *data;
    int64_t count;
} ml_optim_state;
int64_t ml_optimizer_n_state(const ml_optimizer *opt);
ml_optim_state ml_optimizer_get_state(const ml_optimizer *opt, int64_t i);
/* On a device these buffers are copies here: bring them up to date before a save, and the moments after a load. */
ml_status ml_optimizer_pull(ml_optimizer *opt, ml_error *err);
ml_status ml_optimizer_push(ml_optimizer *opt, ml_error *err);
int64_t ml_optimizer_get_step(const ml_optimizer *opt);
void ml_optimizer_set_step(ml_optimizer *opt, int64_t step);

/* Bytes that ml_optimizer_make will allocate for the moments (state) and, with the present number of threads, for
 * scratch: for the memory plan. */
typedef struct {
    int64_t state_bytes, scratch_bytes;
} ml_optim_memory;
ml_optim_memory ml_optim_plan_memory(const ml_optim_config *config, const ml_param *param, int64_t n_param);

#endif
