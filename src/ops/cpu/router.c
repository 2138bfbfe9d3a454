/* The router: logits, scores, choice of experts, weights, capacity.
 *
 *   score = softmax(logit) or sigmoid(logit)
 *   chosen = the top_k of score + bias, among the topk_group groups whose two best biased scores sum highest, or
 *            (group_by_best) whose best is highest
 *   prob_k = scale * score_k                               raw
 *          = scale * score_k / (sum of chosen + 1e-20)     renormalised, before any is dropped for capacity
 *
 * The backward needs the choice before capacity dropped any: it makes it again from the logits, which is exact. */
#include "ops/cpu/cpu.h"

#include "base/thread.h"
#include "ops/cpu/gemm.h"
#include "ops/cpu/matvec.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { TOKENS_PER_TASK = 32 };

typedef struct {
    const ml_router_param *param;
    const float *bias; /* NULL or [n_expert] */
    const ml_tensor *logit, *prob, *id;
    /* forward, capacity */
    int64_t n_token, capacity;
    int32_t *count;
    const int64_t *offset; /* [n_expert + 1] where an expert's choices begin in flat */
    int32_t *flat;         /* [tokens * top_k] token * top_k + k */
    /* backward */
    const float *dprob, *dlogit_in; /* NULL or laid out as prob, logit */
    float *dlogit;                  /* [tokens, n_expert] */
    float *scratch;                 /* scratch_size(param) floats of each thread */
} router_work;

/* Per thread: scores, biased scores, gradient of scores, group scores; then (as int32) the choice. */
static int64_t scratch_size(const ml_router_param *param)
{
    int64_t n = 3 * param->n_expert + param->n_group + param->top_k;
    return (n + 15) / 16 * 16;
}

static void score_row(ml_score kind, const float *logit, float *score, int64_t n)
{
    if (kind == ML_SCORE_SIGMOID) {
        for (int64_t e = 0; e < n; e++) score[e] = 1.0f / (1.0f + expf(-logit[e]));
        return;
    }
    float max = logit[0], sum = 0;
    for (int64_t e = 1; e < n; e++) max = logit[e] > max ? logit[e] : max;
    for (int64_t e = 0; e < n; e++) sum += score[e] = expf(logit[e] - max);
    for (int64_t e = 0; e < n; e++) score[e] /= sum;
}

/* What is compared: -INFINITY is kept for "taken", and NaN loses against everything. */
static float comparable(float v)
{
    return v > -FLT_MAX ? v : -FLT_MAX;
}

/* Index of the largest value; ties go to the lower index. */
static int64_t find_largest(const float *value, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++) {
        if (value[i] > value[best]) best = i;
    }
    return best;
}

/* Take the experts of all but the topk_group best groups out of the choice. */
static void exclude_groups(const ml_router_param *param, float *biased, float *group)
{
    int64_t size = param->n_expert / param->n_group;
    for (int64_t g = 0; g < param->n_group; g++) {
        float best = -INFINITY, second = -INFINITY;
        for (int64_t e = g * size; e < (g + 1) * size; e++) {
            float v = biased[e];
            if (v > best) {
                second = best;
                best = v;
            } else if (v > second) {
                second = v;
            }
        }
        group[g] = comparable(size > 1 && !param->group_by_best ? best + second : best);
    }
    for (int64_t i = 0; i < param->topk_group; i++) group[find_largest(group, param->n_group)] = -INFINITY;
    for (int64_t g = 0; g < param->n_group; g++) {
        if (group[g] == -INFINITY) continue; /* one of the best */
        for (int64_t e = g * size; e < (g + 1) * size; e++) biased[e] = -INFINITY;
    }
}

typedef struct {
    float *score, *dscore;
    int32_t *chosen;
    float sum; /* of the chosen scores */
} choice;

/* Score one token and choose its experts; the result lies in this thread's scratch. */
static choice choose(const router_work *w, int64_t token, int thread)
{
    const ml_router_param *param = w->param;
    int64_t n = param->n_expert;
    float *scratch = w->scratch + thread * scratch_size(param);
    choice c = { .score = scratch, .dscore = scratch + 2 * n };
    float *biased = scratch + n, *group = scratch + 3 * n;
    c.chosen = (int32_t *)(void *)(group + param->n_group);
    score_row(param->score, ml_f32(w->logit) + token * w->logit->stride, c.score, n);
    for (int64_t e = 0; e < n; e++) biased[e] = comparable(c.score[e] + (w->bias ? w->bias[e] : 0.0f));
    if (param->n_group > 1) exclude_groups(param, biased, group);
    for (int64_t k = 0; k < param->top_k; k++) {
        int64_t e = find_largest(biased, n);
        biased[e] = -INFINITY;
        c.chosen[k] = (int32_t)e;
        c.sum += c.score[e];
    }
    return c;
}

static float weight_scale(const ml_router_param *param, const choice *c)
{
    return param->renormalise ? param->scale / (c->sum + 1e-20f) : param->scale;
}

static void route_tokens(void *arg, int64_t begin, int64_t end, int thread)
{
    const router_work *w = arg;
    for (int64_t t = begin; t < end; t++) {
        choice c = choose(w, t, thread);
        float scale = weight_scale(w->param, &c);
        for (int64_t k = 0; k < w->param->top_k; k++) {
            ml_i32(w->id)[t * w->id->stride + k] = c.chosen[k];
            ml_f32(w->prob)[t * w->prob->stride + k] = c.score[c.chosen[k]] * scale;
        }
    }
}

/* prob as an integer of the same order (weights are never negative). */
static uint32_t order_of(float prob)
{
    uint32_t bits;
    memcpy(&bits, &prob, sizeof bits);
    return bits & 0x7fffffffu;
}

static float *prob_at(const router_work *w, int64_t flat)
{
    return ml_f32(w->prob) + flat / w->param->top_k * w->prob->stride + flat % w->param->top_k;
}

/* How many of the listed choices have a weight of at least this order. */
static int64_t count_from(const router_work *w, const int32_t *flat, int64_t n, uint32_t least)
{
    int64_t n_found = 0;
    for (int64_t i = 0; i < n; i++) n_found += order_of(*prob_at(w, flat[i])) >= least;
    return n_found;
}

/* Drop all but the `capacity` highest weights among an expert's choices, listed by token: find the lowest weight
 * that stays by bisection over its bits, then give the places left at exactly that weight to the earlier tokens. */
static void drop_overflow(const router_work *w, const int32_t *flat, int64_t n)
{
    uint32_t low = 0, high = 0x80000000u; /* count_from(low) > capacity >= count_from(high) */
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (count_from(w, flat, n, middle) > w->capacity) {
            low = middle;
        } else {
            high = middle;
        }
    }
    int64_t n_free = w->capacity - count_from(w, flat, n, high);
    for (int64_t i = 0; i < n; i++) {
        float *prob = prob_at(w, flat[i]);
        if (order_of(*prob) >= high || (order_of(*prob) == low && n_free-- > 0)) continue;
        *prob = 0;
        ml_i32(w->id)[flat[i] / w->param->top_k * w->id->stride + flat[i] % w->param->top_k] = -1;
    }
}

static void limit_experts(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const router_work *w = arg;
    for (int64_t e = begin; e < end; e++) {
        if (w->count[e] <= w->capacity) continue;
        drop_overflow(w, w->flat + w->offset[e], w->count[e]);
        w->count[e] = (int32_t)w->capacity;
    }
}

/* List every expert's choices in the order of tokens, then let each keep the best. */
static ml_status limit_to_capacity(ml_ctx *ctx, router_work *w)
{
    const ml_router_param *param = w->param;
    w->capacity = (int64_t)ceil((double)w->n_token * (double)param->top_k * (double)param->capacity_factor /
                                (double)param->n_expert);
    int64_t *offset = ml_ctx_scratch(ctx, (size_t)(param->n_expert + 1) * sizeof *offset);
    int64_t *next = ml_ctx_scratch(ctx, (size_t)(param->n_expert + 1) * sizeof *next);
    w->flat = ml_ctx_scratch(ctx, (size_t)(w->n_token * param->top_k) * sizeof *w->flat);
    if (!offset || !next || !w->flat) return ML_ENOMEM;
    offset[0] = 0;
    for (int64_t e = 0; e < param->n_expert; e++) offset[e + 1] = offset[e] + w->count[e];
    memcpy(next, offset, (size_t)(param->n_expert + 1) * sizeof *next);
    for (int64_t t = 0; t < w->n_token; t++) {
        const int32_t *id = ml_i32(w->id) + t * w->id->stride;
        for (int64_t k = 0; k < param->top_k; k++) w->flat[next[id[k]]++] = (int32_t)(t * param->top_k + k);
    }
    w->offset = offset;
    ml_parallel_for(param->n_expert, 1, limit_experts, w);
    return ML_OK;
}

static ml_status check_sizes(ml_ctx *ctx, const ml_router_param *param, int64_t n_token)
{
    if (n_token * param->top_k > INT32_MAX) {
        return ml_ctx_fail(ctx, ML_EINVAL, "router: %lld tokens with %lld experts each are too many for one batch",
                           (long long)n_token, (long long)param->top_k);
    }
    int64_t eligible = param->n_expert / param->n_group * param->topk_group;
    if (param->top_k <= eligible) return ML_OK;
    return ml_ctx_fail(ctx, ML_EINVAL, "router: the best %lld groups hold %lld experts, fewer than the %lld to choose",
                       (long long)param->topk_group, (long long)eligible, (long long)param->top_k);
}

static bool allocate_scratch(ml_ctx *ctx, router_work *w)
{
    w->scratch = ml_ctx_scratch(ctx, (size_t)(ml_thread_count() * scratch_size(w->param)) * sizeof(float));
    return w->scratch != NULL;
}

static void make_logits(const ml_ctx *ctx, const ml_tensor *x, const ml_tensor *weight, const ml_tensor *logit)
{
    if (ctx->mode == ML_MODE_FAST || weight->dtype != ML_F32) {
        ml_matvec p = { .n_token = x->dim[0],
                        .n = weight->dim[0],
                        .k = weight->dim[1],
                        .x = ml_f32(x),
                        .x_stride = x->stride,
                        .w_dtype = weight->dtype,
                        .w = weight->data,
                        .w_stride = weight->stride,
                        .y = ml_f32(logit),
                        .y_stride = logit->stride };
        ml_matvec_run(&p);
        return;
    }
    ml_gemm g = { .m = x->dim[0],
                  .n = weight->dim[0],
                  .k = weight->dim[1],
                  .a = { .data = ml_f32(x), .stride = x->stride },
                  .b = { .data = ml_f32(weight), .stride = weight->stride, .transpose = true },
                  .c = ml_f32(logit),
                  .c_stride = logit->stride };
    ml_gemm_run(&g);
}

ml_status ml_cpu_router_forward(ml_ctx *ctx, const ml_op_args *args)
{
    const ml_tensor *x = args->in[0], *weight = args->in[1];
    router_work w = { .param = args->param,
                      .bias = ml_f32(args->in[2]),
                      .prob = args->out[0],
                      .logit = args->out[1],
                      .id = args->out[2],
                      .count = ml_i32(args->out[3]),
                      .n_token = x->dim[0] };
    ML_TRY(check_sizes(ctx, w.param, w.n_token));
    if (!allocate_scratch(ctx, &w)) return ML_ENOMEM;
    make_logits(ctx, x, weight, w.logit);
    ml_parallel_for(w.n_token, TOKENS_PER_TASK, route_tokens, &w);
    memset(w.count, 0, (size_t)w.param->n_expert * sizeof *w.count);
    for (int64_t t = 0; t < w.n_token; t++) {
        for (int64_t k = 0; k < w.param->top_k; k++) w.count[ml_i32(w.id)[t * w.id->stride + k]]++;
    }
    return w.param->capacity_factor > 0 ? limit_to_capacity(ctx, &w) : ML_OK;
}

/* d/dscore of one token from d/dprob of its chosen experts; dropped ones have none.
 *   raw            dscore_j = scale dprob_j
 *   renormalised   dscore_j = scale / D (dprob_j - <dprob, score> / D),  D = sum + 1e-20, over the chosen */
static void score_gradient(const router_work *w, int64_t token, const choice *c)
{
    const ml_router_param *param = w->param;
    const int32_t *id = ml_i32(w->id) + token * w->id->stride;
    const float *dprob = w->dprob + token * w->prob->stride;
    float scale = weight_scale(param, c), mean = 0;
    for (int64_t k = 0; k < param->top_k && param->renormalise; k++) {
        if (id[k] >= 0) mean += dprob[k] * c->score[c->chosen[k]];
    }
    if (param->renormalise) mean /= c->sum + 1e-20f;
    for (int64_t k = 0; k < param->top_k; k++) {
        c->dscore[c->chosen[k]] = scale * ((id[k] >= 0 ? dprob[k] : 0.0f) - mean);
    }
}

static void backward_tokens(void *arg, int64_t begin, int64_t end, int thread)
{
    const router_work *w = arg;
    int64_t n = w->param->n_expert;
    for (int64_t t = begin; t < end; t++) {
        float *dlogit = w->dlogit + t * n;
        for (int64_t e = 0; e < n; e++) dlogit[e] = w->dlogit_in ? w->dlogit_in[t * w->logit->stride + e] : 0.0f;
        if (!w->dprob) continue;
        choice c = choose(w, t, thread);
        memset(c.dscore, 0, (size_t)n * sizeof(float));
        score_gradient(w, t, &c);
        if (w->param->score == ML_SCORE_SIGMOID) {
            for (int64_t e = 0; e < n; e++) dlogit[e] += c.dscore[e] * c.score[e] * (1.0f - c.score[e]);
            continue;
        }
        float mean = 0;
        for (int64_t e = 0; e < n; e++) mean += c.dscore[e] * c.score[e];
        for (int64_t e = 0; e < n; e++) dlogit[e] += c.score[e] * (c.dscore[e] - mean);
    }
}

ml_status ml_cpu_router_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    const ml_tensor *x = args->in[0], *weight = args->in[1];
    router_work w = { .param = args->param,
                      .bias = ml_f32(args->in[2]),
                      .prob = args->out[0],
                      .logit = args->out[1],
                      .id = args->out[2],
                      .dprob = grads->out[0],
                      .dlogit_in = grads->out[1] };
    if (weight->dtype != ML_F32) {
        return ml_ctx_fail(ctx, ML_EINVAL, "router: a weight of type %s has no backward pass: train with f32 weights",
                           ml_dtype_name(weight->dtype));
    }
    int64_t n_token = x->dim[0], n = w.param->n_expert;
    w.dlogit = ml_ctx_scratch(ctx, (size_t)(n_token * n) * sizeof(float));
    if (!w.dlogit || !allocate_scratch(ctx, &w)) return ML_ENOMEM;
    ml_parallel_for(n_token, TOKENS_PER_TASK, backward_tokens, &w);
    ml_gemm_operand dlogit = { .data = w.dlogit, .stride = n };
    if (grads->in[0]) { /* dx += dlogit w */
        ml_gemm g = { .m = n_token,
                      .n = x->dim[1],
                      .k = n,
                      .a = dlogit,
                      .b = { .data = ml_f32(weight), .stride = weight->stride },
                      .c = grads->in[0],
                      .c_stride = x->stride,
                      .accumulate = true };
        ml_gemm_run(&g);
    }
    if (grads->in[1]) { /* dw += dlogit^T x */
        dlogit.transpose = true;
        ml_gemm g = { .m = n,
                      .n = x->dim[1],
                      .k = n_token,
                      .a = dlogit,
                      .b = { .data = ml_f32(x), .stride = x->stride },
                      .c = grads->in[1],
                      .c_stride = weight->stride,
                      .accumulate = true };
        ml_gemm_run(&g);
    }
    return ML_OK;
}
