/* An fp32 number as two halves of 16 bits each: bf16, rounded to nearest with ties away from zero, and what that
 * leaves.  Together they are the number again, bit for bit:
 *
 *   bits = (half << 16) + (rest as a signed number)
 *
 * Rounding up carries into the upper half, and the remainder is then negative.  A NaN, which rounding could carry into
 * a zero, is cut off and stays some NaN. */
#ifndef ML_TENSOR_HALF_H
#define ML_TENSOR_HALF_H

#include "base/device_code.h"

#include <stdint.h>
#include <string.h>

static inline ML_HERE_AND_THERE uint16_t ml_half_split(float x, uint16_t *rest)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        *rest = 0;
        return (uint16_t)(bits >> 16 | 0x40u);
    }
    *rest = (uint16_t)(bits & 0xffffu);
    return (uint16_t)(((uint64_t)bits + 0x8000u) >> 16 & 0xffffu);
}

static inline ML_HERE_AND_THERE uint16_t ml_half_round(float x)
{
    uint16_t rest;
    return ml_half_split(x, &rest);
}

static inline ML_HERE_AND_THERE float ml_half_join(uint16_t half, uint16_t rest)
{
    uint32_t bits = ((uint32_t)half << 16) + rest - (rest & 0x8000u ? 0x10000u : 0u);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#endif
