/* Weights as a warp reads them: 256 elements of a row at a time, eight for each lane in two quads of neighbours, from
 * where the file has them.  What belongs to a quad lies in one or two words of the block (tensor/blocks.h), so
 * neighbouring lanes read neighbouring bytes: 16 a lane for bf16 and f16, words for block types (halfwords where blocks
 * are no multiple of four bytes), scales beside them.
 *
 * A reader Q of a type has
 *   Q::raw                        what is in flight
 *   Q::first(lane)                position of the first quad; Q::second(lane) of the other, within the 256
 *   Q::load(row, p, lane, raw)    elements p .. p + 255 (p a multiple of 256) of the row; the lane's must exist
 *   Q::get(raw, lane, w)          w[0 .. 4) the first quad, w[4 .. 8) the second, as tensor/blocks.h computes them
 * A lane has elements when p + Q::first(lane) < k, all eight of them. */
#ifndef ML_OPS_CUDA_QUADS_CUH
#define ML_OPS_CUDA_QUADS_CUH

#include "ops/cuda/blocks.cuh"

enum { ML_QUADS_STEP = 256 };

/* 16 bytes that nobody else reads soon. */
static __device__ __forceinline__ uint4 ml_stream_16(const uint8_t *p)
{
    uint4 v;
#ifdef ML_EMULATED
    memcpy(&v, p, sizeof v);
#else
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
#endif
    return v;
}

static __device__ __forceinline__ uint32_t ml_stream_4(const uint8_t *p)
{
    uint32_t v;
#ifdef ML_EMULATED
    memcpy(&v, p, sizeof v);
#else
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
#endif
    return v;
}

static __device__ __forceinline__ uint32_t ml_half_word(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, __builtin_assume_aligned(p, 2), sizeof v);
    return v;
}

/* Four bytes at an even address. */
static __device__ __forceinline__ uint32_t ml_word_at_even(const uint8_t *p)
{
    return ml_half_word(p) | ml_half_word(p + 2) << 16;
}

/* A half in the lower 16 bits. */
static __device__ __forceinline__ float ml_f16_bits(uint32_t bits)
{
#ifdef ML_EMULATED
    uint8_t b[2] = { (uint8_t)bits, (uint8_t)(bits >> 8) };
    return ml_half_to_float(b);
#else
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((unsigned short)bits));
    return f;
#endif
}

/* Byte i of a word of codes. */
static __device__ __forceinline__ float ml_code(uint32_t word, int i)
{
    return (float)(word >> 8 * i & 0xff);
}

static __device__ __forceinline__ float ml_signed_code(uint32_t word, int i)
{
    return (float)(int8_t)(word >> 8 * i);
}

struct ml_quads_f32 {
    struct raw {
        uint4 a, b;
    };
    static __device__ __forceinline__ int first(int lane)
    {
        return 8 * lane;
    }
    static __device__ __forceinline__ int second(int lane)
    {
        return 8 * lane + 4;
    }
    static __device__ __forceinline__ void load(const uint8_t *row, int64_t p, int lane, raw *r)
    {
        r->a = ml_stream_16(row + 4 * (p + 8 * lane));
        r->b = ml_stream_16(row + 4 * (p + 8 * lane) + 16);
    }
    static __device__ __forceinline__ void get(const raw *r, int, float w[8])
    {
        w[0] = __uint_as_float(r->a.x), w[1] = __uint_as_float(r->a.y);
        w[2] = __uint_as_float(r->a.z), w[3] = __uint_as_float(r->a.w);
        w[4] = __uint_as_float(r->b.x), w[5] = __uint_as_float(r->b.y);
        w[6] = __uint_as_float(r->b.z), w[7] = __uint_as_float(r->b.w);
    }
};

struct ml_quads_bf16 {
    typedef uint4 raw;
    static __device__ __forceinline__ int first(int lane)
    {
        return 8 * lane;
    }
    static __device__ __forceinline__ int second(int lane)
    {
        return 8 * lane + 4;
    }
    static __device__ __forceinline__ void load(const uint8_t *row, int64_t p, int lane, raw *r)
    {
        *r = ml_stream_16(row + 2 * (p + 8 * lane));
    }
    static __device__ __forceinline__ void get(const raw *r, int, float w[8])
    {
        const uint32_t word[4] = { r->x, r->y, r->z, r->w };
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[2 * i] = __uint_as_float(word[i] << 16);
            w[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
        }
    }
};

struct ml_quads_f16 : ml_quads_bf16 {
    static __device__ __forceinline__ void get(const raw *r, int, float w[8])
    {
        const uint32_t word[4] = { r->x, r->y, r->z, r->w };
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[2 * i] = ml_f16_bits(word[i] & 0xffff);
            w[2 * i + 1] = ml_f16_bits(word[i] >> 16);
        }
    }
};

/* Eight blocks of 34 bytes; a lane has eight bytes of one. */
struct ml_quads_q8_0 {
    struct raw {
        uint32_t a, b, d;
    };
    static __device__ __forceinline__ int first(int lane)
    {
        return 8 * lane;
    }
    static __device__ __forceinline__ int second(int lane)
    {
        return 8 * lane + 4;
    }
    static __device__ __forceinline__ void load(const uint8_t *row, int64_t p, int lane, raw *r)
    {
        const uint8_t *b = row + (p / 32 + lane / 4) * 34;
        r->a = ml_word_at_even(b + 2 + lane % 4 * 8);
        r->b = ml_word_at_even(b + 6 + lane % 4 * 8);
        r->d = ml_half_word(b);
    }
    static __device__ __forceinline__ void get(const raw *r, int, float w[8])
    {
        float d = ml_f16_bits(r->d);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[i] = ml_round_product(d, ml_signed_code(r->a, i));
            w[4 + i] = ml_round_product(d, ml_signed_code(r->b, i));
        }
    }
};

/* Eight blocks of 18 bytes; a lane has four bytes of one: elements j and j + 16. */
struct ml_quads_q4_0 {
    struct raw {
        uint32_t q, d;
    };
    static __device__ __forceinline__ int first(int lane)
    {
        return lane / 4 * 32 + lane % 4 * 4;
    }
    static __device__ __forceinline__ int second(int lane)
    {
        return first(lane) + 16;
    }
    static __device__ __forceinline__ void load(const uint8_t *row, int64_t p, int lane, raw *r)
    {
        const uint8_t *b = row + (p / 32 + lane / 4) * 18;
        r->q = ml_word_at_even(b + 2 + lane % 4 * 4);
        r->d = ml_half_word(b);
    }
    static __device__ __forceinline__ void get(const raw *r, int, float w[8])
    {
        float d = ml_f16_bits(r->d);
        uint32_t low = r->q & 0x0f0f0f0fu, high = r->q >> 4 & 0x0f0f0f0fu;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[i] = ml_round_product(d, ml_code(low, i) - 8.0f);
            w[4 + i] = ml_round_product(d, ml_code(high, i) - 8.0f);
        }
    }
};

/* Scale and minimum of sub-block i, from the twelve bytes as three words. */
static __device__ __forceinline__ void ml_k_pair(const uint32_t word[3], int i, float *scale, float *min)
{
    int shift = 8 * (i % 4);
    uint32_t a = word[0] >> shift, b = word[1] >> shift, c = word[2] >> shift;
    bool low = i < 4;
    *scale = (float)(low ? a & 63 : (c & 15) | (a >> 6 & 3) << 4);
    *min = (float)(low ? b & 63 : (c >> 4 & 15) | (b >> 6 & 3) << 4);
}

/* A super-block of 144 bytes: a lane has word `lane` of the codes, elements of sub-blocks 2 (lane / 8) and + 1. */
struct ml_quads_q4_k {
    struct raw {
        uint4 head;
        uint32_t q;
    };
    static __device__ __forceinline__ int first(int lane)
    {
        return lane / 8 * 64 + lane % 8 * 4;
    }
    static __device__ __forceinline__ int second(int lane)
    {
        return first(lane) + 32;
    }
    static __device__ __forceinline__ void load(const uint8_t *row, int64_t p, int lane, raw *r)
    {
        const uint8_t *b = row + p / 256 * 144;
        r->head = ml_stream_16(b);
        r->q = ml_stream_4(b + 16 + 4 * lane);
    }
    static __device__ __forceinline__ void scale(const uint4 &head, int lane, uint32_t low, uint32_t high, float w[8])
    {
        const uint32_t word[3] = { head.y, head.z, head.w };
        float d = ml_f16_bits(head.x & 0xffff), dmin = ml_f16_bits(head.x >> 16), s, t;
        ml_k_pair(word, lane / 8 * 2, &s, &t);
        s = ml_round_product(d, s), t = ml_round_product(dmin, t);
#pragma unroll
        for (int i = 0; i < 4; i++) w[i] = ml_round_product(s, ml_code(low, i)) - t;
        ml_k_pair(word, lane / 8 * 2 + 1, &s, &t);
        s = ml_round_product(d, s), t = ml_round_product(dmin, t);
#pragma unroll
        for (int i = 0; i < 4; i++) w[4 + i] = ml_round_product(s, ml_code(high, i)) - t;
    }
    static __device__ __forceinline__ void get(const raw *r, int lane, float w[8])
    {
        scale(r->head, lane, r->q & 0x0f0f0f0fu, r->q >> 4 & 0x0f0f0f0fu, w);
    }
};

/* 176 bytes: as q4_k with 32 bytes of fifth bits between. */
struct ml_quads_q5_k {
    struct raw {
        uint4 head;
        uint32_t q, high;
    };
    static __device__ __forceinline__ int first(int lane)
    {
        return ml_quads_q4_k::first(lane);
    }
    static __device__ __forceinline__ int second(int lane)
    {
        return ml_quads_q4_k::second(lane);
    }
    static __device__ __forceinline__ void load(const uint8_t *row, int64_t p, int lane, raw *r)
    {
        const uint8_t *b = row + p / 256 * 176;
        r->head = ml_stream_16(b);
        r->high = ml_stream_4(b + 16 + lane % 8 * 4);
        r->q = ml_stream_4(b + 48 + 4 * lane);
    }
    static __device__ __forceinline__ void get(const raw *r, int lane, float w[8])
    {
        uint32_t high = r->high >> lane / 8 * 2;
        ml_quads_q4_k::scale(r->head, lane, (r->q & 0x0f0f0f0fu) | (high & 0x01010101u) << 4,
                             (r->q >> 4 & 0x0f0f0f0fu) | (high >> 1 & 0x01010101u) << 4, w);
    }
};

/* 210 bytes: a lane has word `lane` of the nibbles, elements of sub-blocks of 32 c and c + 2 of its half. */
struct ml_quads_q6_k {
    struct raw {
        uint32_t low, high, d;
        int8_t s, t;
    };
    static __device__ __forceinline__ int first(int lane)
    {
        return lane / 16 * 128 + lane % 16 * 4;
    }
    static __device__ __forceinline__ int second(int lane)
    {
        return first(lane) + 64;
    }
    static __device__ __forceinline__ void load(const uint8_t *row, int64_t p, int lane, raw *r)
    {
        const uint8_t *b = row + p / 256 * 210;
        r->low = ml_word_at_even(b + 4 * lane);
        r->high = ml_word_at_even(b + 128 + lane / 16 * 32 + lane % 8 * 4);
        r->s = (int8_t)b[192 + first(lane) / 16];
        r->t = (int8_t)b[192 + first(lane) / 16 + 4];
        r->d = ml_half_word(b + 208);
    }
    static __device__ __forceinline__ void get(const raw *r, int lane, float w[8])
    {
        int shift = lane / 8 % 2 * 2; /* c */
        uint32_t a = (r->low & 0x0f0f0f0fu) | (r->high >> shift & 0x03030303u) << 4;
        uint32_t b = (r->low >> 4 & 0x0f0f0f0fu) | (r->high >> (shift + 4) & 0x03030303u) << 4;
        float d = ml_f16_bits(r->d), s = ml_round_product(d, (float)r->s), t = ml_round_product(d, (float)r->t);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[i] = ml_round_product(s, ml_code(a, i) - 32.0f);
            w[4 + i] = ml_round_product(t, ml_code(b, i) - 32.0f);
        }
    }
};

#endif
