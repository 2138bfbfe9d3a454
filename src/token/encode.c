/* Text -> ids.  A piece of byte-level BPE is, in falling order of frequency: one token at once (table of whole pieces),
 * a piece seen before in this text (cache), or merged. */
#include "token/internal.h"

#include "base/alloc.h"
#include "base/thread.h"
#include "token/parts.h"
#include "token/scan.h"

enum {
    CACHE_FIRST = 1 << 8,
    CACHE_MOST = 1 << 16, /* slots; when half of them are taken the cache starts anew */
    BATCH = 256,          /* pieces cut before they are looked up */
};

typedef struct {
    ml_key key;
    uint32_t at, n; /* ids in the pool; n 0: free slot */
} cache_slot;

typedef struct {
    const ml_tokenizer *t;
    ml_pattern_cursor *cursor;
    ml_merge_scratch scratch;
    ml_join_scratch join;
    ml_chars normal;
    cache_slot *cache;
    size_t n_cached, cache_mask;
    ml_ids pool;
    const uint8_t *limit; /* end of the readable text */
} encoder;

static ml_status encoder_make(const ml_tokenizer *t, encoder *e, ml_error *err)
{
    *e = (encoder){ .t = t };
    return t->split ? ml_pattern_cursor_make(t->split, &e->cursor, err) : ML_OK;
}

static void encoder_free(encoder *e)
{
    ml_pattern_cursor_free(e->cursor);
    ml_merge_scratch_free(&e->scratch);
    ml_join_scratch_free(&e->join);
    ml_chars_free(&e->normal);
    ml_free(e->cache);
    ml_ids_free(&e->pool);
    *e = (encoder){ 0 };
}

/* Twice the slots, or none taken when there are enough. */
static ml_status grow_cache(encoder *e, ml_error *err)
{
    size_t n_slots = e->cache ? 2 * (e->cache_mask + 1) : CACHE_FIRST;
    if (n_slots > CACHE_MOST) {
        memset(e->cache, 0, (e->cache_mask + 1) * sizeof *e->cache);
        e->n_cached = 0;
        e->pool.n = 0;
        return ML_OK;
    }
    cache_slot *slots = ml_calloc(n_slots, sizeof *slots);
    if (!slots) return ml_fail_memory(err, n_slots * sizeof *slots, "the cache of encoded pieces");
    for (size_t i = 0; e->cache && i <= e->cache_mask; i++) {
        if (!e->cache[i].n) continue;
        size_t at = ml_key_slot(e->cache[i].key) & (n_slots - 1);
        while (slots[at].n) at = (at + 1) & (n_slots - 1);
        slots[at] = e->cache[i];
    }
    ml_free(e->cache);
    e->cache = slots;
    e->cache_mask = n_slots - 1;
    return ML_OK;
}

static const cache_slot *cache_find(const encoder *e, ml_key key)
{
    if (!e->cache) return NULL;
    for (size_t i = ml_key_slot(key);; i++) {
        const cache_slot *slot = &e->cache[i & e->cache_mask];
        if (!slot->n) return NULL;
        if (slot->key.low == key.low && slot->key.high == key.high) return slot;
    }
}

static ml_status cache_insert(encoder *e, ml_key key, const int32_t *id, size_t n, ml_error *err)
{
    if (!e->cache || 2 * e->n_cached > e->cache_mask) ML_TRY(grow_cache(e, err));
    size_t at = ml_key_slot(key) & e->cache_mask;
    while (e->cache[at].n) at = (at + 1) & e->cache_mask;
    e->cache[at] = (cache_slot){ key, (uint32_t)e->pool.n, (uint32_t)n };
    e->n_cached++;
    return ml_ids_append(&e->pool, id, n, err);
}

/* Append one id; the caller has made room. */
static inline void emit(ml_ids *out, int32_t id)
{
    out->id[out->n++] = id;
}

static ml_status emit_unknown(const ml_tokenizer *t, uint8_t byte, ml_ids *out, size_t first, ml_error *err)
{
    int32_t unk = t->role[ML_ROLE_UNK];
    if (unk < 0) {
        return ml_fail(
            err, ML_EINVAL,
            "byte 0x%02x has no token and the tokenizer has no unknown token: use one whose vocabulary holds "
            "all 256 bytes",
            byte);
    }
    if (!(t->fuse_unk && out->n > first && out->id[out->n - 1] == unk)) emit(out, unk);
    return ML_OK;
}

/* Merge a piece; bytes without a token part it and become unknown tokens. */
static ml_status encode_merged(encoder *e, const uint8_t *p, size_t n, ml_ids *out, ml_error *err)
{
    const ml_tokenizer *t = e->t;
    size_t first = out->n, begin = 0;
    while (begin < n) {
        size_t end = begin;
        while (end < n && t->byte_id[p[end]] >= 0) end++;
        if (end > begin) {
            size_t n_ids;
            ML_TRY(ml_merge_bytes(t, &e->scratch, p + begin, end - begin, &n_ids, err));
            memcpy(out->id + out->n, e->scratch.id, n_ids * sizeof *out->id);
            out->n += n_ids;
        }
        if (end < n) ML_TRY(emit_unknown(t, p[end++], out, first, err));
        begin = end;
    }
    return ML_OK;
}

static ml_status encode_piece(encoder *e, const uint8_t *p, size_t n, ml_ids *out, ml_error *err)
{
    const ml_tokenizer *t = e->t;
    if (n == 1 && t->byte_id[p[0]] >= 0) {
        emit(out, t->byte_id[p[0]]);
        return ML_OK;
    }
    if (n > ML_KEY_MAX) {
        int32_t id = ml_tokenizer_look_up(t, &t->whole, p, n, n);
        if (id < 0) return encode_merged(e, p, n, out, err);
        emit(out, id);
        return ML_OK;
    }
    ml_key key = ml_key_pack(p, n, (size_t)(e->limit - p));
    for (size_t i = ml_key_slot(key); t->whole.slots; i++) {
        const ml_piece_slot *slot = &t->whole.slots[i & t->whole.mask];
        if (slot->id < 0) break;
        if (slot->key.low == key.low && slot->key.high == key.high) {
            emit(out, slot->id);
            return ML_OK;
        }
    }
    const cache_slot *seen = cache_find(e, key);
    if (seen) {
        memcpy(out->id + out->n, e->pool.id + seen->at, seen->n * sizeof *out->id);
        out->n += seen->n;
        return ML_OK;
    }
    size_t first = out->n;
    ML_TRY(encode_merged(e, p, n, out, err));
    return cache_insert(e, key, out->id + first, out->n - first, err);
}

/* Valid UTF-8, with nothing in it but pieces. */
static ml_status encode_valid(encoder *e, const uint8_t *p, size_t n, ml_ids *out, ml_error *err)
{
    size_t ends[BATCH], n_ends, begin = 0;
    if (!e->cursor) {
        ML_TRY(ml_grow((void **)&out->id, &out->capacity, out->n + n, sizeof *out->id, err));
        return n ? encode_piece(e, p, n, out, err) : ML_OK;
    }
    ml_pattern_cursor_start(e->cursor, p, n);
    for (;;) {
        ML_TRY(ml_pattern_cursor_next(e->cursor, ends, BATCH, &n_ends, err));
        if (!n_ends) return ML_OK;
        /* No piece has more ids than bytes. */
        size_t need = out->n + ends[n_ends - 1] - begin;
        ML_TRY(ml_grow((void **)&out->id, &out->capacity, need, sizeof *out->id, err));
        for (size_t i = 0; i < n_ends; i++) {
            ML_TRY(encode_piece(e, p + begin, ends[i] - begin, out, err));
            begin = ends[i];
        }
    }
}

static ml_status encode_bytes(encoder *e, const uint8_t *p, size_t n, ml_ids *out, ml_error *err)
{
    while (n) {
        size_t valid = ml_utf8_valid_prefix(p, n);
        ML_TRY(encode_valid(e, p, valid, out, err));
        p += valid;
        n -= valid;
        if (!n) break;
        ML_TRY(ml_grow((void **)&out->id, &out->capacity, out->n + 1, sizeof *out->id, err));
        if (e->t->byte_id[p[0]] >= 0) {
            emit(out, e->t->byte_id[p[0]]);
        } else {
            ML_TRY(emit_unknown(e->t, p[0], out, out->n, err));
        }
        p++;
        n--;
    }
    return ML_OK;
}

/* Does SentencePiece put a space before the stretch p[0..n), `first` in its text? */
static bool gets_space(const ml_tokenizer *t, const uint8_t *p, size_t n, bool first)
{
    if (t->space == ML_SPACE_EACH) return true;
    if (t->space == ML_SPACE_NEVER || (t->space == ML_SPACE_FIRST_UNLESS && !first)) return false;
    return !(p[0] == ' ' || (n >= 3 && !memcmp(p, "\xE2\x96\x81", 3)));
}

/* A stretch without added tokens; e->limit is its end, or lies behind it. */
static ml_status encode_plain(encoder *e, const uint8_t *p, size_t n, bool first, ml_ids *out, ml_error *err)
{
    const ml_tokenizer *t = e->t;
    if (!n) return ML_OK;
    const uint8_t *limit = e->limit;
    if (t->nfc && !ml_nfc_is_normal(p, n)) {
        e->normal.n = 0;
        ML_TRY(ml_nfc_append(p, n, &e->normal, err));
        p = (const uint8_t *)e->normal.data;
        n = e->normal.n;
        e->limit = p + n;
    }
    ml_status status = t->sentencepiece ? ml_join_encode(t, &e->join, p, n, gets_space(t, p, n, first), out, err)
                                        : encode_bytes(e, p, n, out, err);
    e->limit = limit;
    return status;
}

bool ml_tokenizer_find_added(const ml_tokenizer *t, const uint8_t *p, size_t n, size_t *at, size_t *length, int32_t *id)
{
    for (size_t i = *at; i < n; i++) {
        if (!t->added_first[p[i]]) continue;
        for (size_t k = 0; k < t->n_added_lengths; k++) {
            *length = t->added_lengths[k];
            if (*length > n - i) continue;
            *id = ml_tokenizer_look_up(t, &t->added, p + i, *length, n - i);
            if (*id < 0) continue;
            *at = i;
            return true;
        }
    }
    return false;
}

static ml_status encode_text(encoder *e, const uint8_t *p, size_t n, bool parse_special, ml_ids *out, ml_error *err)
{
    e->limit = p + n;
    size_t done = 0, at = 0, length;
    int32_t id;
    while (parse_special && ml_tokenizer_find_added(e->t, p, n, &at, &length, &id)) {
        ML_TRY(encode_plain(e, p + done, at - done, done == 0, out, err));
        ML_TRY(ml_ids_append(out, &id, 1, err));
        done = at += length;
    }
    return encode_plain(e, p + done, n - done, done == 0, out, err);
}

ml_status ml_tokenizer_encode(const ml_tokenizer *t, const char *text, size_t n_bytes, bool parse_special, ml_ids *out,
                              ml_error *err)
{
    encoder e;
    ML_TRY(encoder_make(t, &e, err));
    size_t n_before = out->n;
    ml_status status = encode_text(&e, (const uint8_t *)text, n_bytes, parse_special, out, err);
    if (status != ML_OK) out->n = n_before;
    encoder_free(&e);
    return status;
}

ml_status ml_tokenizer_encode_inside(const ml_tokenizer *t, const char *text, size_t n_bytes, ml_ids *out,
                                     ml_error *err)
{
    encoder e;
    ML_TRY(encoder_make(t, &e, err));
    size_t n_before = out->n;
    e.limit = (const uint8_t *)text + n_bytes;
    ml_status status = encode_plain(&e, (const uint8_t *)text, n_bytes, false, out, err);
    if (status != ML_OK) out->n = n_before;
    encoder_free(&e);
    return status;
}

/* encode_many gives threads parts of about this size. */
enum { PART_BYTES = 128 * 1024 };

typedef struct {
    ml_ids ids;
    ml_status status;
    ml_error err;
} part_result;

typedef struct {
    const ml_tokenizer *t;
    const ml_text *docs;
    bool parse_special;
    size_t *doc_ids; /* [n_docs] set by the part that ends the document: how many ids that part has of it */
    ml_text_part *parts;
    part_result *results;
    size_t n_parts;
    encoder *encoders; /* [threads] */
} many;

static ml_status encode_part(const many *m, const ml_text_part *p, part_result *r, encoder *e)
{
    if (!e->t) ML_TRY(encoder_make(m->t, e, &r->err));
    for (size_t doc = p->first; doc <= p->last; doc++) {
        ml_text text = ml_text_part_of(p, m->docs, doc);
        size_t n_before = r->ids.n;
        ML_TRY(encode_text(e, (const uint8_t *)text.data, text.n_bytes, m->parse_special, &r->ids, &r->err));
        if (doc < p->last || p->end == m->docs[doc].n_bytes) m->doc_ids[doc] = r->ids.n - n_before;
    }
    return ML_OK;
}

static void encode_parts(void *arg, int64_t begin, int64_t end, int thread)
{
    many *m = arg;
    for (int64_t i = begin; i < end; i++) {
        m->results[i].status = encode_part(m, &m->parts[i], &m->results[i], &m->encoders[thread]);
    }
}

/* Ids of all parts end to end; offsets[doc + 1] holds, on entry, doc_ids[doc]. */
static ml_status join_parts(const many *m, ml_ids *out, size_t *offsets, ml_error *err)
{
    size_t total = out->n;
    for (size_t i = 0; i < m->n_parts; i++) {
        if (m->results[i].status != ML_OK) {
            *err = m->results[i].err;
            return m->results[i].status;
        }
        total += m->results[i].ids.n;
    }
    ML_TRY(ml_grow((void **)&out->id, &out->capacity, total, sizeof *out->id, err));
    for (size_t i = 0; i < m->n_parts; i++) {
        const ml_text_part *p = &m->parts[i];
        size_t end = out->n, past = p->last + (p->end == m->docs[p->last].n_bytes ? 1 : 0);
        for (size_t doc = p->first; doc < past; doc++) {
            end += offsets[doc + 1];
            offsets[doc + 1] = end;
        }
        const ml_ids *ids = &m->results[i].ids;
        if (ids->n) memcpy(out->id + out->n, ids->id, ids->n * sizeof *ids->id);
        out->n += ids->n;
    }
    return ML_OK;
}

ml_status ml_tokenizer_encode_many(const ml_tokenizer *t, const ml_text *docs, size_t n_docs, bool parse_special,
                                   ml_ids *out, size_t *offsets, ml_error *err)
{
    many m = { .t = t, .docs = docs, .parse_special = parse_special, .doc_ids = offsets + 1 };
    size_t n_threads = (size_t)ml_thread_count();
    offsets[0] = out->n;
    bool may_cut = !(parse_special && t->added_has_line_feed);
    ML_TRY(ml_text_plan_parts(t->split, may_cut, docs, n_docs, PART_BYTES, &m.parts, &m.n_parts, err));
    ml_status status = ML_OK;
    m.encoders = ml_calloc(n_threads, sizeof *m.encoders);
    m.results = ml_calloc(m.n_parts, sizeof *m.results);
    if (m.encoders && m.results) {
        ml_parallel_for((int64_t)m.n_parts, 1, encode_parts, &m);
        status = join_parts(&m, out, offsets, err);
    } else {
        status = ml_fail_memory(err, m.n_parts * sizeof *m.results, "encoding on threads");
    }
    for (size_t i = 0; m.encoders && i < n_threads; i++) encoder_free(&m.encoders[i]);
    for (size_t i = 0; m.results && i < m.n_parts; i++) ml_ids_free(&m.results[i].ids);
    ml_free(m.encoders);
    ml_free(m.results);
    ml_free(m.parts);
    return status;
}
