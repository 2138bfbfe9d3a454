/* The weights of PyTorch checkpoints of two small models (model/source.h), by the names and keys that their own
 * training programs write:
 *
 *   moonlight-moe   {"model": state, "model_cfg": {...}, ...}; one matrix for q, k and v; two-matrix experts
 *   nano-moe        {"model": state, "args": {...}, ...}; one matrix for k and v; shared experts are averaged
 *
 * The state's keys may begin with "_orig_mod." (a compiled model).  Buffers are not read, and a tied output is the
 * embedding. */
#ifndef ML_FORMAT_PT_SOURCE_H
#define ML_FORMAT_PT_SOURCE_H

#include "format/pt.h"
#include "model/config.h"
#include "model/source.h"

/* ML_EINVAL for a checkpoint of another model: the message says what was looked for. */
ml_status ml_pt_source_open(const char *path, ml_config *config, ml_weight_source **out, ml_error *err);
/* Of an open file; it is closed with the source, but stays the caller's when this fails. */
ml_status ml_pt_source_make(ml_pt *file, const char *where, ml_config *config, ml_weight_source **out, ml_error *err);

#endif
