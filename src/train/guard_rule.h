/* The guard's arithmetic, the same here and on a device (train/guard.h says what it decides). */
#ifndef ML_TRAIN_GUARD_RULE_H
#define ML_TRAIN_GUARD_RULE_H

#include "base/device_code.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    double deviations; /* 0: only norms that are not finite are outliers */
    int64_t patience;
    double mean, variance; /* of log norm, exponential, over about 100 steps */
    int64_t n_seen, n_skipped_in_row;
} ml_guard;

typedef enum { ML_GUARD_USE, ML_GUARD_SKIP, ML_GUARD_ROLL_BACK } ml_guard_verdict;

static inline ML_HERE_AND_THERE bool ml_guard_is_outlier(const ml_guard *g, double norm)
{
    const int64_t settled = 20;
    if (!isfinite(norm)) return true;
    if (g->deviations <= 0 || g->n_seen < settled) return false;
    double distance = log(norm + 1e-30) - g->mean;
    return distance > g->deviations * sqrt(g->variance) && distance > log(2.0);
}

static inline ML_HERE_AND_THERE ml_guard_verdict ml_guard_decide(ml_guard *g, double norm)
{
    const int64_t window = 100;
    if (ml_guard_is_outlier(g, norm)) {
        g->n_skipped_in_row++;
        if (g->n_skipped_in_row < g->patience) return ML_GUARD_SKIP;
        g->n_skipped_in_row = 0;
        return ML_GUARD_ROLL_BACK;
    }
    g->n_skipped_in_row = 0;
    g->n_seen++;
    double weight = 1.0 / (double)(g->n_seen < window ? g->n_seen : window);
    double distance = log(norm + 1e-30) - g->mean;
    g->mean += weight * distance;
    g->variance += weight * (distance * distance * (1 - weight) - g->variance);
    return ML_GUARD_USE;
}

#endif
