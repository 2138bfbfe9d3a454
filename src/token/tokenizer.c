#include "token/internal.h"

#include "base/alloc.h"

void ml_ids_free(ml_ids *ids)
{
    ml_free(ids->id);
    *ids = (ml_ids){ 0 };
}

ml_status ml_ids_append(ml_ids *ids, const int32_t *id, size_t n, ml_error *err)
{
    ML_TRY(ml_grow((void **)&ids->id, &ids->capacity, ids->n + n, sizeof *ids->id, err));
    if (n) memcpy(ids->id + ids->n, id, n * sizeof *id);
    ids->n += n;
    return ML_OK;
}

void ml_chars_free(ml_chars *chars)
{
    ml_free(chars->data);
    *chars = (ml_chars){ 0 };
}

ml_status ml_chars_append(ml_chars *chars, const void *data, size_t n_bytes, ml_error *err)
{
    ML_TRY(ml_grow((void **)&chars->data, &chars->capacity, chars->n + n_bytes, 1, err));
    if (n_bytes) memcpy(chars->data + chars->n, data, n_bytes);
    chars->n += n_bytes;
    return ML_OK;
}

ml_status ml_tokenizer_make(const char *kind, ml_tokenizer **out, ml_error *err)
{
    ml_tokenizer *t = ml_calloc(1, sizeof *t);
    if (!t) return ml_fail_memory(err, sizeof *t, "a tokenizer");
    t->kind = kind;
    for (size_t i = 0; i < 256; i++) t->byte_id[i] = -1;
    for (size_t i = 0; i < ML_N_ROLES; i++) t->role[i] = -1;
    *out = t;
    return ML_OK;
}

void ml_tokenizer_free(ml_tokenizer *t)
{
    if (!t) return;
    ml_chars_free(&t->blob);
    ml_free(t->pieces);
    ml_free(t->merges);
    ml_pair_table_free(&t->pairs);
    ml_free(t->pair_filter);
    ml_free(t->byte_pair_rank);
    ml_free(t->char_id);
    ml_piece_table_free(&t->whole);
    ml_piece_table_free(&t->added);
    ml_pattern_free(t->split);
    ml_free(t->chat_template);
    ml_free(t->chat_format);
    ml_ids_free(&t->prefix);
    ml_ids_free(&t->suffix);
    ml_ids_free(&t->ends);
    ml_free(t->added_lengths);
    ml_free(t);
}

ml_status ml_tokenizer_put_piece(ml_tokenizer *t, int64_t id, const void *bytes, size_t n_bytes, int flags,
                                 ml_error *err)
{
    if (id < 0 || id >= ML_TOKENIZER_MAX_VOCAB) {
        return ml_fail(err, ML_EFORMAT, "token id %lld: expected 0 to %d", (long long)id, ML_TOKENIZER_MAX_VOCAB - 1);
    }
    if (!n_bytes) return ml_fail(err, ML_EFORMAT, "token id %lld: is empty, expected at least one byte", (long long)id);
    if (ml_tokenizer_has(t, id)) {
        ml_piece *old = &t->pieces[id];
        if (old->n_bytes == n_bytes && !memcmp(ml_piece_bytes(t, (int32_t)id), bytes, n_bytes) &&
            (old->flags & (unsigned)flags) != (unsigned)flags) {
            old->flags |= (unsigned)flags;
            return ML_OK;
        }
        return ml_fail(err, ML_EFORMAT, "token id %lld: is given twice, to \"%.*s\" and to \"%.*s\"", (long long)id,
                       (int)(old->n_bytes < 100 ? old->n_bytes : 100), (const char *)ml_piece_bytes(t, (int32_t)id),
                       (int)(n_bytes < 100 ? n_bytes : 100), (const char *)bytes);
    }
    if (n_bytes > UINT32_MAX - t->blob.n) {
        return ml_fail(err, ML_EFORMAT, "token id %lld: the pieces have more than 2^32 bytes", (long long)id);
    }
    size_t at = t->blob.n, need = (size_t)id + 1;
    ML_TRY(ml_grow((void **)&t->pieces, &t->pieces_capacity, need, sizeof *t->pieces, err));
    ML_TRY(ml_chars_append(&t->blob, bytes, n_bytes, err));
    while (t->n_pieces < need) t->pieces[t->n_pieces++] = (ml_piece){ 0 };
    t->pieces[id] = (ml_piece){ (uint32_t)at, (uint32_t)n_bytes, (uint32_t)(flags | PIECE_PRESENT), 0 };
    if (n_bytes == 1 && !flags && !t->sentencepiece) {
        uint8_t byte = *(const uint8_t *)bytes;
        if (t->byte_id[byte] < 0) t->byte_id[byte] = (int32_t)id;
    }
    return ML_OK;
}

ml_status ml_tokenizer_put_merge(ml_tokenizer *t, int32_t left, int32_t right, int32_t result, ml_error *err)
{
    if (!ml_tokenizer_has(t, left) || !ml_tokenizer_has(t, right) || !ml_tokenizer_has(t, result)) {
        return ml_fail(err, ML_EFORMAT, "merge %zu: names token %d, %d or %d, which does not exist", t->n_merges, left,
                       right, result);
    }
    const ml_piece *l = &t->pieces[left], *r = &t->pieces[right], *whole = &t->pieces[result];
    const uint8_t *bytes = ml_piece_bytes(t, result);
    if ((uint64_t)l->n_bytes + r->n_bytes != whole->n_bytes || memcmp(bytes, ml_piece_bytes(t, left), l->n_bytes) ||
        memcmp(bytes + l->n_bytes, ml_piece_bytes(t, right), r->n_bytes)) {
        return ml_fail(err, ML_EFORMAT, "merge %zu: tokens %d and %d do not make token %d", t->n_merges, left, right,
                       result);
    }
    if (ml_pair_rank(&t->pairs, left, right) != UINT32_MAX) {
        return ml_fail(err, ML_EFORMAT, "merge %zu: the pair of tokens %d and %d is listed twice", t->n_merges, left,
                       right);
    }
    ML_TRY(ml_grow((void **)&t->merges, &t->merges_capacity, t->n_merges + 1, sizeof *t->merges, err));
    ML_TRY(ml_pair_insert(&t->pairs, left, right, (uint32_t)t->n_merges, err));
    t->merges[t->n_merges++] = (ml_merge){ left, right, result };
    return ML_OK;
}

ml_status ml_tokenizer_derive_merges(ml_tokenizer *t, ml_error *err)
{
    for (int i = 0; i < 256; i++) {
        if (t->byte_id[i] < 0) {
            return ml_fail(err, ML_EFORMAT, "byte 0x%02x has no token: expected all 256 bytes among the ranks", i);
        }
    }
    ml_merge_scratch scratch = { 0 };
    ml_status status = ML_OK;
    for (size_t id = 0; id < t->n_pieces && status == ML_OK; id++) {
        const ml_piece *piece = &t->pieces[id];
        if (piece->n_bytes < 2 || (piece->flags & ML_PIECE_ADDED)) continue;
        size_t n;
        status = ml_merge_bytes(t, &scratch, ml_piece_bytes(t, (int32_t)id), piece->n_bytes, &n, err);
        /* Other than two: no sequence of merges reaches this token, only a piece of text that equals it. */
        if (status == ML_OK && n == 2) {
            status = ml_tokenizer_put_merge(t, scratch.id[0], scratch.id[1], (int32_t)id, err);
        }
    }
    ml_merge_scratch_free(&scratch);
    t->whole_piece = true;
    return status;
}

ml_status ml_tokenizer_put_split(ml_tokenizer *t, const char *pattern, ml_error *err)
{
    return ml_pattern_add(&t->split, pattern, err);
}

void ml_tokenizer_set_whole_piece(ml_tokenizer *t, bool whole_piece)
{
    t->whole_piece = whole_piece;
}

void ml_tokenizer_set_fuse_unk(ml_tokenizer *t, bool fuse)
{
    t->fuse_unk = fuse;
}

void ml_tokenizer_set_around(ml_tokenizer *t, bool bos, bool eos)
{
    t->add_bos = bos;
    t->add_eos = eos;
    t->prefix.n = t->suffix.n = 0;
}

ml_status ml_tokenizer_put_around(ml_tokenizer *t, bool behind, int32_t id, ml_error *err)
{
    return ml_ids_append(behind ? &t->suffix : &t->prefix, &id, 1, err);
}

ml_status ml_tokenizer_put_end(ml_tokenizer *t, int32_t id, ml_error *err)
{
    for (size_t i = 0; i < t->ends.n; i++) {
        if (t->ends.id[i] == id) return ML_OK;
    }
    return ml_ids_append(&t->ends, &id, 1, err);
}

void ml_tokenizer_set_nfc(ml_tokenizer *t, bool nfc)
{
    t->nfc = nfc;
}

void ml_tokenizer_use_pieces(ml_tokenizer *t, ml_space_rule space)
{
    t->sentencepiece = true;
    t->space = space;
    t->whole_piece = true;
}

ml_status ml_tokenizer_set_score(ml_tokenizer *t, int32_t id, float score, ml_error *err)
{
    if (!ml_tokenizer_has(t, id)) return ml_fail(err, ML_EFORMAT, "score of token %d, which does not exist", id);
    if (score != score) return ml_fail(err, ML_EFORMAT, "token id %d: its score is not a number", id);
    t->scored = true;
    t->pieces[id].score = score;
    return ML_OK;
}

ml_status ml_tokenizer_put_byte(ml_tokenizer *t, int64_t id, uint8_t byte, ml_error *err)
{
    ML_TRY(ml_tokenizer_put_piece(t, id, &byte, 1, ML_PIECE_LITERAL, err));
    if (t->byte_id[byte] >= 0) {
        return ml_fail(err, ML_EFORMAT, "byte 0x%02x has two tokens, %d and %lld", byte, t->byte_id[byte],
                       (long long)id);
    }
    t->byte_id[byte] = (int32_t)id;
    return ML_OK;
}

void ml_tokenizer_set_role(ml_tokenizer *t, ml_token_role role, int32_t id)
{
    t->role[role] = id;
}

static ml_status set_text(char **to, const char *text, const char *what, ml_error *err)
{
    char *copy = ml_strdup(text);
    if (!copy) return ml_fail_memory(err, strlen(text), what);
    ml_free(*to);
    *to = copy;
    return ML_OK;
}

ml_status ml_tokenizer_set_chat_template(ml_tokenizer *t, const char *text, ml_error *err)
{
    return set_text(&t->chat_template, text, "a chat template", err);
}

ml_status ml_tokenizer_set_chat_format(ml_tokenizer *t, const char *name, ml_error *err)
{
    return set_text(&t->chat_format, name, "the name of a chat format", err);
}

int32_t ml_tokenizer_look_up(const ml_tokenizer *t, const ml_piece_table *table, const uint8_t *p, size_t n,
                             size_t readable)
{
    if (!table->slots || !n) return -1;
    ml_key key = n <= ML_KEY_MAX ? ml_key_pack(p, n, readable) : ml_key_hash(p, n);
    for (size_t i = ml_key_slot(key);; i++) {
        const ml_piece_slot *slot = &table->slots[i & table->mask];
        if (slot->id < 0) return -1;
        if (slot->key.low != key.low || slot->key.high != key.high) continue;
        if (n <= ML_KEY_MAX) return slot->id;
        if (t->pieces[slot->id].n_bytes == n && !memcmp(ml_piece_bytes(t, slot->id), p, n)) return slot->id;
    }
}

int32_t ml_tokenizer_vocab_size(const ml_tokenizer *t)
{
    return (int32_t)t->n_pieces;
}

const char *ml_tokenizer_piece(const ml_tokenizer *t, int32_t id, size_t *n_bytes)
{
    bool present = ml_tokenizer_has(t, id);
    *n_bytes = present ? t->pieces[id].n_bytes : 0;
    return present ? (const char *)ml_piece_bytes(t, id) : NULL;
}

int32_t ml_tokenizer_find(const ml_tokenizer *t, const char *text)
{
    size_t n = strlen(text);
    return ml_tokenizer_look_up(t, &t->added, (const uint8_t *)text, n, n);
}

bool ml_tokenizer_is_special(const ml_tokenizer *t, int32_t id)
{
    return ml_tokenizer_has(t, id) && (t->pieces[id].flags & ML_PIECE_SPECIAL);
}

bool ml_tokenizer_is_added(const ml_tokenizer *t, int32_t id)
{
    return ml_tokenizer_has(t, id) && (t->pieces[id].flags & ML_PIECE_ADDED);
}

bool ml_tokenizer_is_literal(const ml_tokenizer *t, int32_t id)
{
    return ml_tokenizer_has(t, id) && (t->pieces[id].flags & ML_PIECE_LITERAL);
}

int32_t ml_tokenizer_bos(const ml_tokenizer *t)
{
    return t->role[ML_ROLE_BOS];
}

int32_t ml_tokenizer_eos(const ml_tokenizer *t)
{
    return t->role[ML_ROLE_EOS];
}

int32_t ml_tokenizer_unk(const ml_tokenizer *t)
{
    return t->role[ML_ROLE_UNK];
}

int32_t ml_tokenizer_pad(const ml_tokenizer *t)
{
    return t->role[ML_ROLE_PAD];
}

ml_status ml_tokenizer_append_prefix(const ml_tokenizer *t, ml_ids *out, ml_error *err)
{
    return ml_ids_append(out, t->prefix.id, t->prefix.n, err);
}

ml_status ml_tokenizer_append_suffix(const ml_tokenizer *t, ml_ids *out, ml_error *err)
{
    return ml_ids_append(out, t->suffix.id, t->suffix.n, err);
}

bool ml_tokenizer_add_bos(const ml_tokenizer *t)
{
    return t->prefix.n == 1 && t->prefix.id[0] == t->role[ML_ROLE_BOS];
}

bool ml_tokenizer_add_eos(const ml_tokenizer *t)
{
    return t->suffix.n == 1 && t->suffix.id[0] == t->role[ML_ROLE_EOS];
}

const int32_t *ml_tokenizer_ends(const ml_tokenizer *t, size_t *n)
{
    *n = t->ends.n;
    return t->ends.id;
}

bool ml_tokenizer_is_sentencepiece(const ml_tokenizer *t)
{
    return t->sentencepiece;
}

bool ml_tokenizer_is_scored(const ml_tokenizer *t)
{
    return t->scored;
}

float ml_tokenizer_score(const ml_tokenizer *t, int32_t id)
{
    return ml_tokenizer_has(t, id) ? t->pieces[id].score : 0;
}

bool ml_tokenizer_space_prefix(const ml_tokenizer *t)
{
    return t->space != ML_SPACE_NEVER;
}

bool ml_tokenizer_is_nfc(const ml_tokenizer *t)
{
    return t->nfc;
}

int ml_tokenizer_byte(const ml_tokenizer *t, int32_t id)
{
    if (!t->sentencepiece || !ml_tokenizer_has(t, id) || t->pieces[id].n_bytes != 1) return -1;
    uint8_t byte = *ml_piece_bytes(t, id);
    return t->byte_id[byte] == id ? byte : -1;
}

const char *ml_tokenizer_chat_template(const ml_tokenizer *t)
{
    return t->chat_template;
}

const char *ml_tokenizer_chat_format(const ml_tokenizer *t)
{
    return t->chat_format;
}

const char *ml_tokenizer_kind(const ml_tokenizer *t)
{
    return t->kind;
}

const char *ml_tokenizer_pattern(const ml_tokenizer *t)
{
    if (!t->split) return "none";
    const char *name = ml_pattern_name(t->split);
    return name ? name : ml_pattern_stage_regex(t->split, 0);
}

const char *ml_tokenizer_split_stage(const ml_tokenizer *t, size_t stage)
{
    if (!t->split || stage >= ml_pattern_stage_count(t->split)) return NULL;
    const char *name = ml_pattern_name(t->split);
    return name ? name : ml_pattern_stage_regex(t->split, stage);
}

size_t ml_tokenizer_merge_count(const ml_tokenizer *t)
{
    return t->n_merges;
}

void ml_tokenizer_merge(const ml_tokenizer *t, size_t i, int32_t *left, int32_t *right, int32_t *result)
{
    *left = t->merges[i].left;
    *right = t->merges[i].right;
    *result = t->merges[i].result;
}

const char *ml_tokenizer_fingerprint(const ml_tokenizer *t)
{
    return t->fingerprint;
}
