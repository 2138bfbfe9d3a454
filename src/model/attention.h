/* Multi-head attention with grouped keys (GQA) and multi-head latent attention (MLA, arXiv:2405.04434). */
#ifndef ML_MODEL_ATTENTION_H
#define ML_MODEL_ATTENTION_H

#include "model/model.h"

/* x [tokens, d] (normed) -> [tokens, d], output projection included. */
ml_tensor *ml_model_attention(ml_ctx *ctx, const ml_model *m, int64_t layer_id, ml_tensor *x, const ml_model_input *in);

#endif
