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
#include "tensor/tensor.h"

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
    double lora_b_ratio;     /* LORA_B's rate over that of the others (LoRA+, arXiv:2402.12354); 0 means 1 */
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
void ml_optimizer_free(ml_optimizer *opt);

/* How an optimizer on a device keeps its moments. */
typedef struct {
    bool bf16;     /* rounded to bf16, else fp32 */
    bool here;     /* in pinned memory of this machine, from where they come to the device while it computes */
    int64_t batch; /* elements that are updated at once; 0: what suits a GPU */
} ml_optim_storage;

/* The same for parameters that lie on ctx's device.  ctx, which outlives the optimizer, has scratch (free whenever a
 * step is made) and the precision of Newton-Schulz's products. */
ml_status ml_optimizer_make_on(ml_ctx *ctx, const ml_optim_config *config, const ml_optim_storage *storage,
                               const ml_param *param, int64_t n_param, ml_optimizer **out, ml_error *err);

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

/* ---- on a device, without waiting for it ----
 *
 *   norm = ml_optimizer_queue_norm(opt);  ... queue what looks at it and sets *control ...
 *   ml_optimizer_queue_step(opt, lr, &squares, err);  ... queue what reads control and squares back ...
 *   later: ml_optimizer_take_step(opt, control.step), ml_optimizer_get_stats(opt, squares)
 */

/* What the updates of a step obey, in device memory. */
typedef struct {
    int32_t use;              /* 0: nothing is changed */
    float grad_scale;         /* as in ml_optimizer_step */
    float correction, unbias; /* AdamW's, of update `step`: 1 / sqrt(1 - beta2^step), 1 / (1 - beta1^step) */
    int64_t step;             /* updates made, this one included */
} ml_update_control;

ml_update_control *ml_optimizer_get_control(ml_optimizer *opt);
/* The sum of squares of all gradients, in device memory. */
const double *ml_optimizer_queue_norm(ml_optimizer *opt);
/* Moments that are kept here begin to move to the device, for the step that is being computed. */
void ml_optimizer_prefetch(ml_optimizer *opt);
/* squares: [ML_N_OPTIM_GROUP] in device memory.  ML_ENOMEM when ctx has no room for scratch. */
ml_status ml_optimizer_queue_step(ml_optimizer *opt, double lr, const double **squares, ml_error *err);
void ml_optimizer_take_step(ml_optimizer *opt, int64_t step);
ml_optim_stats ml_optimizer_get_stats(const ml_optimizer *opt, const double squares[ML_N_OPTIM_GROUP]);

/* Bytes on the device, and in pinned memory here: for the memory plan.  `largest`: elements of the largest matrix. */
typedef struct {
    int64_t state, slots, scratch, pinned;
} ml_optim_device_memory;
ml_optim_device_memory ml_optim_plan_device(const ml_optim_config *config, const ml_optim_storage *storage,
                                            int64_t n_muon, int64_t n_adamw, int64_t largest, bool rest_is_here);

/* What a checkpoint saves beside the parameters: buffers of fp32 in the layout of their parameter, to be written
 * to by a load, and the number of steps made.  On a device `data` is NULL, and the two calls below move the elements
 * [first, first + n), waiting for it. */
typedef struct {
    const char *name; /* "<parameter>.momentum", "<parameter>.exp_avg" or "<parameter>.exp_avg_sq" */
    const ml_param *param;
    float *data;
    int64_t count;
} ml_optim_state;
int64_t ml_optimizer_n_state(const ml_optimizer *opt);
ml_optim_state ml_optimizer_get_state(const ml_optimizer *opt, int64_t i);
ml_status ml_optimizer_read_state(ml_optimizer *opt, int64_t i, int64_t first, int64_t n, float *out, ml_error *err);
ml_status ml_optimizer_write_state(ml_optimizer *opt, int64_t i, int64_t first, int64_t n, const float *from,
                                   ml_error *err);
int64_t ml_optimizer_get_step(const ml_optimizer *opt);
void ml_optimizer_set_step(ml_optimizer *opt, int64_t step);

/* Bytes that ml_optimizer_make will allocate for the moments (state) and, with the present number of threads, for
 * scratch: for the memory plan. */
typedef struct {
    int64_t state_bytes, scratch_bytes;
} ml_optim_memory;
ml_optim_memory ml_optim_plan_memory(const ml_optim_config *config, const ml_param *param, int64_t n_param);

#endif
