/* The router.  Logits by the fp32 product; then one warp for each token scores, chooses and weighs as ops/cpu/router.c
 * does: score + bias, groups, top_k times the largest with ties to the lower id.
 * Shared memory of a warp: score [n_expert], biased [n_expert], group [n_group], chosen [top_k].
 *
 * Capacity: the choices of every expert are listed in the order of tokens (ops/cuda/sort.cuh); one block for each
 * expert bisects over the bits of prob for the lowest that stays, and of those equal to it the earlier tokens stay. */
#include "ops/cuda/gemm.cuh"
#include "ops/cuda/matvec.cuh"
#include "ops/cuda/rows.cuh"
#include "ops/cuda/sort.cuh"
#include "ops/cuda/sums.cuh"
#include "ops/cuda/weight.cuh"

#include <cfloat>

enum { WARPS = 4, THREADS = WARPS * WARP, LIMIT_THREADS = 256, SLICES = 16 };

typedef struct {
    ml_router_param p;
    const float *bias;
    ml_rows logit, prob;
    int32_t *id; /* [tokens, top_k], rows id_stride apart */
    int64_t id_stride, n_token;
    const float *dprob, *dlogit_in;
    float *dlogit; /* [tokens, n_expert] */
} router;

typedef struct {
    float *score, *biased, *group;
    int32_t *chosen;
    float sum;
} choice;

static size_t warp_words(const ml_router_param *p)
{
    return (size_t)(2 * p->n_expert + p->n_group + p->top_k);
}

/* -INFINITY is kept for "taken", and NaN loses against everything. */
static __device__ __forceinline__ float comparable(float v)
{
    return v > -FLT_MAX ? v : -FLT_MAX;
}

/* Index of the largest of n values in shared memory, ties to the lower index; on every lane. */
static __device__ int find_largest(const float *value, int n)
{
    int lane = (int)threadIdx.x % WARP, best = lane < n ? lane : 0;
    float most = lane < n ? value[lane] : -INFINITY;
    for (int i = lane + WARP; i < n; i += WARP) {
        if (value[i] > most) {
            most = value[i];
            best = i;
        }
    }
    for (int with = WARP / 2; with > 0; with /= 2) {
        float other = __shfl_xor_sync(ALL_LANES, most, with);
        int index = __shfl_xor_sync(ALL_LANES, best, with);
        if (other > most || (other == most && index < best)) {
            most = other;
            best = index;
        }
    }
    return best;
}

static __device__ void score_row(const router *w, int64_t token, choice *c)
{
    int lane = (int)threadIdx.x % WARP, n = (int)w->p.n_expert;
    const float *logit = w->logit.data + token * w->logit.stride;
    if (w->p.score == ML_SCORE_SIGMOID) {
        for (int e = lane; e < n; e += WARP) c->score[e] = ml_sigmoid(logit[e]);
    } else {
        float max = -INFINITY, sum = 0;
        for (int e = lane; e < n; e += WARP) max = fmaxf(max, logit[e]);
        max = ml_warp_max(max);
        for (int e = lane; e < n; e += WARP) sum += c->score[e] = expf(logit[e] - max);
        sum = ml_warp_sum(sum);
        for (int e = lane; e < n; e += WARP) c->score[e] /= sum;
    }
    for (int e = lane; e < n; e += WARP) c->biased[e] = comparable(c->score[e] + (w->bias ? w->bias[e] : 0.0f));
    __syncwarp();
}

/* Take the experts of all but the topk_group best groups out of the choice. */
static __device__ void exclude_groups(const router *w, choice *c)
{
    int lane = (int)threadIdx.x % WARP, n_group = (int)w->p.n_group, size = (int)w->p.n_expert / n_group;
    for (int g = lane; g < n_group; g += WARP) {
        float best = -INFINITY, second = -INFINITY;
        for (int e = g * size; e < (g + 1) * size; e++) {
            float v = c->biased[e];
            if (v > best) {
                second = best;
                best = v;
            } else if (v > second) {
                second = v;
            }
        }
        c->group[g] = comparable(size > 1 && !w->p.group_by_best ? best + second : best);
    }
    __syncwarp();
    for (int i = 0; i < (int)w->p.topk_group; i++) {
        int g = find_largest(c->group, n_group);
        __syncwarp();
        if (lane == 0) c->group[g] = -INFINITY;
        __syncwarp();
    }
    for (int e = lane; e < (int)w->p.n_expert; e += WARP) {
        if (c->group[e / size] != -INFINITY) c->biased[e] = -INFINITY;
    }
    __syncwarp();
}

/* All lanes of the warp together; `memory` is this warp's. */
static __device__ choice choose(const router *w, int64_t token, float *memory)
{
    choice c;
    c.score = memory;
    c.biased = memory + w->p.n_expert;
    c.group = c.biased + w->p.n_expert;
    c.chosen = (int32_t *)(void *)(c.group + w->p.n_group);
    c.sum = 0;
    score_row(w, token, &c);
    if (w->p.n_group > 1) exclude_groups(w, &c);
    for (int k = 0; k < (int)w->p.top_k; k++) {
        int e = find_largest(c.biased, (int)w->p.n_expert);
        __syncwarp();
        if (threadIdx.x % WARP == 0) {
            c.biased[e] = -INFINITY;
            c.chosen[k] = e;
        }
        c.sum += c.score[e];
        __syncwarp();
    }
    return c;
}

static __device__ __forceinline__ float weight_scale(const ml_router_param *p, float sum)
{
    return p->renormalise ? p->scale / (sum + 1e-20f) : p->scale;
}

static __global__ void __launch_bounds__(THREADS) route(router w)
{
    ML_DYNAMIC_SHARED(float, shared);
    int64_t token = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    int lane = (int)threadIdx.x % WARP;
    if (token >= w.n_token) return;
    choice c = choose(&w, token, shared + threadIdx.x / WARP * (2 * w.p.n_expert + w.p.n_group + w.p.top_k));
    float scale = weight_scale(&w.p, c.sum);
    for (int k = lane; k < (int)w.p.top_k; k += WARP) {
        w.id[token * w.id_stride + k] = c.chosen[k];
        w.prob.data[token * w.prob.stride + k] = c.score[c.chosen[k]] * scale;
    }
}

/* ---- capacity ---- */

static __device__ __forceinline__ float *prob_of(const router *w, int32_t flat)
{
    return w->prob.data + flat / w->p.top_k * w->prob.stride + flat % w->p.top_k;
}

/* prob as an integer of the same order (weights are never negative). */
static __device__ __forceinline__ unsigned order_of(float prob)
{
    return __float_as_uint(prob) & 0x7fffffffu;
}

/* How many of the listed choices have a weight of at least this order; on every thread of the block. */
static __device__ int count_from(const router *w, const int32_t *flat, int n, unsigned least, int *shared)
{
    int found = 0;
    for (int i = (int)threadIdx.x; i < n; i += LIMIT_THREADS) found += order_of(*prob_of(w, flat[i])) >= least;
    return ml_block_sum(found, shared);
}

static __global__ void __launch_bounds__(LIMIT_THREADS)
    limit(router w, const int32_t *offset, const int32_t *flats, int32_t *count, int capacity)
{
    __shared__ int shared[LIMIT_THREADS / WARP];
    int n = offset[blockIdx.x + 1] - offset[blockIdx.x];
    const int32_t *flat = flats + offset[blockIdx.x];
    if (n <= capacity) return;
    unsigned low = 0, high = 0x80000000u; /* count_from(low) > capacity >= count_from(high) */
    while (high - low > 1) {
        unsigned middle = low + (high - low) / 2;
        if (count_from(&w, flat, n, middle, shared) > capacity) {
            low = middle;
        } else {
            high = middle;
        }
    }
    int n_free = capacity - count_from(&w, flat, n, high, shared);
    __syncthreads(); /* all have read every prob before the first is dropped */
    if (threadIdx.x >= WARP) return;
    if (threadIdx.x == 0) count[blockIdx.x] = capacity;
    for (int first = 0; first < n; first += WARP) { /* one warp, in the order of tokens */
        int i = first + (int)threadIdx.x;
        float *prob = prob_of(&w, flat[i < n ? i : n - 1]);
        unsigned order = order_of(*prob);
        bool tied = i < n && order == low;
        unsigned ties = __ballot_sync(ALL_LANES, tied);
        bool place = tied && __popc(ties & ((1u << threadIdx.x) - 1)) < n_free;
        if (i < n && order < high && !place) {
            *prob = 0;
            w.id[flat[i] / w.p.top_k * w.id_stride + flat[i] % w.p.top_k] = -1;
        }
        n_free -= __popc(ties);
        if (n_free < 0) n_free = 0;
    }
}

static ml_status limit_to_capacity(ml_ctx *ctx, const router *w, const ml_cuda_sort *sort, int32_t *count)
{
    double share = (double)w->n_token * (double)w->p.top_k * (double)w->p.capacity_factor / (double)w->p.n_expert;
    ML_LAUNCH(ctx->device, limit, (unsigned)w->p.n_expert, LIMIT_THREADS, 0, *w, sort->offset, sort->flat, count,
              (int)ceil(share));
    return ml_queued(ctx);
}

static __global__ void take_counts(const int32_t *offset, int32_t *count, int64_t n)
{
    int64_t e = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (e < n) count[e] = offset[e + 1] - offset[e];
}

static ml_status check_sizes(ml_ctx *ctx, const ml_router_param *p, int64_t n_token)
{
    if (n_token * p->top_k > INT32_MAX) {
        return ml_ctx_fail(ctx, ML_EINVAL, "router: %lld tokens with %lld experts each are too many for one batch",
                           (long long)n_token, (long long)p->top_k);
    }
    int64_t eligible = p->n_expert / p->n_group * p->topk_group;
    if (p->top_k > eligible) {
        return ml_ctx_fail(ctx, ML_EINVAL,
                           "router: the best %lld groups hold %lld experts, fewer than the %lld to choose",
                           (long long)p->topk_group, (long long)eligible, (long long)p->top_k);
    }
    if (warp_words(p) * WARPS * sizeof(float) <= 48 << 10) return ML_OK;
    return ml_ctx_fail(ctx, ML_EINVAL, "router: %lld experts are too many for the GPU's kernel",
                       (long long)p->n_expert);
}

static router describe(const ml_op_args *args)
{
    router w;
    memset(&w, 0, sizeof w);
    w.p = *(const ml_router_param *)args->param;
    w.bias = ml_f32(args->in[2]);
    w.prob = ml_rows_of(args->out[0]);
    w.logit = ml_rows_of(args->out[1]);
    w.id = ml_i32(args->out[2]);
    w.id_stride = args->out[2]->stride;
    w.n_token = args->in[0]->dim[0];
    return w;
}

extern "C" ml_status ml_cuda_router_forward(ml_ctx *ctx, const ml_op_args *args)
{
    const ml_tensor *x = args->in[0], *weight = args->in[1];
    router w = describe(args);
    int32_t *count = ml_i32(args->out[3]);
    ML_TRY(check_sizes(ctx, &w.p, w.n_token));
    ml_device_zero(ctx->device, count, (size_t)w.p.n_expert * sizeof *count);
    if (w.n_token == 0) return ml_queued(ctx);
    int64_t n_decode = ctx->n_decode < w.n_token ? ctx->n_decode : w.n_token;
    ML_TRY(ml_cuda_matvec_linear(ctx, weight, NULL, ml_f32(x), x->stride, n_decode, w.logit.data, w.logit.stride));
    ml_cuda_weight fp32;
    ML_TRY(ml_cuda_weight_read_exact(ctx, weight, &fp32));
    ml_cuda_gemm g = ml_cuda_gemm_make(w.n_token - n_decode, w.p.n_expert, x->dim[1]);
    g.a = ml_cuda_operand_make(ml_f32(x) + n_decode * x->stride, x->stride, false);
    g.b = ml_cuda_operand_make(fp32.data, fp32.stride, true);
    g.c = w.logit.data + n_decode * w.logit.stride;
    g.c_stride = w.logit.stride;
    g.exact = true;
    ml_cuda_gemm_run(ctx, &g);
    size_t shared = warp_words(&w.p) * WARPS * sizeof(float);
    ML_LAUNCH(ctx->device, route, (unsigned)ml_n_blocks(w.n_token, WARPS), THREADS, shared, w);
    ml_cuda_sort sort;
    ML_TRY(ml_cuda_sort_make(ctx, w.id, w.id_stride, w.n_token, w.p.top_k, w.p.n_expert, NULL, NULL, &sort));
    ML_LAUNCH(ctx->device, take_counts, (unsigned)ml_n_blocks(w.p.n_expert, 128), 128, 0, sort.offset, count,
              w.p.n_expert);
    return w.p.capacity_factor > 0 ? limit_to_capacity(ctx, &w, &sort, count) : ml_queued(ctx);
}

/* d/dscore of the chosen (as ops/cpu/router.c), from there d/dlogit.  dscore takes the place of `biased`. */
static __global__ void __launch_bounds__(THREADS) backward(router w)
{
    ML_DYNAMIC_SHARED(float, shared);
    int64_t token = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    int lane = (int)threadIdx.x % WARP, n = (int)w.p.n_expert;
    if (token >= w.n_token) return;
    float *dlogit = w.dlogit + token * n;
    for (int e = lane; e < n; e += WARP) {
        dlogit[e] = w.dlogit_in ? w.dlogit_in[token * w.logit.stride + e] : 0.0f;
    }
    if (!w.dprob) return;
    choice c = choose(&w, token, shared + threadIdx.x / WARP * (2 * w.p.n_expert + w.p.n_group + w.p.top_k));
    const int32_t *id = w.id + token * w.id_stride;
    const float *dprob = w.dprob + token * w.prob.stride;
    float scale = weight_scale(&w.p, c.sum), mean = 0, *dscore = c.biased;
    for (int k = 0; k < (int)w.p.top_k && w.p.renormalise; k++) {
        if (id[k] >= 0) mean += dprob[k] * c.score[c.chosen[k]];
    }
    if (w.p.renormalise) mean /= c.sum + 1e-20f;
    for (int e = lane; e < n; e += WARP) dscore[e] = 0;
    __syncwarp();
    for (int k = lane; k < (int)w.p.top_k; k += WARP) {
        dscore[c.chosen[k]] = scale * ((id[k] >= 0 ? dprob[k] : 0.0f) - mean);
    }
    __syncwarp();
    if (w.p.score == ML_SCORE_SIGMOID) {
        for (int e = lane; e < n; e += WARP) dlogit[e] += dscore[e] * c.score[e] * (1.0f - c.score[e]);
        return;
    }
    float sum = 0;
    for (int e = lane; e < n; e += WARP) sum += dscore[e] * c.score[e];
    sum = ml_warp_sum(sum);
    for (int e = lane; e < n; e += WARP) dlogit[e] += c.score[e] * (dscore[e] - sum);
}

static __global__ void cut_tokens(int32_t *offset, int64_t n_token)
{
    offset[threadIdx.x] = (int32_t)(n_token * threadIdx.x / SLICES);
}

/* dw += dlogit^T x.  There are few experts, so few blocks: of many tokens SLICES slices are summed side by side, and
 * their sums in order. */
static ml_status add_weight_gradient(ml_ctx *ctx, const router *w, const ml_tensor *x, const ml_tensor *weight,
                                     float *dw)
{
    int64_t n = w->p.n_expert, d = x->dim[1];
    bool in_slices = w->n_token >= 8 * SLICES && weight->stride == d;
    ml_cuda_gemm g = ml_cuda_gemm_make(n, d, w->n_token);
    g.a = ml_cuda_operand_make(w->dlogit, n, true);
    g.b = ml_cuda_operand_make(ml_f32(x), x->stride, false);
    g.c = dw;
    g.c_stride = weight->stride;
    g.accumulate = !in_slices;
    g.exact = true;
    ml_rows parts = { NULL, n * d, n * d };
    if (in_slices) {
        int32_t *offset = (int32_t *)ml_ctx_scratch_data(ctx, (SLICES + 1) * sizeof *offset);
        g.c = parts.data = (float *)ml_ctx_scratch_data(ctx, (size_t)(SLICES * n * d) * sizeof *parts.data);
        if (!offset || !parts.data) return ML_ENOMEM;
        ML_LAUNCH(ctx->device, cut_tokens, 1, SLICES + 1, 0, offset, w->n_token);
        g.grouping = ML_GROUP_INNER;
        g.offset = offset;
        g.n_product = SLICES;
        g.c_product = n * d;
    }
    ml_cuda_gemm_run(ctx, &g);
    if (in_slices) ml_cuda_add_column_sums(ctx, parts, SLICES, dw);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_router_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    const ml_tensor *x = args->in[0], *weight = args->in[1];
    router w = describe(args);
    w.dprob = grads->out[0];
    w.dlogit_in = grads->out[1];
    if (weight->dtype != ML_F32) {
        return ml_ctx_fail(ctx, ML_EINVAL, "router: a weight of type %s has no backward pass: train with f32 weights",
                           ml_dtype_name(weight->dtype));
    }
    int64_t n = w.p.n_expert;
    if (w.n_token == 0) return ML_OK;
    w.dlogit = (float *)ml_ctx_scratch_data(ctx, (size_t)(w.n_token * n) * sizeof *w.dlogit);
    if (!w.dlogit) return ML_ENOMEM;
    size_t shared = warp_words(&w.p) * WARPS * sizeof(float);
    ML_LAUNCH(ctx->device, backward, (unsigned)ml_n_blocks(w.n_token, WARPS), THREADS, shared, w);
    if (grads->in[0]) {
        ml_cuda_gemm g = ml_cuda_gemm_make(w.n_token, x->dim[1], n);
        g.a = ml_cuda_operand_make(w.dlogit, n, false);
        g.b = ml_cuda_operand_make(ml_f32(weight), weight->stride, false);
        g.c = grads->in[0];
        g.c_stride = x->stride;
        g.accumulate = true;
        g.exact = true;
        ml_cuda_gemm_run(ctx, &g);
    }
    return grads->in[1] ? add_weight_gradient(ctx, &w, x, weight, grads->in[1]) : ml_queued(ctx);
}
