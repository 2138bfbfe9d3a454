/* MLA's kv_b where a file has it in halves (GGUF's k_b and v_b). */
#ifndef ML_MODEL_KV_B_H
#define ML_MODEL_KV_B_H

#include "model/model.h"

/* kv_b [n_head * (d_nope + d_v), kv_lora_rank] of a layer as fp32, from whatever the model has. */
void ml_model_read_kv_b(const ml_model *m, int64_t layer_id, float *out);
/* The weight to multiply with: the model's own, or an fp32 copy in the activation arena.  NULL on failure. */
ml_tensor *ml_model_join_kv_b(ml_ctx *ctx, const ml_model *m, int64_t layer_id);

#endif
