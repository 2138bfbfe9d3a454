/* Records of conversations (records.h, dialog.h) -> a folder of rows (rows.h).
 *
 * Which split a record goes to is decided by its key alone (split_rule.h): its own "id", else its question, the first
 * message of a user.  With files for validation all others are for training.
 *
 * Records are encoded on all threads and written in their order; the bytes do not depend on how many there are.  Every
 * defective record is a line of rejects.jsonl in the folder, {"file", "number" (line or row), "reason", "message"};
 * without one there is no such file.
 *
 * With sources the folder is a mixture (mix_rows.h). */
#ifndef ML_DATA_BUILD_ROWS_H
#define ML_DATA_BUILD_ROWS_H

#include "base/log.h"
#include "data/row_make.h"
#include "data/source_list.h"

typedef struct {
    const char *const *input; /* [n_input] files */
    size_t n_input;
    const char *const *val_input; /* [n_val_input] the validation split instead of a share */
    size_t n_val_input;
    const ml_source_list *sources; /* a mixture, instead of both; NULL: none */
    int64_t tokens;                /* of it for training; 0: as many as its sources have */
    bool allow_fewer;              /* as many as they have also where that is less than `tokens` */
    uint64_t seed;                 /* which rows of its sources it takes */
    const char *out;
    const char *name; /* of the data set; NULL: the last part of `out` */
    ml_row_form form;
    const char *chat_format; /* as ml_row_maker_init takes it */
    int64_t max_tokens;
    double val_fraction;   /* in [0, 0.5] */
    double max_bad;        /* share of records that may be defective (ml_row_reject_is_bad) */
    ml_progress *progress; /* in MB of input; may be NULL */
    double progress_begin; /* MB that were done before */
} ml_build_rows_config;

typedef struct {
    int64_t n_row[ML_N_SPLIT], n_token[ML_N_SPLIT], n_target[ML_N_SPLIT];
    int64_t n_record;
    int64_t n_reject[ML_N_REJECT]; /* records that gave no row, by reason */
    char first_bad[512];           /* file, line and reason of the first defective one; empty if none */
    json_t *sources;               /* of a mixture: what each gave, as in meta.json; to be json_decref'd */
} ml_build_rows_result;

/* ML_ECANCEL after a stop, ML_EFORMAT when a file is damaged or too many records are defective (naming the first),
 * ML_EINVAL when no row is left for training. */
ml_status ml_build_rows(const ml_build_rows_config *config, const ml_tokenizer *tokenizer, ml_build_rows_result *result,
                        ml_error *err);

/* Rejects by reason: { "too long": 3, ... } */
json_t *ml_build_rows_describe_rejects(const ml_build_rows_result *result);

#endif
