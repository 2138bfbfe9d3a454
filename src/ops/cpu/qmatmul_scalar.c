/* The specification: one token and one panel at a time. */
enum { LANES = 4 };
#include "ops/cpu/qmatmul_unpack.h"

#include <math.h>

/* The sum over n words of code * q. */
static int32_t dot_words(int n, q_words code, int row, const int8_t *q)
{
    int32_t sum = 0;
    for (int i = 0; i < 4 * n; i++) sum += (int32_t)(code[i / 4][row] >> 8 * (i % 4) & 0xff) * q[i];
    return sum;
}

static int32_t sign_extend_half(uint32_t v)
{
    return (int16_t)(uint16_t)v;
}

static int32_t dot_pair(uint32_t offset, int32_t sum0, int32_t sum1)
{
    return sign_extend_half(offset) * sum0 + sign_extend_half(offset >> 16) * sum1;
}

static void dot_super(const ml_q_format *f, const void *w, int64_t n_unit, const ml_q_tile *x, float *acc)
{
    const ml_q_super *u = w;
    const int8_t *q = x->q[0];
    const int16_t *sum = x->sum[0];
    const int32_t *pair = x->pair[0];
    for (int64_t i = 0; i < n_unit; i++, u++, q += 256, sum += 16, pair += 4) {
        FOR_ROWS(r)
        {
            int32_t a = 0, b = 0;
            for (int s = 0; s < 64 / f->sub_words; s++) {
                int at = s * f->sub_words;
                a += u->scale[s][r] * dot_words(f->sub_words, u->code + at, r, q + 4 * at);
            }
            for (int g = 0; g < 8 && f->sub_words == 4; g++) b += dot_pair(u->offset[g][r], sum[2 * g], sum[2 * g + 1]);
            for (int g = 0; g < 4 && f->sub_words == 8; g++) {
                b += dot_pair(u->offset[g][r], sign_extend_half((uint32_t)pair[g]),
                              sign_extend_half((uint32_t)pair[g] >> 16));
            }
            if (!f->has_min) a += b;
            acc[r] = fmaf(u->d[r] * x->d[0][i], (float)a, acc[r]);
            if (f->has_min) acc[r] = fmaf(u->m[r] * x->d[0][i], (float)b, acc[r]);
        }
    }
}

static void dot_block(const ml_q_format *f, const void *w, int64_t n_unit, const ml_q_tile *x, float *acc)
{
    const ml_q_block *u = w;
    const int8_t *q = x->q[0];
    const int16_t *sum = x->sum[0];
    for (int64_t i = 0; i < n_unit; i++, u++, q += 32, sum += 2) {
        FOR_ROWS(r)
        {
            int32_t a = dot_words(8, u->code, r, q), b = sum[0] + sum[1];
            if (!f->has_min) a -= f->zero * b;
            acc[r] = fmaf(u->d[r] * x->d[0][i], (float)a, acc[r]);
            if (f->has_min) acc[r] = fmaf(u->m[r] * x->d[0][i], (float)b, acc[r]);
        }
    }
}

Q_INLINE void gather_unit(const ml_q_format *f, const uint8_t *const *row, size_t at, const char *ahead,
                          uint32_t (*word)[ML_Q_ROWS], uint16_t *half)
{
    (void)ahead; /* memory is not what limits this one */
    FOR_ROWS(r)
    {
        const uint8_t *b = row[r] + at, *w = b + f->word_at;
        for (int i = 0; i < f->n_word; i++, w += 4) {
            word[f->place[i]][r] = (uint32_t)w[0] | (uint32_t)w[1] << 8 | (uint32_t)w[2] << 16 | (uint32_t)w[3] << 24;
        }
        if (f->half_at >= 0) half[r] = (uint16_t)(b[f->half_at] | b[f->half_at + 1] << 8);
    }
    if (f->fifth_at >= 0) order_fifth_bits(word[f->fifth_at]);
}

#include "ops/cpu/qmatmul_gather.h"

const ml_q_kernel ml_q_kernel_scalar = { .n_panel = 1,
                                         .n_token = { 1 },
                                         .dot = { { dot_block }, { dot_super } },
                                         .gather = gather,
                                         .unpack = unpack,
                                         .quantize = quantize };
