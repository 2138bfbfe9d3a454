#include "data/build.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "base/thread.h"
#include "data/build_state.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum {
    BATCH_BYTES = 8 << 20, /* of input text encoded at once */
    BATCH_DOCUMENTS = 1 << 16,
};

typedef struct {
    ml_span span;
    ml_data_split split;
    bool wanted;  /* not yet in a finished shard */
    json_t *hold; /* owns the text of a JSON line */
    ml_text text;
    char *problem; /* why the line is malformed, or NULL */
} document;

typedef struct {
    const ml_build_config *config;
    const ml_tokenizer *tokenizer;
    ml_build_format format;
    ml_build_state state;
    ml_build_split now[ML_N_SPLIT]; /* counts including the unfinished shard; `shards` unused */
    ml_source *source;
    uint64_t val_begin; /* with val_last */
    ml_span *order;     /* all documents, when they are shuffled */
    size_t n_order, order_capacity;
    uint64_t n_processed; /* documents taken so far, in processing order */
    ml_shard_writer writer[ML_N_SPLIT];
    document *batch; /* [BATCH_DOCUMENTS] */
    ml_text *text;   /* [BATCH_DOCUMENTS] */
    size_t *offset;  /* [BATCH_DOCUMENTS + 1] */
    size_t n_batch;
    double done_bytes;
    bool memory_out; /* a thread could not keep a message */
} builder;

/* ---- options ---- */

static ml_status check_config(const ml_build_config *c, ml_error *err)
{
    if (c->n_input == 0) return ml_fail(err, ML_EINVAL, "no input files: name at least one text or JSON lines file");
    if (!(c->val_fraction >= 0 && c->val_fraction <= 0.5)) {
        return ml_fail(err, ML_EINVAL, "--val-fraction: expected 0 to 0.5, found %g", c->val_fraction);
    }
    if (c->shard_tokens < 1) {
        return ml_fail(err, ML_EINVAL, "--shard-tokens: expected at least 1, found %lld", (long long)c->shard_tokens);
    }
    if (c->val_every < 0 || c->val_every == 1) {
        return ml_fail(err, ML_EINVAL, "--val-every: expected 0 (off) or at least 2, found %lld",
                       (long long)c->val_every);
    }
    if (c->val_last && c->val_every > 0) {
        return ml_fail(err, ML_EINVAL, "--val-last and --val-every exclude each other: give one of them");
    }
    if (!(c->max_bad >= 0 && c->max_bad <= 1)) {
        return ml_fail(err, ML_EINVAL, "--max-bad: expected 0 to 1, found %g", c->max_bad);
    }
    return ML_OK;
}

static ml_status choose_special(ml_special_rule rule, int32_t id, const char *name, int32_t *out, ml_error *err)
{
    *out = rule == ML_SPECIAL_OFF ? -1 : id;
    if (rule != ML_SPECIAL_ON || id >= 0) return ML_OK;
    return ml_fail(err, ML_EINVAL, "--%s on: the tokenizer has no %s token: leave the option out or set it off", name,
                   name);
}

static ml_status choose_format(const ml_build_config *c, const ml_tokenizer *t, ml_build_format *f, ml_error *err)
{
    int32_t bos = ml_tokenizer_bos(t), eos = ml_tokenizer_eos(t);
    if (eos < 0) eos = ml_tokenizer_find(t, "<|endoftext|>");
    ML_TRY(choose_special(c->eos, eos, "eos", &f->eos_id, err));
    ML_TRY(choose_special(c->bos, bos, "bos", &f->bos_id, err));
    /* As prompts will begin: what a model never saw there it should not see in training either, and the reverse. */
    if (c->bos == ML_SPECIAL_AUTO && (f->bos_id == f->eos_id || !ml_tokenizer_add_bos(t))) f->bos_id = -1;
    bool small = ml_tokenizer_vocab_size(t) <= 65536;
    f->id_bytes = c->id_bytes ? c->id_bytes : small ? 2 : 4;
    if (f->id_bytes == 4 || small) return ML_OK;
    return ml_fail(err, ML_EINVAL, "--dtype uint16 holds ids below 65536, the tokenizer has %d: use uint32 or auto",
                   (int)ml_tokenizer_vocab_size(t));
}

/* ---- documents in processing order ---- */

uint64_t ml_build_val_begin(const ml_build_config *config, uint64_t n_bytes)
{
    return n_bytes - (uint64_t)(config->val_fraction * (double)n_bytes);
}

static ml_data_split split_of(const builder *b, const ml_span *span)
{
    const ml_build_config *c = b->config;
    uint64_t index = span->index;
    if (c->val_last) return ml_source_position(b->source, span) >= b->val_begin ? ML_SPLIT_VAL : ML_SPLIT_TRAIN;
    if (c->val_every > 0) return (index + 1) % (uint64_t)c->val_every == 0 ? ML_SPLIT_VAL : ML_SPLIT_TRAIN;
    uint64_t hash = ml_rng_mix(ml_rng_mix(c->seed + 1) + index);
    return (double)(hash >> 11) * 0x1p-53 < c->val_fraction ? ML_SPLIT_VAL : ML_SPLIT_TRAIN;
}

/* All documents, in seeded random order (Fisher and Yates). */
static ml_status shuffle_documents(builder *b, ml_error *err)
{
    ml_span span;
    while (ml_source_next(b->source, &span)) {
        void *items = b->order;
        ML_TRY(ml_grow(&items, &b->order_capacity, b->n_order + 1, sizeof *b->order, err));
        b->order = items;
        b->order[b->n_order++] = span;
    }
    ml_rng rng = ml_rng_make(b->config->seed, 0x73687566);
    for (size_t i = b->n_order; i > 1; i--) {
        size_t k = ml_rng_below(&rng, i);
        span = b->order[i - 1];
        b->order[i - 1] = b->order[k];
        b->order[k] = span;
    }
    return ML_OK;
}

static bool next_document(builder *b, ml_span *span)
{
    if (b->config->shuffle) {
        if (b->n_processed >= b->n_order) return false;
        *span = b->order[b->n_processed];
    } else if (!ml_source_next(b->source, span)) {
        return false;
    }
    b->n_processed++;
    b->done_bytes = b->config->shuffle ? b->done_bytes + (double)span->n_bytes : (double)ml_source_at(b->source);
    return true;
}

/* ---- one batch ---- */

/* Fill b->batch with the documents that are still wanted; false when there are no more documents. */
static bool collect_batch(builder *b)
{
    size_t n_bytes = 0;
    b->n_batch = 0;
    ml_span span;
    while (b->n_batch < BATCH_DOCUMENTS && n_bytes < BATCH_BYTES) {
        if (!next_document(b, &span)) return b->n_batch > 0;
        ml_data_split split = split_of(b, &span);
        /* n_processed counts this document already */
        bool wanted = b->n_processed > b->state.split[split].next;
        n_bytes += wanted ? span.n_bytes : span.n_bytes / 64; /* skipping is cheap, but let progress be seen */
        b->batch[b->n_batch++] = (document){ .span = span, .split = split, .wanted = wanted };
    }
    return true;
}

static void read_texts(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    builder *b = arg;
    for (int64_t i = begin; i < end; i++) {
        document *d = &b->batch[i];
        ml_error problem;
        if (!d->wanted) continue;
        if (ml_source_text(b->source, &d->span, &d->hold, &d->text.data, &d->text.n_bytes, &problem) == ML_OK) continue;
        d->text = (ml_text){ "", 0 };
        d->problem = ml_strdup(problem.message);
        if (!d->problem) __atomic_store_n(&b->memory_out, true, __ATOMIC_RELAXED);
    }
}

static void release_batch(builder *b)
{
    for (size_t i = 0; i < b->n_batch; i++) {
        json_decref(b->batch[i].hold);
        ml_free(b->batch[i].problem);
    }
    b->n_batch = 0;
}

static ml_status close_shard(builder *b, ml_data_split split, uint64_t next, ml_error *err)
{
    ml_build_split *saved = &b->state.split[split];
    const ml_build_split *now = &b->now[split];
    ml_shard_writer *w = &b->writer[split];
    if (w->open) {
        char file[32];
        ml_shard_record record;
        snprintf(file, sizeof file, "%s_%05zu.bin", ml_dataset_split_name(split), json_array_size(saved->shards));
        ML_TRY(ml_shard_finish(w, &record, err));
        ML_TRY(ml_build_state_add(saved, file, &record, err));
    }
    saved->next = next;
    saved->n_seen = now->n_seen;
    saved->n_bad = now->n_bad;
    saved->n_empty = now->n_empty;
    memcpy(saved->first_bad, now->first_bad, sizeof saved->first_bad);
    return ml_build_state_save(&b->state, b->config->out, err);
}

/* Append document `number` (in processing order) to its split. */
static ml_status write_document(builder *b, const document *d, uint64_t number, const int32_t *id, size_t n,
                                ml_error *err)
{
    ml_shard_writer *w = &b->writer[d->split];
    if (!w->open) {
        char path[ML_PATH_MAX], file[32];
        size_t shard = json_array_size(b->state.split[d->split].shards);
        if (shard > 99999) {
            return ml_fail(err, ML_EINVAL, "more than 100,000 shards in the %s split: raise --shard-tokens above %lld",
                           ml_dataset_split_name(d->split), (long long)b->config->shard_tokens);
        }
        snprintf(file, sizeof file, "%s_%05zu.bin", ml_dataset_split_name(d->split), shard);
        ML_TRY(ml_path_join(path, b->config->out, file, err));
        ML_TRY(ml_shard_begin(w, path, b->format.id_bytes, err));
    }
    ML_TRY(ml_shard_begin_document(w, err));
    if (b->format.bos_id >= 0) ML_TRY(ml_shard_add(w, &b->format.bos_id, 1, err));
    ML_TRY(ml_shard_add(w, id, n, err));
    if (b->format.eos_id >= 0) ML_TRY(ml_shard_add(w, &b->format.eos_id, 1, err));
    return w->n_token >= b->config->shard_tokens ? close_shard(b, d->split, number + 1, err) : ML_OK;
}

/* Whether the document goes into the data; counts what does not. */
static bool is_kept(builder *b, const document *d)
{
    ml_build_split *now = &b->now[d->split];
    now->n_seen++;
    if (d->problem) {
        if (now->n_bad++ == 0) snprintf(now->first_bad, sizeof now->first_bad, "%s", d->problem);
        return false;
    }
    if (!ml_source_is_blank(d->text.data, d->text.n_bytes)) return true;
    now->n_empty++;
    return false;
}

static ml_status encode_batch(builder *b, ml_ids *ids, ml_error *err)
{
    ml_parallel_for((int64_t)b->n_batch, 64, read_texts, b);
    if (b->memory_out) return ml_fail_memory(err, sizeof(ml_error), "the message of a malformed line");
    uint64_t first = b->n_processed - b->n_batch;
    for (size_t i = 0; i < b->n_batch; i++) b->text[i] = b->batch[i].wanted ? b->batch[i].text : (ml_text){ "", 0 };
    ids->n = 0;
    ML_TRY(ml_tokenizer_encode_many(b->tokenizer, b->text, b->n_batch, false, ids, b->offset, err));
    for (size_t i = 0; i < b->n_batch; i++) {
        const document *d = &b->batch[i];
        if (!d->wanted || !is_kept(b, d)) continue;
        size_t n = b->offset[i + 1] - b->offset[i];
        ML_TRY(write_document(b, d, first + i, ids->id + b->offset[i], n, err));
    }
    return ML_OK;
}

/* Checked once a thousand lines have been seen, and at the end. */
static ml_status check_bad(const builder *b, bool at_end, ml_error *err)
{
    int64_t n_seen = 0, n_bad = 0;
    const char *first = "";
    for (int i = 0; i < ML_N_SPLIT; i++) {
        n_seen += b->now[i].n_seen;
        n_bad += b->now[i].n_bad;
        if (!*first) first = b->now[i].first_bad;
    }
    if (n_bad == 0 || (n_seen < 1000 && !at_end) || (double)n_bad <= b->config->max_bad * (double)n_seen) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%s; %lld of %lld lines are malformed, --max-bad allows a fraction of %g", first,
                   (long long)n_bad, (long long)n_seen, b->config->max_bad);
}

/* ---- the build ---- */

static ml_status build_shards(builder *b, ml_error *err)
{
    ml_ids ids = { 0 };
    ml_status status = ML_OK;
    if (b->config->shuffle) ML_TRY_GOTO(shuffle_documents(b, err));
    for (int i = 0; i < ML_N_SPLIT; i++) b->now[i] = b->state.split[i];
    while (collect_batch(b)) {
        ML_TRY_GOTO(encode_batch(b, &ids, err));
        ML_TRY_GOTO(check_bad(b, false, err));
        release_batch(b);
        ml_progress_update(b->config->progress, b->done_bytes / 1e6, NULL);
        if (!ml_progress_stopped(b->config->progress)) continue;
        status = ml_fail(err, ML_ECANCEL, "%s: finished shards are kept: run the same command again to continue",
                         b->config->out);
        goto done;
    }
    ML_TRY_GOTO(check_bad(b, true, err));
    for (int i = 0; i < ML_N_SPLIT; i++) ML_TRY_GOTO(close_shard(b, (ml_data_split)i, b->n_processed, err));
done:
    release_batch(b);
    ml_ids_free(&ids);
    return status;
}

static ml_status build_folder(builder *b, ml_build_result *result, ml_error *err)
{
    const ml_build_config *c = b->config;
    bool complete;
    ML_TRY(ml_build_identify(c, b->tokenizer, &b->format, &b->state.identity, err));
    ML_TRY(ml_build_state_open(&b->state, c->out, &complete, &result->resumed, err));
    result->was_complete = complete;
    if (complete) return ML_OK;
    ML_TRY(ml_source_open(c->input, c->n_input, &c->source, &b->source, err));
    if (c->val_last) {
        b->val_begin = ml_build_val_begin(c, ml_source_size(b->source));
        ml_source_cut(b->source, b->val_begin);
    }
    ML_TRY(build_shards(b, err));
    if (b->state.split[ML_SPLIT_TRAIN].n_document == 0) {
        return ml_fail(err, ML_EINVAL, "%s: no document for training among %llu found: check the inputs and --marker",
                       c->input[0], (unsigned long long)b->n_processed);
    }
    char tokenizer[ML_PATH_MAX];
    ML_TRY(ml_path_join(tokenizer, c->out, "tokenizer", err));
    ML_TRY(ml_tokenizer_save(b->tokenizer, tokenizer, err));
    return ml_build_state_finish(&b->state, c->out, err);
}

static ml_status alloc_batch(builder *b, ml_error *err)
{
    b->batch = ml_calloc(BATCH_DOCUMENTS, sizeof *b->batch);
    b->text = ml_calloc(BATCH_DOCUMENTS, sizeof *b->text);
    b->offset = ml_calloc(BATCH_DOCUMENTS + 1, sizeof *b->offset);
    if (b->batch && b->text && b->offset) return ML_OK;
    return ml_fail_memory(err, BATCH_DOCUMENTS * sizeof *b->batch, "a batch of documents");
}

/* Two builds into one folder would mix their files. */
static ml_status lock_folder(const char *path, int *fd, ml_error *err)
{
    ML_TRY(ml_dir_make(path, err));
    *fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*fd < 0) return ml_fail_errno(err, "%s: cannot be opened", path);
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0) return ML_OK;
    return ml_fail_errno(err, "%s: another build is using the folder", path);
}

static ml_status report(const char *out, ml_build_result *result, ml_error *err)
{
    ml_dataset *data;
    ML_TRY(ml_dataset_open(out, &data, err));
    for (int i = 0; i < ML_N_SPLIT; i++) {
        result->n_document[i] = data->split[i].n_document;
        result->n_token[i] = data->split[i].n_token;
        result->n_shard[i] = data->split[i].n_shard;
    }
    ml_dataset_free(data);
    return ML_OK;
}

ml_status ml_data_build(const ml_build_config *config, const ml_tokenizer *tokenizer, ml_build_result *result,
                        ml_error *err)
{
    builder b = { .config = config, .tokenizer = tokenizer };
    int fd = -1;
    ml_status status;
    memset(result, 0, sizeof *result);
    ML_TRY(check_config(config, err));
    ML_TRY(choose_format(config, tokenizer, &b.format, err));
    ML_TRY_GOTO(lock_folder(config->out, &fd, err));
    ML_TRY_GOTO(alloc_batch(&b, err));
    ML_TRY_GOTO(build_folder(&b, result, err));
    for (int i = 0; i < ML_N_SPLIT; i++) {
        const ml_build_split *s = &b.state.split[i];
        result->n_bad += s->n_bad;
        result->n_empty += s->n_empty;
        if (!result->first_bad[0]) memcpy(result->first_bad, s->first_bad, sizeof result->first_bad);
    }
    ML_TRY_GOTO(report(config->out, result, err));
done:
    if (fd >= 0) close(fd);
    for (int i = 0; i < ML_N_SPLIT; i++) ml_shard_free(&b.writer[i]);
    ml_source_free(b.source);
    ml_build_state_free(&b.state);
    ml_free(b.order);
    ml_free(b.batch);
    ml_free(b.text);
    ml_free(b.offset);
    return status;
}
