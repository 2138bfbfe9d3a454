/* Counting sort, the same result every time.  Each warp has CHUNK ids and walks them WARP at a time, in order:
 *   count      how many of the chunk choose e                 -> part[e, chunk]
 *   scan       parts -> how many chunks before have, offsets from the sums, one block
 *   place      the chunk's own choices of e follow from offset[e] + part[e, chunk] on: positions inside a step by
 * counting the lower lanes with the same expert */
#include "ops/cuda/sort.cuh"

enum { CHUNK = 8 * WARP, MAX_WARPS = 8, SCAN_THREADS = 1024, MAX_SHARED = 48 << 10 };

static __device__ __forceinline__ int32_t id_at(const int32_t *id, int64_t stride, int64_t top_k, int64_t flat)
{
    return id[flat / top_k * stride + flat % top_k];
}

typedef struct {
    const int32_t *id;
    int64_t stride, n, top_k;
    int n_expert, n_chunk;
    int32_t *offset, *flat, *part; /* part [n_expert, n_chunk] */
} choices;

/* An id outside the experts, or the second of its token, is reported. */
static __device__ void check(const choices &w, int64_t i, int32_t expert, ml_fault *fault)
{
    bool bad = expert < -1 || expert >= w.n_expert;
    for (int64_t before = i - i % w.top_k; expert >= 0 && before < i; before++) {
        bad = bad || id_at(w.id, w.stride, w.top_k, before) == expert;
    }
    if (bad) ml_report(fault, ML_FAULT_EXPERT_ID, expert, i / w.top_k);
}

/* One step of a chunk: the expert that this lane's id chooses (-1 none), and which lanes choose the same. */
static __device__ __forceinline__ int32_t read_step(const choices &w, int64_t i, unsigned *same)
{
    int32_t expert = i < w.n ? id_at(w.id, w.stride, w.top_k, i) : -1;
    if (expert >= w.n_expert) expert = -1;
    *same = __match_any_sync(ALL_LANES, expert);
    return expert;
}

static __global__ void __launch_bounds__(MAX_WARPS *WARP) count(choices w, ml_fault *fault)
{
    ML_DYNAMIC_SHARED(int32_t, shared); /* [warps, n_expert] */
    int chunk = (int)(blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP), lane = (int)threadIdx.x % WARP;
    int32_t *found = shared + (int)threadIdx.x / WARP * w.n_expert;
    if (chunk >= w.n_chunk) return;
    for (int e = lane; e < w.n_expert; e += WARP) found[e] = 0;
    __syncwarp();
    for (int64_t i = (int64_t)chunk * CHUNK + lane, step = 0; step < CHUNK; step += WARP, i += WARP) {
        unsigned same;
        int32_t expert = read_step(w, i, &same);
        if (i < w.n) check(w, i, id_at(w.id, w.stride, w.top_k, i), fault);
        if (expert >= 0 && (same & ((1u << lane) - 1)) == 0) found[expert] += __popc(same);
        __syncwarp();
    }
    for (int e = lane; e < w.n_expert; e += WARP) w.part[(int64_t)e * w.n_chunk + chunk] = found[e];
}

/* Inclusive sums over the lanes. */
static __device__ __forceinline__ int32_t sum_lower(int32_t v)
{
    for (unsigned by = 1; by < WARP; by *= 2) {
        int32_t lower = __shfl_up_sync(ALL_LANES, v, by);
        if (threadIdx.x % WARP >= by) v += lower;
    }
    return v;
}

static __global__ void __launch_bounds__(SCAN_THREADS) scan(choices w)
{
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    for (int e = warp; e < w.n_expert; e += SCAN_THREADS / WARP) {
        int32_t *part = w.part + (int64_t)e * w.n_chunk, sum = 0;
        for (int first = 0; first < w.n_chunk; first += WARP) {
            int c = first + lane;
            int32_t v = c < w.n_chunk ? part[c] : 0, until = sum_lower(v);
            if (c < w.n_chunk) part[c] = sum + until - v;
            sum += __shfl_sync(ALL_LANES, until, WARP - 1);
        }
        if (lane == 0) w.offset[e + 1] = sum;
    }
    __syncthreads();
    if (warp > 0) return;
    int32_t sum = 0;
    for (int first = 0; first < w.n_expert; first += WARP) {
        int e = first + lane;
        int32_t until = sum_lower(e < w.n_expert ? w.offset[e + 1] : 0);
        if (e < w.n_expert) w.offset[e + 1] = sum + until;
        sum += __shfl_sync(ALL_LANES, until, WARP - 1);
    }
    if (lane == 0) w.offset[0] = 0;
}

static __global__ void __launch_bounds__(MAX_WARPS *WARP) place(choices w)
{
    ML_DYNAMIC_SHARED(int32_t, shared);
    int chunk = (int)(blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP), lane = (int)threadIdx.x % WARP;
    int32_t *at = shared + (int)threadIdx.x / WARP * w.n_expert;
    if (chunk >= w.n_chunk) return;
    for (int e = lane; e < w.n_expert; e += WARP) at[e] = w.offset[e] + w.part[(int64_t)e * w.n_chunk + chunk];
    __syncwarp();
    for (int64_t i = (int64_t)chunk * CHUNK + lane, step = 0; step < CHUNK; step += WARP, i += WARP) {
        unsigned same;
        int32_t expert = read_step(w, i, &same);
        int lower = __popc(same & ((1u << lane) - 1));
        if (expert >= 0) w.flat[at[expert] + lower] = (int32_t)i;
        __syncwarp();
        if (expert >= 0 && lower == 0) at[expert] += __popc(same);
        __syncwarp();
    }
}

/* All of it at once, for few ids: a block whose warps have experts in turns.  The same result. */
enum { SMALL = 512, SMALL_THREADS = 1024 };

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
    if (n <= SMALL && shared <= MAX_SHARED) {
        ML_LAUNCH(ctx->device, sort_small, 1, SMALL_THREADS, shared, id, id_stride, n, top_k, n_expert, offset, flat,
                  ctx->device->fault);
        return ml_queued(ctx);
    }
    choices w = {
        id, id_stride, n_token * top_k, top_k, (int)n_expert, (int)ml_n_blocks(n, CHUNK), offset, flat, NULL
    };
    w.part = (int32_t *)ml_ctx_scratch_data(ctx, (size_t)(n_expert * w.n_chunk + 1) * sizeof *w.part);
    if (!w.part) return ML_ENOMEM;
    size_t row = (size_t)n_expert * sizeof(int32_t);
    int n_warp = MAX_WARPS * row <= MAX_SHARED ? MAX_WARPS : 1;
    if (row > MAX_SHARED) {
        return ml_ctx_fail(ctx, ML_EINVAL, "experts on the GPU: expected at most %d, found %lld",
                           MAX_SHARED / (int)sizeof(int32_t), (long long)n_expert);
    }
    unsigned n_block = (unsigned)ml_n_blocks(w.n_chunk, n_warp), n_thread = (unsigned)(n_warp * WARP);
    if (n_block > 0) ML_LAUNCH(ctx->device, count, n_block, n_thread, n_warp * row, w, ctx->device->fault);
    ML_LAUNCH(ctx->device, scan, 1, SCAN_THREADS, 0, w);
    if (n_block > 0) ML_LAUNCH(ctx->device, place, n_block, n_thread, n_warp * row, w);
    return ml_queued(ctx);
}
