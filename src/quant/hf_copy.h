/* A model folder written anew as a folder: every tensor, also those that this program does not use, in its type or
 * another, and every other file as it is. */
#ifndef ML_QUANT_HF_COPY_H
#define ML_QUANT_HF_COPY_H

#include "format/manifest.h"
#include "tensor/dtype.h"

#include <stdbool.h>

typedef struct {
    const char *folder; /* or a .safetensors file in it */
    bool keep;          /* types as they are; else floating-point matrices but the router become `dtype` */
    ml_dtype dtype;     /* f32, bf16 or f16 */
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
} ml_hf_copy;

/* FP8 with scales becomes `dtype` (bf16 when kept).  The other files of the folder are copied but for weights of other
 * formats; config.json names the new type.  *n_bytes: of the tensors.  ML_ECANCEL when ml_stop_requested. */
ml_status ml_hf_copy_write(const ml_hf_copy *x, ml_manifest *manifest, uint64_t *n_bytes, ml_error *err);

#endif
