/* The architecture: every fact about a model that its weights do not say, each one a stored key.
 *
 * On disk it is a Hugging Face config.json.  Of the published classes the first that expresses the model exactly
 * is chosen (decided by writing the configuration in that class's keys, reading it back and comparing); a model
 * that none can express gets our own class, MoonlightMoeForCausalLM, whose keys are the names below.  What
 * concerns training only (balance losses, capacity, initialisation), and the chat format, goes into a "moonlight"
 * object of config.json whatever the class. */
#ifndef ML_MODEL_CONFIG_H
#define ML_MODEL_CONFIG_H

#include "base/json.h"
#include "tensor/dtype.h"

typedef enum { ML_ATTENTION_GQA, ML_ATTENTION_MLA } ml_attention_kind;
typedef enum { ML_INIT_NORMAL, ML_INIT_HE, ML_INIT_TRUNCATED } ml_init_kind;

/* All fields are int64_t or double so that one table of (name, offset) reads, writes, compares and overrides
 * them; 0/1 for facts that are true or not.  The names are config.json's where DeepSeek's classes have one. */
typedef struct {
    int64_t vocab_size, hidden_size, num_hidden_layers, max_position_embeddings;
    int64_t num_attention_heads, num_key_value_heads;
    int64_t attention;                                                                 /* ml_attention_kind */
    int64_t head_dim;                                                                  /* GQA: columns of a head */
    int64_t q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim; /* MLA; q_lora_rank 0: none */
    int64_t attention_bias;                                                            /* on q, k, v */
    int64_t qk_norm; /* RMSNorm on each head of q and k */
    int64_t tie_word_embeddings, head_bias;
    double rms_norm_eps;
    double latent_norm_eps; /* of MLA's q_a and kv_a norms: 1e-6 in the published class, whatever rms_norm_eps is */

    double rope_theta;
    int64_t rotary_dim;       /* columns of a head that rotate (GQA) */
    int64_t rope_interleaved; /* pairs (2i, 2i+1) rather than (i, i + n/2) */
    double yarn_factor;       /* 1: plain RoPE; else YaRN (arXiv:2309.00071) with the keys below */
    int64_t yarn_original_positions;
    double yarn_beta_fast, yarn_beta_slow, yarn_mscale, yarn_mscale_all_dim;
    double llama3_factor; /* 1: none; else Llama 3's scaling of frequencies with the keys below */
    int64_t llama3_original_positions;
    double llama3_low_freq_factor, llama3_high_freq_factor;

    int64_t intermediate_size;     /* dense layers */
    int64_t first_k_dense_replace; /* layers before the first expert layer; num_hidden_layers: dense model */
    int64_t n_routed_experts, num_experts_per_tok, moe_intermediate_size, n_shared_experts;
    double shared_scale; /* multiplies the shared experts' output; 1/n for "mean of shared experts" */
    int64_t scoring;     /* ml_score */
    int64_t norm_topk_prob;
    double routed_scaling_factor;
    int64_t n_group, topk_group;
    int64_t group_by_best;   /* groups are ranked by their best expert, not by the sum of the two best */
    int64_t correction_bias; /* the router has e_score_correction_bias */
    int64_t expert_relu;     /* experts are down(relu(up x)) rather than SwiGLU */

    /* Training only. */
    int64_t balance; /* ml_balance */
    double balance_coef, z_coef;
    int64_t aux_mean;        /* average the auxiliary losses over layers instead of summing */
    double bias_update_rate; /* of the correction bias, per step */
    double capacity_factor;  /* 0: dropless */
    int64_t init;            /* ml_init_kind */
    double initializer_range;

    int64_t bos_token_id, eos_token_id, pad_token_id; /* -1: none */
    int64_t chat_format;                              /* place in ml_chat_words (token/chat.h); 0: not said */
} ml_config;

/* The presets, NULL-terminated in *names when asked. */
ml_status ml_config_preset(const char *name, ml_config *out, ml_error *err);
const char *const *ml_config_preset_names(void);

/* Set one field from text, e.g. ("hidden_size", "896"); unknown names list the nearest. */
ml_status ml_config_set(ml_config *c, const char *name, const char *value, const char *where, ml_error *err);
/* Check that the numbers fit together: heads divide, top_k <= experts, even rotary width, ... `where` names the
 * origin in messages. */
ml_status ml_config_check(const ml_config *c, const char *where, ml_error *err);

/* config.json <-> ml_config.  Reading takes every fact from the file, and fails naming the key where a class is
 * unknown or asks for something that this program does not do, such as weights that are quantised otherwise than by
 * FP8 in blocks of 128 x 128. */
ml_status ml_config_load(const char *path, ml_config *out, ml_error *err);
/* The same from text; `where` stands for the path in messages. */
ml_status ml_config_parse(const char *text, size_t n_bytes, const char *where, ml_config *out, ml_error *err);
/* `dtype` is that of the matrices beside it (torch_dtype). */
ml_status ml_config_save(const ml_config *c, ml_dtype dtype, const char *path, ml_error *err);
/* What it writes; free with json_decref. */
json_t *ml_config_to_json(const ml_config *c, ml_dtype dtype);
/* The class name config.json gets. */
const char *ml_config_class_name(const ml_config *c);
/* Compare all that decides the outputs; *field gets the first name that differs. */
bool ml_config_same_model(const ml_config *a, const ml_config *b, const char **field);

/* What Llama 3's scaling divides the frequency of pair i by: llama3_factor for those that turn less than
 * low_freq_factor times over the trained positions, 1 for more than high_freq_factor, and a ramp between. */
double ml_config_llama3_divisor(const ml_config *c, int64_t i);

static inline bool ml_config_layer_is_moe(const ml_config *c, int64_t layer)
{
    return c->n_routed_experts > 0 && layer >= c->first_k_dense_replace;
}

/* Columns of one query head, of which the rotary ones come last in MLA. */
static inline int64_t ml_config_d_qk(const ml_config *c)
{
    return c->attention == ML_ATTENTION_MLA ? c->qk_nope_head_dim + c->qk_rope_head_dim : c->head_dim;
}

static inline int64_t ml_config_d_v(const ml_config *c)
{
    return c->attention == ML_ATTENTION_MLA ? c->v_head_dim : c->head_dim;
}

#endif
