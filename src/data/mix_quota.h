/* How much of a mixture each source gives: shared by mixtures of documents and of rows. */
#ifndef ML_DATA_MIX_QUOTA_H
#define ML_DATA_MIX_QUOTA_H

#include "base/json.h"
#include "data/dataset.h"
#include "data/source_list.h"

typedef struct {
    int64_t available[ML_N_SPLIT][ML_MAX_SOURCES]; /* tokens that the sources have: to be filled in */
    int64_t total[ML_N_SPLIT];
    int64_t quota[ML_N_SPLIT][ML_MAX_SOURCES];
} ml_mix_quota;

/* So many validation tokens go with `tokens` for training. */
int64_t ml_mix_quota_val(int64_t tokens, double val_fraction);
/* From `available`: `tokens` for training, or as many as there are when it is 0, and for validation what val_fraction
 * makes of them or as many as there are.  ML_EINVAL, naming it and what would do, when a source has too little and
 * fewer are not allowed. */
ml_status ml_mix_quota_decide(ml_mix_quota *q, const ml_source_list *list, int64_t tokens, bool allow_fewer,
                              double val_fraction, ml_error *err);
/* {"name", "path", "share", "quota": {"train", "val"}, "available": {"train", "val"}} of source i. */
json_t *ml_mix_quota_describe(const ml_mix_quota *q, const ml_source_list *list, size_t i);

#endif
