/* Dot products with rows of q5_0 and q4_k, the types that a 4-bit file has in kv_b, without making them fp32 in
 * memory first: 16 codes at a time become fp32 in a register.  For AVX-512; included by the body of the kernels.
 * A row's sum: for every 32 elements, ascending, lane by lane
 *     p = code[16..31] * x[16..31] + code[0..15] * x[0..15];  sum += scale * p  [;  sum -= minimum * (x[0..15] +
 * x[16..31])] so what else is computed beside it changes no bit. */
enum { Q5_0_BYTES = 22, Q4_K_LENGTH = 256, Q4_K_BYTES = 144 };

/* 0 .. 15, less `zero`: a permutation looks at the low four bits of an element alone, so it takes a code from the bits
 * around it and makes it fp32 at once. */
VF_INLINE vf code_table(float zero)
{
    return _mm512_sub_ps(_mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_ps(zero));
}

/* 16 bytes, an element each. */
VF_INLINE __m512i widen_16(const char *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* A half in every element. */
VF_INLINE vf widen_half(const char *p)
{
    int16_t half;
    memcpy(&half, p, sizeof half);
    return _mm512_cvtph_ps(_mm256_set1_epi16(half));
}

VF_INLINE vf low_codes(__m512i bytes, vf table)
{
    return _mm512_permutexvar_ps(bytes, table);
}

VF_INLINE vf high_codes(__m512i bytes, vf table)
{
    return _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), table);
}

/* 32 codes with a token's x: p above. */
VF_INLINE vf dot_32(vf first, vf second, const float *x)
{
    return vf_fma(second, vf_load(x + VF_LANES), first * vf_load(x));
}

VF_INLINE void dot_tile_q5_0(int n_token, int n_row, int64_t k, const char *w, int64_t row_bytes, const float *x,
                             int64_t x_stride, vf (*sum)[ROWS])
{
    const vf table = code_table(16), sixteen = vf_set1(16);
    for (int64_t b = 0; b < k / Q8_LENGTH; b++) {
        __builtin_prefetch(w + b * n_row * Q5_0_BYTES + AHEAD);
        __builtin_prefetch(w + b * n_row * Q5_0_BYTES + AHEAD + 44);
#pragma GCC unroll 4
        for (int i = 0; i < n_row; i++) {
            const char *block = w + i * row_bytes + b * Q5_0_BYTES;
            uint16_t fifth[2];
            memcpy(fifth, block + 2, sizeof fifth);
            __m512i q = widen_16(block + 6);
            vf low = low_codes(q, table), high = high_codes(q, table);
            low = _mm512_mask_add_ps(low, (__mmask16)fifth[0], low, sixteen);
            high = _mm512_mask_add_ps(high, (__mmask16)fifth[1], high, sixteen);
            vf d = widen_half(block);
#pragma GCC unroll 4
            for (int t = 0; t < n_token; t++) {
                sum[t][i] = vf_fma(d, dot_32(low, high, x + t * x_stride + b * Q8_LENGTH), sum[t][i]);
            }
        }
    }
}

/* The eight scales and the eight minima of a block, times theirs. */
VF_INLINE void widen_pairs(const char *block, float *scale, float *minimum)
{
    uint32_t p[3];
    memcpy(p, block + 4, sizeof p);
    uint64_t s = (p[0] & 0x3f3f3f3fu) | (uint64_t)((p[2] & 0x0f0f0f0fu) | (p[0] >> 2 & 0x30303030u)) << 32;
    uint64_t m = (p[1] & 0x3f3f3f3fu) | (uint64_t)((p[2] >> 4 & 0x0f0f0f0fu) | (p[1] >> 2 & 0x30303030u)) << 32;
    __m256 d = _mm256_set1_ps(half_at(block)), minus = _mm256_set1_ps(-half_at(block + 2));
    __m256i scales = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)s));
    __m256i minima = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)m));
    _mm256_storeu_ps(scale, _mm256_mul_ps(d, _mm256_cvtepi32_ps(scales)));
    _mm256_storeu_ps(minimum, _mm256_mul_ps(minus, _mm256_cvtepi32_ps(minima)));
}

VF_INLINE void dot_tile_q4_k(int n_token, int n_row, int64_t k, const char *w, int64_t row_bytes, const float *x,
                             int64_t x_stride, vf (*sum)[ROWS])
{
    const vf table = code_table(0);
    for (int64_t b = 0; b < k / Q4_K_LENGTH; b++) {
        float scale[ROWS][8], minimum[ROWS][8];
#pragma GCC unroll 4
        for (int i = 0; i < n_row; i++) widen_pairs(w + i * row_bytes + b * Q4_K_BYTES, scale[i], minimum[i]);
        for (int g = 0; g < 4; g++) {
            const float *x_at = x + b * Q4_K_LENGTH + g * 64;
            vf both[2][TOKENS];
            for (int t = 0; t < n_token; t++) {
                const float *x_t = x_at + t * x_stride;
                both[0][t] = vf_load(x_t) + vf_load(x_t + VF_LANES);
                both[1][t] = vf_load(x_t + 2 * VF_LANES) + vf_load(x_t + 3 * VF_LANES);
            }
#pragma GCC unroll 4
            for (int i = 0; i < n_row; i++) {
                const char *q = w + i * row_bytes + b * Q4_K_BYTES + 16 + 32 * g;
                __m512i first = widen_16(q), second = widen_16(q + 16);
                if (g % 2 == 0) __builtin_prefetch(q + AHEAD);
#pragma GCC unroll 2
                for (int odd = 0; odd < 2; odd++) {
                    vf s = vf_set1(scale[i][2 * g + odd]), m = vf_set1(minimum[i][2 * g + odd]);
                    vf c0 = odd ? high_codes(first, table) : low_codes(first, table);
                    vf c1 = odd ? high_codes(second, table) : low_codes(second, table);
#pragma GCC unroll 4
                    for (int t = 0; t < n_token; t++) {
                        const float *x_t = x_at + t * x_stride + 32 * odd;
                        sum[t][i] = vf_fma(s, dot_32(c0, c1, x_t), sum[t][i]);
                        sum[t][i] = vf_fma(m, both[odd][t], sum[t][i]);
                    }
                }
            }
        }
    }
}
