#include "optim/clip.h"

#include "base/thread.h"

#include <math.h>

enum {
    MAX_PART = 256,     /* partial sums of one parameter */
    MIN_PART = 1 << 14, /* elements of one, at least */
    LANES = 8,
};

typedef struct {
    const float *grad;
    int64_t n, part;
    double sum[MAX_PART];
} norm_work;

static double sum_squares(const float *x, int64_t n)
{
    double lane[LANES] = { 0.0 }, total = 0.0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int64_t j = 0; j < LANES; j++) lane[j] += (double)x[i + j] * (double)x[i + j];
    for (; i < n; i++) lane[0] += (double)x[i] * (double)x[i];
    for (int j = 0; j < LANES; j++) total += lane[j];
    return total;
}

static void sum_parts(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    norm_work *w = arg;
    for (int64_t i = begin; i < end; i++) {
        int64_t at = i * w->part, left = w->n - at;
        w->sum[i] = sum_squares(w->grad + at, left < w->part ? left : w->part);
    }
}

static double sum_gradient(const ml_param *p)
{
    norm_work work = { .grad = p->grad, .n = ml_param_count(p) };
    work.part = (work.n + MAX_PART - 1) / MAX_PART;
    if (work.part < MIN_PART) work.part = MIN_PART;
    int64_t n_part = (work.n + work.part - 1) / work.part;
    if (n_part == 1)
        sum_parts(&work, 0, 1, 0);
    else
        ml_parallel_for(n_part, 1, sum_parts, &work);
    double total = 0.0;
    for (int64_t i = 0; i < n_part; i++) total += work.sum[i];
    return total;
}

ml_status ml_clip_compute_norm(const ml_param *param, int64_t n_param, double *norm, ml_error *err)
{
    double total = 0.0;
    for (int64_t i = 0; i < n_param; i++) {
        double squares = sum_gradient(&param[i]);
        if (!isfinite(squares))
            return ml_fail(
                err, ML_ENUMERIC,
                "the gradient of %s is not finite; lower the learning rate, or look for bad data in this step",
                param[i].name);
        total += squares;
    }
    *norm = sqrt(total);
    return ML_OK;
}

double ml_clip_get_factor(double norm, double max_norm)
{
    return max_norm > 0.0 && norm > max_norm ? max_norm / norm : 1.0;
}
