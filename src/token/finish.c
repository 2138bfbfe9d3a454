/* The tables that encoding lives on, built when all parts of a tokenizer are there. */
#include "token/internal.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "token/char_class.h"
#include "token/scan.h"

#include <stdlib.h>

enum { N_PAIR = 1 << 16 }; /* of bytes; also the characters of two and three bytes */

static ml_status index_piece(const ml_tokenizer *t, ml_piece_table *table, int32_t id, ml_error *err)
{
    const uint8_t *p = ml_piece_bytes(t, id);
    size_t n = t->pieces[id].n_bytes;
    int32_t other = ml_tokenizer_look_up(t, table, p, n, n);
    if (other >= 0) {
        return ml_fail(err, ML_EFORMAT, "tokens %d and %d have the same bytes, \"%.*s\"", other, id,
                       (int)(n < 100 ? n : 100), (const char *)p);
    }
    return ml_piece_insert(table, n <= ML_KEY_MAX ? ml_key_pack(p, n, n) : ml_key_hash(p, n), id, err);
}

static int falling(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static ml_status index_added(ml_tokenizer *t, int32_t id, ml_error *err)
{
    const uint8_t *p = ml_piece_bytes(t, id);
    size_t n = t->pieces[id].n_bytes;
    ML_TRY(index_piece(t, &t->added, id, err));
    t->added_first[p[0]] = true;
    if (memchr(p, '\n', n)) t->added_has_line_feed = true;
    for (size_t i = 0; i < t->n_added_lengths; i++) {
        if (t->added_lengths[i] == n) return ML_OK;
    }
    ML_TRY(ml_grow((void **)&t->added_lengths, &t->added_lengths_capacity, t->n_added_lengths + 1,
                   sizeof *t->added_lengths, err));
    t->added_lengths[t->n_added_lengths++] = n;
    return ML_OK;
}

static bool are_bytes_known(const ml_tokenizer *t, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (t->byte_id[p[i]] < 0) return false;
    }
    return true;
}

/* Index what encoding may emit at once: a piece whose bytes merge to itself, or any with whole_piece. */
static ml_status index_whole(ml_tokenizer *t, ml_merge_scratch *scratch, int32_t id, ml_error *err)
{
    const uint8_t *p = ml_piece_bytes(t, id);
    size_t n = t->pieces[id].n_bytes;
    if (n > t->longest) t->longest = n;
    if (!t->whole_piece) {
        if (!are_bytes_known(t, p, n)) return ML_OK;
        size_t n_ids;
        ML_TRY(ml_merge_bytes(t, scratch, p, n, &n_ids, err));
        if (n_ids != 1 || scratch->id[0] != id) return ML_OK;
    }
    return index_piece(t, &t->whole, id, err);
}

/* Length and bytes of every id in order; a hole has length 0. */
static ml_status take_fingerprint(ml_tokenizer *t, ml_error *err)
{
    ml_sha256 *hash;
    ML_TRY(ml_sha256_begin(&hash, err));
    for (size_t id = 0; id < t->n_pieces; id++) {
        uint8_t length[4];
        ml_store_u32(length, t->pieces[id].n_bytes);
        ml_sha256_add(hash, length, sizeof length);
        if (t->pieces[id].n_bytes) ml_sha256_add(hash, ml_piece_bytes(t, (int32_t)id), t->pieces[id].n_bytes);
    }
    uint8_t digest[ML_SHA256_BYTES];
    ml_sha256_end(hash, digest);
    ml_sha256_to_hex(digest, t->fingerprint);
    return ML_OK;
}

/* What merging looks at before it looks at the table of pairs, which is larger than the caches. */
static ml_status index_pairs(ml_tokenizer *t, ml_error *err)
{
    if (!t->n_merges || t->sentencepiece) return ML_OK;
    size_t n_bits = 1024;
    while (n_bits < 12 * t->n_merges) n_bits *= 2;
    t->pair_filter = ml_calloc(n_bits / 64, sizeof *t->pair_filter);
    t->byte_pair_rank = ml_alloc(N_PAIR * sizeof *t->byte_pair_rank);
    if (!t->pair_filter || !t->byte_pair_rank) return ml_fail_memory(err, n_bits / 8, "the table of merges");
    t->pair_filter_mask = n_bits - 1;
    for (size_t i = 0; i < t->n_merges; i++) {
        size_t h = ml_pair_hash((uint32_t)t->merges[i].left, (uint32_t)t->merges[i].right) & t->pair_filter_mask;
        t->pair_filter[h / 64] |= (uint64_t)1 << h % 64;
    }
    for (size_t i = 0; i < N_PAIR; i++) {
        t->byte_pair_rank[i] = ml_pair_rank(&t->pairs, t->byte_id[i >> 8], t->byte_id[i & 255]);
    }
    return ML_OK;
}

/* -- characters that merging may begin with instead of their bytes --------------------------------------------------
 *
 * The bytes of a character merge to its token whatever stands around it, if every merge that takes a part of it
 * together with bytes of a neighbour comes later than the last of its own, and every merge of its token too.  A part
 * at its end begins the token of such a merge, a part at its front ends it. */
typedef struct {
    uint32_t *begins, *ends; /* [N_PAIR + 256] lowest rank of such a merge, by two bytes or (behind those) one */
    uint32_t *uses;          /* [n_pieces] lowest rank of a merge of this token */
} char_limits;

static bool is_continuation(uint8_t byte)
{
    return (byte & 0xC0) == 0x80;
}

static size_t part_slot(const uint8_t *p, size_t n)
{
    return n == 1 ? (size_t)N_PAIR + p[0] : (size_t)p[0] << 8 | p[1];
}

static void lower(uint32_t *limit, uint32_t rank)
{
    if (rank < *limit) *limit = rank;
}

static void note_limits(const ml_tokenizer *t, uint32_t rank, char_limits *limits)
{
    const ml_merge *merge = &t->merges[rank];
    lower(&limits->uses[merge->left], rank);
    lower(&limits->uses[merge->right], rank);
    const uint8_t *p = ml_piece_bytes(t, merge->result);
    size_t n = t->pieces[merge->result].n_bytes, head = 0, tail = n;
    while (head < n && is_continuation(p[head])) head++;
    while (tail > head && is_continuation(p[tail - 1])) tail--;
    if (head > 0 && head <= 2 && head < n) lower(&limits->begins[part_slot(p, head)], rank);
    if (tail > 1 && p[tail - 1] >= 0xC0) { // the last character begins there; whole or not is seen when it is asked for
        size_t n_part = n - tail + 1;
        if (n_part <= 2) lower(&limits->ends[part_slot(p + tail - 1, n_part)], rank);
    }
}

/* The rank of the merge that makes a character of two or three bytes, and the lower one before it; false when merging
 * its bytes alone does not make `id`. */
static bool char_rank(const ml_tokenizer *t, const uint8_t *p, size_t n, int32_t id, uint32_t *rank)
{
    uint32_t first = t->byte_pair_rank[p[0] << 8 | p[1]], second;
    *rank = first;
    if (n == 3) {
        second = t->byte_pair_rank[p[1] << 8 | p[2]];
        uint32_t inner = first <= second ? first : second;
        if (inner == UINT32_MAX) return false;
        int32_t part = t->merges[inner].result;
        *rank = first <= second ? ml_pair_rank(&t->pairs, part, t->byte_id[p[2]])
                                : ml_pair_rank(&t->pairs, t->byte_id[p[0]], part);
        if (*rank <= inner) return false;
    }
    return *rank != UINT32_MAX && t->merges[*rank].result == id;
}

static bool stands_alone(const char_limits *limits, const uint8_t *p, size_t n, uint32_t rank, int32_t id)
{
    if (limits->uses[id] <= rank) return false;
    for (size_t k = 1; k < n; k++) {
        if (limits->ends[part_slot(p, k)] <= rank || limits->begins[part_slot(p + n - k, k)] <= rank) return false;
    }
    return true;
}

static void fill_chars(ml_tokenizer *t, const char_limits *limits)
{
    for (size_t id = 0; id < t->n_pieces; id++) {
        const ml_piece *piece = &t->pieces[id];
        size_t n = piece->n_bytes;
        if (piece->flags != PIECE_PRESENT || n < 2 || n > 3) continue;
        const uint8_t *p = ml_piece_bytes(t, (int32_t)id);
        uint32_t rank;
        if (ml_utf8_length(p, n) != (int)n || !char_rank(t, p, n, (int32_t)id, &rank)) continue;
        if (stands_alone(limits, p, n, rank, (int32_t)id)) t->char_id[ml_char_decode(p, &n)] = (int32_t)id;
    }
}

static bool all_bytes_known(const ml_tokenizer *t)
{
    for (size_t i = 0; i < 256; i++) {
        if (t->byte_id[i] < 0) return false;
    }
    return true;
}

static ml_status index_chars(ml_tokenizer *t, ml_error *err)
{
    if (!t->n_merges || t->sentencepiece || !all_bytes_known(t)) return ML_OK;
    size_t n_slots = 2 * (N_PAIR + 256) + t->n_pieces;
    uint32_t *slots = ml_alloc(n_slots * sizeof *slots);
    t->char_id = ml_alloc(N_PAIR * sizeof *t->char_id);
    if (!slots || !t->char_id) {
        ml_free(slots);
        return ml_fail_memory(err, n_slots * sizeof *slots, "the table of characters");
    }
    memset(slots, 0xFF, n_slots * sizeof *slots);
    memset(t->char_id, 0xFF, N_PAIR * sizeof *t->char_id);
    char_limits limits = { slots, slots + N_PAIR + 256, slots + 2 * (N_PAIR + 256) };
    for (size_t i = 0; i < t->n_merges; i++) note_limits(t, (uint32_t)i, &limits);
    fill_chars(t, &limits);
    ml_free(slots);
    return ML_OK;
}

static ml_status check_roles(const ml_tokenizer *t, ml_error *err)
{
    static const char *const names[ML_N_ROLES] = { "bos", "eos", "unk", "pad" };
    for (size_t i = 0; i < ML_N_ROLES; i++) {
        if (t->role[i] < 0 || ml_tokenizer_has(t, t->role[i])) continue;
        return ml_fail(err, ML_EFORMAT, "the %s token has id %d, which is not in the vocabulary", names[i], t->role[i]);
    }
    const ml_ids *const lists[] = { &t->prefix, &t->suffix, &t->ends };
    for (size_t k = 0; k < sizeof lists / sizeof lists[0]; k++) {
        for (size_t i = 0; i < lists[k]->n; i++) {
            if (ml_tokenizer_has(t, lists[k]->id[i])) continue;
            return ml_fail(err, ML_EFORMAT,
                           "a token with id %d stands around texts or ends them, but is not in the "
                           "vocabulary",
                           lists[k]->id[i]);
        }
    }
    return ML_OK;
}

static ml_status put_around(ml_tokenizer *t, ml_error *err)
{
    int32_t bos = t->role[ML_ROLE_BOS], eos = t->role[ML_ROLE_EOS];
    if (t->add_bos && bos >= 0) ML_TRY(ml_ids_append(&t->prefix, &bos, 1, err));
    return t->add_eos && eos >= 0 ? ml_ids_append(&t->suffix, &eos, 1, err) : ML_OK;
}

ml_status ml_tokenizer_finish(ml_tokenizer *t, ml_error *err)
{
    if (!t->n_pieces) return ml_fail(err, ML_EFORMAT, "the vocabulary is empty");
    ml_merge_scratch scratch = { 0 };
    ml_status status = index_pairs(t, err);
    for (size_t id = 0; id < t->n_pieces && status == ML_OK; id++) {
        uint32_t flags = t->pieces[id].flags;
        if (!flags || (flags & ML_PIECE_LITERAL)) continue;
        status = flags & ML_PIECE_ADDED ? index_added(t, (int32_t)id, err) : index_whole(t, &scratch, (int32_t)id, err);
    }
    ml_merge_scratch_free(&scratch);
    if (status == ML_OK) status = index_chars(t, err);
    if (status != ML_OK) return status;
    if (t->n_added_lengths) qsort(t->added_lengths, t->n_added_lengths, sizeof *t->added_lengths, falling);
    ML_TRY(check_roles(t, err));
    ML_TRY(put_around(t, err));
    if (t->sentencepiece && t->n_merges) ML_TRY(ml_pieces_find_scores(t, err));
    return take_fingerprint(t, err);
}
