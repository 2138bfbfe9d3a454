/* Decoding over q8_0 in integers, compiled once for each x86-64 instruction set by a file that defines Q8_KERNEL_TABLE.
 *
 * Scores have a head in each lane: a register holds two columns of 8 or 16 heads, the key's two columns come to all
 * lanes.  Values have a column in each lane: a register holds two keys' codes side by side, a head's two weights come
 * to all lanes. */
#include "ops/cpu/attention_kernel_q8.h"

#include "ops/cpu/attention_kernel_fetch.h"
#include "ops/cpu/attention_kernel_load.h"

#include <stdbool.h>

/* Sums of a score tile: two for each key.  What adds in the multiplier (AVX-VNNI) needs 10 or more under way, without
 * it 8 leave registers for products; AVX-512 has room for 16. */
#if defined(__AVX512F__)
#define TILE_KEYS 8
#elif defined(__AVXVNNI__)
#define TILE_KEYS 6
#else
#define TILE_KEYS 4
#endif

enum {
    HEADS = ML_Q8_HEADS,
    KEYS = ML_Q8_KEYS,
    BLOCK = ML_Q8_BLOCK,
    HEAD_VECTORS = 2,                          /* of a tile of queries */
    HEAD_COLUMNS = 2 * VF_LANES / (HEADS / 2), /* columns of a head that such a vector has: 4 or 2 */
    COLUMN_VECTORS = BLOCK / VF_LANES,         /* of a block, two keys in each */
    SCORE_KEYS = TILE_KEYS,
    VALUE_HEADS = VF_LANES == 16 ? 8 : 4,
    VALUE_VECTORS = 2,
    PAIRS = KEYS / 2,
    PAIR_GROUP = 4,     /* of which there is a whole number */
    FETCH_COLUMNS = 16, /* of a score tile, for every turn of fetching */
};

/* Buffers begin with a line of the cache: a vector that straddles two lines costs more. */
#define LINES _Alignas(64)

static const float tiny = 0x1p-100f, unit = 1.0f / 32767;

/* ---- the instructions ---- */

/* The compiler may not gather additions into a tree: all of their terms would have to be kept at once. */
#define IN_ORDER(v) __asm__("" : "+v"(v))

#if defined(__AVX512F__)
typedef __m512i vw; /* words: 32 of 16 bits, or 16 of 32 */

VF_INLINE vw load_words(const int16_t *p)
{
    return _mm512_loadu_si512(p);
}

VF_INLINE vw repeat_pair(const int16_t *p)
{
    int32_t two;
    memcpy(&two, p, sizeof two);
    return _mm512_set1_epi32(two);
}

/* HEAD_COLUMNS words for every head */
VF_INLINE vw repeat_columns(const int16_t *p)
{
    int64_t four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi64(four);
}

/* Where a tile of queries has head h: its first word of the HEAD_COLUMNS columns' 2 vectors. */
VF_INLINE int64_t place_of_head(int64_t h)
{
    return h % 4 / 2 * 32 + (h / 4 * 2 + h % 2) * 4;
}

/* Sums of a key with 16 heads: those of two pairs of columns, of heads as they are placed -> in order. */
VF_INLINE void sum_heads(const vw *sum, vf *s)
{
    vf a = _mm512_castsi512_ps(sum[0]), b = _mm512_castsi512_ps(sum[1]);
    vw even = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88)),
       odd = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xdd));
    s[0] = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
}

/* sum + the products of pairs of words.  Not the compiler's intrinsic: many sums at a time it copies to and fro. */
VF_INLINE vw add_products(vw sum, vw a, vw b)
{
#if defined(__AVX512VNNI__)
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
#else
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
    IN_ORDER(sum);
    return sum;
#endif
}

/* The same with nothing before it. */
VF_INLINE vw first_products(vw a, vw b)
{
#if defined(__AVX512VNNI__)
    return add_products(_mm512_setzero_si512(), a, b);
#else
    return _mm512_madd_epi16(a, b);
#endif
}

VF_INLINE vf to_float(vw x)
{
    return _mm512_cvtepi32_ps(x);
}

VF_INLINE void store_nearest(int16_t *to, vf x)
{
    _mm256_storeu_si256((void *)to, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
}

/* Two vectors in order, as store_nearest_2 takes them: what is packed goes in groups of 4 from one and the other. */
VF_INLINE void deal_groups(vf *a, vf *b)
{
    vf x = *a, y = *b;
    *a = _mm512_shuffle_f32x4(x, y, 0x88);
    *b = _mm512_shuffle_f32x4(x, y, 0xdd);
}

VF_INLINE void store_nearest_2(int16_t *to, vf a, vf b)
{
    _mm512_storeu_si512(to, _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b)));
}

/* 32 codes */
VF_INLINE void widen_block(const char *code, int16_t *to)
{
    _mm512_storeu_si512(to, _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)code)));
}

/* 32 codes of two keys side by side: columns 0 - 7 and 16 - 23, then the others */
VF_INLINE void pair_block(const char *a, const char *b, int16_t *to)
{
    __m256i x = _mm256_loadu_si256((const void *)a), y = _mm256_loadu_si256((const void *)b);
    _mm512_storeu_si512(to, _mm512_cvtepi8_epi16(_mm256_unpacklo_epi8(x, y)));
    _mm512_storeu_si512(to + 32, _mm512_cvtepi8_epi16(_mm256_unpackhi_epi8(x, y)));
}

/* Sums of two vectors of paired keys, their columns in order. */
VF_INLINE void order_columns(vf *a, vf *b)
{
    vf x = *a, y = *b;
    *a = _mm512_shuffle_f32x4(x, y, 0x44);
    *b = _mm512_shuffle_f32x4(x, y, 0xee);
}

VF_INLINE void store_halves_as_float(float *to, const uint16_t *half)
{
    _mm512_storeu_ps(to, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)half)));
}

VF_INLINE float largest_lane(vf v)
{
    return _mm512_reduce_max_ps(v);
}

/* to[h][i] = from[i][h] for 16 keys and 16 heads */
VF_INLINE void turn_scores(const float *from, float *to)
{
    vf a[16], b[16];
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        vf x0 = vf_load(from + i * HEADS), x1 = vf_load(from + (i + 1) * HEADS);
        vf x2 = vf_load(from + (i + 2) * HEADS), x3 = vf_load(from + (i + 3) * HEADS);
        vf l0 = _mm512_unpacklo_ps(x0, x1), l1 = _mm512_unpacklo_ps(x2, x3);
        vf h0 = _mm512_unpackhi_ps(x0, x1), h1 = _mm512_unpackhi_ps(x2, x3);
        a[i] = _mm512_shuffle_ps(l0, l1, 0x44);     /* heads 0, 4, 8, 12 of keys i .. i + 3 */
        a[i + 1] = _mm512_shuffle_ps(l0, l1, 0xee); /* 1, 5, 9, 13 */
        a[i + 2] = _mm512_shuffle_ps(h0, h1, 0x44);
        a[i + 3] = _mm512_shuffle_ps(h0, h1, 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) { /* head 4 m + j of all keys */
        vf low01 = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x88), low23 = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x88);
        vf odd01 = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xdd), odd23 = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xdd);
        b[j] = _mm512_shuffle_f32x4(low01, low23, 0x88);
        b[8 + j] = _mm512_shuffle_f32x4(low01, low23, 0xdd);
        b[4 + j] = _mm512_shuffle_f32x4(odd01, odd23, 0x88);
        b[12 + j] = _mm512_shuffle_f32x4(odd01, odd23, 0xdd);
    }
#pragma GCC unroll 16
    for (int h = 0; h < 16; h++) vf_store(to + h * KEYS, b[h]);
}
#else
typedef __m256i vw;

VF_INLINE vw load_words(const int16_t *p)
{
    return _mm256_loadu_si256((const void *)p);
}

VF_INLINE vw repeat_pair(const int16_t *p)
{
    int32_t two;
    memcpy(&two, p, sizeof two);
    return _mm256_set1_epi32(two);
}

VF_INLINE vw repeat_columns(const int16_t *p)
{
    return repeat_pair(p);
}

VF_INLINE int64_t place_of_head(int64_t h)
{
    return 2 * h;
}

VF_INLINE void sum_heads(const vw *sum, vf *s)
{
    s[0] = _mm256_cvtepi32_ps(sum[0]);
    s[1] = _mm256_cvtepi32_ps(sum[1]);
}

VF_INLINE vw add_products(vw sum, vw a, vw b)
{
#if defined(__AVXVNNI__)
    __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
#else
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
    IN_ORDER(sum);
#endif
    return sum;
}

VF_INLINE vw first_products(vw a, vw b)
{
#if defined(__AVXVNNI__)
    return add_products(_mm256_setzero_si256(), a, b);
#else
    return _mm256_madd_epi16(a, b);
#endif
}

VF_INLINE vf to_float(vw x)
{
    return _mm256_cvtepi32_ps(x);
}

VF_INLINE void store_nearest(int16_t *to, vf x)
{
    __m256i whole = _mm256_cvtps_epi32(x);
    _mm_storeu_si128((void *)to, _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1)));
}

VF_INLINE void deal_groups(vf *a, vf *b)
{
    vf x = *a, y = *b;
    *a = _mm256_permute2f128_ps(x, y, 0x20);
    *b = _mm256_permute2f128_ps(x, y, 0x31);
}

VF_INLINE void store_nearest_2(int16_t *to, vf a, vf b)
{
    _mm256_storeu_si256((void *)to, _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b)));
}

VF_INLINE void widen_block(const char *code, int16_t *to)
{
    for (int i = 0; i < BLOCK; i += 16) {
        _mm256_storeu_si256((void *)(to + i), _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(code + i))));
    }
}

VF_INLINE void pair_block(const char *a, const char *b, int16_t *to)
{
    for (int i = 0; i < BLOCK; i += 16) {
        __m128i x = _mm_loadu_si128((const void *)(a + i)), y = _mm_loadu_si128((const void *)(b + i));
        _mm256_storeu_si256((void *)(to + 2 * i), _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(x, y)));
        _mm256_storeu_si256((void *)(to + 2 * i + 16), _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(x, y)));
    }
}

VF_INLINE void order_columns(vf *a, vf *b)
{
    (void)a;
    (void)b;
}

VF_INLINE void store_halves_as_float(float *to, const uint16_t *half)
{
    for (int i = 0; i < 16; i += 8) vf_store(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(half + i))));
}

VF_INLINE float largest_lane(vf v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* 8 keys and 8 heads */
VF_INLINE void turn_8(const float *from, float *to)
{
    vf a[8];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        vf x0 = vf_load(from + i * HEADS), x1 = vf_load(from + (i + 1) * HEADS);
        vf x2 = vf_load(from + (i + 2) * HEADS), x3 = vf_load(from + (i + 3) * HEADS);
        vf l0 = _mm256_unpacklo_ps(x0, x1), l1 = _mm256_unpacklo_ps(x2, x3);
        vf h0 = _mm256_unpackhi_ps(x0, x1), h1 = _mm256_unpackhi_ps(x2, x3);
        a[i] = _mm256_shuffle_ps(l0, l1, 0x44); /* heads 0, 4 of keys i .. i + 3 */
        a[i + 1] = _mm256_shuffle_ps(l0, l1, 0xee);
        a[i + 2] = _mm256_shuffle_ps(h0, h1, 0x44);
        a[i + 3] = _mm256_shuffle_ps(h0, h1, 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        vf_store(to + j * KEYS, _mm256_permute2f128_ps(a[j], a[4 + j], 0x20));
        vf_store(to + (4 + j) * KEYS, _mm256_permute2f128_ps(a[j], a[4 + j], 0x31));
    }
}

VF_INLINE void turn_scores(const float *from, float *to)
{
    for (int i = 0; i < 16; i += 8) {
        for (int h = 0; h < 16; h += 8) turn_8(from + i * HEADS + h, to + h * KEYS + i);
    }
}
#endif

/* ---- queries and scales ---- */

static void pack(const float *q, int64_t q_stride, int64_t n_row, int64_t columns, int16_t *packed, float *scale)
{
    if (n_row < HEADS) memset(packed, 0, (size_t)(columns * HEADS) * sizeof *packed);
    for (int64_t h = 0; h < HEADS; h++) scale[h] = 0;
    for (int64_t h = 0; h < n_row; h++, q += q_stride) {
        vf m = vf_set1(0.0f), zero = m, sign = vf_set1(-0.0f);
        for (int64_t c = 0; c < columns; c += VF_LANES) {
            vf x = (vf)((vi)vf_load(q + c) & ~(vi)sign);
            zero += x * vf_set1(0.0f); /* NaN for an infinity, too */
            m = vf_max(m, x);
        }
        float largest = largest_lane(m);
        bool is_bad = !(vf_sum(zero) == 0), is_zero = !(largest >= tiny) || is_bad;
        scale[h] = is_bad ? NAN : is_zero ? 0 : largest * unit;
        vf inverse = vf_set1(32767 / largest);
        for (int64_t c = 0; c < columns; c += VF_LANES) {
            int16_t whole[VF_LANES] = { 0 };
            if (!is_zero) store_nearest(whole, vf_load(q + c) * inverse);
            for (int i = 0; i < VF_LANES; i += HEAD_COLUMNS) {
                memcpy(packed + (c + i) * HEADS + place_of_head(h), whole + i, HEAD_COLUMNS * sizeof *whole);
            }
        }
    }
}

VF_INLINE void gather_halves(const char *const *row, int64_t n, int64_t b, uint16_t *to)
{
    for (int64_t i = 0; i < n; i++) memcpy(&to[i], row[i] + b * Q8_BYTES, sizeof to[i]);
}

static void scales(const char *const *row, int64_t n, int64_t columns, float *d)
{
    uint16_t half[2][KEYS] = { { 0 } }; /* the block in turn and the next: what was just stored comes late */
    int64_t n_block = columns / BLOCK;
    gather_halves(row, n, 0, half[0]);
    for (int64_t b = 0; b < n_block; b++, d += KEYS) {
        if (b + 1 < n_block) gather_halves(row, n, b + 1, half[(b + 1) % 2]);
        for (int64_t i = 0; i < KEYS; i += 16) store_halves_as_float(d + i, half[b % 2] + i);
    }
}

/* ---- scores ---- */

VF_INLINE int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Codes of block b of SCORE_KEYS keys. */
VF_INLINE void widen_blocks(const char *const *row, int64_t b, int16_t (*to)[BLOCK])
{
#pragma GCC unroll 8
    for (int i = 0; i < SCORE_KEYS; i++) widen_block(row[i] + b * Q8_BYTES + 2, to[i]);
}

/* Columns c .. c + HEAD_COLUMNS - 1 of SCORE_KEYS keys and all heads: the first of their sums, or added to these. */
VF_INLINE void multiply_columns(const int16_t (*wide)[BLOCK], int c, const int16_t *q, bool first,
                                vw (*sum)[HEAD_VECTORS])
{
    vw x[HEAD_VECTORS] = { load_words(q), load_words(q + 2 * VF_LANES) };
#pragma GCC unroll 8
    for (int i = 0; i < SCORE_KEYS; i++) {
        vw key = repeat_columns(wide[i] + c);
#pragma GCC unroll 2
        for (int v = 0; v < HEAD_VECTORS; v++) {
            sum[i][v] = first ? first_products(x[v], key) : add_products(sum[i][v], x[v], key);
        }
    }
}

/* to[i][h] of SCORE_KEYS keys */
VF_INLINE void score_tile(const ml_q8_rows *p, const char *const *row, const float *d, const int16_t *q,
                          const float *scale, fetcher *f, float *to)
{
    LINES int16_t buffer[2][SCORE_KEYS][BLOCK]; /* the block in turn and the next: what was just stored comes late */
    int64_t n_block = p->columns / BLOCK;
    widen_blocks(row, 0, buffer[0]);
    vf total[SCORE_KEYS][HEADS / VF_LANES]; /* not in `to`: with 32 registers they need no memory */
#pragma GCC unroll 8
    for (int i = 0; i < SCORE_KEYS; i++) {
#pragma GCC unroll 2
        for (int v = 0; v < HEADS / VF_LANES; v++) total[i][v] = vf_set1(0.0f);
    }
    for (int64_t b = 0; b < n_block; b++, d += KEYS) {
        const int16_t(*wide)[BLOCK] = (const int16_t(*)[BLOCK])buffer[b % 2];
        if (b + 1 < n_block) widen_blocks(row, b + 1, buffer[(b + 1) % 2]);
        vw sum[SCORE_KEYS][HEAD_VECTORS];
        fetch_lines(f);
        multiply_columns(wide, 0, q, true, sum);
#pragma GCC unroll 8
        for (int c = HEAD_COLUMNS; c < FETCH_COLUMNS; c += HEAD_COLUMNS) {
            multiply_columns(wide, c, q + c * HEADS, false, sum);
        }
        fetch_lines(f);
#pragma GCC unroll 8
        for (int c = FETCH_COLUMNS; c < BLOCK; c += HEAD_COLUMNS) {
            multiply_columns(wide, c, q + c * HEADS, false, sum);
        }
        q += BLOCK * HEADS;
#pragma GCC unroll 8
        for (int i = 0; i < SCORE_KEYS; i++) {
            vf s[HEAD_VECTORS];
            sum_heads(sum[i], s);
#pragma GCC unroll 2
            for (int v = 0; v < HEADS / VF_LANES; v++) {
                total[i][v] = vf_fma(s[v], vf_set1(d[i]), total[i][v]);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < SCORE_KEYS; i++) {
#pragma GCC unroll 2
        for (int v = 0; v < HEADS / VF_LANES; v++) {
            vf_store(to + i * HEADS + v * VF_LANES, vf_load(scale + v * VF_LANES) * total[i][v]);
        }
    }
}

static void scores(const ml_q8_rows *p, const int16_t *packed, const float *scale, int64_t n_row,
                   const ml_rows_ahead *ahead, float *s)
{
    LINES float turned[KEYS * HEADS], all[HEADS * KEYS];
    int64_t n_tile = (p->n + SCORE_KEYS - 1) / SCORE_KEYS;
    fetcher f = begin_fetching(ahead, n_tile * (p->columns / BLOCK) * (BLOCK / FETCH_COLUMNS));
    int64_t last = p->n > SCORE_KEYS ? p->n - SCORE_KEYS : 0; /* a tile that repeats keys: d has no more than 64 */
    for (int64_t tile = 0; tile < n_tile; tile++) {
        int64_t key = smaller(tile * SCORE_KEYS, last);
        const char *row[SCORE_KEYS];
        for (int64_t i = 0; i < SCORE_KEYS; i++) row[i] = p->row[key + i < p->n ? key + i : p->n - 1];
        score_tile(p, row, p->d + key, packed, scale, &f, turned + key * HEADS);
    }
    for (int64_t key = last + SCORE_KEYS; key % 16; key++) memset(turned + key * HEADS, 0, HEADS * sizeof *turned);
    float *to = n_row == HEADS ? s : all;
    for (int64_t key = 0; key < p->n; key += 16) turn_scores(turned + key * HEADS, to + key);
    if (to == all) memcpy(s, all, (size_t)(n_row * KEYS) * sizeof *s);
}

/* ---- values ---- */

/* The largest of x[0 .. 64), or 0; what brings it to `to`, or 0. */
VF_INLINE float largest_of(const float *x, float to, float *inverse)
{
    vf m = vf_set1(0.0f);
    for (int i = 0; i < KEYS; i += VF_LANES) m = vf_max(m, vf_load(x + i));
    float largest = largest_lane(m);
    *inverse = largest >= tiny ? to / largest : 0;
    return largest;
}

/* to = x times f, keys as deal_groups leaves them */
VF_INLINE void scale_keys(const float *x, float f, float *to)
{
#pragma GCC unroll 4
    for (int i = 0; i < KEYS; i += 2 * VF_LANES) {
        vf a = vf_load(x + i) * vf_set1(f), b = vf_load(x + i + VF_LANES) * vf_set1(f);
        deal_groups(&a, &b);
        vf_store(to + i, a);
        vf_store(to + i + VF_LANES, b);
    }
}

/* Probabilities of 16 heads divided by their largest, zeros for what is not there.  Keys as deal_groups leaves them. */
typedef struct {
    LINES float p[HEADS][KEYS];
    float largest[HEADS];
} relative;

static void make_relative(const float *p, int64_t n_row, int64_t n_key, relative *r)
{
    for (int64_t h = 0; h < n_row; h++, p += KEYS) {
        float inverse, some[KEYS];
        const float *all = p;
        if (n_key < KEYS) {
            memset(some, 0, sizeof some);
            memcpy(some, p, (size_t)n_key * sizeof *p);
            all = some;
        }
        r->largest[h] = largest_of(all, 1, &inverse);
        scale_keys(all, inverse, r->p[h]);
    }
    if (n_row == HEADS) return;
    memset(r->p[n_row], 0, (size_t)(HEADS - n_row) * sizeof r->p[0]);
    memset(r->largest + n_row, 0, (size_t)(HEADS - n_row) * sizeof r->largest[0]);
}

typedef struct {
    const char *row[KEYS];
    const float *d;
    int64_t n_block, n_pair, n_head, part_pairs, part_heads; /* the last two: of a part of a block */
    relative r;
} value_source;

/* What the tiles of a block read.  It is made in parts between the tiles of the block before, whose products leave
 * other units of the processor idle. */
typedef struct {
    LINES int16_t pair[PAIRS * 2 * BLOCK];
    int16_t weight[HEADS][KEYS];
    float factor[HEADS]; /* P D_b / 32767 */
    float d[KEYS];       /* d_b (32767 / D_b), keys as deal_groups leaves them */
} value_block;

/* d and factor: the parts need them, and their chain of instructions is long. */
VF_INLINE void prepare_scales(const value_source *p, int64_t b, value_block *to)
{
    if (b >= p->n_block) return;
    const float *d = p->d + b * KEYS;
    float inverse;
    vf f = vf_set1(largest_of(d, 32767, &inverse) * unit);
    scale_keys(d, inverse, to->d);
    for (int h = 0; h < HEADS; h += VF_LANES) vf_store(to->factor + h, vf_load(p->r.largest + h) * f);
}

/* Part `part` of the pairs and weights of block b, which has its scales. */
VF_INLINE void prepare_part(const value_source *p, int64_t b, int64_t part, value_block *to)
{
    if (b >= p->n_block) return;
    int64_t at = b * Q8_BYTES + 2, i = part * p->part_pairs, end_pair = smaller(i + p->part_pairs, p->n_pair);
    int64_t h = part * p->part_heads, end_head = smaller(h + p->part_heads, p->n_head);
    for (; i < end_pair; i++) pair_block(p->row[2 * i] + at, p->row[2 * i + 1] + at, to->pair + i * 2 * BLOCK);
    vf d[KEYS / VF_LANES];
#pragma GCC unroll 8
    for (int k = 0; k < KEYS / VF_LANES; k++) d[k] = vf_load(to->d + k * VF_LANES);
    for (; h < end_head; h++) {
#pragma GCC unroll 8
        for (int k = 0; k < KEYS / VF_LANES; k += 2) {
            const float *from = p->r.p[h] + k * VF_LANES;
            store_nearest_2(to->weight[h] + k * VF_LANES, vf_load(from) * d[k], vf_load(from + VF_LANES) * d[k + 1]);
        }
    }
}

/* A pair of keys, VALUE_HEADS heads and VALUE_VECTORS vectors of a block's columns: the first of sums, or added. */
VF_INLINE void multiply_pair(const int16_t *pair, const int16_t (*weight)[KEYS], int64_t i, bool first,
                             vw (*sum)[VALUE_VECTORS])
{
    vw x[VALUE_VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VALUE_VECTORS; v++) x[v] = load_words(pair + i * 2 * BLOCK + 2 * VF_LANES * v);
#pragma GCC unroll 8
    for (int h = 0; h < VALUE_HEADS; h++) {
        vw w = repeat_pair(weight[h] + 2 * i);
#pragma GCC unroll 2
        for (int v = 0; v < VALUE_VECTORS; v++) {
            sum[h][v] = first ? first_products(x[v], w) : add_products(sum[h][v], x[v], w);
        }
    }
}

/* VALUE_HEADS heads, VALUE_VECTORS vectors of a block's columns: the first n_row of them to out. */
VF_INLINE void value_tile(int64_t n_pair, const int16_t *pair, const int16_t (*weight)[KEYS], int64_t n_row,
                          const float *factor, float *out, int64_t out_stride)
{
    vw sum[VALUE_HEADS][VALUE_VECTORS];
    multiply_pair(pair, weight, 0, true, sum);
#pragma GCC unroll 4
    for (int64_t i = 1; i < PAIR_GROUP; i++) multiply_pair(pair, weight, i, false, sum);
    for (int64_t first = PAIR_GROUP; first < n_pair; first += PAIR_GROUP) {
#pragma GCC unroll 4
        for (int64_t i = first; i < first + PAIR_GROUP; i++) multiply_pair(pair, weight, i, false, sum);
    }
#pragma GCC unroll 8
    for (int h = 0; h < VALUE_HEADS; h++) {
        vf f = vf_set1(factor[h]), a = to_float(sum[h][0]), b = to_float(sum[h][1]);
        float *to = out + h * out_stride;
        order_columns(&a, &b);
        if (h >= n_row) continue;
        vf_store(to, vf_fma(a, f, vf_load(to)));
        vf_store(to + VF_LANES, vf_fma(b, f, vf_load(to + VF_LANES)));
    }
}

static void values(const ml_q8_rows *p, const float *prob, int64_t n_row, float *out, int64_t out_stride)
{
    int64_t n_tile = (n_row + VALUE_HEADS - 1) / VALUE_HEADS, n_part = n_tile * (COLUMN_VECTORS / VALUE_VECTORS);
    value_source source;
    source.d = p->d;
    source.n_block = p->columns / BLOCK;
    source.n_pair = (p->n + 2 * PAIR_GROUP - 1) / (2 * PAIR_GROUP) * PAIR_GROUP;
    source.n_head = n_tile * VALUE_HEADS;
    source.part_pairs = (source.n_pair + n_part - 1) / n_part;
    source.part_heads = (source.n_head + n_part - 1) / n_part;
    for (int64_t i = 0; i < 2 * source.n_pair; i++) source.row[i] = p->row[i < p->n ? i : 0]; /* later ones: weight 0 */
    make_relative(prob, n_row, p->n, &source.r);
    value_block block[2]; /* the one in turn and the next */
    prepare_scales(&source, 0, &block[0]);
    prepare_scales(&source, 1, &block[1]);
    for (int64_t part = 0; part < n_part; part++) prepare_part(&source, 0, part, &block[0]);
    for (int64_t b = 0; b < source.n_block; b++, out += BLOCK) {
        value_block *now = &block[b % 2], *next = &block[(b + 1) % 2];
        int64_t part = 0;
        for (int64_t h = 0; h < n_row; h += VALUE_HEADS) {
            for (int v = 0; v < COLUMN_VECTORS; v += VALUE_VECTORS) {
                value_tile(source.n_pair, now->pair + 2 * VF_LANES * v, now->weight + h, n_row - h, now->factor + h,
                           out + h * out_stride + v * VF_LANES, out_stride);
                prepare_part(&source, b + 1, part++, next);
            }
        }
        prepare_scales(&source, b + 2, now);
    }
}

const ml_q8_kernel Q8_KERNEL_TABLE = { .pack = pack, .scales = scales, .scores = scores, .values = values };
