/* The three look-ups that encoding lives on: pair -> rank, bytes -> id, text of an added token -> id. */
#ifndef ML_TOKEN_TABLE_H
#define ML_TOKEN_TABLE_H

#include "base/status.h"

#include <stdbool.h>
#include <string.h>

/* Open addressing, linear probing, at most half full.  rank UINT32_MAX marks a free slot. */
typedef struct {
    uint32_t left, right, rank;
} ml_pair_slot;

typedef struct {
    ml_pair_slot *slots;
    size_t n, mask; /* mask + 1 slots; slots NULL: empty */
} ml_pair_table;

static inline size_t ml_pair_hash(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (size_t)(h ^ h >> 32);
}

/* Rank of a pair, UINT32_MAX when it does not merge. */
static inline uint32_t ml_pair_rank(const ml_pair_table *table, int32_t left, int32_t right)
{
    if (!table->slots) return UINT32_MAX;
    uint32_t l = (uint32_t)left, r = (uint32_t)right;
    for (size_t i = ml_pair_hash(l, r);; i++) {
        const ml_pair_slot *slot = &table->slots[i & table->mask];
        if (slot->rank == UINT32_MAX || (slot->left == l && slot->right == r)) return slot->rank;
    }
}

/* The pair must not be in the table. */
ml_status ml_pair_insert(ml_pair_table *table, int32_t left, int32_t right, uint32_t rank, ml_error *err);
void ml_pair_table_free(ml_pair_table *table);

/* Up to 15 bytes packed into two words with their number on top: equal keys are equal bytes. */
typedef struct {
    uint64_t low, high;
} ml_key;

enum { ML_KEY_MAX = 15 };

/* n in [1, 15]; `readable` bytes (>= n) may be read at p. */
static inline ml_key ml_key_pack(const uint8_t *p, size_t n, size_t readable)
{
    uint64_t w[2] = { 0, 0 };
    if (readable >= sizeof w) {
        memcpy(w, p, sizeof w);
        if (n < 8) {
            w[0] &= ((uint64_t)1 << 8 * n) - 1;
            w[1] = 0;
        } else {
            w[1] &= ((uint64_t)1 << 8 * (n - 8)) - 1;
        }
    } else {
        memcpy(w, p, n);
    }
    return (ml_key){ w[0], w[1] | (uint64_t)n << 56 };
}

/* A key for longer pieces, made of a hash: whoever finds it compares the bytes. */
ml_key ml_key_hash(const uint8_t *p, size_t n);

static inline size_t ml_key_slot(ml_key key)
{
    uint64_t h = (key.low ^ (key.high << 31 | key.high >> 33) * 0xD6E8FEB86659FD93u) * 0x9E3779B97F4A7C15u;
    return (size_t)(h ^ h >> 32);
}

/* Bytes -> id; the caller keeps the bytes of long pieces and compares them.  id -1 marks a free slot. */
typedef struct {
    ml_key key;
    int32_t id;
} ml_piece_slot;

typedef struct {
    ml_piece_slot *slots;
    size_t n, mask;
} ml_piece_table;

ml_status ml_piece_insert(ml_piece_table *table, ml_key key, int32_t id, ml_error *err);
void ml_piece_table_free(ml_piece_table *table);

#endif
