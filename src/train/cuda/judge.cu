#include "ops/cuda/common.cuh"

extern "C" {
#include "train/cuda/judge.h"
}

#include "optim/cuda/control.cuh"

enum { THREADS = 256, MAX_PART = 256 };

/* Block b has tokens b, b + n_block, ... times THREADS: the order of its sum depends on n alone. */
static __global__ void __launch_bounds__(THREADS)
    cross_entropy(const float *logp, const int32_t *target, int64_t n, float weight, float *seed, double *part)
{
    __shared__ double shared[THREADS / WARP];
    double sum = 0;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * THREADS) {
        bool wanted = target[i] >= 0;
        if (wanted) sum += (double)logp[i];
        if (seed) seed[i] = wanted ? -weight : 0.0f;
    }
    sum = ml_block_sum(sum, shared);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

static __global__ void subtract_parts(const double *part, int n_part, double *sum)
{
    double all = *sum;
    for (int i = 0; i < n_part; i++) all -= part[i];
    *sum = all;
}

extern "C" ml_status ml_cuda_cross_entropy(ml_ctx *ctx, const float *logp, const int32_t *target, int64_t n,
                                           double weight, float *seed, double *sum)
{
    if (n == 0) return ml_queued(ctx);
    int64_t n_part = ml_n_blocks(n, THREADS);
    if (n_part > MAX_PART) n_part = MAX_PART;
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    double *part = (double *)ml_ctx_scratch_data(ctx, (size_t)n_part * sizeof *part);
    if (part) {
        ML_LAUNCH(ctx->device, cross_entropy, (unsigned)n_part, THREADS, 0, logp, target, n, (float)weight, seed, part);
        ML_LAUNCH(ctx->device, subtract_parts, 1, 1, 0, part, (int)n_part, sum);
    }
    ml_ctx_release(ctx, mark);
    return ml_queued(ctx);
}

static __global__ void judge(const double *squares, const double *losses, ml_judge_rule rule, ml_step_report *report,
                             ml_update_control *control)
{
    double norm = sqrt(*squares);
    if (!isfinite(report->step.loss) || !isfinite(losses[0]) || !isfinite(losses[1])) norm = NAN;
    report->norm = norm;
    ml_guard_verdict verdict = ml_guard_decide(&report->guard, norm);
    report->verdict = verdict;
    control->use = 0;
    if (verdict != ML_GUARD_USE) return;
    double factor = rule.clip > 0.0 && norm > rule.clip ? rule.clip / norm : 1.0;
    ml_control_use(control, (float)factor, rule.beta1, rule.beta2);
}

extern "C" void ml_cuda_judge(ml_device *device, const double *squares, const double *losses, const ml_judge_rule *rule,
                              ml_step_report *report, ml_update_control *control)
{
    ml_judge_rule r = *rule;
    ML_LAUNCH(device, judge, 1, 1, 0, squares, losses, r, report, control);
}
