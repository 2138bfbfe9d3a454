/* Any source as a Hugging Face folder would have it: kv_b in one matrix where a GGUF file has it in two, and the rows
 * of q and k of a Llama in halves where such a file has pairs. */
#ifndef ML_QUANT_HF_VIEW_H
#define ML_QUANT_HF_VIEW_H

#include "model/config.h"
#include "model/source.h"

/* `config` becomes what those weights go with.  The result owns `inner` (when this succeeds) and is thread-safe as
 * that is. */
ml_status ml_hf_view_make(ml_weight_source *inner, ml_config *config, ml_weight_source **out, ml_error *err);

#endif
