/* fp32 products, one tile of TILE x TILE results for a block, each thread owning PER x PER of them:
 *
 *        j ->                       thread (tx, ty) has rows ty + 16 r and columns tx + 16 s, r, s = 0 .. 3, so that
 *     i  +----+----+                a warp reads neighbouring columns of b's tile and few rows of a's.
 *     |  | tile    |
 *     v  +----+----+                Tiles of DEPTH of the inner dimension go through shared memory, zeros beyond edges.
 *
 * The sum over the inner dimension belongs to one thread and runs in order: the same bits every time.  This is the
 * plain kernel that other products are measured against, and what fp32 means on a device. */
#include "ops/cuda/gemm.cuh"

#include "ops/cuda/gemm_lt.cuh"
#include "ops/cuda/half.cuh"
#include "ops/cuda/product.cuh"

enum { TILE = 64, DEPTH = 16, PER = 4, SIDE = TILE / PER, THREADS = SIDE * SIDE };

/* Element [i, l] of op(a), or [l, j] of op(b): (outer, inner) -> the stored row and column. */
static __device__ __forceinline__ float load(const ml_cuda_operand *o, int64_t product, int64_t stored_row, int64_t col)
{
    int64_t row = o->row ? o->row[stored_row] : stored_row;
    int64_t at = product * o->product + row * o->stride + col;
    return o->data ? o->data[at] : __uint_as_float((uint32_t)o->half[at] << 16);
}

/* Which product and which of its rows a block of the grouped form has: blocks in order of products, each having as many
 * as its rows need.  False: none left. */
static __device__ bool find_group(const int32_t *offset, int64_t n_product, int64_t block, int64_t *product,
                                  int64_t *begin, int64_t *end)
{
    int64_t first = 0;
    for (int64_t p = 0; p < n_product; p++) {
        int64_t n = (offset[p + 1] - offset[p] + TILE - 1) / TILE;
        if (block < first + n) {
            *product = p;
            *begin = offset[p] + (block - first) * TILE;
            *end = offset[p + 1];
            return true;
        }
        first += n;
    }
    return false;
}

static __global__ void __launch_bounds__(THREADS) multiply(ml_cuda_gemm g, int64_t n_row_block)
{
    __shared__ float a[DEPTH][TILE + 1], b[DEPTH][TILE + 1];
    int64_t product = blockIdx.z, row = 0, row_end = g.m, k_begin = 0, k_end = g.k;
    int64_t row_block = (int64_t)blockIdx.x % n_row_block, col = (int64_t)blockIdx.x / n_row_block * TILE;
    row = row_block * TILE;
    if (g.grouping == ML_GROUP_ROWS && !find_group(g.offset, g.n_product, row_block, &product, &row, &row_end)) return;
    if (g.grouping == ML_GROUP_INNER) {
        k_begin = g.offset[product];
        k_end = g.offset[product + 1];
        if (k_begin == k_end && g.accumulate) return;
    }
    bool rows_grouped = g.grouping == ML_GROUP_ROWS;
    int64_t a_product = rows_grouped ? 0 : product, c_at = rows_grouped ? 0 : product * g.c_product;
    int tx = (int)threadIdx.x % SIDE, ty = (int)threadIdx.x / SIDE;
    float sum[PER][PER];
    for (int r = 0; r < PER; r++)
        for (int s = 0; s < PER; s++) sum[r][s] = 0;
    for (int64_t k0 = k_begin; k0 < k_end; k0 += DEPTH) {
        for (int e = (int)threadIdx.x; e < TILE * DEPTH; e += THREADS) {
            /* Neighbouring threads take neighbours in memory, whichever way the operand lies. */
            int al = g.a.transpose ? e / TILE : e % DEPTH, ai = g.a.transpose ? e % TILE : e / DEPTH;
            int bl = g.b.transpose ? e % DEPTH : e / TILE, bj = g.b.transpose ? e / DEPTH : e % TILE;
            int64_t i = row + ai, la = k0 + al, j = col + bj, lb = k0 + bl;
            bool a_in = i < row_end && la < k_end, b_in = j < g.n && lb < k_end;
            a[al][ai] = !a_in ? 0.0f : g.a.transpose ? load(&g.a, a_product, la, i) : load(&g.a, a_product, i, la);
            b[bl][bj] = !b_in ? 0.0f : g.b.transpose ? load(&g.b, product, j, lb) : load(&g.b, product, lb, j);
        }
        __syncthreads();
        for (int l = 0; l < DEPTH; l++) {
            for (int r = 0; r < PER; r++)
                for (int s = 0; s < PER; s++) sum[r][s] = fmaf(a[l][ty + SIDE * r], b[l][tx + SIDE * s], sum[r][s]);
        }
        __syncthreads();
    }
    for (int r = 0; r < PER; r++) {
        for (int s = 0; s < PER; s++) {
            int64_t i = row + ty + SIDE * r, j = col + tx + SIDE * s;
            if (i >= row_end || j >= g.n) continue;
            int64_t at = c_at + (g.c_row ? g.c_row[i] : i) * g.c_stride + j;
            float v = g.alpha * sum[r][s];
            if (g.d) v += g.beta * g.d[at];
            if (g.d_half) v += g.beta * __uint_as_float((uint32_t)g.d_half[at] << 16);
            if (g.c_half) {
                g.c_half[at] = (uint16_t)ml_pack_bf16(v, 0);
            } else {
                g.c[at] = g.accumulate ? g.c[at] + v : v;
            }
        }
    }
}

static void run_plain(ml_ctx *ctx, const ml_cuda_gemm *g)
{
    /* Each product of the grouped form may leave one block partly filled. */
    int64_t n_row_block = ml_n_blocks(g->m, TILE) + (g->grouping == ML_GROUP_ROWS ? g->n_product : 0);
    int64_t n_col_block = ml_n_blocks(g->n, TILE);
    dim3 grid((unsigned)(n_row_block * n_col_block), 1, g->grouping == ML_GROUP_ROWS ? 1 : (unsigned)g->n_product);
    ML_LAUNCH(ctx->device, multiply, grid, THREADS, 0, *g, n_row_block);
}

/* ---- in bf16 ---- */

static bool moves_in_pairs(const ml_cuda_gemm *g)
{
    uintptr_t at = g->c_half ? (uintptr_t)g->c_half % 4 : (uintptr_t)g->c % 8;
    return at == 0 && g->c_stride % 2 == 0 && (g->n_product == 1 || g->c_product % 2 == 0);
}

/* Both operands of x x^T, as of Newton-Schulz, are rounded once. */
static bool is_same_matrix(const ml_cuda_gemm *g)
{
    const ml_cuda_operand *a = &g->a, *b = &g->b;
    bool same = a->data == b->data && a->half == b->half && a->stride == b->stride && a->product == b->product &&
                a->row == b->row && g->grouping == ML_GROUP_NONE;
    int64_t a_rows = a->transpose ? g->k : g->m, b_rows = b->transpose ? g->n : g->k;
    return same && a_rows == b_rows && (a->transpose ? g->m : g->k) == (b->transpose ? g->k : g->n);
}

static ml_status run_bf16(ml_ctx *ctx, const ml_cuda_gemm *g)
{
    ml_cuda_operand a = g->a, b = g->b;
    if (g->m > INT32_MAX || g->n > INT32_MAX || g->k > INT32_MAX) {
        return ml_ctx_fail(ctx, ML_EINVAL, "a product of %lld x %lld x %lld is too large for one call", (long long)g->m,
                           (long long)g->n, (long long)g->k);
    }
    ML_TRY(ml_cuda_half_operand(ctx, &a, g->grouping == ML_GROUP_ROWS ? 1 : g->n_product, a.transpose ? g->k : g->m,
                                a.transpose ? g->m : g->k));
    if (is_same_matrix(g)) {
        bool transpose = b.transpose;
        b = a;
        b.transpose = transpose;
    } else {
        ML_TRY(ml_cuda_half_operand(ctx, &b, g->n_product, b.transpose ? g->n : g->k, b.transpose ? g->k : g->n));
    }
    ml_product p = ml_product_make(g->m, g->n, g->k);
    p.n_product = (int)g->n_product;
    p.a = ml_half_operand_of(&a);
    p.b = ml_half_operand_of(&b);
    p.a_transpose = a.transpose;
    p.b_transpose = b.transpose;
    p.grouping = g->grouping;
    p.offset = g->offset;
    p.c = g->c;
    p.c_half = g->c_half;
    p.c_stride = g->c_stride;
    p.c_product = g->c_product;
    p.c_row = g->c_row;
    p.accumulate = g->accumulate;
    p.c_pairs = moves_in_pairs(g);
    p.alpha = g->alpha;
    p.beta = g->beta;
    p.d = g->d;
    p.d_half = g->d_half;
    /* In inference a row's bits may not depend on how many rows there are: cuBLASLt chooses by that. */
    if (ctx->mode == ML_MODE_FAST || !ml_lt_run(ctx, &p)) ml_product_run(ctx, &p);
    return ml_queued(ctx);
}

void ml_cuda_gemm_run(ml_ctx *ctx, const ml_cuda_gemm *g)
{
    if (g->n == 0 || g->n_product == 0 || g->m == 0) return;
    if (ctx->precision == ML_PRECISION_F32 || g->exact) {
        run_plain(ctx, g);
        return;
    }
    /* What comes next in the queue may use the rounded operands' memory again. */
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    (void)run_bf16(ctx, g); /* a failure is the context's */
    ml_ctx_release(ctx, mark);
}
