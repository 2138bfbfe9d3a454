/* Where the weights of a model lie that is read and not trained: the tensors of a file of some format, under the names
 * of model/model.h.  Formats implement this (format/source.h); ml_model_bind uses it. */
#ifndef ML_MODEL_SOURCE_H
#define ML_MODEL_SOURCE_H

#include "base/status.h"
#include "tensor/dtype.h"

#include <stdbool.h>

/* One tensor. */
typedef struct {
    /* Rows as operators read them, one after another in memory of the source; NULL when the file has another form
     * (FP8 with scales, strided, unaligned): then only read_f32 gives it. */
    const void *data;
    ml_dtype dtype; /* of data; without data, the type that keeps the values, or nearly */
    int n_dim;
    int64_t dim[3];
    const void *entry; /* the source's own */
    int64_t first;     /* the source's own: first row of entry */
} ml_stored_weight;

typedef struct ml_weight_source ml_weight_source;
struct ml_weight_source {
    const char *where; /* path, for messages */
    bool (*has)(const ml_weight_source *s, const char *name);
    /* ML_EFORMAT when there is no such tensor or its shape is another: dim[n_dim]. */
    ml_status (*find)(const ml_weight_source *s, const char *name, int n_dim, const int64_t *dim, ml_stored_weight *out,
                      ml_error *err);
    /* Rows [row, row + n_row), of the product of the other dimensions each, as fp32. */
    ml_status (*read_f32)(const ml_weight_source *s, const ml_stored_weight *w, int64_t row, int64_t n_row, float *out,
                          ml_error *err);
    /* The caller has no more use for n_bytes at data (from a stored weight) for now: their memory may be given back;
     * they can still be read.  NULL: nothing to give back. */
    void (*drop)(const ml_weight_source *s, const void *data, size_t n_bytes);
    void (*free)(ml_weight_source *s);
};

#endif
