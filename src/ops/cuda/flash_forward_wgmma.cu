/* Forward in tiles by wgmma, on Hopper, in the shape of FlashAttention-3 (arXiv:2407.08608): a block has 128 rows of
 * queries of one head; one warpgroup copies keys and values, two multiply, each for 64 of the rows.
 *
 *   copying       K 0 | V 0 | K 1 | V 1 | K 2 ...             each into one of two buffers of its own
 *   multiplying   S 0 |  soften 0  | S 1, y += P 0 V 0  |  soften 1  | S 2, y += P 1 V 1  | ...
 *
 * Scores S of a tile of 128 keys and the weighted values of the tile before are products under way at the same time;
 * weights are made of the scores while the values are still multiplied.  The weights P are operands in registers; Q, K
 * and V lie in shared memory, swizzled lines of 64 columns (wgmma.cuh): a block of columns has one line for each row of
 * its tile, so that K and Q are `inner` operands and V, as it is, an `outer` one.
 *
 * `full` of a buffer: every copying thread's copies are there; `empty`: every multiplying warp has done with it.  Each
 * row belongs to four neighbouring threads and its order is fixed. */
#include "ops/cuda/flash_forward.cuh"
#include "ops/cuda/wgmma.cuh"

enum {
    GROUP = 128, /* threads of a warpgroup */
    MULTIPLYING = 2,
    THREADS = (1 + MULTIPLYING) * GROUP,
    ROWS = MULTIPLYING * ML_WGMMA_ROWS,
    KEYS = FLASH_WGMMA_KEYS,
    STAGES = 2,
    LINE = ML_LINE_BYTES / 2,                    /* columns of a block */
    BLOCK_BYTES = KEYS * ML_LINE_BYTES,          /* of keys or values */
    QUERY_BYTES = ML_WGMMA_ROWS * ML_LINE_BYTES, /* a block of a warpgroup's queries */
    COPYING_REGISTERS = 40,
    MULTIPLYING_REGISTERS = 232
};
static_assert(ml_registers_suffice(COPYING_REGISTERS, MULTIPLYING_REGISTERS), "more than a launch has");
static_assert(KEYS == 128, "columns of ml_wgmma_inner");

typedef struct {
    uint64_t k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
    uint64_t queries[MULTIPLYING]; /* a warpgroup's are there */
} barriers;

/* Bytes of shared memory: queries, STAGES tiles of keys, STAGES tiles of values, all in whole lines of lines. */
template <int D_QK, int D_V> static constexpr int shared_bytes()
{
    return ML_LINES_BYTES + D_QK / LINE * (MULTIPLYING * QUERY_BYTES + STAGES * BLOCK_BYTES) +
           D_V / LINE * STAGES * BLOCK_BYTES;
}

/* Where chunk `chunk` (8 columns) of line `line` lies. */
static __device__ __forceinline__ int place(int line, int chunk)
{
    return line * ML_LINE_BYTES + (chunk ^ (line % 8)) * 16;
}

static __device__ __forceinline__ void init_barriers(barriers *b)
{
    if (threadIdx.x < STAGES) {
        ml_barrier_init(&b->k_full[threadIdx.x], GROUP);
        ml_barrier_init(&b->v_full[threadIdx.x], GROUP);
        ml_barrier_init(&b->k_empty[threadIdx.x], MULTIPLYING * GROUP / WARP);
        ml_barrier_init(&b->v_empty[threadIdx.x], MULTIPLYING * GROUP / WARP);
    }
    if (threadIdx.x < MULTIPLYING) ml_barrier_init(&b->queries[threadIdx.x], GROUP);
    __syncthreads();
}

/* ---- copying ---- */

/* KEYS packed rows from `first` on; those from `limit` on become zero.  A thread has chunk thread % 8 of every block's
 * lines thread / 8, and each 16th on. */
template <int D> static __device__ __forceinline__ void copy_rows(char *to, const uint16_t *rows, int first, int limit)
{
    enum { STEP = GROUP / 8 };
    int line = (int)threadIdx.x / 8, chunk = (int)threadIdx.x % 8, left = limit - first - line;
    const uint16_t *from = rows + (int64_t)(first + (left > 0 ? line : 0)) * D + chunk * 8;
    to += place(line, chunk);
#pragma unroll 2
    for (int i = 0; i < KEYS; i += STEP) {
        int bytes = i < left ? 16 : 0;
#pragma unroll
        for (int c = 0; c < D / LINE; c++) ml_copy_16(to + c * BLOCK_BYTES, from + c * LINE, bytes);
        to += STEP * ML_LINE_BYTES;
        from += i + STEP < left ? STEP * D : 0;
    }
}

template <int D_QK, int D_V>
static __device__ __forceinline__ void copy_tiles(const block_tile &b, char *k, char *v, barriers *bar)
{
    unsigned n = 0;
    for (int key = b.begin; key <= b.last; key += KEYS, n++) {
        unsigned stage = n % STAGES, parity = n / STAGES % 2;
        ml_barrier_wait(&bar->k_empty[stage], parity ^ 1);
        copy_rows<D_QK>(k + stage * (D_QK / LINE * BLOCK_BYTES), b.keys, key, b.limit);
        ml_barrier_arrive_copied(&bar->k_full[stage]);
        ml_barrier_wait(&bar->v_empty[stage], parity ^ 1);
        copy_rows<D_V>(v + stage * (D_V / LINE * BLOCK_BYTES), b.values, key, b.limit);
        ml_barrier_arrive_copied(&bar->v_full[stage]);
    }
}

/* ---- multiplying ---- */

/* A warpgroup's queries, each read by this block alone: rounded on the way, no copy in memory. */
template <int D, class W>
static __device__ __forceinline__ void load_queries(const W &w, char *to, int first, int end, int h)
{
    const float *from = w.q.data + first * w.q.stride + h * w.d_qk;
#pragma unroll 2
    for (int i = (int)threadIdx.x % GROUP; i < ML_WGMMA_ROWS * (D / 8); i += GROUP) {
        int row = i / (D / 8), chunk = i % (D / 8);
        float x[8];
        ml_flash_load_8(x, from + row * w.q.stride + chunk * 8, first + row < end ? w.d_qk - chunk * 8 : 0, w.aligned);
        ml_flash_store_8((uint16_t *)(void *)(to + chunk / 8 * QUERY_BYTES + place(row, chunk % 8)), x, w.factor);
    }
}

static __device__ __forceinline__ void say_empty(uint64_t *barrier)
{
    if (threadIdx.x % WARP == 0) ml_barrier_arrive(barrier);
}

/* Queue s = queries times keys, one group of products. */
template <int D> static __device__ __forceinline__ void queue_scores(float s[KEYS / 8][4], const char *q, const char *k)
{
    uint32_t a = ml_shared_address(q), b = ml_shared_address(k);
    ml_wgmma_hold<KEYS / 8>(s);
    ml_wgmma_fence();
#pragma unroll
    for (int c = 0; c < D; c += ML_WGMMA_INNER) {
        uint32_t in_line = (uint32_t)(c % LINE * 2);
        uint64_t x = ml_wgmma_operand(a + c / LINE * QUERY_BYTES + in_line, QUERY_BYTES, ML_LINES_BYTES);
        uint64_t y = ml_wgmma_operand(b + c / LINE * BLOCK_BYTES + in_line, BLOCK_BYTES, ML_LINES_BYTES);
        if (c == 0) {
            ml_wgmma_inner<false>(s, x, y);
        } else {
            ml_wgmma_inner<true>(s, x, y);
        }
    }
    ml_wgmma_commit();
    ml_wgmma_hold<KEYS / 8>(s);
}

/* Queue y += weights times values, one group of products. */
template <int D>
static __device__ __forceinline__ void queue_values(float (&y)[D / 8][4], uint32_t p[KEYS / 16][4], const char *v)
{
    uint32_t b = ml_shared_address(v);
    ml_wgmma_hold<D / 8>(y);
    ml_wgmma_hold_operand<KEYS / 16>(p);
    ml_wgmma_fence();
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++) {
        uint32_t on = (uint32_t)(i * ML_WGMMA_INNER * ML_LINE_BYTES);
        ml_wgmma_registers(y, p[i], ml_wgmma_operand(b + on, BLOCK_BYTES, ML_LINES_BYTES));
    }
    ml_wgmma_commit();
}

/* Scores that somebody must not see become -infinity; then weights. */
template <class W>
static __device__ __forceinline__ void make_weights(const W &w, const block_tile &b, float s[KEYS / 8][4], int key,
                                                    int row, float most[2], float sum[2], float left[2])
{
    if (key < b.low || key + KEYS - 1 > b.high) {
        mask(w, b, s, key, row);
        mask(w, b, s + 8, key + 64, row);
    }
    soften<KEYS / 8>(s, most, sum, left);
}

/* Until the keys of tile n, from `key` on, are there; true: there is such a tile. */
static __device__ __forceinline__ bool wait_for_keys(const block_tile &b, barriers *bar, int key, unsigned n)
{
    if (key > b.last) return false;
    ml_barrier_wait(&bar->k_full[n % STAGES], n / STAGES % 2);
    return true;
}

template <int D_QK, int D_V, class W>
static __device__ __forceinline__ void multiply_tiles(const W &w, const block_tile &b, const char *q, const char *k,
                                                      const char *v, barriers *bar, int row, float (&y)[D_V / 8][4],
                                                      float most[2], float sum[2])
{
    float s[KEYS / 8][4], left[2];
    uint32_t p[KEYS / 16][4];
#pragma unroll
    for (int t = 0; t < KEYS / 8; t++) s[t][0] = s[t][1] = s[t][2] = s[t][3] = 0;
    wait_for_keys(b, bar, b.begin, 0);
    ml_fence_for_matrix_unit();
    queue_scores<D_QK>(s, q, k);
    ml_wgmma_wait<0>();
    ml_wgmma_hold<KEYS / 8>(s);
    say_empty(&bar->k_empty[0]);
    make_weights(w, b, s, b.begin, row, most, sum, left);
    shrink<D_V>(y, left);
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++) pack_weights(p[i], s, 2 * i);
    unsigned before = 0; /* the tile whose values are to come */
    int key = b.begin + KEYS;
    for (bool more = wait_for_keys(b, bar, key, 1); more; before++) {
        unsigned at = (before + 1) % STAGES, values = before % STAGES;
        ml_fence_for_matrix_unit();
        queue_scores<D_QK>(s, q, k + at * (D_QK / LINE * BLOCK_BYTES));
        ml_barrier_wait(&bar->v_full[values], before / STAGES % 2);
        ml_fence_for_matrix_unit();
        queue_values<D_V>(y, p, v + values * (D_V / LINE * BLOCK_BYTES));
        ml_wgmma_wait<1>(); /* the scores */
        ml_wgmma_hold<KEYS / 8>(s);
        say_empty(&bar->k_empty[at]);
        make_weights(w, b, s, key, row, most, sum, left);
        ml_wgmma_hold<KEYS / 8>(s);
        /* The next keys are waited for here so that the compiler makes the weights before it waits for the values. */
        key += KEYS;
        more = wait_for_keys(b, bar, key, before + 2);
        ml_wgmma_wait<0>(); /* the values */
        ml_wgmma_hold<D_V / 8>(y);
        ml_wgmma_hold_operand<KEYS / 16>(p);
        say_empty(&bar->v_empty[values]);
        shrink<D_V>(y, left);
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) pack_weights(p[i], s, 2 * i);
    }
    ml_barrier_wait(&bar->v_full[before % STAGES], before / STAGES % 2);
    ml_fence_for_matrix_unit();
    queue_values<D_V>(y, p, v + before % STAGES * (D_V / LINE * BLOCK_BYTES));
    ml_wgmma_wait<0>();
    ml_wgmma_hold<D_V / 8>(y);
    ml_wgmma_hold_operand<KEYS / 16>(p);
}

/* ---- */

template <int D_QK, int D_V, class W>
static __global__ void __launch_bounds__(THREADS, 1) flash_forward_wgmma(const W w)
{
    __shared__ barriers bar;
    ML_DYNAMIC_SHARED(char, memory);
    char *q = memory + (ML_LINES_BYTES - ml_shared_address(memory) % ML_LINES_BYTES) % ML_LINES_BYTES;
    char *k = q + D_QK / LINE * MULTIPLYING * QUERY_BYTES, *v = k + D_QK / LINE * STAGES * BLOCK_BYTES;
    int h = (int)blockIdx.y, group = (int)threadIdx.x / GROUP - 1;
    block_tile b;
    if (!find_tile<D_QK, D_V, ROWS / FLASH_TILE>(w, h, &b)) return;
    init_barriers(&bar);
    if (group < 0) {
        ml_registers_give<COPYING_REGISTERS>();
        copy_tiles<D_QK, D_V>(b, k, v, &bar);
        return;
    }
    ml_registers_take<MULTIPLYING_REGISTERS>();
    int thread = (int)threadIdx.x - GROUP, first = group * ML_WGMMA_ROWS;
    int row = first + thread % GROUP / WARP * 16 + thread % WARP / 4;
    q += group * (D_QK / LINE * QUERY_BYTES);
    load_queries<D_QK>(w, q, b.first + first, b.end, h);
    ml_fence_for_matrix_unit();
    ml_barrier_arrive(&bar.queries[group]);
    float y[D_V / 8][4], most[2], sum[2];
    clear<D_V>(y, most, sum);
    if (b.resumed) take_up<D_V, MULTIPLYING * GROUP>(state_of<D_V, MULTIPLYING * GROUP>(b, 0, thread), y, most, sum);
    ml_barrier_wait(&bar.queries[group], 0);
    multiply_tiles<D_QK, D_V>(w, b, q, k, v, &bar, row, y, most, sum);
    if (b.broken_off) {
        keep<D_V, MULTIPLYING * GROUP>(state_of<D_V, MULTIPLYING * GROUP>(b, 0, thread), y, most, sum);
    } else {
        finish<D_V>(w, b, y, most, sum, b.first + row, h);
    }
}

template <int D_QK, int D_V, class W> static void launch(ml_ctx *ctx, const W &w, int64_t n_tile)
{
    static_assert(ml_flash_forward_rows(D_QK) == ROWS, "tiles of queries that callers count on");
    auto *attention_forward = flash_forward_wgmma<D_QK, D_V, W>;
    constexpr int n_bytes = shared_bytes<D_QK, D_V>();
    ml_device_note(ctx->device,
                   cudaFuncSetAttribute(attention_forward, cudaFuncAttributeMaxDynamicSharedMemorySize, n_bytes),
                   "shared memory of attention");
    dim3 grid((unsigned)n_tile, (unsigned)w.n_head);
    ML_LAUNCH(ctx->device, attention_forward, grid, THREADS, n_bytes, w);
}

template <class W> static void launch_size(ml_ctx *ctx, const W &w, int64_t n_tile)
{
    switch (ml_flash_size_of(w.d_qk, w.d_v).d_qk) {
    case 64: launch<64, 64>(ctx, w, n_tile); break;
    case 128: launch<128, 128>(ctx, w, n_tile); break;
    default: launch<192, 128>(ctx, w, n_tile);
    }
}

void ml_flash_launch_wgmma(ml_ctx *ctx, const batch &w, int64_t n_tile)
{
    launch_size(ctx, w, n_tile);
}

void ml_flash_launch_wgmma(ml_ctx *ctx, const cached &w, int64_t n_tile)
{
    launch_size(ctx, w, n_tile);
}
