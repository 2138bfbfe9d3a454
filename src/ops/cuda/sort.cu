/* Counting sort, the same result every time: a block for each expert walks all ids in their order.
 *   count      n_e by the sum over the block            -> offset[e + 1]
 *   scan       offsets from counts, one warp
 *   place      the i-th accepted pair of e goes to offset[e] + i: positions inside a step of THREADS ids by counting
 *              the lower lanes of the warp and the warps before */
#include "ops/cuda/sort.cuh"

enum { THREADS = 256, WARPS_IN_BLOCK = THREADS / WARP };

static __device__ __forceinline__ int32_t id_at(const int32_t *id, int64_t stride, int64_t top_k, int64_t flat)
{
    return id[flat / top_k * stride + flat % top_k];
}

static __global__ void __launch_bounds__(THREADS) count(const int32_t *id, int64_t stride, int64_t n, int64_t top_k,
                                                        int64_t n_expert, int32_t *offset, ml_fault *fault)
{
    __shared__ int shared[WARPS_IN_BLOCK];
    int e = (int)blockIdx.x, found = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        int32_t expert = id_at(id, stride, top_k, i);
        found += expert == e;
        if (e == 0 && (expert < -1 || expert >= n_expert)) ml_report(fault, ML_FAULT_EXPERT_ID, expert, i / top_k);
        for (int64_t before = i - i % top_k; e == 0 && expert >= 0 && before < i; before++) {
            if (id_at(id, stride, top_k, before) == expert) ml_report(fault, ML_FAULT_EXPERT_ID, expert, i / top_k);
        }
    }
    found = ml_block_sum(found, shared);
    if (threadIdx.x == 0) offset[e + 1] = found;
}

static __global__ void scan(int32_t *offset, int64_t n_expert)
{
    int32_t sum = 0;
    for (int64_t first = 0; first < n_expert; first += WARP) {
        int64_t e = first + threadIdx.x;
        int32_t v = e < n_expert ? offset[e + 1] : 0;
        for (unsigned by = 1; by < WARP; by *= 2) {
            int32_t lower = __shfl_up_sync(ALL_LANES, v, by);
            if (threadIdx.x >= by) v += lower;
        }
        if (e < n_expert) offset[e + 1] = sum + v;
        sum += __shfl_sync(ALL_LANES, v, WARP - 1);
    }
    if (threadIdx.x == 0) offset[0] = 0;
}

static __global__ void __launch_bounds__(THREADS)
    place(const int32_t *id, int64_t stride, int64_t n, int64_t top_k, const int32_t *offset, int32_t *flat)
{
    __shared__ int in_warp[WARPS_IN_BLOCK];
    int e = (int)blockIdx.x, warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, at = offset[e];
    for (int64_t first = 0; first < n; first += THREADS) {
        int64_t i = first + threadIdx.x;
        bool mine = i < n && id_at(id, stride, top_k, i) == e;
        unsigned all = __ballot_sync(ALL_LANES, mine);
        if (lane == 0) in_warp[warp] = __popc(all);
        __syncthreads();
        int before = at, total = 0;
        for (int w = 0; w < WARPS_IN_BLOCK; w++) {
            if (w < warp) before += in_warp[w];
            total += in_warp[w];
        }
        if (mine) flat[before + __popc(all & ((1u << lane) - 1))] = (int32_t)i;
        at += total;
        __syncthreads();
    }
}

/* All of it at once, for few ids: a block whose warps have experts in turns.  The same result. */
enum { SMALL = 4096, SMALL_THREADS = 1024 };

static __global__ void __launch_bounds__(SMALL_THREADS)
    sort_small(const int32_t *id, int64_t stride, int64_t n, int64_t top_k, int64_t n_expert, int32_t *offset,
               int32_t *flat, ml_fault *fault)
{
    ML_DYNAMIC_SHARED(int32_t, start); /* [n_expert + 1] */
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    for (int64_t i = threadIdx.x; i < n; i += SMALL_THREADS) {
        int32_t expert = id_at(id, stride, top_k, i);
        bool bad = expert < -1 || expert >= n_expert;
        for (int64_t before = i - i % top_k; expert >= 0 && before < i; before++) {
            bad = bad || id_at(id, stride, top_k, before) == expert;
        }
        if (bad) ml_report(fault, ML_FAULT_EXPERT_ID, expert, i / top_k);
    }
    for (int64_t e = warp; e < n_expert; e += SMALL_THREADS / WARP) {
        int found = 0;
        for (int64_t first = 0; first < n; first += WARP) {
            int64_t i = first + lane;
            found += __popc(__ballot_sync(ALL_LANES, i < n && id_at(id, stride, top_k, i) == e));
        }
        if (lane == 0) start[e + 1] = found;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        start[0] = 0;
        for (int64_t e = 0; e < n_expert; e++) start[e + 1] += start[e];
    }
    __syncthreads();
    for (int64_t e = threadIdx.x; e <= n_expert; e += SMALL_THREADS) offset[e] = start[e];
    for (int64_t e = warp; e < n_expert; e += SMALL_THREADS / WARP) {
        int at = start[e];
        if (at == start[e + 1]) continue;
        for (int64_t first = 0; first < n; first += WARP) {
            int64_t i = first + lane;
            bool mine = i < n && id_at(id, stride, top_k, i) == e;
            unsigned all = __ballot_sync(ALL_LANES, mine);
            if (mine) flat[at + __popc(all & ((1u << lane) - 1))] = (int32_t)i;
            at += __popc(all);
        }
    }
}

ml_status ml_cuda_sort_make(ml_ctx *ctx, const int32_t *id, int64_t id_stride, int64_t n_token, int64_t top_k,
                            int64_t n_expert, int32_t *offset, int32_t *flat, ml_cuda_sort *out)
{
    int64_t n = n_token * top_k;
    if (!offset) offset = (int32_t *)ml_ctx_scratch_data(ctx, (size_t)(n_expert + 1) * sizeof *offset);
    if (!flat) flat = (int32_t *)ml_ctx_scratch_data(ctx, (size_t)n * sizeof *flat);
    if (!offset || !flat) return ML_ENOMEM;
    out->offset = offset;
    out->flat = flat;
    size_t shared = (size_t)(n_expert + 1) * sizeof(int32_t);
    if (n <= SMALL && shared <= 48 << 10) {
        ML_LAUNCH(ctx->device, sort_small, 1, SMALL_THREADS, shared, id, id_stride, n, top_k, n_expert, offset, flat,
                  ctx->device->fault);
        return ml_queued(ctx);
    }
    ML_LAUNCH(ctx->device, count, (unsigned)n_expert, THREADS, 0, id, id_stride, n, top_k, n_expert, offset,
              ctx->device->fault);
    ML_LAUNCH(ctx->device, scan, 1, WARP, 0, offset, n_expert);
    ML_LAUNCH(ctx->device, place, (unsigned)n_expert, THREADS, 0, id, id_stride, n, top_k, offset, flat);
    return ml_queued(ctx);
}
