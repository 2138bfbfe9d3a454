/* JSON lines of conversations -> a folder of rows (rows.h).
 *
 * Which split a record goes to depends on its question alone (its first user's message; a record's own "id" comes
 * first): it is for validation when the first 8 bytes of sha256(key + "moonlight"), as a big-endian fraction of 2^64,
 * are not below 1 - val_fraction.  So one question never lies on both sides, in whatever file.  With files for
 * validation all others are for training.
 *
 * Records are encoded on all threads and written in their order; the bytes do not depend on how many there are. */
#ifndef ML_DATA_BUILD_ROWS_H
#define ML_DATA_BUILD_ROWS_H

#include "base/log.h"
#include "data/row_make.h"

typedef struct {
    const char *const *input; /* [n_input] JSON lines */
    size_t n_input;
    const char *const *val_input; /* [n_val_input] the validation split instead of a share */
    size_t n_val_input;
    const char *out;
    const char *name; /* of the data set; NULL: the last part of `out` */
    ml_row_form form;
    const char *chat_format; /* as ml_row_maker_init takes it */
    int64_t max_tokens;
    double val_fraction;   /* in [0, 0.5] */
    double max_bad;        /* share of records that may be defective (ml_row_reject_is_bad) */
    ml_progress *progress; /* in MB of input; may be NULL */
} ml_build_rows_config;

typedef struct {
    int64_t n_row[ML_N_SPLIT], n_token[ML_N_SPLIT], n_target[ML_N_SPLIT];
    int64_t n_record;
    int64_t n_reject[ML_N_REJECT]; /* records that gave no row, by reason */
    char first_bad[512];           /* file, line and reason of the first defective one; empty if none */
} ml_build_rows_result;

/* ML_ECANCEL after a stop, ML_EFORMAT when too many records are defective (naming the first), ML_EINVAL when no row is
 * left for training. */
ml_status ml_build_rows(const ml_build_rows_config *config, const ml_tokenizer *tokenizer, ml_build_rows_result *result,
                        ml_error *err);

/* Whether a record with this key is for validation. */
ml_status ml_build_rows_is_val(const char *key, size_t n_bytes, double val_fraction, bool *is_val, ml_error *err);

#endif
