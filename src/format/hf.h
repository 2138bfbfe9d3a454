/* A model as a Hugging Face folder: config.json, model.safetensors (or shards and an index),
 * generation_config.json and a model card; the tokenizer's files are put beside them by its own module. */
#ifndef ML_FORMAT_HF_H
#define ML_FORMAT_HF_H

#include "format/manifest.h"
#include "model/model.h"

/* Read config.json and every weight.  `trainable` asks for fp32 with gradients; otherwise matrices are kept as
 * `dtype` (f32, bf16 or f16).  ML_EFORMAT names the tensor that is missing or has another shape than config.json
 * says. */
ml_status ml_hf_load(const char *folder, ml_dtype dtype, bool trainable, ml_model **out, ml_error *err);

/* The type its matrices are stored in (f32, bf16 or f16; f32 for any other). */
ml_status ml_hf_stored_dtype(const char *folder, ml_dtype *out, ml_error *err);

/* Write everything but the tokenizer into the folder of `manifest` (not committed).  Matrices are rounded to
 * `dtype`, the rest is fp32.  `summary` (may be NULL) is a paragraph for the model card. */
ml_status ml_hf_save(const ml_model *m, ml_dtype dtype, const char *summary, ml_manifest *manifest, ml_error *err);

/* Bytes ml_hf_save will write, about. */
uint64_t ml_hf_save_bytes(const ml_model *m, ml_dtype dtype);

#endif
