#include "token/words.h"

#include "base/alloc.h"

void ml_words_free(ml_words *words)
{
    ml_free(words->slots);
    ml_chars_free(&words->blob);
    *words = (ml_words){ 0 };
}

static ml_status grow(ml_words *words, ml_error *err)
{
    size_t n_slots = words->slots ? 2 * (words->mask + 1) : 4096;
    ml_word_slot *slots = ml_calloc(n_slots, sizeof *slots);
    if (!slots) return ml_fail_memory(err, n_slots * sizeof *slots, "counting words");
    for (size_t i = 0; words->slots && i <= words->mask; i++) {
        if (!words->slots[i].count) continue;
        size_t at = ml_key_slot(words->slots[i].key) & (n_slots - 1);
        while (slots[at].count) at = (at + 1) & (n_slots - 1);
        slots[at] = words->slots[i];
    }
    ml_free(words->slots);
    words->slots = slots;
    words->mask = n_slots - 1;
    return ML_OK;
}

ml_status ml_words_add(ml_words *words, const uint8_t *p, size_t n, size_t readable, int64_t times, ml_error *err)
{
    if (!words->slots || 2 * words->n > words->mask) ML_TRY(grow(words, err));
    ml_key key = n <= ML_KEY_MAX ? ml_key_pack(p, n, readable) : ml_key_hash(p, n);
    size_t i = ml_key_slot(key) & words->mask;
    for (; words->slots[i].count; i = (i + 1) & words->mask) {
        ml_word_slot *slot = &words->slots[i];
        if (slot->key.low != key.low || slot->key.high != key.high) continue;
        if (n > ML_KEY_MAX && (slot->n != n || memcmp(words->blob.data + slot->at, p, n) != 0)) continue;
        slot->count += times;
        return ML_OK;
    }
    words->slots[i] = (ml_word_slot){ .key = key, .at = words->blob.n, .n = n };
    ML_TRY(ml_chars_append(&words->blob, p, n, err));
    words->slots[i].count = times;
    words->n++;
    return ML_OK;
}
