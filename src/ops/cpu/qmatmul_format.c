/* What both sides of a quantised product are before they meet: the formats of blocks, activations rounded to 8 bits,
 * and weights in panels. */
#include "ops/cpu/qmatmul_kernel.h"

#include "base/cpu.h"
#include "base/thread.h"

#include <assert.h>
#include <string.h>

enum {
    QUANTIZE_PER_TASK = 32768, /* elements of x */
    CACHE_LINE = 64,
};

/* ---- kernels and formats ---- */

const ml_q_kernel *ml_q_kernel_get(void)
{
#if defined(__x86_64__)
    ml_isa isa = ml_cpu_isa();
    if (isa >= ML_ISA_AVX512VNNI) return &ml_q_kernel_avx512vnni;
    if (isa == ML_ISA_AVXVNNI) return &ml_q_kernel_avxvnni;
    if (isa >= ML_ISA_AVX2) return &ml_q_kernel_avx2;
#elif defined(__aarch64__)
    if (ml_cpu_isa() == ML_ISA_NEONDOT) return &ml_q_kernel_neondot;
#endif
    return &ml_q_kernel_scalar;
}

static const uint8_t place_as_stored[ML_Q_MAX_WORD] = {
    0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
    26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51,
};
/* Stored: 2 x 16 words of low bits, 2 x 8 of high bits, 4 of scales (tensor/blocks.h). */
static const uint8_t place_q6_k[ML_Q_MAX_WORD] = {
    4,  7,  10, 13, 16, 19, 22, 25, 5,  8,  11, 14, 17, 20, 23, 26, 28, 31, 34, 37, 40, 43, 46, 49, 29, 32,
    35, 38, 41, 44, 47, 50, 6,  9,  12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 51, 0,  1,  2,  3,
};

ml_q_format ml_q_format_of(ml_dtype dtype)
{
    static const struct {
        int sub_words, code_bits, zero;
        bool has_min;
    } type[ML_N_DTYPE] = {
        [ML_Q8_0] = { 8, 8, 128, false }, [ML_Q4_0] = { 8, 4, 8, false }, [ML_Q4_1] = { 8, 4, 0, true },
        [ML_Q5_0] = { 8, 5, 16, false },  [ML_Q5_1] = { 8, 5, 0, true },  [ML_IQ4_NL] = { 8, 8, 128, false },
        [ML_Q2_K] = { 4, 2, 0, true },    [ML_Q3_K] = { 4, 3, 0, false }, [ML_Q4_K] = { 8, 4, 0, true },
        [ML_Q5_K] = { 8, 5, 0, true },    [ML_Q6_K] = { 4, 6, 0, false }, [ML_IQ4_XS] = { 8, 8, 0, false },
    };
    assert(ml_dtype_is_block(dtype));
    size_t n_bytes = ml_dtype_block_bytes(dtype);
    bool super = ml_dtype_block_length(dtype) == 256, has_half = n_bytes % 4 != 0;
    /* Blocks of 32 begin with the half, super-blocks end with it. */
    return (ml_q_format){ .super = super,
                          .has_min = type[dtype].has_min,
                          .sub_words = type[dtype].sub_words,
                          .code_bits = type[dtype].code_bits,
                          .zero = type[dtype].zero,
                          .n_word = (int)(n_bytes / 4),
                          .place = dtype == ML_Q6_K ? place_q6_k : place_as_stored,
                          .word_at = has_half && !super ? 2 : 0,
                          .fifth_at = dtype == ML_Q5_0   ? 0
                                      : dtype == ML_Q5_1 ? 1
                                                         : -1,
                          .half_at = !has_half ? -1
                                     : super   ? (int)n_bytes - 2
                                               : 0,
                          .unit_size = super ? sizeof(ml_q_super) : sizeof(ml_q_block) };
}

/* ---- activations ---- */

static size_t align_up(size_t n)
{
    return (n + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

size_t ml_qx_bytes(ml_dtype w_dtype, int64_t n_row, int64_t k)
{
    size_t n = (size_t)(n_row * k), unit = (size_t)ml_dtype_block_length(w_dtype);
    return align_up(n) + align_up(n / 16 * sizeof(int16_t)) + align_up(n / 64 * sizeof(int32_t)) +
           align_up(n / unit * sizeof(float));
}

typedef struct {
    ml_qx qx;
    const float *x;
    int64_t x_stride;
} quantize_work;

/* See ml_qx: sum [k / 16] -> pair [k / 64]. */
static void pair_sums(int64_t k, const int16_t *sum, int32_t *pair)
{
    for (int64_t i = 0; i < k / 64; i += 2, sum += 8) {
        for (int odd = 0; odd < 2; odd++) {
            int first = sum[2 * odd] + sum[2 * odd + 1], third = sum[2 * odd + 4] + sum[2 * odd + 5];
            pair[i + odd] = (int32_t)(((uint32_t)first & 0xffffu) | (uint32_t)third << 16);
        }
    }
}

static void quantize_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const quantize_work *w = arg;
    const ml_qx *qx = &w->qx;
    for (int64_t i = begin; i < end; i++) {
        ml_q_kernel_get()->quantize(qx->unit, qx->k, w->x + i * w->x_stride, (int8_t *)qx->q + i * qx->k,
                                    (int16_t *)qx->sum + i * (qx->k / 16), (float *)qx->d + i * (qx->k / qx->unit));
        if (qx->unit == 256) pair_sums(qx->k, qx->sum + i * (qx->k / 16), (int32_t *)qx->pair + i * (qx->k / 64));
    }
}

ml_qx ml_qx_make(ml_dtype w_dtype, const float *x, int64_t x_stride, int64_t n_row, int64_t k, void *memory)
{
    assert(k % ml_dtype_block_length(w_dtype) == 0);
    size_t n = (size_t)(n_row * k);
    char *at = memory;
    quantize_work work = { { .n_row = n_row, .k = k, .unit = (int)ml_dtype_block_length(w_dtype) }, x, x_stride };
    work.qx.q = (const int8_t *)at;
    work.qx.sum = (const int16_t *)(void *)(at + align_up(n));
    work.qx.pair = (const int32_t *)(void *)(at + align_up(n) + align_up(n / 16 * sizeof(int16_t)));
    work.qx.d = (const float *)(const void *)((const char *)work.qx.pair + align_up(n / 64 * sizeof(int32_t)));
    if (k > 0) ml_parallel_for(n_row, QUANTIZE_PER_TASK / k + 1, quantize_rows, &work);
    return work.qx;
}

/* ---- panels ---- */

size_t ml_qpack_bytes(ml_dtype dtype, int64_t n, int64_t k)
{
    return (size_t)((n + ML_Q_ROWS - 1) / ML_Q_ROWS * ML_Q_ROWS) * ml_dtype_row_bytes(dtype, k);
}

typedef struct {
    const uint8_t *w;
    int64_t n, n_unit;
    size_t block_bytes;
    ml_q_format format;
    uint8_t *dst;
} pack_work;

static void pack_panels(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const pack_work *p = arg;
    size_t row_bytes = (size_t)p->n_unit * p->block_bytes;
    for (int64_t panel = begin; panel < end; panel++) {
        const uint8_t *row[ML_Q_ROWS];
        uint8_t *to = p->dst + (size_t)panel * ML_Q_ROWS * row_bytes;
        for (int r = 0; r < ML_Q_ROWS; r++) {
            int64_t source = panel * ML_Q_ROWS + r;
            row[r] = p->w + (size_t)(source < p->n ? source : p->n - 1) * row_bytes;
        }
        ml_q_kernel_get()->gather(&p->format, row, 0, p->n_unit, (const char *)row[0] + ML_Q_ROWS * row_bytes, to);
    }
}

void ml_qpack(ml_dtype dtype, const void *w, int64_t n, int64_t k, void *dst)
{
    pack_work work = {
        w, n, k / ml_dtype_block_length(dtype), ml_dtype_block_bytes(dtype), ml_q_format_of(dtype), dst
    };
    ml_parallel_for((n + ML_Q_ROWS - 1) / ML_Q_ROWS, 4, pack_panels, &work);
}
