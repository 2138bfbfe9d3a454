/* Adapters: small trainable terms beside the matrices of a model that stays as it is.
 *
 *   LoRA (arXiv:2106.09685)   y = W x + scale * B A dropout(x)               scale = alpha / rank
 *   DoRA (arXiv:2402.09353)   y = m / |W + scale B A| * (W x + scale * B A dropout(x)), norms by row of W,
 *                             no gradient through them; m begins as |W|
 *
 * A begins normal with variance 2 / (rank + columns), B as zero: a fresh adapter changes no bit of the logits.
 * The matrices it can be beside ("modules") have their names in a Hugging Face checkpoint; the experts of a layer are
 * one module, "model.layers.3.mlp.experts.*.gate_proj", in which each expert has A, B and m of its own.  A pattern
 * means the modules whose whole name, or its end behind a dot, it matches: q_proj, self_attn.*, experts.*, layers.3.*;
 * * and ? stand for any characters and any one.
 *
 * The model's own weights may be of any type, mapped from a file; nothing is kept for them but, with DoRA, row norms.
 */
#ifndef ML_MODEL_ADAPTER_H
#define ML_MODEL_ADAPTER_H

#include "model/model.h"
#include "ops/cached.h"

typedef enum {
    ML_SLOT_Q, /* q_proj, or q_a_proj */
    ML_SLOT_Q_B,
    ML_SLOT_K,
    ML_SLOT_V,
    ML_SLOT_KV_A,
    ML_SLOT_KV_B,
    ML_SLOT_O,
    ML_SLOT_GATE, /* dense or shared MLP */
    ML_SLOT_UP,
    ML_SLOT_DOWN,
    ML_SLOT_EXPERT_GATE, /* up_proj where experts are two matrices */
    ML_SLOT_EXPERT_UP,
    ML_SLOT_EXPERT_DOWN,
    ML_N_SLOT
} ml_adapter_slot;

enum { ML_MODULE_NAME_MAX = 80 };

/* A place for a term: n_matrix matrices [rows, cols]. */
typedef struct {
    char name[ML_MODULE_NAME_MAX];
    int64_t layer;
    ml_adapter_slot slot;
    int64_t n_matrix, rows, cols; /* n_matrix: 1, or the experts */
} ml_adapter_module;

typedef struct {
    ml_adapter_module module;
    int64_t rank;
    double alpha;
    float scale;
    ml_tensor a, b;    /* [rank, cols], [rows, rank]; of experts [n_expert, ...] */
    ml_tensor m, norm; /* DoRA: [rows]; of experts [n_expert, rows] */
    bool *lacks;       /* NULL, or [n_matrix]: experts that have no term of their own, whose m is the norm they have */
} ml_adapter_term;

struct ml_adapter {
    const ml_model *model; /* whose names and shapes these are */
    bool dora;
    double dropout;
    ml_adapter_term *term; /* [n_term], layer by layer */
    size_t n_term;
    ml_adapter_term *(*of)[ML_N_SLOT]; /* [n_layer] */
    ml_param *param;                   /* value and grad set only when trainable */
    size_t n_param;
    ml_arena values, grads;
    float *rows;                      /* DoRA: where rows of weights become fp32 */
    char *names;                      /* of the parameters */
    uint64_t dropout_seed;            /* of the next forward pass in training: of the caller */
    ml_device *device;                /* NULL, or where values and gradients lie too (ml_adapter_place); then: */
    void *values_there, *grads_there; /* laid out as the arenas */
    ml_token_term *terms_there; /* [n_layer, ML_N_SLOT], for tokens that each have their own (ops/token_terms.h) */
    bool is_there;              /* what terms and parameters stand for now */
};

typedef struct {
    const char *const *target; /* [n_target] patterns; none: self_attn.* */
    size_t n_target;
    int64_t rank;
    double alpha, dropout;
    bool dora;
} ml_adapter_config;

/* A fresh adapter, for training.  ML_EINVAL when a pattern matches nothing (the message lists what there is). */
ml_status ml_adapter_make(const ml_adapter_config *config, const ml_model *m, uint64_t seed, ml_adapter **out,
                          ml_error *err);
/* One with the terms that `choose` wants (true; then with rank and alpha), to be filled; values are zero. */
typedef bool ml_adapter_choose_fn(void *arg, const ml_adapter_module *module, int64_t *rank, double *alpha);
ml_status ml_adapter_make_chosen(const ml_model *m, bool dora, bool trainable, ml_adapter_choose_fn *choose, void *arg,
                                 ml_adapter **out, ml_error *err);
void ml_adapter_free(ml_adapter *a);
/* One without terms: for a sequence that shall not have the model's. */
extern const ml_adapter ml_adapter_none;

/* After A or B changed: the norms of DoRA, and m of experts that lack a term. */
ml_status ml_adapter_update_norms(ml_adapter *a, ml_error *err);
void ml_adapter_zero_grads(ml_adapter *a);
int64_t ml_adapter_count(const ml_adapter *a);

/* ---- on a device ----
 * Beside a model that was uploaded (ml_model_upload) values, gradients (of a trainable one) and norms lie there too, in
 * fp32, and the forward pass, the backward and the optimizer read and write those. */

/* Bytes of a place. */
int64_t ml_adapter_place_bytes(const ml_adapter *a);
/* The same of an adapter for inference with the terms that `choose` wants, before there is a model. */
ml_status ml_adapter_measure(const ml_config *config, bool dora, ml_adapter_choose_fn *choose, void *arg,
                             int64_t *n_bytes, ml_error *err);
/* Give it a place and compute there from now on; gradients are zero, and norms of one for inference are made there.
 * Queues work of the device, and waits for it.  ML_ENOMEM with the remedy. */
ml_status ml_adapter_place(ml_adapter *a, ml_device *device, ml_error *err);
/* Give the place up; the values here are what was pulled last.  Nothing without a place. */
void ml_adapter_leave_place(ml_adapter *a);
/* Terms and parameters stand for what lies there, or here; contents stay as they are.  Nothing without a place. */
void ml_adapter_use_place(ml_adapter *a, bool there);
/* Values and norms from here to there; back; gradients back.  Nothing without a place. */
ml_status ml_adapter_push(ml_adapter *a, ml_error *err);
ml_status ml_adapter_pull(ml_adapter *a, ml_error *err);
ml_status ml_adapter_pull_grads(ml_adapter *a, ml_error *err);
/* As ml_adapter_update_norms, there: queued, with scratch of ctx.  Failures are the context's. */
ml_status ml_adapter_queue_norms(ml_ctx *ctx, const ml_adapter *a);

/* For memory plans: trainable numbers of an adapter before there is a model.  ML_EINVAL as ml_adapter_make. */
ml_status ml_adapter_plan(const ml_adapter_config *config, const ml_config *model, int64_t *n_param, ml_error *err);

/* The modules of a model, in order; ml_free(*out). */
ml_status ml_adapter_list_modules(const ml_config *c, ml_adapter_module **out, size_t *n, ml_error *err);
bool ml_adapter_matches(const char *pattern, const char *name);
/* The weight that matrix i of a module is, as a checkpoint calls it. */
void ml_adapter_name_weight(const ml_adapter_module *m, int64_t i, char name[ML_WEIGHT_NAME_MAX]);
/* Rows [row, row + n_row) of matrix i of a module, as the model has them, as fp32. */
ml_status ml_adapter_read_base(const ml_model *m, const ml_adapter_module *module, int64_t i, int64_t row,
                               int64_t n_row, float *out, ml_error *err);
/* The same with the term merged in: (m / norm) * (W + scale B A).  `t` of this module. */
ml_status ml_adapter_read_merged(const ml_adapter *a, const ml_adapter_term *t, int64_t i, int64_t row, int64_t n_row,
                                 float *out, ml_error *err);

/* ---- in the forward pass ---- */

/* Tokens with one adapter, or with none (NULL). */
typedef struct {
    const ml_adapter *adapter;
    ml_tensor *row; /* [n] i32, ascending; NULL: all tokens */
} ml_adapter_group;

/* The most that the terms of several adapters have, by layer: what launches for tokens of any of them are made for. */
typedef struct {
    int64_t n_layer;
    int64_t (*rank)[ML_N_SLOT]; /* [n_layer] 0: there is no term */
    bool (*scales)[ML_N_SLOT];  /* [n_layer] there are magnitudes */
} ml_adapter_shape;

ml_status ml_adapter_shape_make(int64_t n_layer, ml_adapter_shape *out, ml_error *err);
void ml_adapter_shape_free(ml_adapter_shape *shape);
/* Let it cover an adapter (NULL: nothing) too.  Did it grow? */
bool ml_adapter_shape_add(ml_adapter_shape *shape, const ml_adapter *a);

/* Every token is in one group.  Training: one group, of all tokens.
 * With a cache on a device groups are of the prompts' tokens alone; of every token there is a table, which those being
 * generated go by. */
struct ml_adapter_use {
    const ml_adapter_group *group;
    int n_group;
    const ml_adapter *const *of_seq; /* with a cache: [n_seq] of each sequence; NULL entries: none */
    int64_t n_seq;
    const ml_token_term *const *of_token; /* there: [tokens] terms_there of each one's adapter, or NULL */
    const ml_adapter_shape *shape;        /* covers them */
    bool training;                        /* elements are dropped */
};

/* One linear layer with its terms: x w^T + bias.  w is the matrices of `slot` [n_slot], one after another. */
ml_tensor *ml_adapter_linear(ml_ctx *ctx, const ml_model *m, int64_t layer_id, const ml_adapter_slot *slot, int n_slot,
                             ml_tensor *x, ml_tensor *w, ml_tensor *bias, const ml_adapter_use *use);
/* With a cache: terms of kv_b for each sequence.  NULL when there are none (or on failure, with the error in ctx). */
const ml_mla_term *const *ml_adapter_mla_terms(ml_ctx *ctx, int64_t layer_id, const ml_adapter_use *use);
/* On a device with a cache: terms of kv_b for each token; false: there are none. */
bool ml_adapter_mla_token_terms(const ml_adapter_use *use, int64_t layer_id, ml_token_terms *out);
/* A layer of routed experts with its terms. */
ml_tensor *ml_adapter_experts(ml_ctx *ctx, const ml_model *m, int64_t layer_id, ml_tensor *x, ml_tensor *id,
                              ml_tensor *prob, const ml_experts_param *param, const ml_adapter_use *use);

#endif
