/* Any source as a Hugging Face folder would have it: kv_b in one matrix where a GGUF file has it in two, and the rows
 * of q and k of a Llama in halves where such a file has pairs. */
#ifndef ML_QUANT_HF_VIEW_H
#define ML_QUANT_HF_VIEW_H

#include "format/gguf.h"
#include "model/config.h"
#include "model/source.h"

/* `config` becomes what those weights go with.  The result owns `inner` (when this succeeds) and is thread-safe as
 * that is. */
ml_status ml_hf_view_make(ml_weight_source *inner, ml_config *config, ml_weight_source **out, ml_error *err);
/* What `config` of a GGUF file becomes on the way: halves for a Llama, and the epsilon of the published class for the
 * latent norms when the file says none of their own (format/gguf_config.h): true for that.  g: NULL when it is no GGUF
 * file's. */
bool ml_hf_view_config(const ml_gguf *g, ml_config *config);

#endif
