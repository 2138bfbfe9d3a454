/* A model as a Hugging Face folder: config.json, model.safetensors (or shards and an index),
 * generation_config.json and a model card; the tokenizer's files are put beside them by its own module. */
#ifndef ML_FORMAT_HF_H
#define ML_FORMAT_HF_H

#include "format/manifest.h"
#include "model/model.h"

/* The weights of a folder (or of one .safetensors file in it), mapped, and its config.json; vocab_size becomes the rows
 * of the embedding where those are more.  FP8 with its scales, unaligned and unusual types are read through read_f32.
 */
ml_status ml_hf_source_open(const char *path, ml_config *config, ml_weight_source **out, ml_error *err);

/* Write everything but the tokenizer into the folder of `manifest` (not committed).  Matrices are rounded to
 * `dtype`, the rest is fp32.  `summary` (may be NULL) is a paragraph for the model card. */
ml_status ml_hf_save(const ml_model *m, ml_dtype dtype, const char *summary, ml_manifest *manifest, ml_error *err);

/* Bytes ml_hf_save will write, about. */
uint64_t ml_hf_save_bytes(const ml_model *m, ml_dtype dtype);

#endif
