/* All records of some files, to be had in any order: what shuffling needs.
 *
 * Records of plain files stay where they are; the others' bytes go to a file of their own, which has no name, so that
 * nothing of it is left whatever happens.  Memory holds 56 bytes for each record. */
#ifndef ML_DATA_SPOOL_H
#define ML_DATA_SPOOL_H

#include "base/log.h"
#include "data/records.h"

typedef struct ml_spool ml_spool;

/* The file lies in `folder`.  The records are read through `r`, which must outlive the spool; texts of Parquet rows are
 * those of `field`.  ML_ECANCEL when `progress`, which may be NULL, is stopped. */
ml_status ml_spool_open(const char *folder, ml_records *r, const char *field, const ml_progress *progress,
                        ml_spool **out, ml_error *err);
void ml_spool_free(ml_spool *s);
size_t ml_spool_count(const ml_spool *s);
/* Record i, in the order of the files, at the end of a batch; its index is i.  For the second step of records.h. */
ml_status ml_spool_get(const ml_spool *s, size_t i, ml_record_batch *batch, ml_error *err);

#endif
