#include "token/table.h"

#include "base/alloc.h"

static size_t grown(size_t mask)
{
    return mask ? 2 * (mask + 1) : 256;
}

static ml_status grow_pairs(ml_pair_table *table, ml_error *err)
{
    size_t n_slots = grown(table->mask);
    ml_pair_slot *slots = ml_alloc(n_slots * sizeof *slots);
    if (!slots) return ml_fail_memory(err, n_slots * sizeof *slots, "the table of merges");
    memset(slots, 0xFF, n_slots * sizeof *slots);
    size_t mask = n_slots - 1;
    for (size_t i = 0; table->slots && i <= table->mask; i++) {
        ml_pair_slot slot = table->slots[i];
        if (slot.rank == UINT32_MAX) continue;
        size_t at = ml_pair_hash(slot.left, slot.right) & mask;
        while (slots[at].rank != UINT32_MAX) at = (at + 1) & mask;
        slots[at] = slot;
    }
    ml_free(table->slots);
    table->slots = slots;
    table->mask = mask;
    return ML_OK;
}

ml_status ml_pair_insert(ml_pair_table *table, int32_t left, int32_t right, uint32_t rank, ml_error *err)
{
    if (!table->slots || 2 * table->n > table->mask) ML_TRY(grow_pairs(table, err));
    size_t at = ml_pair_hash((uint32_t)left, (uint32_t)right) & table->mask;
    while (table->slots[at].rank != UINT32_MAX) at = (at + 1) & table->mask;
    table->slots[at] = (ml_pair_slot){ (uint32_t)left, (uint32_t)right, rank };
    table->n++;
    return ML_OK;
}

void ml_pair_table_free(ml_pair_table *table)
{
    ml_free(table->slots);
    *table = (ml_pair_table){ 0 };
}

ml_key ml_key_hash(const uint8_t *p, size_t n)
{
    uint64_t a = 0x243F6A8885A308D3u ^ n, b = 0x13198A2E03707344u;
    for (size_t i = 0; i < n; i += 8) {
        uint64_t w = 0;
        memcpy(&w, p + i, n - i < 8 ? n - i : 8);
        a = (a ^ w) * 0x9E3779B97F4A7C15u;
        a ^= a >> 29;
        b = (b + w) * 0xD6E8FEB86659FD93u;
        b ^= b >> 32;
    }
    return (ml_key){ a, b | (uint64_t)0xFF << 56 };
}

static ml_status grow_pieces(ml_piece_table *table, ml_error *err)
{
    size_t n_slots = grown(table->mask);
    ml_piece_slot *slots = ml_alloc(n_slots * sizeof *slots);
    if (!slots) return ml_fail_memory(err, n_slots * sizeof *slots, "the table of pieces");
    memset(slots, 0xFF, n_slots * sizeof *slots);
    size_t mask = n_slots - 1;
    for (size_t i = 0; table->slots && i <= table->mask; i++) {
        ml_piece_slot slot = table->slots[i];
        if (slot.id < 0) continue;
        size_t at = ml_key_slot(slot.key) & mask;
        while (slots[at].id >= 0) at = (at + 1) & mask;
        slots[at] = slot;
    }
    ml_free(table->slots);
    table->slots = slots;
    table->mask = mask;
    return ML_OK;
}

ml_status ml_piece_insert(ml_piece_table *table, ml_key key, int32_t id, ml_error *err)
{
    if (!table->slots || 2 * table->n > table->mask) ML_TRY(grow_pieces(table, err));
    size_t at = ml_key_slot(key) & table->mask;
    while (table->slots[at].id >= 0) at = (at + 1) & table->mask;
    table->slots[at] = (ml_piece_slot){ key, id };
    table->n++;
    return ML_OK;
}

void ml_piece_table_free(ml_piece_table *table)
{
    ml_free(table->slots);
    *table = (ml_piece_table){ 0 };
}
