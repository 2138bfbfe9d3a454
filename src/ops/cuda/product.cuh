/* Products of bf16 matrices with fp32 sums: what kernels for the matrix unit (gemm_mma.cu, gemm_wgmma.cu) share: the
 * description, which tile a block has, and what becomes of a tile's sums.
 *
 * Operands as in gemm.cuh, elements bf16, rows and products beginning at multiples of 16 bytes.  b may come in two
 * parts: with `b2`, stored row r < split is row r of b and stored row r >= split is row r - split of b2; of each part
 * n_part rows exist and the others (up to split) count as zeros.  Interleaved, the tile's columns are, in
 * turn, eight of the first part and the same eight of the second: gate and up of a column meet in one thread. */
#ifndef ML_OPS_CUDA_PRODUCT_CUH
#define ML_OPS_CUDA_PRODUCT_CUH

#include "ops/cuda/gemm.cuh"
#include "ops/cuda/mma.cuh"

typedef enum {
    ML_KEEP,         /* c = alpha sum [+ beta d] [+ c] */
    ML_ACTIVATE,     /* pre = sum, a = prob act(gate) [up] */
    ML_ACTIVATE_BACK /* sum is da: pre becomes its gradient, a = prob act(gate) [up], dprob */
} ml_product_use;

/* Rows of a layer of experts (experts.cuh), for ML_ACTIVATE and ML_ACTIVATE_BACK. */
typedef struct {
    const float *prob;
    int64_t prob_stride;
    const int32_t *flat; /* [rows] token * top_k + k */
    int top_k, f, up_at; /* up_at: column of pre where up begins; columns f .. up_at are zero */
    bool has_up, is_relu;
    uint16_t *pre; /* [rows, pre_stride]; NULL: not kept */
    uint16_t *a;   /* [rows, up_at] */
    int64_t pre_stride;
    float *dprob_part; /* [ceil(f / warp_columns), rows]: what the columns of a warp add to dprob */
} ml_product_experts;

typedef struct {
    const uint16_t *data;
    int64_t stride, product;
    const int32_t *row;
} ml_half_operand;

typedef struct {
    int m, n, k, n_product;
    int n_row_block, n_col_block; /* of tiles; the kernel's run sets them, and: */
    int warp_columns;             /* of a warp's share of a tile */
    ml_half_operand a, b, b2;     /* b2 without data: b has no second part */
    bool a_transpose, b_transpose;
    int split, n_part;
    bool interleave;
    ml_cuda_grouping grouping;
    const int32_t *offset;
    ml_product_use use;
    float *c;
    uint16_t *c_half;
    int64_t c_stride, c_product;
    const int32_t *c_row;
    bool accumulate, c_pairs; /* c_pairs: two neighbours of c (and d) from an even column on may move as one */
    float alpha, beta;
    const float *d;
    const uint16_t *d_half;
    ml_product_experts e;
} ml_product;

/* n_product 1, alpha 1, and nothing else set. */
static inline ml_product ml_product_make(int64_t m, int64_t n, int64_t k)
{
    ml_product g;
    memset(&g, 0, sizeof g);
    g.m = (int)m;
    g.n = (int)n;
    g.k = (int)k;
    g.n_product = 1;
    g.alpha = 1;
    return g;
}

static inline ml_half_operand ml_half_operand_of(const ml_cuda_operand *o)
{
    ml_half_operand h = { o->half, o->stride, o->product, o->row };
    return h;
}

/* Queue it, on the kernel for this device. */
void ml_product_run(ml_ctx *ctx, ml_product *g);
void ml_product_run_mma(ml_ctx *ctx, ml_product *g);
void ml_product_run_wgmma(ml_ctx *ctx, ml_product *g);

/* ---- which tile ---- */

typedef struct {
    int product, row, row_end, col, k_begin, k_end;
} ml_tile;

/* The product that row block `block` of the grouped form belongs to: blocks in order of products, each having as many
 * as its rows need.  Whole warps call it; false: there is no such block. */
static __device__ __forceinline__ bool ml_find_group(const int32_t *offset, int n_product, int tile_rows, int block,
                                                     ml_tile *tile)
{
    int lane = (int)threadIdx.x % WARP, before = 0;
    for (int first = 0; first < n_product; first += WARP) {
        int p = first + lane, n = p < n_product ? (offset[p + 1] - offset[p] + tile_rows - 1) / tile_rows : 0, sum = n;
        for (int by = 1; by < WARP; by *= 2) {
            int lower = __shfl_up_sync(ALL_LANES, sum, (unsigned)by);
            if (lane >= by) sum += lower;
        }
        int found = __popc(__ballot_sync(ALL_LANES, before + sum <= block));
        int start = before + __shfl_sync(ALL_LANES, sum - n, found % WARP);
        if (found < WARP) {
            tile->product = first + found;
            tile->row = offset[first + found] + (block - start) * tile_rows;
            tile->row_end = offset[first + found + 1];
            return true;
        }
        before += __shfl_sync(ALL_LANES, sum, WARP - 1);
    }
    return false;
}

/* Tile number t.  Neighbouring numbers share rows of a and columns of b: RASTER row blocks go through all columns
 * before the next ones, so that what they read stays in the cache.  Whole warps call it; false: nothing is to be done.
 */
template <int TILE_ROWS, int TILE_COLS>
static __device__ __forceinline__ bool ml_find_tile(const ml_product *g, int64_t t, ml_tile *tile)
{
    enum { RASTER = 8 };
    int64_t each = (int64_t)g->n_row_block * g->n_col_block;
    int r = (int)(t % each), band = r / (RASTER * g->n_col_block), first = band * RASTER;
    int height = g->n_row_block - first < RASTER ? g->n_row_block - first : RASTER;
    r -= first * g->n_col_block;
    tile->product = (int)(t / each);
    tile->row = (first + r % height) * TILE_ROWS;
    tile->row_end = g->m;
    tile->col = r / height * TILE_COLS;
    tile->k_begin = 0;
    tile->k_end = g->k;
    if (g->grouping == ML_GROUP_ROWS)
        return ml_find_group(g->offset, g->n_product, TILE_ROWS, first + r % height, tile);
    if (g->grouping == ML_GROUP_INNER) {
        tile->k_begin = g->offset[tile->product];
        tile->k_end = g->offset[tile->product + 1];
        return !(tile->k_begin == tile->k_end && g->accumulate);
    }
    return true;
}

/* ---- where operands come from ---- */

static __device__ __forceinline__ const uint16_t *ml_stored_row(const ml_half_operand *o, int product, int row)
{
    return o->data + product * o->product + (o->row ? o->row[row] : row) * o->stride;
}

/* Row `n` of the tile of b whose columns begin at `col`, b transposed; NULL: zeros. */
static __device__ __forceinline__ const uint16_t *ml_b_row(const ml_product *g, const ml_tile *tile, int n)
{
    int row = tile->col + n;
    if (!g->interleave) return row < g->n ? ml_stored_row(&g->b, tile->product, row) : NULL;
    row = tile->col / 2 + n / 16 * 8 + n % 8;
    return row < g->n_part ? ml_stored_row(n / 8 % 2 ? &g->b2 : &g->b, tile->product, row) : NULL;
}

/* Stored row l of b, b not transposed; NULL: zeros. */
static __device__ __forceinline__ const uint16_t *ml_b_inner(const ml_product *g, const ml_tile *tile, int l)
{
    if (l >= tile->k_end) return NULL;
    if (!g->b2.data) return ml_stored_row(&g->b, tile->product, l);
    bool is_first = l < g->split;
    l -= is_first ? 0 : g->split;
    return l < g->n_part ? ml_stored_row(is_first ? &g->b : &g->b2, tile->product, l) : NULL;
}

/* Row i of a, a not transposed; NULL: zeros. */
static __device__ __forceinline__ const uint16_t *ml_a_row(const ml_product *g, const ml_tile *tile, int i)
{
    if (i >= tile->row_end) return NULL;
    return ml_stored_row(&g->a, g->grouping == ML_GROUP_ROWS ? 0 : tile->product, i);
}

/* Stored row l of a, a transposed; NULL: zeros. */
static __device__ __forceinline__ const uint16_t *ml_a_inner(const ml_product *g, const ml_tile *tile, int l)
{
    return l < tile->k_end ? ml_stored_row(&g->a, tile->product, l) : NULL;
}

/* Bytes of a chunk of eight elements from `first` on that lie before `end`. */
static __device__ __forceinline__ int ml_chunk_bytes(int first, int end)
{
    int n = end - first;
    return n <= 0 ? 0 : n >= 8 ? 16 : 2 * n;
}

/* ---- what becomes of the sums ----
 * A warp holds 16 NI_ROWS x 8 NI_COLS sums from (row, col) of the tile on, each fragment as mma.cuh's c. */

static __device__ __forceinline__ void ml_keep_pair(const ml_product *g, int64_t at, bool both, float v0, float v1)
{
    v0 *= g->alpha;
    v1 *= g->alpha;
    if (g->d) {
        v0 += g->beta * g->d[at];
        if (both) v1 += g->beta * g->d[at + 1];
    } else if (g->d_half) {
        v0 += g->beta * __uint_as_float((uint32_t)g->d_half[at] << 16);
        if (both) v1 += g->beta * __uint_as_float((uint32_t)g->d_half[at + 1] << 16);
    }
    if (g->c_half) {
        if (both && g->c_pairs) {
            *(uint32_t *)(void *)(g->c_half + at) = ml_pack_bf16(v0, v1);
        } else {
            uint32_t packed = ml_pack_bf16(v0, v1);
            g->c_half[at] = (uint16_t)packed;
            if (both) g->c_half[at + 1] = (uint16_t)(packed >> 16);
        }
        return;
    }
    if (both && g->c_pairs) {
        float2 *to = (float2 *)(void *)(g->c + at);
        float2 v;
        v.x = v0, v.y = v1;
        if (g->accumulate) {
            float2 old = *to;
            v.x = old.x + v0, v.y = old.y + v1;
        }
        *to = v;
        return;
    }
    g->c[at] = g->accumulate ? g->c[at] + v0 : v0;
    if (both) g->c[at + 1] = g->accumulate ? g->c[at + 1] + v1 : v1;
}

template <int N_ROWS, int N_COLS>
static __device__ __forceinline__ void ml_keep(const ml_product *g, const ml_tile *tile, int row, int col,
                                               const float (*sum)[N_COLS][4])
{
    int lane = (int)threadIdx.x % WARP;
    int64_t base = g->grouping == ML_GROUP_ROWS ? 0 : tile->product * g->c_product;
#pragma unroll
    for (int i = 0; i < 2 * N_ROWS; i++) {
        int r = tile->row + row + 8 * i + lane / 4;
        if (r >= tile->row_end) continue;
        int64_t at = base + (g->c_row ? g->c_row[r] : r) * g->c_stride;
#pragma unroll
        for (int j = 0; j < N_COLS; j++) {
            int c = tile->col + col + 8 * j + 2 * (lane % 4);
            if (c >= g->n) continue;
            ml_keep_pair(g, at + c, c + 1 < g->n, sum[i / 2][j][i % 2 * 2], sum[i / 2][j][i % 2 * 2 + 1]);
        }
    }
}

static __device__ __forceinline__ float ml_prob_of(const ml_product_experts *e, int row)
{
    int flat = e->flat[row];
    return e->prob[flat / e->top_k * e->prob_stride + flat % e->top_k];
}

/* Fragments 2 j and 2 j + 1 are gate and up of the same columns where there is an up; else each is gate. */
template <int N_ROWS, int N_COLS>
static __device__ __forceinline__ void ml_store_activated(const ml_product *g, const ml_tile *tile, int row, int col,
                                                          const float (*sum)[N_COLS][4])
{
    const ml_product_experts *e = &g->e;
    int lane = (int)threadIdx.x % WARP, step = e->has_up ? 2 : 1;
#pragma unroll
    for (int i = 0; i < 2 * N_ROWS; i++) {
        int r = tile->row + row + 8 * i + lane / 4;
        if (r >= tile->row_end) continue;
        float prob = ml_prob_of(e, r);
#pragma unroll
        for (int j = 0; j < N_COLS; j++) {
            if (e->has_up && j % 2) continue;
            int c = (tile->col + col + 8 * j) / step + 2 * (lane % 4);
            if (c >= e->up_at) continue;
            float g0 = sum[i / 2][j][i % 2 * 2], g1 = sum[i / 2][j][i % 2 * 2 + 1], u0 = 1, u1 = 1;
            if (e->has_up)
                u0 = sum[i / 2][(j + 1) % N_COLS][i % 2 * 2], u1 = sum[i / 2][(j + 1) % N_COLS][i % 2 * 2 + 1];
            uint16_t *pre = e->pre ? e->pre + r * e->pre_stride + c : NULL;
            uint32_t gates = ml_pack_bf16(g0, g1), ups = ml_pack_bf16(u0, u1);
            if (pre) *(uint32_t *)(void *)pre = gates;
            if (pre && e->has_up) *(uint32_t *)(void *)(pre + e->up_at) = ups;
            /* Of the rounded numbers, as going backward sees them. */
            float a0 = prob * ml_activate(e->is_relu, ml_bf16_low(gates)) * ml_bf16_low(ups);
            float a1 = prob * ml_activate(e->is_relu, ml_bf16_high(gates)) * ml_bf16_high(ups);
            *(uint32_t *)(void *)(e->a + (int64_t)r * e->up_at + c) = ml_pack_bf16(a0, a1);
        }
    }
}

/* One element going back: d is da.  -> what it adds to dprob. */
static __device__ __forceinline__ float ml_activation_back(bool is_relu, float prob, float d, float gate, float up,
                                                           float *dgate, float *dup, float *a)
{
    float act, slope, pulled = prob * d;
    if (is_relu) {
        act = fmaxf(0.0f, gate);
        slope = gate > 0.0f ? 1.0f : 0.0f;
    } else {
        float s = ml_sigmoid(gate);
        act = gate * s;
        slope = s + act * (1.0f - s);
    }
    *dgate = pulled * up * slope;
    *dup = pulled * act;
    *a = prob * act * up;
    return d * (act * up);
}

template <int N_ROWS, int N_COLS>
static __device__ __forceinline__ void ml_store_activated_back(const ml_product *g, const ml_tile *tile, int row,
                                                               int col, const float (*sum)[N_COLS][4])
{
    const ml_product_experts *e = &g->e;
    int lane = (int)threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < 2 * N_ROWS; i++) {
        int r = tile->row + row + 8 * i + lane / 4;
        bool in = r < tile->row_end;
        float prob = in ? ml_prob_of(e, r) : 0.0f, share = 0;
#pragma unroll
        for (int j = 0; j < N_COLS; j++) {
            int c = tile->col + col + 8 * j + 2 * (lane % 4);
            if (!in || c >= e->up_at) continue;
            uint16_t *pre = e->pre + r * e->pre_stride + c;
            uint32_t gates = *(const uint32_t *)(const void *)pre, ups = 0x3f803f80u; /* ones */
            if (e->has_up) ups = *(const uint32_t *)(const void *)(pre + e->up_at);
            float dg[2] = { 0, 0 }, du[2] = { 0, 0 }, a[2] = { 0, 0 };
            if (c < e->f)
                share += ml_activation_back(e->is_relu, prob, sum[i / 2][j][i % 2 * 2], ml_bf16_low(gates),
                                            ml_bf16_low(ups), &dg[0], &du[0], &a[0]);
            if (c + 1 < e->f)
                share += ml_activation_back(e->is_relu, prob, sum[i / 2][j][i % 2 * 2 + 1], ml_bf16_high(gates),
                                            ml_bf16_high(ups), &dg[1], &du[1], &a[1]);
            *(uint32_t *)(void *)pre = ml_pack_bf16(dg[0], dg[1]);
            if (e->has_up) *(uint32_t *)(void *)(pre + e->up_at) = ml_pack_bf16(du[0], du[1]);
            *(uint32_t *)(void *)(e->a + (int64_t)r * e->up_at + c) = ml_pack_bf16(a[0], a[1]);
        }
        share += __shfl_xor_sync(ALL_LANES, share, 1);
        share += __shfl_xor_sync(ALL_LANES, share, 2);
        if (in && lane % 4 == 0) e->dprob_part[(int64_t)((tile->col + col) / (8 * N_COLS)) * g->m + r] = share;
    }
}

template <ml_product_use USE, int N_ROWS, int N_COLS>
static __device__ __forceinline__ void ml_use_sums(const ml_product *g, const ml_tile *tile, int row, int col,
                                                   const float (*sum)[N_COLS][4])
{
    if (USE == ML_ACTIVATE) {
        ml_store_activated<N_ROWS, N_COLS>(g, tile, row, col, sum);
    } else if (USE == ML_ACTIVATE_BACK) {
        ml_store_activated_back<N_ROWS, N_COLS>(g, tile, row, col, sum);
    } else {
        ml_keep<N_ROWS, N_COLS>(g, tile, row, col, sum);
    }
}

#endif
