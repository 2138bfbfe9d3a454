/* The operators: all that a forward pass is made of.
 *
 * Building calls: each computes at once, records itself when ctx->recording, and returns its first output
 * (NULL on failure: see tensor/tensor.h).  Unless said otherwise tensors are fp32, [tokens] counts the tokens
 * of all sequences of the batch laid end to end, and weights are [n_out, n_in] row by row as in checkpoints.
 * Inputs called x may have strided rows (column views).  Empty tensors are legal.
 * Summation order is fixed: same inputs, same bits, whatever the number of threads. */
#ifndef ML_OPS_OPS_H
#define ML_OPS_OPS_H

#include "tensor/tape.h"

/* table [n_row, d] (f32, bf16, f16), id [tokens] i32 in [0, n_row) -> y [tokens, d] */
ml_tensor *ml_embedding(ml_ctx *ctx, ml_tensor *table, ml_tensor *id);

/* x [tokens, k], w [n, k] (f32; bf16, f16 in fast mode), b [n] or NULL -> y [tokens, n] */
ml_tensor *ml_linear(ml_ctx *ctx, ml_tensor *x, ml_tensor *w, ml_tensor *b);

typedef struct {
    float scale;   /* alpha / rank */
    float dropout; /* share of x that counts as zero, in [0, 1); the rest is divided by 1 - dropout */
    uint64_t seed; /* of the choice: the same seed, the same elements */
} ml_lora_param;
/* The low-rank term of an adapter (LoRA, arXiv:2106.09685): y += scale * b (a dropout(x)), IN PLACE, so nothing else
 * may have read y.
 *   y [tokens, n] (a column view is welcome), x [tokens, k], a [r, k], b [n, r]
 *   row [n_row] i32, ascending, or NULL: the tokens that have this term
 *   -> a view of y; y needs a gradient then if a, b or x do.  A token's bits do not depend on the other tokens. */
ml_tensor *ml_lora(ml_ctx *ctx, ml_tensor *y, ml_tensor *x, ml_tensor *a, ml_tensor *b, ml_tensor *row,
                   const ml_lora_param *param);

/* The magnitudes of an adapter (DoRA, arXiv:2402.09353): y = (m / norm) * y + bias, column by column, IN PLACE.
 *   y [tokens, n] as above; m, norm [n], both NULL: 1; bias [n] or NULL; row as above
 * norm and bias are constants: no gradient flows to them.  A column of norm 0 is left as it is.  -> a view of y */
ml_tensor *ml_dora(ml_ctx *ctx, ml_tensor *y, ml_tensor *m, ml_tensor *norm, ml_tensor *bias, ml_tensor *row);

/* x [tokens, n_group * d], w [d] -> y, same shape, contiguous: each group of d columns is divided by
 * sqrt(mean(x^2) + eps) and multiplied by w.  n_group > 1 is the per-head norm of q and k. */
ml_tensor *ml_rmsnorm(ml_ctx *ctx, ml_tensor *x, ml_tensor *w, float eps);
typedef struct {
    float eps;
} ml_rmsnorm_param; /* save: rstd [tokens, n_group] */

typedef struct {
    ml_tensor *sum; /* a + b */
    ml_tensor *y;   /* the norm of it, times w */
} ml_normed_sum;
/* a, b [tokens, d], w [d]: ml_add(a, b, 1) and ml_rmsnorm of the sum in one reading of a and b, with the bits of those
 * two.  Both outputs are [tokens, d], contiguous; param and save as of rmsnorm.  False on failure. */
bool ml_add_rmsnorm(ml_ctx *ctx, ml_tensor *a, ml_tensor *b, ml_tensor *w, float eps, ml_normed_sum *out);

typedef struct {
    int64_t n_head;        /* heads in a row */
    int64_t d_head;        /* columns of a head */
    int64_t offset;        /* first rotated column within a head */
    int64_t n_rot;         /* rotated columns, even */
    bool interleaved;      /* pairs (2i, 2i+1); otherwise (i, i + n_rot/2) */
    float magnitude;       /* multiplies the rotated part (YaRN's attention factor); 1 otherwise */
    const float *inv_freq; /* [n_rot/2], angle per position; must outlive the backward pass */
} ml_rope_param;
/* x [tokens, n_head * d_head], pos [tokens] i32 -> a view of x: the rotation happens IN PLACE, so nothing else
 * may have read x.  Columns outside the rotated part stay as they are. */
ml_tensor *ml_rope(ml_ctx *ctx, ml_tensor *x, ml_tensor *pos, const ml_rope_param *param);

typedef struct {
    int64_t n_head, n_kv_head; /* query head h reads key/value head h / (n_head / n_kv_head) */
    int64_t d_qk;              /* columns of a query head, of which the last d_shared meet k_shared */
    int64_t d_shared;          /* 0, or the columns of the key that all heads share (MLA's rotary part) */
    int64_t d_v;
    int64_t k_step, v_step; /* columns from one key / value head to the next within a row */
    float scale;            /* multiplies q.k */
} ml_attention_param;
/* Token i of a sequence attends to tokens 0..i of the same sequence.
 *   q [tokens, n_head * d_qk], k rows hold n_kv_head heads of d_qk - d_shared columns, k_step apart;
 *   v rows hold n_kv_head heads of d_v columns, v_step apart (k and v may be two column views of one tensor,
 *   e.g. MLA's kv_b output with k_step = v_step = d_nope + d_v); k_shared [tokens, d_shared] or NULL
 *   seq [n_seq + 1] i32: sequence s is tokens seq[s] .. seq[s+1]-1; seq[0] = 0, seq[n_seq] = tokens
 *   -> y [tokens, n_head * d_v];  save: lse [n_head, tokens], log-sum-exp of the scaled scores
 * In blocks: no tokens x tokens matrix is stored. */
ml_tensor *ml_attention(ml_ctx *ctx, ml_tensor *q, ml_tensor *k, ml_tensor *v, ml_tensor *k_shared, ml_tensor *seq,
                        const ml_attention_param *param);

/* gate_up [tokens, 2 f], gate in columns [0, f) -> silu(gate) * up [tokens, f] */
ml_tensor *ml_swiglu(ml_ctx *ctx, ml_tensor *gate_up);

/* a, b of one shape -> a + scale * b */
ml_tensor *ml_add(ml_ctx *ctx, ml_tensor *a, ml_tensor *b, float scale);
typedef struct {
    float scale;
} ml_add_param;

typedef enum { ML_SCORE_SOFTMAX, ML_SCORE_SIGMOID } ml_score;
typedef struct {
    int64_t n_expert, top_k;
    ml_score score;
    bool renormalise;            /* divide the chosen scores by (their sum + 1e-20) */
    float scale;                 /* multiplies prob last */
    int64_t n_group, topk_group; /* DeepSeek-V3 groups: only the topk_group groups with the largest sum of their
                                    two best biased scores are eligible; 1, 1 is off */
    float capacity_factor;       /* 0: dropless; else an expert takes at most ceil(tokens * top_k * factor / n_expert)
                                    tokens, those with the highest prob (ties: the earlier token) */
    bool group_by_best;          /* groups are ranked by their largest score alone (DeepSeek-V2) */
} ml_router_param;
typedef struct {
    ml_tensor *prob;  /* [tokens, top_k] weight of each chosen expert; 0 where dropped */
    ml_tensor *logit; /* [tokens, n_expert] */
    ml_tensor *id;    /* [tokens, top_k] i32, by descending biased score; -1 where dropped */
    ml_tensor *count; /* [n_expert] i32, tokens each expert accepted */
} ml_routing;
/* Score every token against every expert and choose (DeepSeek-V3, arXiv:2412.19437, eq. 12-16, and the softmax
 * routers before it).  logit = x w^T; score = softmax or sigmoid of it; the top_k of score + bias are chosen;
 * prob is the unbiased score of the chosen, renormalised and scaled.  Ties go to the lower expert id.
 *   x [tokens, d], w [n_expert, d], bias [n_expert] or NULL (no gradient: it is moved by the load)
 * Gradient flows through prob and logit.  False on failure.  ML_EINVAL when top_k > n_expert. */
bool ml_router(ml_ctx *ctx, ml_tensor *x, ml_tensor *w, ml_tensor *bias, const ml_router_param *param, ml_routing *out);

typedef enum {
    ML_BALANCE_NONE,
    ML_BALANCE_SWITCH,   /* E * sum_e f_e p_e over the batch: f_e accepted share of top_k * tokens, p_e mean softmax */
    ML_BALANCE_SEQUENCE, /* per sequence of T tokens: E / (top_k T^2) * sum_e P_e n_e, averaged over sequences:
                            P_e sum of scores normalised over all experts, n_e choices by a top-k of the unbiased
                            scores (DeepSeek-V3, eq. 17-20) */
} ml_balance;
typedef struct {
    ml_balance balance;
    ml_score score;
    int64_t top_k;
    float balance_coef, z_coef; /* what the backward multiplies the two losses by */
} ml_router_loss_param;
/* logit [tokens, n_expert], id [tokens, top_k] i32 (accepted choices; -1 dropped), seq [n_seq + 1]
 * -> loss [2]: the balance loss and the z loss mean(logsumexp(logit)^2), both without their coefficient.
 * Its backward adds balance_coef * d(balance) + z_coef * d(z) to the logits' gradient by itself: nothing need
 * arrive at its output. */
ml_tensor *ml_router_loss(ml_ctx *ctx, ml_tensor *logit, ml_tensor *id, ml_tensor *seq,
                          const ml_router_loss_param *param);

typedef enum { ML_ACT_SILU, ML_ACT_RELU } ml_activation;
typedef struct {
    ml_activation activation; /* with `up`: act(gate x) * (up x); without: act(gate x) */
} ml_experts_param;
/* y[t] = sum over k of prob[t,k] * down_e( act(gate_e x[t]) [* up_e x[t]] ), e = id[t,k]; id -1 adds nothing.
 *   x [tokens, d], id [tokens, top_k] i32, prob [tokens, top_k]
 *   gate [n_expert, f, d], up the same or NULL, down [n_expert, d, f]; each expert's matrix is contiguous and
 *   experts may be strided: gate and up are then usually views of one [n_expert, 2 f, d] (up.data = gate.data +
 *   f * d with equal strides), which is computed as one product
 *   -> y [tokens, d]
 * Tokens are sorted by expert (stable), each expert's product runs on its own rows, and results are added in
 * order of expert id, so that the sum has one order.  For the backward it keeps the pre-activations of gate
 * and up and nothing of size top_k x d; the gradient of prob comes from the activations (SonicMoE,
 * arXiv:2512.14080):  dprob = <dy W_down, a>. */
ml_tensor *ml_experts(ml_ctx *ctx, ml_tensor *x, ml_tensor *id, ml_tensor *prob, ml_tensor *gate, ml_tensor *up,
                      ml_tensor *down, const ml_experts_param *param);

typedef struct {
    ml_experts_param experts;
    float scale, dropout; /* as in ml_lora_param; gate, up and down each choose what they drop */
    uint64_t seed;
} ml_experts_lora_param;
/* Low-rank terms of the experts' matrices, each expert its own: gate_e becomes gate_e + scale * b_e a_e, and so on.  A
 * pair a [n_expert, r, n_in], b [n_expert, n_out, r] that is absent (NULL) leaves its matrix alone. */
typedef struct {
    ml_tensor *gate_a, *gate_b, *up_a, *up_b, *down_a, *down_b;
    /* Magnitudes (DoRA), of a pair that is there: m, norm [n_expert, n_out], both or neither.  Row i of the sum of
     * matrix and term is then multiplied with m / norm; a row of norm 0 is left as it is.  norm is a constant. */
    ml_tensor *gate_m, *gate_norm, *up_m, *up_norm, *down_m, *down_norm;
} ml_experts_terms;
/* ml_experts with these.  down's dropout is of what it is multiplied with.  With magnitudes the pre-activations that
 * are kept are those before them, and the products of down are made again going backward. */
ml_tensor *ml_experts_lora(ml_ctx *ctx, ml_tensor *x, ml_tensor *id, ml_tensor *prob, ml_tensor *gate, ml_tensor *up,
                           ml_tensor *down, const ml_experts_terms *terms, const ml_experts_lora_param *param);

/* logp[t] = log softmax(x[t] w^T + b)[target[t]]; target -1 gives 0 and no gradient.
 *   x [tokens, d], w [n_vocab, d], b [n_vocab] or NULL, target [tokens] i32
 *   -> logp [tokens];  save: lse [tokens]
 * Logits exist for one chunk of tokens at a time, and are made again going backward. */
ml_tensor *ml_logprob(ml_ctx *ctx, ml_tensor *x, ml_tensor *w, ml_tensor *b, ml_tensor *target);

/* The backend's table: one implementation per line of ops.def. */
typedef struct {
    const char *name;
    ml_forward_fn forward;
    ml_backward_fn backward;
    double forward_tolerance, backward_tolerance;
    const char *inputs, *outputs, *summary;
} ml_op;

typedef enum {
#define ML_OP(name, ...) ML_OP_##name,
#include "ops/ops.def"
#undef ML_OP
    ML_N_OP
} ml_op_id;

extern const ml_op ml_ops_cpu[ML_N_OP];
/* Of another backend; NULL for an operator it does not have. */
typedef struct {
    ml_forward_fn forward;
    ml_backward_fn backward;
} ml_kernels;
#ifdef MOONLIGHT_CUDA
extern const ml_kernels ml_ops_cuda[ML_N_OP];
#endif

#endif
