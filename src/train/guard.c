#include "train/guard.h"

#include <math.h>

enum { WINDOW = 100, SETTLED = 20 };

static bool is_outlier(const ml_guard *g, double norm)
{
    if (!isfinite(norm)) return true;
    if (g->deviations <= 0 || g->n_seen < SETTLED) return false;
    double distance = log(norm + 1e-30) - g->mean;
    return distance > g->deviations * sqrt(g->variance) && distance > log(2.0);
}

ml_guard_verdict ml_guard_judge(ml_guard *g, double norm)
{
    if (is_outlier(g, norm)) {
        g->n_skipped_in_row++;
        if (g->n_skipped_in_row < g->patience) return ML_GUARD_SKIP;
        g->n_skipped_in_row = 0;
        return ML_GUARD_ROLL_BACK;
    }
    g->n_skipped_in_row = 0;
    g->n_seen++;
    double weight = 1.0 / (double)(g->n_seen < WINDOW ? g->n_seen : WINDOW);
    double distance = log(norm + 1e-30) - g->mean;
    g->mean += weight * distance;
    g->variance += weight * (distance * distance * (1 - weight) - g->variance);
    return ML_GUARD_USE;
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
