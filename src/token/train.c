#include "token/train.h"

#include "base/alloc.h"
#include "base/thread.h"
#include "token/bytemap.h"
#include "token/internal.h"
#include "token/merge_train.h"
#include "token/parts.h"
#include "token/scan.h"
#include "token/words.h"

enum { PART_BYTES = 128 * 1024, BATCH = 256 };

struct ml_bpe_trainer {
    ml_bpe_train_config config; /* without its pointers */
    char *pattern;
    ml_tokenizer *specials; /* a vocabulary of nothing but them, to find them in text */
    ml_pattern *split;
    ml_words words;
};

static ml_status make_specials(ml_bpe_trainer *trainer, const ml_bpe_train_config *config, ml_error *err)
{
    ML_TRY(ml_tokenizer_make("specials", &trainer->specials, err));
    for (size_t i = 0; i < config->n_special; i++) {
        const char *text = config->special[i];
        ML_TRY(ml_tokenizer_put_piece(trainer->specials, (int64_t)i, text, strlen(text),
                                      ML_PIECE_ADDED | ML_PIECE_SPECIAL, err));
    }
    return config->n_special ? ml_tokenizer_finish(trainer->specials, err) : ML_OK;
}

ml_status ml_bpe_trainer_make(const ml_bpe_train_config *config, ml_bpe_trainer **out, ml_error *err)
{
    if (config->vocab_size < 0 || (size_t)config->vocab_size < 256 + config->n_special ||
        config->vocab_size > ML_TOKENIZER_MAX_VOCAB) {
        return ml_fail(err, ML_EINVAL,
                       "vocabulary size %d: expected at least %zu (256 bytes and %zu specials) and at most %d",
                       config->vocab_size, 256 + config->n_special, config->n_special, ML_TOKENIZER_MAX_VOCAB);
    }
    ml_bpe_trainer *trainer = ml_calloc(1, sizeof *trainer);
    if (!trainer) return ml_fail_memory(err, sizeof *trainer, "a tokenizer trainer");
    trainer->config = *config;
    trainer->config.special = NULL;
    trainer->config.pattern = NULL;
    ml_status status = ml_pattern_add(&trainer->split, config->pattern, err);
    if (status == ML_OK) status = make_specials(trainer, config, err);
    if (status == ML_OK) {
        trainer->pattern = ml_strdup(config->pattern);
        if (!trainer->pattern) status = ml_fail_memory(err, strlen(config->pattern), "a tokenizer trainer");
    }
    if (status != ML_OK) {
        ml_bpe_trainer_free(trainer);
        return status;
    }
    *out = trainer;
    return ML_OK;
}

void ml_bpe_trainer_free(ml_bpe_trainer *trainer)
{
    if (!trainer) return;
    ml_tokenizer_free(trainer->specials);
    ml_pattern_free(trainer->split);
    ml_words_free(&trainer->words);
    ml_free(trainer->pattern);
    ml_free(trainer);
}

/* What one thread counts into. */
typedef struct {
    ml_words words;
    ml_pattern_cursor *cursor;
    ml_status status;
    ml_error err;
} counter;

typedef struct {
    const ml_bpe_trainer *trainer;
    const ml_text *docs;
    const ml_text_part *parts;
    counter *counters; /* [threads] */
} counting;

static ml_status count_valid(counter *c, const uint8_t *p, size_t n, const uint8_t *limit, ml_error *err)
{
    size_t ends[BATCH], n_ends, begin = 0;
    ml_pattern_cursor_start(c->cursor, p, n);
    for (;;) {
        ML_TRY(ml_pattern_cursor_next(c->cursor, ends, BATCH, &n_ends, err));
        if (!n_ends) return ML_OK;
        for (size_t i = 0; i < n_ends; i++) {
            ML_TRY(ml_words_add(&c->words, p + begin, ends[i] - begin, (size_t)(limit - (p + begin)), 1, err));
            begin = ends[i];
        }
    }
}

/* Bytes that are not UTF-8 are skipped: each would be a piece of one byte, in which nothing merges. */
static ml_status count_plain(counter *c, const uint8_t *p, size_t n, const uint8_t *limit, ml_error *err)
{
    while (n) {
        size_t valid = ml_utf8_valid_prefix(p, n);
        ML_TRY(count_valid(c, p, valid, limit, err));
        size_t step = valid < n ? valid + 1 : valid;
        p += step;
        n -= step;
    }
    return ML_OK;
}

static ml_status count_text(const ml_bpe_trainer *trainer, counter *c, ml_text text)
{
    const uint8_t *p = (const uint8_t *)text.data, *limit = p + text.n_bytes;
    size_t done = 0, at = 0, length;
    int32_t id;
    while (ml_tokenizer_find_added(trainer->specials, p, text.n_bytes, &at, &length, &id)) {
        ML_TRY(count_plain(c, p + done, at - done, limit, &c->err));
        done = at += length;
    }
    return count_plain(c, p + done, text.n_bytes - done, limit, &c->err);
}

static void count_parts(void *arg, int64_t begin, int64_t end, int thread)
{
    counting *work = arg;
    counter *c = &work->counters[thread];
    for (int64_t i = begin; i < end && c->status == ML_OK && !ml_stop_requested(); i++) {
        const ml_text_part *part = &work->parts[i];
        if (!c->cursor) c->status = ml_pattern_cursor_make(work->trainer->split, &c->cursor, &c->err);
        for (size_t doc = part->first; doc <= part->last && c->status == ML_OK; doc++) {
            c->status = count_text(work->trainer, c, ml_text_part_of(part, work->docs, doc));
        }
    }
}

static ml_status take_counts(ml_bpe_trainer *trainer, counter *c, ml_error *err)
{
    if (c->status != ML_OK) {
        *err = c->err;
        return c->status;
    }
    if (!trainer->words.slots) {
        trainer->words = c->words;
        c->words = (ml_words){ 0 };
        return ML_OK;
    }
    for (size_t i = 0; c->words.slots && i <= c->words.mask; i++) {
        const ml_word_slot *slot = &c->words.slots[i];
        if (!slot->count) continue;
        const uint8_t *p = (const uint8_t *)c->words.blob.data + slot->at;
        ML_TRY(ml_words_add(&trainer->words, p, slot->n, slot->n, slot->count, err));
    }
    return ML_OK;
}

ml_status ml_bpe_trainer_add(ml_bpe_trainer *trainer, const ml_text *docs, size_t n_docs, ml_error *err)
{
    size_t n_threads = (size_t)ml_thread_count(), n_parts;
    ml_text_part *parts;
    bool may_cut = !trainer->specials->added_has_line_feed;
    ML_TRY(ml_text_plan_parts(trainer->split, may_cut, docs, n_docs, PART_BYTES, &parts, &n_parts, err));
    ml_status status = ML_OK;
    counting work = { .trainer = trainer, .docs = docs, .parts = parts };
    work.counters = ml_calloc(n_threads, sizeof *work.counters);
    if (!work.counters) {
        status = ml_fail_memory(err, n_threads * sizeof *work.counters, "counting words");
    } else {
        ml_parallel_for((int64_t)n_parts, 1, count_parts, &work);
    }
    for (size_t i = 0; work.counters && i < n_threads; i++) {
        if (status == ML_OK) status = take_counts(trainer, &work.counters[i], err);
        ml_pattern_cursor_free(work.counters[i].cursor);
        ml_words_free(&work.counters[i].words);
    }
    ml_free(work.counters);
    ml_free(parts);
    if (status == ML_OK && ml_stop_requested()) return ml_fail(err, ML_ECANCEL, "stopped while counting words");
    return status;
}

size_t ml_bpe_trainer_n_words(const ml_bpe_trainer *trainer)
{
    return trainer->words.n;
}

static ml_status put_alphabet(const ml_bpe_trainer *trainer, ml_tokenizer *t, ml_error *err)
{
    static const struct {
        const char *text;
        ml_token_role role;
    } roles[] = { { "<|endoftext|>", ML_ROLE_BOS }, { "<|endoftext|>", ML_ROLE_EOS }, { "[UNK]", ML_ROLE_UNK },
                  { "[PAD]", ML_ROLE_PAD },         { "[BOS]", ML_ROLE_BOS },         { "[EOS]", ML_ROLE_EOS } };
    int32_t n_special = ml_tokenizer_vocab_size(trainer->specials);
    for (int32_t id = 0; id < n_special; id++) {
        size_t n;
        const char *text = ml_tokenizer_piece(trainer->specials, id, &n);
        ML_TRY(ml_tokenizer_put_piece(t, id, text, n, ML_PIECE_ADDED | ML_PIECE_SPECIAL, err));
    }
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        int32_t id = ml_tokenizer_find(trainer->specials, roles[i].text);
        if (id >= 0) ml_tokenizer_set_role(t, roles[i].role, id);
    }
    ml_tokenizer_set_around(t, true, false); // as documents begin in training
    uint8_t order[256];
    ml_bytemap_order(order);
    for (int i = 0; i < 256; i++) ML_TRY(ml_tokenizer_put_piece(t, n_special + i, &order[i], 1, 0, err));
    return ml_tokenizer_put_split(t, trainer->pattern, err);
}

ml_status ml_bpe_trainer_finish(ml_bpe_trainer *trainer, ml_progress *progress, ml_tokenizer **out, ml_error *err)
{
    ml_tokenizer *t;
    ML_TRY(ml_tokenizer_make("trained", &t, err));
    ml_status status = put_alphabet(trainer, t, err);
    if (status == ML_OK) status = ml_bpe_merge_words(&trainer->config, &trainer->words, progress, t, err);
    if (status == ML_OK) status = ml_tokenizer_finish(t, err);
    if (status != ML_OK) {
        ml_tokenizer_free(t);
        return status;
    }
    *out = t;
    return ML_OK;
}

ml_status ml_bpe_train(const ml_bpe_train_config *config, const ml_text *docs, size_t n_docs, ml_progress *progress,
                       ml_tokenizer **out, ml_error *err)
{
    ml_bpe_trainer *trainer;
    ML_TRY(ml_bpe_trainer_make(config, &trainer, err));
    ml_status status = ml_bpe_trainer_add(trainer, docs, n_docs, err);
    if (status == ML_OK) status = ml_bpe_trainer_finish(trainer, progress, out, err);
    ml_bpe_trainer_free(trainer);
    return status;
}
