/* A chain's state is in two registers, as sha256rnds2 wants it: { f, e, b, a } and { h, g, d, c }, lowest first.  Four
 * rounds take one register of words; the next sixteen words replace these, four at a time. */
#include "base/sha256_blocks.h"

#include <immintrin.h>

static const uint32_t constant[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

#define INLINE static inline __attribute__((always_inline))

typedef struct {
    __m128i abef, cdgh;
} halves;

INLINE halves load_state(const uint32_t h[8])
{
    __m128i dcba = _mm_loadu_si128((const void *)h), hgfe = _mm_loadu_si128((const void *)(h + 4));
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    return (halves){ _mm_alignr_epi8(cdab, efgh, 8), _mm_blend_epi16(efgh, cdab, 0xf0) };
}

INLINE void store_state(halves s, uint32_t h[8])
{
    __m128i feba = _mm_shuffle_epi32(s.abef, 0x1b), dchg = _mm_shuffle_epi32(s.cdgh, 0xb1);
    _mm_storeu_si128((void *)h, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((void *)(h + 4), _mm_alignr_epi8(dchg, feba, 8));
}

/* Bytes are big endian. */
INLINE __m128i load_words(const uint8_t *at)
{
    const __m128i swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    return _mm_shuffle_epi8(_mm_loadu_si128((const void *)at), swap);
}

INLINE void four_rounds(halves *s, __m128i w, int round)
{
    __m128i wk = _mm_add_epi32(w, _mm_load_si128((const void *)(constant + round)));
    s->cdgh = _mm_sha256rnds2_epu32(s->cdgh, s->abef, wk);
    s->abef = _mm_sha256rnds2_epu32(s->abef, s->cdgh, _mm_shuffle_epi32(wk, 0x0e));
}

/* Words t + 16 to t + 19, out of t to t + 15 in four registers. */
INLINE __m128i next_words(__m128i w0, __m128i w1, __m128i w2, __m128i w3)
{
    __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8(w3, w2, 4));
    return _mm_sha256msg2_epu32(sum, w3);
}

/* n chains (1 or 2, known when this is compiled), step by step. */
INLINE void add_blocks(ml_sha256_chain *const *chain, int n, size_t n_blocks)
{
    halves s[2];
    __m128i w[2][4];
    for (int c = 0; c < n; c++) s[c] = load_state(chain[c]->h);
    for (; n_blocks; n_blocks--) {
        halves before[2];
        for (int c = 0; c < n; c++) {
            before[c] = s[c];
            for (int i = 0; i < 4; i++) w[c][i] = load_words(chain[c]->block + 16 * i);
            chain[c]->block += ML_SHA256_BLOCK;
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            for (int c = 0; c < n; c++) {
                four_rounds(&s[c], w[c][i & 3], 4 * i);
                if (i < 12) {
                    w[c][i & 3] = next_words(w[c][i & 3], w[c][(i + 1) & 3], w[c][(i + 2) & 3], w[c][(i + 3) & 3]);
                }
            }
        }
        for (int c = 0; c < n; c++) {
            s[c].abef = _mm_add_epi32(s[c].abef, before[c].abef);
            s[c].cdgh = _mm_add_epi32(s[c].cdgh, before[c].cdgh);
        }
    }
    for (int c = 0; c < n; c++) store_state(s[c], chain[c]->h);
}

void ml_sha256_add_blocks_shani(ml_sha256_chain *chain, size_t n_blocks)
{
    add_blocks(&chain, 1, n_blocks);
}

void ml_sha256_add_two_shani(ml_sha256_chain *first, ml_sha256_chain *second, size_t n_blocks)
{
    ml_sha256_chain *const both[2] = { first, second };
    add_blocks(both, 2, n_blocks);
}
