/* Writing a folder of rows (rows.h has its layout).
 *
 * Files appear under their names when the writer finishes, meta.json last: what an interruption leaves never passes for
 * a folder of rows. */
#ifndef ML_DATA_ROWS_WRITE_H
#define ML_DATA_ROWS_WRITE_H

#include "base/json.h"
#include "data/rows.h"

typedef struct ml_rows_writer ml_rows_writer;

/* Makes the folder; a finished one of rows in it is replaced when this one finishes.  `name`: of the data set. */
ml_status ml_rows_writer_make(const char *folder, const char *name, ml_rows_kind kind, const ml_tokenizer *tokenizer,
                              ml_rows_writer **out, ml_error *err);
/* Append a row.  ML_EINVAL when its spans are not as rows.h says. */
ml_status ml_rows_writer_add(ml_rows_writer *w, ml_data_split split, const ml_row *row, ml_error *err);
/* `facts`: further keys of meta.json (may be NULL). */
ml_status ml_rows_writer_finish(ml_rows_writer *w, const json_t *facts, ml_error *err);
/* Drops what is not finished. */
void ml_rows_writer_free(ml_rows_writer *w);

#endif
