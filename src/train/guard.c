#include "train/guard.h"

ml_guard_verdict ml_guard_judge(ml_guard *g, double norm)
{
    return ml_guard_decide(g, norm);
}

json_t *ml_guard_to_json(const ml_guard *g)
{
    return json_pack("{s:f, s:f, s:I, s:I}", "mean", g->mean, "variance", g->variance, "n_seen", (json_int_t)g->n_seen,
                     "n_skipped_in_row", (json_int_t)g->n_skipped_in_row);
}

ml_status ml_guard_from_json(ml_guard *g, const json_t *j, const char *where, ml_error *err)
{
    ML_TRY(ml_json_real_or(j, "mean", where, 0, &g->mean, err));
    ML_TRY(ml_json_real_or(j, "variance", where, 0, &g->variance, err));
    ML_TRY(ml_json_int_or(j, "n_seen", where, 0, &g->n_seen, err));
    return ml_json_int_or(j, "n_skipped_in_row", where, 0, &g->n_skipped_in_row, err);
}
