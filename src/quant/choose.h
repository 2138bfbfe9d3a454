/* Which type each tensor of a written model gets.
 *
 * A mix names a type for most matrices and exceptions to it: what decides most for its size keeps more bits (the
 * output, and in the *_m mixes the values and the way out of MLPs in some layers), as llama.cpp's mixes of the same
 * names do.  Norms, biases and routers are fp32 in all.  Rows that are no whole number of blocks of 256 fall back to
 * a type with blocks of 32 (q4_k to q5_0, q5_k to q5_1, q6_k to q8_0), and rows that are none of 32 to f16.
 *
 * Rules come before the mix: "GLOB=TYPE" gives TYPE to every tensor whose name (in the file, or as Hugging Face has
 * it) or class matches; the last that matches counts. */
#ifndef ML_QUANT_CHOOSE_H
#define ML_QUANT_CHOOSE_H

#include "base/status.h"
#include "tensor/dtype.h"

/* What a tensor is for. */
typedef enum {
    ML_CLASS_EMBEDDING,
    ML_CLASS_OUTPUT,
    ML_CLASS_NORM,
    ML_CLASS_BIAS,
    ML_CLASS_ROUTER,
    ML_CLASS_ROPE,
    ML_CLASS_ATTN_Q,
    ML_CLASS_ATTN_K,
    ML_CLASS_ATTN_V,
    ML_CLASS_ATTN_OUTPUT,
    ML_CLASS_ATTN_Q_A,
    ML_CLASS_ATTN_Q_B,
    ML_CLASS_ATTN_KV_A,
    ML_CLASS_ATTN_KV_B,
    ML_CLASS_ATTN_K_B,
    ML_CLASS_ATTN_V_B,
    ML_CLASS_FFN_GATE,
    ML_CLASS_FFN_UP,
    ML_CLASS_FFN_DOWN,
    ML_CLASS_EXPERT_GATE,
    ML_CLASS_EXPERT_UP,
    ML_CLASS_EXPERT_DOWN,
    ML_CLASS_SHARED_GATE,
    ML_CLASS_SHARED_UP,
    ML_CLASS_SHARED_DOWN,
    ML_CLASS_OTHER,
    ML_N_CLASS,
} ml_weight_class;

/* Of a name as in model/model.h. */
ml_weight_class ml_weight_class_of(const char *name);
/* "attn_q", "expert_down", ... */
const char *ml_weight_class_name(ml_weight_class c);

typedef struct ml_quant_rule {
    char glob[96];
    ml_dtype dtype;
} ml_quant_rule;

typedef struct {
    const struct ml_quant_mix *mix; /* NULL: tensors keep the type they have */
    const ml_quant_rule *rule;      /* [n_rule] */
    size_t n_rule;
} ml_quant_plan;

/* A tensor to be written. */
typedef struct {
    const char *ours, *theirs; /* names; theirs: in the file */
    int64_t layer, n_layer;    /* layer -1: none */
    int64_t n_col;             /* length of a row */
    bool is_head;              /* the embedding of a model whose output is tied to it */
    ml_dtype stored;           /* the type it has, for a plan without a mix */
} ml_quant_tensor;

/* ML_EINVAL naming the mixes there are. */
ml_status ml_quant_mix_find(const char *name, const struct ml_quant_mix **out, ml_error *err);
const char *ml_quant_mix_name(const struct ml_quant_mix *mix);
/* general.file_type of GGUF: of a mix, and of a file that is mostly of one type (f32's when it has no number). */
uint32_t ml_quant_mix_file_type(const struct ml_quant_mix *mix);
uint32_t ml_quant_file_type(ml_dtype dtype);
/* From "GLOB=TYPE"; ML_EINVAL says what is wrong with it. */
ml_status ml_quant_rule_parse(const char *text, ml_quant_rule *out, ml_error *err);

/* Whether a rule's glob meets a tensor whose type can be chosen, by its names or its class. */
bool ml_quant_rule_matches(const ml_quant_rule *rule, const ml_quant_tensor *t);

/* ML_EINVAL when a rule's type does not fit the rows.  Rules do not reach norms, biases and routers. */
ml_status ml_quant_choose(const ml_quant_plan *plan, const ml_quant_tensor *t, ml_dtype *out, ml_error *err);

#endif
