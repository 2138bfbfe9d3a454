/* The model: its weights in memory, and its forward pass.
 *
 * Weights are named as in a Hugging Face checkpoint; `weight` lists every tensor such a folder holds.  In memory
 * those that meet the same input lie one after another, so that one product computes them:
 *     attn_in   [q; k; v] or, for MLA, [q or q_a; kv_a]          gate_up  [gate; up] of a dense or shared MLP
 *     experts   [n_expert][gate; up], then [n_expert] down
 * A model that is not trained may instead leave its matrices where a file has them (ml_model_bind): those that lie
 * together above are then the parts of one tensor, each of its own type.
 * The optimizer's view is `param`: each a stack of equal matrices. */
#ifndef ML_MODEL_MODEL_H
#define ML_MODEL_MODEL_H

#include "base/rng.h"
#include "model/config.h"
#include "model/count.h"
#include "model/param.h"
#include "model/source.h"
#include "ops/ops.h"

enum { ML_WEIGHT_NAME_MAX = 112 };

/* One tensor of a checkpoint. */
typedef struct {
    char name[ML_WEIGHT_NAME_MAX];
    ml_param_kind kind;
    ml_dtype dtype;
    int n_dim;
    int64_t dim[2];
    void *data;
    bool trained; /* false: e_score_correction_bias, moved by the load and not by a gradient */
} ml_weight;

/* Absent weights have data NULL. */
typedef struct {
    ml_tensor attn_norm;          /* [d] */
    ml_tensor attn_in, attn_bias; /* see above; bias of q, k, v */
    ml_tensor q_norm, k_norm;     /* [head_dim] */
    ml_tensor q_a_norm, q_b;      /* [q_lora], [n_head * d_qk, q_lora] */
    ml_tensor kv_a_norm, kv_b;    /* [kv_lora], [n_head * (d_nope + d_v), kv_lora] */
    ml_tensor k_b, v_b; /* instead of kv_b in GGUF: [n_head * kv_lora, d_nope] (transposed), [n_head * d_v, kv_lora] */
    ml_tensor attn_out; /* o_proj [d, n_head * d_v] */
    ml_tensor ffn_norm; /* [d] */
    ml_tensor gate_up, down;                       /* dense or shared MLP [2 f, d], [d, f] */
    ml_tensor router, router_bias;                 /* [n_expert, d], [n_expert] fp32 */
    ml_tensor expert_gate, expert_up, expert_down; /* [n_expert, f, d] (gate and up strided), [n_expert, d, f] */
} ml_layer;

typedef struct ml_adapter ml_adapter;
typedef struct ml_adapter_use ml_adapter_use;

struct ml_model {
    ml_config config;
    ml_dtype dtype;                               /* of own matrices; norms, biases and router are fp32 */
    ml_tensor embed, final_norm, head, head_bias; /* head is embed when tied */
    ml_layer *layer;                              /* [num_hidden_layers] */
    ml_weight *weight;
    size_t n_weight;
    ml_param *param; /* trained parameters; value and grad set only when trainable */
    size_t n_param;
    float *inv_freq; /* [rotary_dim / 2] */
    float rope_magnitude, softmax_scale;
    ml_arena values, grads;
    ml_tensor *part;          /* of the tensors above that a source has in parts */
    ml_weight_source *source; /* NULL, or where the weights lie; owned */
    ml_arena panels;          /* repacked weights */
    struct ml_place *place;   /* NULL, or where a device holds the weights too (model/place.h) ... */
    ml_device *device;        /* ... and what the tensors and parameters above stand for now; NULL: memory here */
    void *uploaded;           /* NULL, or the memory there of weights that are only read (ml_model_upload) */
    void *pinned;             /* NULL, or experts' weights that are there in this machine's memory */
    int64_t n_layer_pinned;   /* layers whose they are: the last ones */
    bool owns_device;
    char device_choice[256];   /* what ml_device_choose said of it, when it was asked */
    char repack_failure[160];  /* why weights that were to be repacked stay where they are; empty: nothing failed */
    ml_layer *layer_here;      /* the table `layer` as it was before uploading */
    const ml_adapter *adapter; /* of the caller: what sequences have in inference that choose no other; NULL: none */
};

/* Memory for every weight, uninitialised.  trainable: fp32 with gradients (zeroed); otherwise matrices are kept
 * in `dtype` (f32, bf16, f16) and there are no gradients. */
ml_status ml_model_make(const ml_config *config, ml_dtype dtype, bool trainable, ml_model **out, ml_error *err);
/* A model for inference whose matrices stay where `source` has them, in the types they have there; norms, biases and
 * the router are copied as fp32.  On success the model owns the source. */
ml_status ml_model_bind(const ml_config *config, ml_weight_source *source, ml_model **out, ml_error *err);
/* What binding will take: bytes that stay in the source's (mapped) memory, and bytes of copies, which are allocated. */
ml_status ml_model_measure_bind(const ml_config *config, ml_weight_source *source, size_t *stored, size_t *copied,
                                ml_error *err);
/* Bytes that ml_model_repack (moonlight.h) will take. */
size_t ml_model_repack_bytes(const ml_model *m);
/* What weights take that are copied somewhere to be read there, at most (places are rounded up): bytes of the routed
 * experts of each layer, and of all else. */
typedef struct {
    int64_t n_layer, rest;
    int64_t *expert; /* [n_layer] */
} ml_upload_sizes;
enum { ML_UPLOAD_ALIGN = 256 };
/* Of a source's weights, or without a source of matrices in `dtype`.  Free with ml_upload_sizes_free. */
ml_status ml_model_measure_upload(const ml_config *config, ml_dtype dtype, ml_weight_source *source,
                                  ml_upload_sizes *out, ml_error *err);
void ml_upload_sizes_free(ml_upload_sizes *sizes);
/* How many layers, the last ones, leave their experts out so that the others take most_bytes (0: any number) at most;
 * *there: what these take, *elsewhere: what is left out.  -1 when it is too much without any expert; then
 * *there is how much that is. */
int64_t ml_upload_divide(const ml_upload_sizes *sizes, int64_t most_bytes, int64_t *there, int64_t *elsewhere);

/* Bytes that ml_model_upload will take, and those of them that are experts'. */
size_t ml_model_upload_bytes(const ml_model *m, size_t *experts);
/* Copy the weights of a model for inference to a device, in the types they have, and compute there from now on: a
 * context on that device is then wanted for every pass.  Parts of one type become one tensor.  most_bytes: of the
 * device's memory; 0: as much as they take.  Where that is too little, experts of the last layers, as many as
 * ml_upload_divide says, go to pinned memory of this machine, which kernels read from there.  The device must outlive
 * the model; a source is told that it may drop
 * what was copied.  ML_EINVAL for weights repacked for the processor or being trained, ML_ENOMEM when the others are
 * too many, and as ml_device_alloc. */
ml_status ml_model_upload(ml_model *m, ml_device *device, size_t most_bytes, ml_error *err);
/* Bytes of the largest weights, as fp32, that one operator reads together. */
size_t ml_model_widest_bytes(const ml_model *m);
/* A layer's tensors as this machine can read them; not those in parts. */
static inline const ml_layer *ml_model_layer_here(const ml_model *m, int64_t layer_id)
{
    return m->layer_here ? &m->layer_here[layer_id] : &m->layer[layer_id];
}
/* Read every weight of an fp32 model of its own memory from `source`. */
ml_status ml_model_fill(ml_model *m, const ml_weight_source *source, ml_error *err);
/* Fresh weights as config.init says (fp32 model): the same for a given seed whatever the thread count. */
void ml_model_init(ml_model *m, uint64_t seed);
/* The standard deviation of a fresh matrix with rows of fan_in (before normals beyond 2 are drawn again, for
 * config.init truncated). */
double ml_model_init_std(const ml_config *c, ml_param_kind kind, int64_t fan_in);
void ml_model_zero_grads(ml_model *m);
/* NULL when there is none of that name. */
ml_weight *ml_model_find_weight(const ml_model *m, const char *name);
int64_t ml_weight_count(const ml_weight *w);

/* What routing did in one or several forward passes; training sums it over micro-steps. */
typedef struct {
    int64_t n_layer, n_expert;
    int64_t *count;          /* [n_layer, n_expert] accepted tokens */
    double *entropy;         /* [n_layer] sum over tokens of the router's softmax entropy, in nats */
    double balance, z;       /* sums over layers of the losses, without coefficients */
    int64_t n_token, n_pass; /* tokens and forward passes seen */
    /* On a device the sums are made there, in ml_router_stats_bytes at `there`: balance, z, entropy, count one after
     * another, and come here by ml_router_stats_pull; n_token and n_pass are counted here. */
    ml_device *device;
    void *there;
} ml_router_stats;

/* device: where forward passes run; NULL: here. */
ml_status ml_router_stats_make(ml_device *device, const ml_config *config, ml_router_stats *stats, ml_error *err);
size_t ml_router_stats_bytes(const ml_router_stats *stats);
/* Bring the sums here; waits.  Nothing without a device. */
ml_status ml_router_stats_pull(ml_router_stats *stats, ml_error *err);
/* The same from a copy of what lies there. */
void ml_router_stats_take(ml_router_stats *stats, const void *copy);
void ml_router_stats_clear(ml_router_stats *stats);
void ml_router_stats_free(ml_router_stats *stats);

/* Hears what each expert layer's router chose for the tokens of a pass, layer by layer; the tensors live until the call
 * returns. */
typedef struct {
    void *arg;
    void (*routing)(void *arg, int64_t layer_id, const ml_routing *routing);
} ml_routing_observer;

/* What of a layer is not kept for the backward pass but computed once more there. */
typedef enum {
    ML_RECOMPUTE_OFF,
    ML_RECOMPUTE_LAYERS,    /* all: only layer inputs are kept */
    ML_RECOMPUTE_ATTENTION, /* norm, projections and attention */
    ML_RECOMPUTE_MLP,       /* norm, and MLP or router and experts */
} ml_recompute;

struct ml_kv_cache;

typedef struct {
    ml_tensor *id;  /* [tokens] i32 */
    ml_tensor *pos; /* [tokens] i32 */
    ml_tensor *seq; /* [n_seq + 1] i32 offsets (training); with a cache: [tokens] i32, the sequence of each token */
    struct ml_kv_cache *cache; /* NULL: attend within the batch only */
    int64_t n_decode;          /* with a cache: the first n_decode tokens are being generated, the others prompt */
    bool training;             /* capacity and auxiliary losses are in force */
    ml_recompute recompute;
    float aux_scale;                     /* multiplies the auxiliary coefficients: 1 / micro-steps */
    ml_router_stats *stats;              /* NULL: not wanted */
    const ml_routing_observer *observer; /* NULL: nobody */
    const ml_adapter_use *adapters;      /* NULL: none (model/adapter.h) */
} ml_model_input;

/* -> [tokens, hidden_size], after the final norm; the head is a matter of the caller (logits of some rows, or
 * ml_logprob).  NULL on failure, with the error in ctx. */
ml_tensor *ml_model_forward(ml_ctx *ctx, ml_model *m, const ml_model_input *in);
/* Logits of given rows of the hidden state: x [n, hidden_size] -> [n, vocab_size]. */
ml_tensor *ml_model_logits(ml_ctx *ctx, ml_model *m, ml_tensor *x);
/* Log-probability of targets (-1: none) under the hidden state, [tokens]. */
ml_tensor *ml_model_logprob(ml_ctx *ctx, ml_model *m, ml_tensor *x, ml_tensor *target);

/* DeepSeek-V3's auxiliary-loss-free balancing: bias_e += rate * (sign(error_e) - mean sign(error)), error_e =
 * mean load - load_e, on the counts summed over one optimizer step. */
void ml_model_update_router_bias(ml_model *m, const ml_router_stats *stats, double rate);

#endif
