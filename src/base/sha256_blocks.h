/* The inside of SHA-256 (FIPS 180-4) with x86's SHA instructions.  Each waits four cycles for the one before and could
 * begin after two: two chains side by side take hardly longer than one. */
#ifndef ML_BASE_SHA256_BLOCKS_H
#define ML_BASE_SHA256_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

enum { ML_SHA256_BLOCK = 64, ML_SHA256_TAIL = 2 * ML_SHA256_BLOCK };

/* A message on its way: h0 to h7, and where its next block is. */
typedef struct {
    uint32_t h[8];
    const uint8_t *block;
} ml_sha256_chain;

void ml_sha256_chain_begin(ml_sha256_chain *chain);
/* The last n bytes (at most ML_SHA256_TAIL - 9) of a message of n_total, at the begin of `tail`, are padded to whole
 * blocks: how many. */
size_t ml_sha256_pad(uint8_t tail[ML_SHA256_TAIL], size_t n, uint64_t n_total);
/* When all blocks are in. */
void ml_sha256_chain_digest(const ml_sha256_chain *chain, uint8_t digest[32]);

/* n_blocks blocks of 64 bytes into one chain, or into each of two; `block` moves behind them.  For machines with SHA
 * instructions only (ml_cpu_has_sha). */
void ml_sha256_add_blocks_shani(ml_sha256_chain *chain, size_t n_blocks);
void ml_sha256_add_two_shani(ml_sha256_chain *first, ml_sha256_chain *second, size_t n_blocks);

#endif
