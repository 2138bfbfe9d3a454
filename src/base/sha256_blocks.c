#include "base/sha256_blocks.h"

#include <assert.h>
#include <string.h>

void ml_sha256_chain_begin(ml_sha256_chain *chain)
{
    static const uint32_t first[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
    memcpy(chain->h, first, sizeof first);
}

size_t ml_sha256_pad(uint8_t tail[ML_SHA256_TAIL], size_t n, uint64_t n_total)
{
    assert(n + 9 <= ML_SHA256_TAIL);
    size_t n_blocks = (n + 9 + ML_SHA256_BLOCK - 1) / ML_SHA256_BLOCK, end = n_blocks * ML_SHA256_BLOCK;
    tail[n] = 0x80;
    memset(tail + n + 1, 0, end - n - 1);
    for (uint64_t n_bits = 8 * n_total; n_bits; n_bits >>= 8) tail[--end] = (uint8_t)n_bits;
    return n_blocks;
}

void ml_sha256_chain_digest(const ml_sha256_chain *chain, uint8_t digest[32])
{
    for (size_t i = 0; i < 8; i++) {
        for (size_t b = 0; b < 4; b++) digest[4 * i + b] = (uint8_t)(chain->h[i] >> (24 - 8 * b));
    }
}
