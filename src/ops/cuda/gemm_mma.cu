/* bf16 products by mma.sync, on Ampere and newer: a block of four warps has a tile of 128 x 128 sums, each warp 64
 * x 64.
 *
 * Slices of DEPTH of the inner dimension go through STAGES buffers of shared memory, copied by cp.async while earlier
 * ones are multiplied.  A slice lies in shared memory as its operand does in global memory:
 *   inner dimension contiguous   128 rows of 4 chunks (16 bytes); chunk c of row r lies at c ^ (r / 2 % 4)
 *   outer dimension contiguous   32 rows of 16 chunks;            chunk c of row l lies at c ^ (l % 8)
 * so that the eight rows of an 8 x 8 matrix that ldmatrix reads are in eight different groups of banks.  What lies
 * beyond an edge is zero.  Each sum belongs to one thread and its order is fixed. */
#include "ops/cuda/product.cuh"

enum {
    TILE = 128,
    DEPTH = 32,
    STAGES = 4,
    WARPS = 4,
    THREADS = WARPS * WARP,
    WARP_TILE = 64,
    N_ROWS = WARP_TILE / 16, /* fragments of a warp */
    N_COLS = WARP_TILE / 8,
    OPERAND = TILE * DEPTH, /* elements of a slice */
    STAGE = 2 * OPERAND,
    SHARED_BYTES = STAGES * STAGE * 2,
    COPIES = OPERAND / 8 / THREADS /* of a thread, per slice */
};

static __device__ __forceinline__ int inner_place(int row, int chunk)
{
    return row * DEPTH + (chunk ^ (row / 2 % 4)) * 8;
}

static __device__ __forceinline__ int outer_place(int l, int chunk)
{
    return l * TILE + (chunk ^ (l % 8)) * 8;
}

/* One slice of an operand: `row` are this thread's rows where the inner dimension is contiguous. */
template <bool IS_A, bool INNER>
static __device__ __forceinline__ void copy_slice(const ml_product *g, const ml_tile *tile,
                                                  const uint16_t *const row[COPIES], int k, uint16_t *to)
{
    const uint16_t *nothing = IS_A ? g->a.data : g->b.data; /* an address for copies of no bytes */
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
        int n = (int)threadIdx.x + i * THREADS;
        if (INNER) {
            int chunk = n % 4, l = k + 8 * chunk;
            int bytes = row[i] ? ml_chunk_bytes(l, tile->k_end) : 0;
            ml_copy_16(to + inner_place(n / 4, chunk), bytes ? row[i] + l : nothing, bytes);
        } else {
            int chunk = n % 16, first = (IS_A ? tile->row : tile->col) + 8 * chunk;
            const uint16_t *base = IS_A ? ml_a_inner(g, tile, k + n / 16) : ml_b_inner(g, tile, k + n / 16);
            int bytes = base ? ml_chunk_bytes(first, IS_A ? g->m : g->n) : 0;
            ml_copy_16(to + outer_place(n / 16, chunk), bytes ? base + first : nothing, bytes);
        }
    }
}

/* The fragment of a of 16 rows from `row` on, inner elements 16 half .. */
template <bool TRANSPOSED>
static __device__ __forceinline__ void load_a(uint32_t to[4], const uint16_t *a, int row, int half)
{
    int lane = (int)threadIdx.x % WARP;
    if (TRANSPOSED) {
        int l = 16 * half + lane % 8 + lane / 16 * 8;
        ml_load_matrix_transposed(to, a + outer_place(l, row / 8 + lane / 8 % 2));
    } else {
        ml_load_matrix(to, a + inner_place(row + lane % 16, 2 * half + lane / 16));
    }
}

/* The fragments of b of 16 columns from `col` on: to[0], to[1] of the first eight. */
template <bool TRANSPOSED>
static __device__ __forceinline__ void load_b(uint32_t to[4], const uint16_t *b, int col, int half)
{
    int lane = (int)threadIdx.x % WARP;
    if (TRANSPOSED) {
        ml_load_matrix(to, b + inner_place(col + lane % 8 + lane / 16 * 8, 2 * half + lane / 8 % 2));
    } else {
        ml_load_matrix_transposed(to, b + outer_place(16 * half + lane % 16, col / 8 + lane / 16));
    }
}

template <bool A_TRANSPOSED, bool B_TRANSPOSED>
static __device__ __forceinline__ void multiply_slice(const uint16_t *a, const uint16_t *b, int row, int col,
                                                      float sum[N_ROWS][N_COLS][4])
{
#pragma unroll
    for (int half = 0; half < DEPTH / 16; half++) {
        uint32_t rows[N_ROWS][4], cols[N_COLS / 2][4];
#pragma unroll
        for (int i = 0; i < N_ROWS; i++) load_a<A_TRANSPOSED>(rows[i], a, row + 16 * i, half);
#pragma unroll
        for (int j = 0; j < N_COLS / 2; j++) load_b<B_TRANSPOSED>(cols[j], b, col + 16 * j, half);
#pragma unroll
        for (int i = 0; i < N_ROWS; i++) {
#pragma unroll
            for (int j = 0; j < N_COLS; j++) ml_mma_bf16(sum[i][j], rows[i], cols[j / 2] + j % 2 * 2);
        }
    }
}

template <ml_product_use USE, bool A_TRANSPOSED, bool B_TRANSPOSED>
static __global__ void __launch_bounds__(THREADS, 2) multiply(const ml_product g)
{
    ML_DYNAMIC_SHARED(uint16_t, shared);
    ml_tile tile;
    if (!ml_find_tile<TILE, TILE>(&g, blockIdx.x, &tile)) return;
    int warp = (int)threadIdx.x / WARP, row = warp % 2 * WARP_TILE, col = warp / 2 * WARP_TILE;
    bool is_empty = tile.row + row >= tile.row_end || tile.col + col >= g.n; /* of this warp */
    const uint16_t *a_row[COPIES], *b_row[COPIES];
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
        int n = ((int)threadIdx.x + i * THREADS) / 4;
        a_row[i] = A_TRANSPOSED ? NULL : ml_a_row(&g, &tile, tile.row + n);
        b_row[i] = B_TRANSPOSED ? ml_b_row(&g, &tile, n) : NULL;
    }
    float sum[N_ROWS][N_COLS][4];
#pragma unroll
    for (int i = 0; i < N_ROWS; i++) {
#pragma unroll
        for (int j = 0; j < N_COLS; j++) sum[i][j][0] = sum[i][j][1] = sum[i][j][2] = sum[i][j][3] = 0;
    }
    int n_slice = (tile.k_end - tile.k_begin + DEPTH - 1) / DEPTH;
    for (int s = -(STAGES - 1); s < n_slice; s++) {
        if (s >= 0) {
            ml_copy_wait<STAGES - 2>();
            __syncthreads(); /* slice s is there, and nobody reads the buffer that is filled next */
        }
        int next = s + STAGES - 1;
        if (next < n_slice) {
            uint16_t *to = shared + next % STAGES * STAGE;
            int k = tile.k_begin + next * DEPTH;
            copy_slice<true, !A_TRANSPOSED>(&g, &tile, a_row, k, to);
            copy_slice<false, B_TRANSPOSED>(&g, &tile, b_row, k, to + OPERAND);
        }
        ml_copy_commit();
        if (s < 0 || is_empty) continue;
        const uint16_t *slice = shared + s % STAGES * STAGE;
        multiply_slice<A_TRANSPOSED, B_TRANSPOSED>(slice, slice + OPERAND, row, col, sum);
    }
    if (!is_empty) ml_use_sums<USE, N_ROWS, N_COLS>(&g, &tile, row, col, sum);
}

template <ml_product_use USE, bool A_TRANSPOSED, bool B_TRANSPOSED> static void launch(ml_ctx *ctx, const ml_product *g)
{
    int64_t n_product = g->grouping == ML_GROUP_ROWS ? 1 : g->n_product;
    ml_device_note(ctx->device,
                   cudaFuncSetAttribute(multiply<USE, A_TRANSPOSED, B_TRANSPOSED>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES),
                   "shared memory of a product");
    ML_LAUNCH(ctx->device, (multiply<USE, A_TRANSPOSED, B_TRANSPOSED>),
              (unsigned)(n_product * g->n_row_block * g->n_col_block), THREADS, SHARED_BYTES, *g);
}

void ml_product_run_mma(ml_ctx *ctx, ml_product *g)
{
    g->n_row_block = (int)ml_n_blocks(g->m, TILE) + (g->grouping == ML_GROUP_ROWS ? g->n_product : 0);
    g->n_col_block = (int)ml_n_blocks(g->n, TILE);
    g->warp_columns = WARP_TILE;
    if (g->use == ML_ACTIVATE) {
        launch<ML_ACTIVATE, false, true>(ctx, g);
    } else if (g->use == ML_ACTIVATE_BACK) {
        launch<ML_ACTIVATE_BACK, false, false>(ctx, g);
    } else if (g->a_transpose) {
        g->b_transpose ? launch<ML_KEEP, true, true>(ctx, g) : launch<ML_KEEP, true, false>(ctx, g);
    } else {
        g->b_transpose ? launch<ML_KEEP, false, true>(ctx, g) : launch<ML_KEEP, false, false>(ctx, g);
    }
}
