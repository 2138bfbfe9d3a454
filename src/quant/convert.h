/* A model from any format into another, one tensor at a time: memory stays at some tens of megabytes beside the mapped
 * source, whose pages are given back as they are used.
 *
 *   model folder, safetensors or GGUF file, .pt checkpoint  ->  model folder (Hugging Face) or GGUF file
 *
 * Without a type each tensor keeps the one it has: bits stay as they are where both formats have them.  A folder to a
 * folder keeps everything, tensors that this program does not know and other files included; only FP8 with its scales
 * becomes bf16.  What is written appears complete or not at all. */
#ifndef ML_QUANT_CONVERT_H
#define ML_QUANT_CONVERT_H

#include "format/unused.h"
#include "quant/gguf_export.h"

#include <stdbool.h>

typedef struct {
    const char *from, *to;
    const char *adapter;      /* NULL, or what is merged into the weights (format/find.h) */
    bool gguf;                /* write a GGUF file; else a folder */
    ml_quant_plan plan;       /* of a GGUF file; of a folder, the mix may be f32, bf16 or f16 */
    uint64_t split_bytes;     /* a larger GGUF file becomes a set of such files; 0: never */
    const char *importance;   /* NULL, or a file of it (quant/importance.h); written when `calibrate` is given too */
    const char *calibrate;    /* NULL, or a text to gather importance from */
    int64_t calibrate_tokens; /* of it at most; 0: all */
    const char *tokenizer;    /* NULL: the source's, if it has one */
    /* Told after every piece, with bytes, and while the text is read, with tokens; may be NULL. */
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void (*reading)(void *arg, int64_t n_done, int64_t n_token);
    void *arg;
} ml_convert;

typedef struct {
    uint64_t n_bytes; /* written, of tensors */
    int64_t n_params;
    size_t n_file;    /* of a GGUF set */
    const char *kind; /* class or architecture that was written */
    ml_unused unused; /* tensors of the source that the model does not use and the result does not have */
    bool has_tokenizer;
    ml_error no_tokenizer;           /* why not; an empty message: the source has none */
    ml_quant_errors errors;          /* of what was quantised */
    ml_importance_coverage coverage; /* of the importance that was used; zeros without */
    bool epsilon_assumed; /* a GGUF file's latent norms got the epsilon of the Hugging Face class (see gguf_config.h) */
} ml_convert_report;

ml_status ml_convert_model(const ml_convert *x, ml_convert_report *report, ml_error *err);

#endif
