/* The weights of a GGUF file, where they are (model/source.h).
 *
 * Experts are answered one by one out of their stacks, and the two halves of a split kv_b under the names
 * "...self_attn.k_b_proj.weight" [n_head * kv_lora, nope] and "...self_attn.v_b_proj.weight" [n_head * v, kv_lora]. */
#ifndef ML_FORMAT_GGUF_SOURCE_H
#define ML_FORMAT_GGUF_SOURCE_H

#include "format/gguf.h"
#include "model/config.h"
#include "model/source.h"

/* `path` is a .gguf file, any of a split set. */
ml_status ml_gguf_source_open(const char *path, ml_config *config, ml_weight_source **out, ml_error *err);
/* Of an open file; it is closed with the source, but stays the caller's when this fails. */
ml_status ml_gguf_source_make(ml_gguf *g, ml_config *config, ml_weight_source **out, ml_error *err);
/* The file of a source made here; NULL for another. */
const ml_gguf *ml_gguf_source_file(const ml_weight_source *source);

#endif
