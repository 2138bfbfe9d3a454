/* A bounded cursor over bytes nobody trusts: every read checks what is left, integers are assembled
 * byte by byte (little endian), and no struct is ever cast onto the bytes. */
#ifndef ML_BASE_BYTES_H
#define ML_BASE_BYTES_H

#include "base/status.h"

#include <string.h>

typedef struct {
    const uint8_t *data;
    size_t size;
    size_t at; /* offset of the next byte; errors name it */
} ml_bytes;

/* The next n bytes, or ML_EFORMAT naming the offset and how many were left. */
ml_status ml_bytes_take(ml_bytes *b, size_t n, const uint8_t **out, ml_error *err);
ml_status ml_bytes_u8(ml_bytes *b, uint8_t *out, ml_error *err);
ml_status ml_bytes_u32(ml_bytes *b, uint32_t *out, ml_error *err);
ml_status ml_bytes_u64(ml_bytes *b, uint64_t *out, ml_error *err);

static inline uint32_t ml_load_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t ml_load_u64(const uint8_t *p)
{
    return (uint64_t)ml_load_u32(p) | (uint64_t)ml_load_u32(p + 4) << 32;
}

static inline void ml_store_u32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
    p[2] = (uint8_t)(v >> 16);
    p[3] = (uint8_t)(v >> 24);
}

static inline void ml_store_u64(uint8_t *p, uint64_t v)
{
    ml_store_u32(p, (uint32_t)v);
    ml_store_u32(p + 4, (uint32_t)(v >> 32));
}

#endif
