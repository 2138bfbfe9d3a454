/* A model as a Hugging Face folder: config.json, model.safetensors (or shards and an index),
 * generation_config.json and a model card; the tokenizer's files are put beside them by its own module. */
#ifndef ML_FORMAT_HF_H
#define ML_FORMAT_HF_H

#include "format/manifest.h"
#include "format/safetensors.h"
#include "model/model.h"

/* The weights of a folder (or of one .safetensors file in it), mapped, and its config.json; vocab_size becomes the rows
 * of the embedding where those are more.  FP8 with its scales and what is not aligned are read through read_f32; a
 * weight of any other type than these, BF16, F16 and F32 is not found: ML_EINVAL with its name and type. */
ml_status ml_hf_source_open(const char *path, ml_config *config, ml_weight_source **out, ml_error *err);
/* The same of an open file, with the configuration read before; the file is closed with the source, but stays the
 * caller's when this fails. */
ml_status ml_hf_source_make(ml_safetensors *file, const char *where, ml_config *config, ml_weight_source **out,
                            ml_error *err);
/* The tensors of a source made here; NULL for another. */
const ml_safetensors *ml_hf_source_file(const ml_weight_source *source);
/* Rows [row, row + n_row) of a tensor as fp32, times the scales of an FP8 one: ML_EFORMAT where the file has
 * none. */
ml_status ml_hf_read_f32(const ml_safetensors *file, const ml_st_tensor *t, int64_t row, int64_t n_row, float *out,
                         ml_error *err);

/* Write everything but the tokenizer into the folder of `manifest` (not committed).  Matrices are rounded to
 * `dtype`, the rest is fp32.  `summary` (may be NULL) is a paragraph for the model card. */
ml_status ml_hf_save(const ml_model *m, ml_dtype dtype, const char *summary, ml_manifest *manifest, ml_error *err);

/* The same for a person who waits and may stop it: of a model in memory, or of weights that lie elsewhere, one after
 * the other. */
typedef struct {
    const ml_config *config;
    const int32_t *end; /* [n_end] ids that end an answer; 0: the configuration's alone */
    size_t n_end;
    const ml_model *model;          /* NULL: the source's weights */
    const ml_weight_source *source; /* as a Hugging Face folder has them */
    bool keep;                      /* each weight in the type it has in the source (bf16 for blocks); else as dtype */
    ml_dtype dtype;
    const char *summary;
    /* Told after every weight; may be NULL. */
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
} ml_hf_export;

/* ML_ECANCEL when ml_stop_requested. */
ml_status ml_hf_export_write(const ml_hf_export *x, ml_manifest *manifest, ml_error *err);

/* Bytes ml_hf_save will write, about. */
uint64_t ml_hf_save_bytes(const ml_model *m, ml_dtype dtype);

#endif
