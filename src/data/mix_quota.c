#include "data/mix_quota.h"

#include <math.h>

int64_t ml_mix_quota_val(int64_t tokens, double val_fraction)
{
    return llround((double)tokens * val_fraction / (1 - val_fraction));
}

ml_status ml_mix_quota_decide(ml_mix_quota *q, const ml_source_list *list, int64_t tokens, bool allow_fewer,
                              double val_fraction, ml_error *err)
{
    const int64_t *there = q->available[ML_SPLIT_TRAIN];
    int64_t most = ml_source_list_largest(list, there), *quota = q->quota[ML_SPLIT_TRAIN];
    q->total[ML_SPLIT_TRAIN] = tokens && (tokens <= most || !allow_fewer) ? tokens : most;
    ml_source_list_divide(list, q->total[ML_SPLIT_TRAIN], quota);
    for (size_t i = 0; i < list->n; i++) {
        if (quota[i] <= there[i] && most > 0) continue;
        return ml_fail(
            err, ML_EINVAL,
            "source %s has %lld tokens for training, its share of %lld is %lld: ask for at most %lld in all, "
            "or give it more files or a smaller share",
            list->source[i].path, (long long)there[i], (long long)q->total[ML_SPLIT_TRAIN], (long long)quota[i],
            (long long)most);
    }
    int64_t wanted = ml_mix_quota_val(q->total[ML_SPLIT_TRAIN], val_fraction);
    int64_t largest = ml_source_list_largest(list, q->available[ML_SPLIT_VAL]);
    q->total[ML_SPLIT_VAL] = wanted < largest ? wanted : largest;
    ml_source_list_divide(list, q->total[ML_SPLIT_VAL], q->quota[ML_SPLIT_VAL]);
    return ML_OK;
}

json_t *ml_mix_quota_describe(const ml_mix_quota *q, const ml_source_list *list, size_t i)
{
    const ml_source *s = &list->source[i];
    return json_pack("{s:s, s:s, s:f, s:{s:I, s:I}, s:{s:I, s:I}}", "name", s->name, "path", s->path, "share", s->share,
                     "quota", "train", (json_int_t)q->quota[0][i], "val", (json_int_t)q->quota[1][i], "available",
                     "train", (json_int_t)q->available[0][i], "val", (json_int_t)q->available[1][i]);
}
