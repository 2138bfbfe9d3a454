/* bf16 products by wgmma, on Hopper: three warpgroups for each multiprocessor, one that copies and two that multiply,
 * go through tiles of 128 x 256 sums; each of the two has 64 rows of a tile.
 *
 * Slices of DEPTH of the inner dimension go through STAGES buffers.  `full` of a buffer: every copying thread's part of
 * a slice is there; `empty`: every multiplying warp has done with it.  Buffers are numbered on across tiles, so that
 * the next tile's first slices are copied while this one's sums are used.  Copies are cp.async, since rows are
 * gathered: a thread says `full` of a slice once its copies have come, which it looks at LAG slices later.
 *
 * A slice lies in lines of 128 bytes, as wgmma.cuh says:
 *   inner dimension contiguous   a line for each row (of a) or column (of b)
 *   outer dimension contiguous   64 lines, one for each inner element, for each 64 rows (columns)
 * Each sum belongs to one thread and its order is fixed. */
#include "ops/cuda/product.cuh"
#include "ops/cuda/wgmma.cuh"

enum {
    TILE_ROWS = 2 * ML_WGMMA_ROWS,
    TILE_COLS = ML_WGMMA_COLS,
    DEPTH = 64, /* elements of a line */
    STAGES = 4,
    LAG = 2,
    GROUP = 128, /* threads of a warpgroup */
    THREADS = 3 * GROUP,
    MULTIPLYING_WARPS = 8,
    A_BYTES = TILE_ROWS * ML_LINE_BYTES,
    STAGE_BYTES = A_BYTES + TILE_COLS * ML_LINE_BYTES,
    SHARED_BYTES = STAGES * STAGE_BYTES + ML_LINES_BYTES, /* to begin at whole lines of lines */
    OUTER_BYTES = DEPTH * ML_LINE_BYTES,                  /* 64 rows or columns, outer dimension contiguous */
    COPYING_REGISTERS = 88,
    MULTIPLYING_REGISTERS = 208
};
static_assert(ml_registers_suffice(COPYING_REGISTERS, MULTIPLYING_REGISTERS), "more than a launch has");

/* Where chunk `chunk` of line `line` lies. */
static __device__ __forceinline__ int place(int line, int chunk)
{
    return line * ML_LINE_BYTES + (chunk ^ (line % 8)) * 16;
}

/* A number that goes on: of slices copied or multiplied. */
typedef struct {
    unsigned n;
} slice_counter;

static __device__ __forceinline__ int stage_of(unsigned n)
{
    return (int)(n % STAGES);
}

static __device__ __forceinline__ unsigned parity_of(unsigned n)
{
    return n / STAGES % 2;
}

/* ---- copying ----
 * A thread has the same chunk of every line that it copies, and lines that are a fixed number apart, so that of a copy
 * little is left to be computed: a multiplying warpgroup needs about a thousand cycles for a slice. */

/* Lines of one operand, N rows or columns of it, whose inner dimension is contiguous: line thread / 8 and every 16th.
 */
enum { INNER_STEP = GROUP / 8 };

/* n_line of this thread's lines exist; bytes of each. */
template <int N>
static __device__ __forceinline__ void copy_inner(char *to, const uint16_t *from, int64_t step, int n_line, int bytes)
{
#pragma unroll
    for (int i = 0; i < N / INNER_STEP; i++) {
        ml_copy_16(to + i * INNER_STEP * ML_LINE_BYTES, from, i < n_line ? bytes : 0);
        from += step;
    }
}

/* Where this thread's lines of b, transposed, begin in a tile. */
typedef struct {
    const uint16_t *from;
    int64_t step;
    int n_line;
} inner_lines;

static __device__ __forceinline__ int lines_before(int first, int step, int end)
{
    return first < end ? (end - first + step - 1) / step : 0;
}

static __device__ __forceinline__ inner_lines find_b_lines(const ml_product *g, const ml_tile *tile)
{
    int line = (int)threadIdx.x / 8, row = tile->col + line, step = INNER_STEP, end = g->n;
    const ml_half_operand *o = &g->b;
    if (g->interleave) { /* sixteen lines on are eight rows on, of the same part */
        o = line / 8 ? &g->b2 : o;
        row = tile->col / 2 + line % 8;
        step = INNER_STEP / 2;
        end = g->n_part;
    }
    inner_lines w = { o->data + tile->product * o->product, step * o->stride, lines_before(row, step, end) };
    if (w.n_line > 0) w.from += row * o->stride;
    return w;
}

/* Lines of inner elements, each N rows or columns: this thread has line thread / (N / 8) and those GROUP / (N / 8) on,
 * the same chunk of each. */
template <int N> static __device__ __forceinline__ char *outer_place(char *to, int i)
{
    int chunk = (int)threadIdx.x % (N / 8), line = (int)threadIdx.x / (N / 8) + i * (GROUP / (N / 8));
    return to + chunk / 8 * OUTER_BYTES + place(line, chunk % 8);
}

/* Stored rows l .. of o, those before `end`, columns from `first` on. */
template <int N>
static __device__ __forceinline__ void copy_outer(char *to, const ml_half_operand *o, int product, int l, int end,
                                                  int first, int bytes)
{
    enum { STEP = GROUP / (N / 8) };
    int line = (int)threadIdx.x / (N / 8), n_line = lines_before(l + line, STEP, end);
    const uint16_t *base = o->data + product * o->product + (bytes ? first : 0);
    if (!o->row) {
        const uint16_t *from = n_line > 0 ? base + (l + line) * o->stride : base;
#pragma unroll
        for (int i = 0; i < N / 16; i++) {
            ml_copy_16(outer_place<N>(to, i), from, i < n_line ? bytes : 0);
            from += STEP * o->stride;
        }
        return;
    }
    int row[N / 16];
#pragma unroll
    for (int i = 0; i < N / 16; i++) row[i] = i < n_line ? o->row[l + line + i * STEP] : 0;
#pragma unroll
    for (int i = 0; i < N / 16; i++) {
        ml_copy_16(outer_place<N>(to, i), base + row[i] * o->stride, i < n_line ? bytes : 0);
    }
}

/* The same of b in two parts, slices within one of them; the other slices line by line. */
static __device__ __forceinline__ void copy_b_parts(const ml_product *g, const ml_tile *tile, char *to, int k,
                                                    int first, int bytes)
{
    int end = tile->k_end < g->n_part ? tile->k_end : g->n_part;
    if (k + DEPTH <= g->split) {
        copy_outer<TILE_COLS>(to, &g->b, tile->product, k, end, first, bytes);
        return;
    }
    if (k >= g->split) {
        end = tile->k_end - g->split < g->n_part ? tile->k_end - g->split : g->n_part;
        copy_outer<TILE_COLS>(to, &g->b2, tile->product, k - g->split, end, first, bytes);
        return;
    }
#pragma unroll 1
    for (int i = 0; i < TILE_COLS / 16; i++) {
        const uint16_t *row = ml_b_inner(g, tile, k + (int)threadIdx.x / (TILE_COLS / 8) + i * 4);
        ml_copy_16(outer_place<TILE_COLS>(to, i), row && bytes ? row + first : g->b.data, row ? bytes : 0);
    }
}

template <bool A_OUTER, bool B_OUTER>
static __device__ __forceinline__ void copy_tile(const ml_product *g, const ml_tile *tile, char *shared, uint64_t *full,
                                                 uint64_t *empty, slice_counter *at)
{
    enum { A_LINES = TILE_ROWS / INNER_STEP };
    int line = (int)threadIdx.x / 8, chunk = (int)threadIdx.x % 8, a_lines = 0;
    int a_first = tile->row + 8 * ((int)threadIdx.x % (TILE_ROWS / 8));
    int b_first = tile->col + 8 * ((int)threadIdx.x % (TILE_COLS / 8));
    const uint16_t *a_row[A_LINES];
    inner_lines b = { NULL, 0, 0 };
    if (!A_OUTER) {
        a_lines = lines_before(tile->row + line, INNER_STEP, tile->row_end);
#pragma unroll
        for (int i = 0; i < A_LINES; i++) {
            a_row[i] = i < a_lines ? ml_a_row(g, tile, tile->row + line + i * INNER_STEP) : g->a.data;
        }
    }
    if (!B_OUTER) b = find_b_lines(g, tile);
    for (int k = tile->k_begin; k < tile->k_end; k += DEPTH, at->n++) {
        char *a_to = shared + stage_of(at->n) * STAGE_BYTES, *b_to = a_to + A_BYTES;
        int inner = k + 8 * chunk, bytes = ml_chunk_bytes(inner, tile->k_end);
        ml_barrier_wait(&empty[stage_of(at->n)], parity_of(at->n) ^ 1);
        if (A_OUTER) {
            copy_outer<TILE_ROWS>(a_to, &g->a, tile->product, k, tile->k_end, a_first, ml_chunk_bytes(a_first, g->m));
        } else {
            char *to = a_to + place(line, chunk);
#pragma unroll
            for (int i = 0; i < A_LINES; i++) {
                int some = i < a_lines ? bytes : 0;
                ml_copy_16(to + i * INNER_STEP * ML_LINE_BYTES, a_row[i] + (some ? inner : 0), some);
            }
        }
        if (!B_OUTER) {
            copy_inner<TILE_COLS>(b_to + place(line, chunk), b.from + (bytes ? inner : 0), b.step, b.n_line, bytes);
        } else if (g->b2.data) {
            copy_b_parts(g, tile, b_to, k, b_first, ml_chunk_bytes(b_first, g->n));
        } else {
            copy_outer<TILE_COLS>(b_to, &g->b, tile->product, k, tile->k_end, b_first, ml_chunk_bytes(b_first, g->n));
        }
        ml_copy_commit();
        if (at->n < LAG) continue;
        ml_copy_wait<LAG>();
        ml_fence_for_matrix_unit();
        ml_barrier_arrive(&full[stage_of(at->n - LAG)]);
    }
}

/* The last slices: whoever copied n slices said `full` of n - LAG. */
static __device__ __forceinline__ void finish_copies(uint64_t *full, slice_counter at)
{
    ml_copy_wait<0>();
    ml_fence_for_matrix_unit();
    for (unsigned n = at.n > LAG ? at.n - LAG : 0; n < at.n; n++) ml_barrier_arrive(&full[stage_of(n)]);
}

/* ---- multiplying ---- */

/* Warpgroup `group` of the two multiplies a slice, which is one group of products. */
template <bool A_OUTER, bool B_OUTER>
static __device__ __forceinline__ void multiply_slice(const char *slice, int group, float sum[ML_WGMMA_COLS / 8][4])
{
    uint32_t a = ml_shared_address(slice) + (uint32_t)(group * (A_OUTER ? OUTER_BYTES : ML_WGMMA_ROWS * ML_LINE_BYTES));
    uint32_t b = ml_shared_address(slice + A_BYTES);
    ml_wgmma_hold<ML_WGMMA_COLS / 8>(sum);
    ml_wgmma_fence();
#pragma unroll
    for (int l = 0; l < DEPTH / ML_WGMMA_INNER; l++) {
        uint32_t a_on = (uint32_t)(l * (A_OUTER ? ML_WGMMA_INNER * ML_LINE_BYTES : ML_WGMMA_INNER * 2));
        uint32_t b_on = (uint32_t)(l * (B_OUTER ? ML_WGMMA_INNER * ML_LINE_BYTES : ML_WGMMA_INNER * 2));
        ml_wgmma<A_OUTER, B_OUTER>(sum, ml_wgmma_operand(a + a_on, OUTER_BYTES, ML_LINES_BYTES),
                                   ml_wgmma_operand(b + b_on, OUTER_BYTES, ML_LINES_BYTES));
    }
    ml_wgmma_commit();
    ml_wgmma_hold<ML_WGMMA_COLS / 8>(sum);
}

static __device__ __forceinline__ void say_empty(uint64_t *empty, unsigned n)
{
    if (threadIdx.x % WARP == 0) ml_barrier_arrive(&empty[stage_of(n)]);
}

template <bool A_OUTER, bool B_OUTER>
static __device__ __forceinline__ void multiply_tile(const ml_tile *tile, const char *shared, uint64_t *full,
                                                     uint64_t *empty, slice_counter *at, int group,
                                                     float sum[ML_WGMMA_COLS / 8][4])
{
#pragma unroll
    for (int j = 0; j < ML_WGMMA_COLS / 8; j++) sum[j][0] = sum[j][1] = sum[j][2] = sum[j][3] = 0;
    for (int k = tile->k_begin; k < tile->k_end; k += DEPTH, at->n++) {
        ml_barrier_wait(&full[stage_of(at->n)], parity_of(at->n));
        multiply_slice<A_OUTER, B_OUTER>(shared + stage_of(at->n) * STAGE_BYTES, group, sum);
        if (k == tile->k_begin) continue;
        ml_wgmma_wait<1>();
        say_empty(empty, at->n - 1);
    }
    ml_wgmma_wait<0>();
    ml_wgmma_hold<ML_WGMMA_COLS / 8>(sum);
    if (tile->k_begin < tile->k_end) say_empty(empty, at->n - 1);
}

/* ---- */

template <ml_product_use USE, bool A_OUTER, bool B_OUTER>
static __global__ void __launch_bounds__(THREADS, 1) multiply(const ml_product g, int64_t n_tile)
{
    __shared__ uint64_t full[STAGES], empty[STAGES];
    ML_DYNAMIC_SHARED(char, memory);
    char *shared = memory + (ML_LINES_BYTES - ml_shared_address(memory) % ML_LINES_BYTES) % ML_LINES_BYTES;
    int group = (int)threadIdx.x / GROUP;
    slice_counter at = { 0 };
    ml_tile tile;
    if (threadIdx.x < STAGES) {
        ml_barrier_init(&full[threadIdx.x], GROUP);
        ml_barrier_init(&empty[threadIdx.x], MULTIPLYING_WARPS);
    }
    __syncthreads();
    if (group == 0) {
        ml_registers_give<COPYING_REGISTERS>();
        for (int64_t t = blockIdx.x; t < n_tile; t += gridDim.x) {
            if (!ml_find_tile<TILE_ROWS, TILE_COLS>(&g, t, &tile)) continue;
            copy_tile<A_OUTER, B_OUTER>(&g, &tile, shared, full, empty, &at);
        }
        finish_copies(full, at);
    } else {
        ml_registers_take<MULTIPLYING_REGISTERS>();
        int row = (group - 1) * ML_WGMMA_ROWS + (int)threadIdx.x % GROUP / WARP * 16;
        float sum[1][ML_WGMMA_COLS / 8][4];
        for (int64_t t = blockIdx.x; t < n_tile; t += gridDim.x) {
            if (!ml_find_tile<TILE_ROWS, TILE_COLS>(&g, t, &tile)) continue;
            multiply_tile<A_OUTER, B_OUTER>(&tile, shared, full, empty, &at, group - 1, sum[0]);
            ml_use_sums<USE, 1, ML_WGMMA_COLS / 8>(&g, &tile, row, 0, sum);
        }
    }
}

template <ml_product_use USE, bool A_OUTER, bool B_OUTER> static void launch(ml_ctx *ctx, const ml_product *g)
{
    int64_t n_product = g->grouping == ML_GROUP_ROWS ? 1 : g->n_product;
    int64_t n_tile = n_product * g->n_row_block * g->n_col_block;
    int64_t n_block = n_tile < ctx->device->n_sm ? n_tile : ctx->device->n_sm;
    ml_device_note(ctx->device,
                   cudaFuncSetAttribute(multiply<USE, A_OUTER, B_OUTER>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        SHARED_BYTES),
                   "shared memory of a product");
    ML_LAUNCH(ctx->device, (multiply<USE, A_OUTER, B_OUTER>), (unsigned)n_block, THREADS, SHARED_BYTES, *g, n_tile);
}

void ml_product_run_wgmma(ml_ctx *ctx, ml_product *g)
{
    g->n_row_block = (int)ml_n_blocks(g->m, TILE_ROWS) + (g->grouping == ML_GROUP_ROWS ? g->n_product : 0);
    g->n_col_block = (int)ml_n_blocks(g->n, TILE_COLS);
    g->warp_columns = TILE_COLS;
    if (g->use == ML_ACTIVATE) {
        launch<ML_ACTIVATE, false, false>(ctx, g);
    } else if (g->use == ML_ACTIVATE_BACK) {
        launch<ML_ACTIVATE_BACK, false, true>(ctx, g);
    } else if (g->a_transpose) {
        g->b_transpose ? launch<ML_KEEP, true, false>(ctx, g) : launch<ML_KEEP, true, true>(ctx, g);
    } else {
        g->b_transpose ? launch<ML_KEEP, false, false>(ctx, g) : launch<ML_KEEP, false, true>(ctx, g);
    }
}
