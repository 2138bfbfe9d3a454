#include "base/sha256_many.h"

#include "base/cpu.h"
#include "base/sha256_blocks.h"

#include <assert.h>
#include <string.h>

static ml_status hash_one(const ml_sha256_text *text, const void *suffix, size_t n_suffix,
                          uint8_t digest[ML_SHA256_BYTES], ml_error *err)
{
    ml_sha256 *h;
    ML_TRY(ml_sha256_begin(&h, err));
    ml_sha256_add(h, text->data, text->n_bytes);
    ml_sha256_add(h, suffix, n_suffix);
    ml_sha256_end(h, digest);
    return ML_OK;
}

#if defined(__x86_64__)

typedef struct {
    const ml_sha256_text *text;
    const void *suffix;
    size_t n_suffix;
    uint8_t (*digest)[ML_SHA256_BYTES];
} texts;

/* Half of the texts, so that what is read is two ascending streams of memory, and the one on its way.  The whole blocks
 * of a text are read in place; then comes the tail: the rest of the text, the suffix, and 9 bytes of padding at least,
 * 63 + 32 + 9 at most. */
typedef struct {
    ml_sha256_chain chain;
    size_t next, end; /* texts that have not begun */
    size_t text;      /* its number */
    size_t n_blocks;  /* left of what is being read */
    size_t n_tail;    /* blocks of the tail, if it has not begun */
    bool busy;
    uint8_t tail[ML_SHA256_TAIL];
} lane;

static void make_tail(const texts *t, lane *l, const ml_sha256_text *text)
{
    size_t rest = text->n_bytes % ML_SHA256_BLOCK;
    if (rest) memcpy(l->tail, (const uint8_t *)text->data + text->n_bytes - rest, rest);
    memcpy(l->tail + rest, t->suffix, t->n_suffix);
    l->n_tail = ml_sha256_pad(l->tail, rest + t->n_suffix, text->n_bytes + t->n_suffix);
}

static void begin_text(const texts *t, lane *l)
{
    l->text = l->next++;
    l->busy = true;
    const ml_sha256_text *text = &t->text[l->text];
    make_tail(t, l, text);
    ml_sha256_chain_begin(&l->chain);
    l->chain.block = text->data;
    l->n_blocks = text->n_bytes / ML_SHA256_BLOCK;
}

/* Give a lane that has read all it had its tail, or its next text if there is one. */
static void feed(const texts *t, lane *l)
{
    while (l->n_blocks == 0) {
        if (l->busy && l->n_tail) {
            l->chain.block = l->tail;
            l->n_blocks = l->n_tail;
            l->n_tail = 0;
            return;
        }
        if (l->busy) ml_sha256_chain_digest(&l->chain, t->digest[l->text]);
        l->busy = false;
        if (l->next == l->end) return;
        begin_text(t, l);
    }
}

/* The first text of the second half, by bytes. */
static size_t find_half(const ml_sha256_text *text, size_t n)
{
    size_t i = 0, n_bytes = 0, sum = 0;
    for (i = 0; i < n; i++) n_bytes += text[i].n_bytes;
    for (i = 0; i < n && sum < n_bytes / 2; i++) sum += text[i].n_bytes;
    return i;
}

static void hash_in_pairs(const texts *t, size_t n)
{
    size_t half = find_half(t->text, n);
    lane a = { .next = 0, .end = half }, b = { .next = half, .end = n };
    while (feed(t, &a), feed(t, &b), a.busy || b.busy) {
        if (a.busy && b.busy) {
            size_t n_blocks = a.n_blocks < b.n_blocks ? a.n_blocks : b.n_blocks;
            ml_sha256_add_two_shani(&a.chain, &b.chain, n_blocks);
            a.n_blocks -= n_blocks;
            b.n_blocks -= n_blocks;
        } else {
            lane *last = a.busy ? &a : &b;
            ml_sha256_add_blocks_shani(&last->chain, last->n_blocks);
            last->n_blocks = 0;
        }
    }
}

#endif

ml_status ml_sha256_many(const ml_sha256_text *text, size_t n, const void *suffix, size_t n_suffix,
                         uint8_t (*digest)[ML_SHA256_BYTES], ml_error *err)
{
    assert(n_suffix <= ML_SHA256_SUFFIX_MAX);
#if defined(__x86_64__)
    if (ml_cpu_has_sha()) {
        texts t = { .text = text, .suffix = suffix, .n_suffix = n_suffix, .digest = digest };
        hash_in_pairs(&t, n);
        return ML_OK;
    }
#endif
    for (size_t i = 0; i < n; i++) ML_TRY(hash_one(&text[i], suffix, n_suffix, digest[i], err));
    return ML_OK;
}
