/* A model written as one GGUF file, tensor by tensor: some rows are made, quantised on all threads and written before
 * the next, so that memory stays at some tens of megabytes whatever the size of the model. */
#ifndef ML_QUANT_GGUF_EXPORT_H
#define ML_QUANT_GGUF_EXPORT_H

#include "format/gguf_layout.h"
#include "quant/choose.h"
#include "quant/importance.h"
#include "token/tokenizer.h"

#include <stdbool.h>

/* What quantisation lost of the tensors of one class in one type. */
typedef struct {
    int64_t n_tensor, n_element;
    double error, square; /* sums over the elements of (written - exact)^2 and exact^2 */
} ml_quant_error;

typedef struct {
    ml_quant_error by[ML_N_CLASS][ML_N_DTYPE];
} ml_quant_errors;

typedef struct {
    const ml_config *config;
    const ml_gguf_arch *arch;
    const ml_gguf_layout *layout;
    ml_quant_plan plan;
    const ml_importance *importance; /* NULL: none */
    ml_quant_errors *errors;         /* NULL: not wanted; else filled, for what is quantised here */
    const ml_tokenizer *tokenizer;   /* NULL: none is written, and llama.cpp takes ids only */
    const char *name;                /* general.name; NULL: none */
    uint64_t split_bytes;            /* larger files become a set (ml_gguf_writer_split); 0: never */
    size_t *n_file;                  /* NULL, or how many were written */
    int64_t file_type;               /* general.file_type of a plan without a mix; -1: that of most bytes */
    /* Without a mix: the type of a tensor, unless a rule says otherwise; rows that do not fit it are f16. */
    ml_status (*type_of)(void *arg, const ml_gguf_entry *e, ml_dtype *out, ml_error *err);
    /* The bytes of one part where they are known in `dtype`, or NULL; may be NULL itself. */
    const void *(*bytes_of)(void *arg, const ml_gguf_entry *e, int64_t part, ml_dtype dtype);
    /* Rows [row, row + n_row) of one part of a tensor as fp32, [n_row, e->cols]; called from several threads.  Not for
     * ML_GGUF_ZEROS and ML_GGUF_ROPE_DIVISORS, which the configuration gives. */
    ml_status (*fill)(void *arg, const ml_gguf_entry *e, int64_t part, int64_t row, int64_t n_row, float *out,
                      ml_error *err);
    /* A tensor was written: what it came from is not needed again.  May be NULL. */
    void (*finished)(void *arg, const ml_gguf_entry *e);
    void *arg;
    /* Told after every piece, with the bytes of tensors written so far; may be NULL. */
    void (*progress)(void *arg, uint64_t done, uint64_t total);
} ml_gguf_export;

/* Bytes of the tensors. */
ml_status ml_gguf_export_bytes(const ml_gguf_export *x, uint64_t *out, ml_error *err);
/* ML_EIO at once when the disk has less than is needed; ML_ECANCEL when ml_stop_requested.  The file appears complete
 * or not at all. */
ml_status ml_gguf_export_write(const ml_gguf_export *x, const char *path, ml_error *err);

#endif
