/* Attention in tiles (FlashAttention-2, arXiv:2307.08691) on mma.sync: what its kernels share.
 *
 * Operands are rounded to bf16 and packed head by head, [n_head, n_token, D], D a head's columns padded with zeros to
 * the next size that has a kernel: a tile of 64 rows is then one piece of memory.  A key's own and shared columns lie
 * side by side.  q carries scale * log2(e), so that the matrix unit's sums are scores in base 2:
 *   p = exp2(q k - lse log2(e)),   dk = ln(2) ds q
 * In shared memory rows are D + 8 elements apart, an odd number of 16-byte pieces: reading eight rows at one column
 * (ldmatrix) meets every bank once.
 *
 * Tiles are of consecutive tokens of the whole batch, so none has to find its sequence: a row of scores begins at
 * begin[token] and a column ends before end[key], and a tile runs over all keys (queries) that any of its rows needs.
 * Every element of a result is summed by one thread in the order of tiles: no other order exists.
 *
 * Forward there is a second way in, for prompts over a cache (attention_cached_prompt.cu): tiles are of one sequence
 * then, and tiles of keys begin at multiples of their size, so that what a row computes is given by its position.
 *
 * Forward there is also a kernel by wgmma, for Hopper and heads of 64/64, 128/128 and 192/128 columns: mma.sync is what
 * runs until docs/gpu.md names the other one as confirmed; MOONLIGHT_CUDA_ATTENTION=wgmma in the environment takes it.
 */
#ifndef ML_OPS_CUDA_FLASH_CUH
#define ML_OPS_CUDA_FLASH_CUH

#include "ops/cuda/attention.cuh"
#include "ops/cuda/mma.cuh"

enum {
    FLASH_WARPS = 4,
    FLASH_THREADS = FLASH_WARPS * WARP,
    FLASH_TILE = 16 * FLASH_WARPS,
    FLASH_WGMMA_KEYS = 128 /* keys of a tile by wgmma */
};
#define FLASH_LOG2E 1.4426950408889634f
#define FLASH_LN2 0.6931471805599453f

/* Packed operands and the bounds of every token's sequence, all in scratch. */
typedef struct {
    const uint16_t *q, *k, *v, *dy; /* q and dy going backward only */
    const float *delta;             /* [n_head, n_token] */
    const int32_t *begin, *end;     /* [n_token] */
} ml_flash_operands;

/* Columns of a head as kernels are made for: (32, 32), (64, 64), (128, 128), (192, 128) or (256, 256). */
typedef struct {
    int d_qk, d_v;
} ml_flash_size;

static inline ml_flash_size ml_flash_size_of(int64_t d_qk, int64_t d_v)
{
    static const ml_flash_size sizes[] = { { 32, 32 }, { 64, 64 }, { 128, 128 }, { 192, 128 }, { 256, 256 } };
    int i = 0;
    while (i < 4 && (d_qk > sizes[i].d_qk || d_v > sizes[i].d_v)) i++;
    return sizes[i];
}

/* Rows of queries that a block of the forward kernel has. */
static __host__ __device__ constexpr int ml_flash_forward_rows(int d_qk)
{
    return d_qk > 192 ? FLASH_TILE : 2 * FLASH_TILE;
}

/* Some tokens of one sequence, neighbours in the batch and in their positions, and a window of its keys. */
typedef struct {
    int tile;              /* number of its first tile of queries */
    int token, n_token;    /* rows token .. token + n_token - 1 of q and y */
    int seq, pos;          /* the sequence, and the position of the first token */
    int key, n_key, first; /* packed rows key .. key + n_key - 1 hold positions first .. first + n_key - 1 */
} ml_flash_slice;

enum { FLASH_MAX_SLICE = 64 }; /* a kernel's arguments have 4 KB */

/* Prompt tokens over a cache: slices whose tokens see no position beyond their window; or, with `state`, one slice of a
 * sequence that is walked window by window, in order, windows beginning at multiples of ml_cuda_flash_forward_keys. */
typedef struct {
    ml_rows q, y; /* [tokens, n_head, d_qk], [tokens, n_head, d_v] */
    const uint16_t *k,
        *v;       /* [n_kv_head, n_position, size.d_qk], [n_kv_head, n_position, size.d_v]; 0 beyond d_qk, d_v */
    float *state; /* NULL, or what ml_flash_state_floats says for every tile and head */
    int n_position, n_head, n_kv_head, d_qk, d_v;
    float factor; /* of q: scale * log2(e) */
    bool aligned; /* q's rows are whole 16-byte pieces */
    int n_slice;
    ml_flash_slice slice[FLASH_MAX_SLICE];
} ml_flash_cached;

/* Between windows a tile keeps running maxima, sums (four parts of each row's) and weighted values. */
static inline int64_t ml_flash_state_floats(ml_flash_size size)
{
    return (int64_t)ml_flash_forward_rows(size.d_qk) * (size.d_v + 8);
}

/* Elements of a row in shared memory. */
static __host__ __device__ constexpr int ml_flash_row(int d)
{
    return d + 8;
}

/* Keys of a tile, forward. */
int ml_cuda_flash_forward_keys(ml_ctx *ctx, ml_flash_size size);

/* y of the slices' tokens, or their state. */
ml_status ml_cuda_flash_forward_cached(ml_ctx *ctx, const ml_flash_cached *w);

/* What these compute of *w, with operands that are packed. */
ml_status ml_cuda_flash_forward_packed(ml_ctx *ctx, const ml_cuda_attention *w, const ml_flash_operands *o);
ml_status ml_cuda_flash_backward_key(ml_ctx *ctx, const ml_cuda_attention *w, const ml_flash_operands *o);
ml_status ml_cuda_flash_backward_query(ml_ctx *ctx, const ml_cuda_attention *w, const ml_flash_operands *o);

/* Queue copies of FLASH_TILE rows from row `first` < limit on; rows from `limit` on become zero. */
template <int D>
static __device__ __forceinline__ void ml_flash_copy(uint16_t *tile, const uint16_t *rows, int first, int limit)
{
    constexpr int PIECES = D / 8;
    const uint16_t *from = rows + (int64_t)first * D;
    int n_valid = (limit - first < FLASH_TILE ? limit - first : FLASH_TILE) * PIECES;
#pragma unroll
    for (int i = (int)threadIdx.x; i < FLASH_TILE * PIECES; i += FLASH_THREADS) {
        bool inside = i < n_valid;
        ml_copy_16(tile + i / PIECES * ml_flash_row(D) + i % PIECES * 8, from + (inside ? i : 0) * 8, inside ? 16 : 0);
    }
}

/* Rows row .. row + 15, columns column .. column + 15 of a tile as the matrix unit's a. */
template <int D>
static __device__ __forceinline__ void ml_flash_load_a(uint32_t a[4], const uint16_t *tile, int row, int column)
{
    int lane = (int)threadIdx.x % WARP;
    ml_load_matrix(a, tile + (row + lane % 16) * ml_flash_row(D) + column + lane / 16 * 8);
}

/* Two b of the matrix unit, [16, 8] each, b[0 .. 1] and b[2 .. 3]: the sum is over columns column .. column + 15 of the
 * tile, its rows row .. row + 15 are the product's columns. */
template <int D>
static __device__ __forceinline__ void ml_flash_load_b(uint32_t b[4], const uint16_t *tile, int row, int column)
{
    int lane = (int)threadIdx.x % WARP;
    ml_load_matrix(b, tile + (row + lane / 16 * 8 + lane % 8) * ml_flash_row(D) + column + lane / 8 % 2 * 8);
}

/* The same with the sum over rows row .. row + 15, columns column .. column + 15 being the product's columns. */
template <int D>
static __device__ __forceinline__ void ml_flash_load_b_rows(uint32_t b[4], const uint16_t *tile, int row, int column)
{
    int lane = (int)threadIdx.x % WARP;
    ml_load_matrix_transposed(b, tile + (row + lane / 8 % 2 * 8 + lane % 8) * ml_flash_row(D) + column + lane / 16 * 8);
}

/* sum [16, 64] = a's 16 rows from `row` on times b's 64 rows, over D columns. */
template <int D>
static __device__ __forceinline__ void ml_flash_scores(float sum[8][4], const uint16_t *a_tile, int row,
                                                       const uint16_t *b_tile)
{
#pragma unroll
    for (int t = 0; t < 8; t++) sum[t][0] = sum[t][1] = sum[t][2] = sum[t][3] = 0;
#pragma unroll
    for (int c = 0; c < D; c += 16) {
        uint32_t a[4], b[4];
        ml_flash_load_a<D>(a, a_tile, row, c);
#pragma unroll
        for (int t = 0; t < 8; t += 2) {
            ml_flash_load_b<D>(b, b_tile, 8 * t, c);
            ml_mma_bf16(sum[t], a, b);
            ml_mma_bf16(sum[t + 1], a, b + 2);
        }
    }
}

/* sum [16, D] += weight [16, 64] times the tile's 64 rows; `weight` is a [16, 64] sum of the matrix unit, packed. */
template <int D>
static __device__ __forceinline__ void ml_flash_weigh(float sum[D / 8][4], const uint32_t weight[8][2],
                                                      const uint16_t *tile)
{
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const uint32_t a[4] = { weight[2 * k][0], weight[2 * k][1], weight[2 * k + 1][0], weight[2 * k + 1][1] };
#pragma unroll
        for (int c = 0; c < D; c += 16) {
            uint32_t b[4];
            ml_flash_load_b_rows<D>(b, tile, 16 * k, c);
            ml_mma_bf16(sum[c / 8], a, b);
            ml_mma_bf16(sum[c / 8 + 1], a, b + 2);
        }
    }
}

/* Scores of a row outside columns low[half] .. high[half] become -infinity; the first column is number `first`. */
static __device__ __forceinline__ void ml_flash_mask(float s[8][4], int first, const int low[2], const int high[2])
{
    int column = first + 2 * ((int)threadIdx.x % 4);
#pragma unroll
    for (int t = 0; t < 8; t++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int j = column + 8 * t + e % 2;
            if (j < low[e / 2] || j > high[e / 2]) s[t][e] = -INFINITY;
        }
    }
}

/* The keys that the queries row and row + 8 see; rows behind the batch count as its last one, nobody takes their sums.
 */
static __device__ __forceinline__ void ml_flash_mask_keys(float s[8][4], int first, int row, int n_token,
                                                          const int32_t *begin)
{
    int high[2] = { row < n_token ? row : n_token - 1, row + 8 < n_token ? row + 8 : n_token - 1 };
    int low[2] = { begin[high[0]], begin[high[1]] };
    ml_flash_mask(s, first, low, high);
}

/* 2^x, to within 2 of the last places; 0 of -infinity. */
static __device__ __forceinline__ float ml_flash_exp2(float x)
{
#ifdef ML_EMULATED
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* 8 numbers rounded to bf16. */
static __device__ __forceinline__ void ml_flash_store_8(uint16_t *to, const float x[8], float factor)
{
    uint4 packed;
    packed.x = ml_pack_bf16(x[0] * factor, x[1] * factor);
    packed.y = ml_pack_bf16(x[2] * factor, x[3] * factor);
    packed.z = ml_pack_bf16(x[4] * factor, x[5] * factor);
    packed.w = ml_pack_bf16(x[6] * factor, x[7] * factor);
    *(uint4 *)(void *)to = packed;
}

/* n_valid (8, or fewer at the end of a row) numbers and zeros; `aligned`: from is a multiple of 16 bytes. */
static __device__ __forceinline__ void ml_flash_load_8(float x[8], const float *from, int n_valid, bool aligned)
{
    if (aligned && n_valid >= 8) {
        const float4 *quads = (const float4 *)(const void *)from;
        float4 a = quads[0], b = quads[1];
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
        x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = i < n_valid ? from[i] : 0.0f;
}

/* Whether every 4 columns of rows, `step` columns from head to head, lie as one 16-byte piece. */
static inline bool ml_flash_is_aligned(const float *data, int64_t stride, int64_t step)
{
    return (uintptr_t)data % 16 == 0 && stride % 4 == 0 && step % 4 == 0;
}

#endif
