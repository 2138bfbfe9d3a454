/* How much each column of a weight matters: the mean square of what it is multiplied with on some text.  Quantisation
 * weighs a column's squared error with it, so that the error of the product becomes small and not that of the weight.
 *
 * Stored as llama.cpp stores it (its "imatrix" in GGUF): for a tensor NAME, `NAME.in_sum2` [n_matrix, n_col] sums of
 * squares and `NAME.counts` [n_matrix, 1] of how many rows. */
#ifndef ML_QUANT_IMPORTANCE_H
#define ML_QUANT_IMPORTANCE_H

#include "format/gguf_layout.h"

typedef struct {
    char name[ML_GGUF_TENSOR_NAME_MAX];
    int64_t n_matrix, n_col;
    float *sum;   /* [n_matrix, n_col] of squares */
    float *mean;  /* [n_matrix, n_col] that over the count */
    float *count; /* [n_matrix] rows seen */
} ml_importance_entry;

typedef struct {
    ml_importance_entry *entry;
    size_t n, capacity;
    int64_t n_token; /* of the text; 0: not known */
} ml_importance;

/* An entry of zeros; ML_EINVAL when there is one of that name.  The caller fills sum and count, then finishes it. */
ml_status ml_importance_add(ml_importance *im, const char *name, int64_t n_matrix, int64_t n_col,
                            ml_importance_entry **out, ml_error *err);
/* Compute the means. */
void ml_importance_finish(ml_importance_entry *e);
void ml_importance_free(ml_importance *im);
/* Of one part of a tensor: [n_col], or *out NULL where nothing was seen.  ML_EINVAL when it is of another model. */
ml_status ml_importance_find(const ml_importance *im, const ml_gguf_entry *e, int64_t part, const float **out,
                             ml_error *err);
/* Either form of file; ML_EFORMAT for what is none, or damaged. */
ml_status ml_importance_load(const char *path, ml_importance *out, ml_error *err);
/* The older form (importance_dat.c): entries of experts are one matrix with the columns of all, which
 * ml_importance_find takes apart. */
ml_status ml_importance_load_dat(const char *path, ml_importance *out, ml_error *err);
/* How much the experts saw: rows of each expert's down projection. */
typedef struct {
    int64_t n_expert, n_unseen;  /* of all layers; without any row */
    double fewest, median, most; /* rows of one */
} ml_importance_coverage;

/* n_expert is 0 where there are none, or the file does not say. */
ml_status ml_importance_measure_coverage(const ml_importance *im, ml_importance_coverage *out, ml_error *err);
ml_status ml_importance_save(const ml_importance *im, const char *path, ml_error *err);

#endif
