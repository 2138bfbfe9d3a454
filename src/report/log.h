/* What a run measured, as columns: log.jsonl of train/metrics.h. */
#ifndef ML_REPORT_LOG_H
#define ML_REPORT_LOG_H

#include "base/status.h"

#include <stddef.h>

/* One number of every row, NaN where a row lacks it. */
typedef struct {
    char name[48];
    double *value; /* [n_row] */
} ml_report_column;

typedef struct {
    size_t n_row, n_column;
    ml_report_column *column; /* in the order in which names came up */
    /* how much there is room for */
    size_t row_capacity, column_capacity;
} ml_report_table;

/* Lines with "val_loss" are evaluations, the others steps.  Every number is a column; element i of an array is the
 * column "name.i" (max_load.0: the first expert layer). */
typedef struct {
    ml_report_table step, eval;
} ml_report_log;

/* A last line without its end is of a run that is writing it, and left out.  ML_EFORMAT, with file and line, for what
 * is no JSON object with a step, and for more than 10000 different names. */
ml_status ml_report_log_read(const char *path, ml_report_log *out, ml_error *err);
void ml_report_log_free(ml_report_log *log);

/* NULL when no row has it. */
const double *ml_report_find(const ml_report_table *t, const char *name);
/* How many columns "name.0", "name.1", ... there are. */
size_t ml_report_count(const ml_report_table *t, const char *name);

#endif
