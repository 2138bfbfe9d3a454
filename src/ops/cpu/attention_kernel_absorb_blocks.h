/* Dot products with rows of q5_0 and q4_k, the types that a 4-bit file has in kv_b, without making them fp32 in
 * memory first: 32 codes at a time become fp32 in registers.  For AVX2 and AVX-512; included by the body of the
 * kernels.  A row's sum, for every 32 elements, ascending, vector by vector and lane by lane:
 *
 *   p = code[0] * x[0];  p += code[1] * x[1] ..;  sum += scale * p  [;  sum -= minimum * (x[0] + x[1] ..)]
 *
 * so what else is computed beside it changes no bit. */
enum { Q5_0_BYTES = 22, Q4_K_LENGTH = 256, Q4_K_BYTES = 144, CODE_VECTORS = 32 / VF_LANES };

#if defined(__AVX512F__)
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

/* The low halves of 32 bytes, or with `odd` the high ones. */
VF_INLINE void read_nibbles(const char *q, int odd, vf *code)
{
    const vf table = code_table(0);
    for (int i = 0; i < CODE_VECTORS; i++) {
        __m512i bytes = widen_16(q + 16 * i);
        code[i] = _mm512_permutexvar_ps(odd ? _mm512_srli_epi32(bytes, 4) : bytes, table);
    }
}

/* Codes of a block, from -16 to 15. */
VF_INLINE void read_block_q5_0(const char *block, vf *code)
{
    const vf table = code_table(16), sixteen = vf_set1(16);
    uint16_t fifth[2];
    memcpy(fifth, block + 2, sizeof fifth);
    __m512i q = widen_16(block + 6);
    vf low = _mm512_permutexvar_ps(q, table), high = _mm512_permutexvar_ps(_mm512_srli_epi32(q, 4), table);
    code[0] = _mm512_mask_add_ps(low, (__mmask16)fifth[0], low, sixteen);
    code[1] = _mm512_mask_add_ps(high, (__mmask16)fifth[1], high, sixteen);
}
#else
VF_INLINE vf widen_half(const char *p)
{
    return vf_set1(half_at(p));
}

VF_INLINE void read_nibbles(const char *q, int odd, vf *code)
{
    for (int i = 0; i < CODE_VECTORS; i++) {
        __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(q + 8 * i)));
        bytes = odd ? _mm256_srli_epi32(bytes, 4) : _mm256_and_si256(bytes, _mm256_set1_epi32(15));
        code[i] = _mm256_cvtepi32_ps(bytes);
    }
}

/* -16 where bit j of the two bytes from `at` on is not set, else 0. */
VF_INLINE __m128i missing_sixteens(__m128i bits, char at)
{
    const __m128i bit = _mm_set1_epi64x((long long)0x8040201008040201u);
    const char next = (char)(at + 1);
    __m128i all = _mm_shuffle_epi8(
        bits, _mm_setr_epi8(at, at, at, at, at, at, at, at, next, next, next, next, next, next, next, next));
    return _mm_and_si128(_mm_cmpeq_epi8(_mm_and_si128(all, bit), _mm_setzero_si128()), _mm_set1_epi8(-16));
}

VF_INLINE void read_block_q5_0(const char *block, vf *code)
{
    const __m128i low = _mm_set1_epi8(15);
    int32_t fifth;
    memcpy(&fifth, block + 2, sizeof fifth);
    __m128i bits = _mm_cvtsi32_si128(fifth), q = _mm_loadu_si128((const __m128i *)(const void *)(block + 6));
    __m128i half[2] = { _mm_or_si128(_mm_and_si128(q, low), missing_sixteens(bits, 0)),
                        _mm_or_si128(_mm_and_si128(_mm_srli_epi16(q, 4), low), missing_sixteens(bits, 2)) };
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        code[2 * i] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(half[i]));
        code[2 * i + 1] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(half[i], half[i])));
    }
}
#endif

/* 32 codes with a token's x: p above. */
VF_INLINE vf dot_32(const vf *code, const float *x)
{
    vf p = code[0] * vf_load(x);
#pragma GCC unroll 4
    for (int i = 1; i < CODE_VECTORS; i++) p = vf_fma(code[i], vf_load(x + i * VF_LANES), p);
    return p;
}

/* Lane by lane, of 32 elements. */
VF_INLINE vf sum_32(const float *x)
{
    vf sum = vf_load(x);
#pragma GCC unroll 4
    for (int i = 1; i < CODE_VECTORS; i++) sum += vf_load(x + i * VF_LANES);
    return sum;
}

VF_INLINE void dot_tile_q5_0(int n_token, int n_row, int64_t k, const char *w, int64_t row_bytes, const float *x,
                             int64_t x_stride, vf (*sum)[ROWS])
{
    for (int64_t b = 0; b < k / Q8_LENGTH; b++) {
        __builtin_prefetch(w + b * n_row * Q5_0_BYTES + AHEAD);
        __builtin_prefetch(w + b * n_row * Q5_0_BYTES + AHEAD + 44);
#pragma GCC unroll 4
        for (int i = 0; i < n_row; i++) {
            const char *block = w + i * row_bytes + b * Q5_0_BYTES;
            vf code[CODE_VECTORS];
            read_block_q5_0(block, code);
            vf d = widen_half(block);
#pragma GCC unroll 4
            for (int t = 0; t < n_token; t++) {
                sum[t][i] = vf_fma(d, dot_32(code, x + t * x_stride + b * Q8_LENGTH), sum[t][i]);
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
    for (int64_t b = 0; b < k / Q4_K_LENGTH; b++) {
        float scale[ROWS][8], minimum[ROWS][8];
#pragma GCC unroll 4
        for (int i = 0; i < n_row; i++) widen_pairs(w + i * row_bytes + b * Q4_K_BYTES, scale[i], minimum[i]);
        for (int g = 0; g < 4; g++) {
            const float *x_at = x + b * Q4_K_LENGTH + g * 64;
            vf both[2][TOKENS];
            for (int t = 0; t < n_token; t++) {
                const float *x_t = x_at + t * x_stride;
                both[0][t] = sum_32(x_t);
                both[1][t] = sum_32(x_t + 32);
            }
#pragma GCC unroll 4
            for (int i = 0; i < n_row; i++) {
                const char *q = w + i * row_bytes + b * Q4_K_BYTES + 16 + 32 * g;
                if (g % 2 == 0) __builtin_prefetch(q + AHEAD);
#pragma GCC unroll 2
                for (int odd = 0; odd < 2; odd++) {
                    vf s = vf_set1(scale[i][2 * g + odd]), m = vf_set1(minimum[i][2 * g + odd]);
                    vf code[CODE_VECTORS];
                    read_nibbles(q, odd, code);
#pragma GCC unroll 4
                    for (int t = 0; t < n_token; t++) {
                        const float *x_t = x_at + t * x_stride + 32 * odd;
                        sum[t][i] = vf_fma(s, dot_32(code, x_t), sum[t][i]);
                        sum[t][i] = vf_fma(m, both[odd][t], sum[t][i]);
                    }
                }
            }
        }
    }
}
