#include "data/build.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "base/thread.h"
#include "data/build_state.h"
#include "data/spool.h"

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
    ml_data_split split;
    bool wanted;       /* not yet in a finished shard */
    ml_error *problem; /* why the record is malformed, or NULL */
} document;

typedef struct {
    const ml_build_config *config;
    const ml_tokenizer *tokenizer;
    ml_build_format format;
    ml_build_state state;
    ml_build_split now[ML_N_SPLIT]; /* counts including the unfinished shard; `shards` unused */
    ml_records *records;
    uint64_t val_begin;   /* with val_last */
    ml_spool *spool;      /* all records, when they are shuffled */
    size_t *order;        /* and their order */
    uint64_t n_processed; /* documents taken so far, in processing order */
    ml_shard_writer writer[ML_N_SPLIT];
    ml_record_batch batch;
    document *document; /* [BATCH_DOCUMENTS] of the batch's records */
    ml_text *text;      /* [BATCH_DOCUMENTS] */
    size_t *offset;     /* [BATCH_DOCUMENTS + 1] */
    bool memory_out;    /* a thread could not keep a message */
} builder;

/* ---- options ---- */

static ml_status check_config(const ml_build_config *c, ml_error *err)
{
    if (c->n_input == 0)
        return ml_fail(err, ML_EINVAL, "no input files: name at least one file of text, JSON or Parquet");
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
    if (c->bos == ML_SPECIAL_AUTO && f->bos_id == f->eos_id) f->bos_id = -1;
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

static ml_data_split split_of(const builder *b, const ml_record *record)
{
    const ml_build_config *c = b->config;
    uint64_t index = record->index;
    if (c->val_last) return record->position >= b->val_begin ? ML_SPLIT_VAL : ML_SPLIT_TRAIN;
    if (c->val_every > 0) return (index + 1) % (uint64_t)c->val_every == 0 ? ML_SPLIT_VAL : ML_SPLIT_TRAIN;
    uint64_t hash = ml_rng_mix(ml_rng_mix(c->seed + 1) + index);
    return (double)(hash >> 11) * 0x1p-53 < c->val_fraction ? ML_SPLIT_VAL : ML_SPLIT_TRAIN;
}

/* All documents, in seeded random order (Fisher and Yates). */
static ml_status shuffle_documents(builder *b, ml_error *err)
{
    const ml_build_config *c = b->config;
    ML_TRY(ml_spool_open(c->out, b->records, c->field, c->progress, &b->spool, err));
    size_t n = ml_spool_count(b->spool);
    b->order = ml_calloc(n, sizeof *b->order);
    if (!b->order) return ml_fail_memory(err, n * sizeof *b->order, "the order of the documents");
    for (size_t i = 0; i < n; i++) b->order[i] = i;
    ml_rng rng = ml_rng_make(c->seed, 0x73687566);
    for (size_t i = n; i > 1; i--) {
        size_t k = ml_rng_below(&rng, i), last = b->order[i - 1];
        b->order[i - 1] = b->order[k];
        b->order[k] = last;
    }
    return ML_OK;
}

static ml_status take_shuffled(builder *b, ml_error *err)
{
    size_t n_bytes = 0;
    ml_record_batch_clear(&b->batch);
    for (uint64_t i = b->n_processed; i < ml_spool_count(b->spool); i++) {
        if (b->batch.n == BATCH_DOCUMENTS || n_bytes >= BATCH_BYTES) break;
        ML_TRY(ml_spool_get(b->spool, b->order[i], &b->batch, err));
        n_bytes += b->batch.record[b->batch.n - 1].n_bytes;
    }
    return ML_OK;
}

static double done_bytes(const builder *b)
{
    if (!b->spool) return (double)ml_records_at(b->records);
    double n = (double)ml_spool_count(b->spool);
    return n > 0 ? (double)ml_records_size(b->records) * (double)b->n_processed / n : 0;
}

/* ---- one batch ---- */

static void release_batch(builder *b)
{
    for (size_t i = 0; i < b->batch.n; i++) {
        ml_free(b->document[i].problem);
        b->document[i].problem = NULL;
    }
    ml_record_batch_clear(&b->batch);
}

/* The next documents; none when there are no more. */
static ml_status collect_batch(builder *b, ml_error *err)
{
    release_batch(b);
    if (b->spool)
        ML_TRY(take_shuffled(b, err));
    else
        ML_TRY(ml_records_read(b->records, BATCH_DOCUMENTS, BATCH_BYTES, &b->batch, err));
    for (size_t i = 0; i < b->batch.n; i++, b->n_processed++) {
        ml_data_split split = split_of(b, &b->batch.record[i]);
        bool wanted = b->n_processed >= b->state.split[split].next;
        b->document[i] = (document){ .split = split, .wanted = wanted };
        b->text[i] = (ml_text){ "", 0 };
    }
    return ML_OK;
}

static void read_texts(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    builder *b = arg;
    for (int64_t i = begin; i < end; i++) {
        document *d = &b->document[i];
        ml_error problem;
        if (!d->wanted) continue;
        if (ml_record_text(&b->batch, (size_t)i, b->config->field, &b->text[i], &problem) == ML_OK) continue;
        d->problem = ml_alloc(sizeof *d->problem);
        if (d->problem && problem.code != ML_ENOMEM)
            *d->problem = problem;
        else
            __atomic_store_n(&b->memory_out, true, __ATOMIC_RELAXED);
    }
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
    saved->tally = now->tally;
    saved->n_empty = now->n_empty;
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
static bool is_kept(builder *b, const document *d, const ml_text *text)
{
    ml_build_split *now = &b->now[d->split];
    ml_record_tally_add(&now->tally, d->problem);
    if (d->problem) return false;
    if (!ml_cut_is_blank(text->data, text->n_bytes)) return true;
    now->n_empty++;
    return false;
}

static ml_status encode_batch(builder *b, ml_ids *ids, ml_error *err)
{
    size_t n_batch = b->batch.n;
    ml_parallel_for((int64_t)n_batch, 64, read_texts, b);
    if (b->memory_out) return ml_fail_memory(err, sizeof(ml_error), "a text, or the message of a malformed record");
    uint64_t first = b->n_processed - n_batch;
    ids->n = 0;
    ML_TRY(ml_tokenizer_encode_many(b->tokenizer, b->text, n_batch, false, ids, b->offset, err));
    for (size_t i = 0; i < n_batch; i++) {
        const document *d = &b->document[i];
        if (!d->wanted || !is_kept(b, d, &b->text[i])) continue;
        size_t n = b->offset[i + 1] - b->offset[i];
        ML_TRY(write_document(b, d, first + i, ids->id + b->offset[i], n, err));
    }
    return ML_OK;
}

static ml_status check_bad(const builder *b, bool at_end, ml_error *err)
{
    ml_record_tally sum = ml_record_tally_sum(&b->now[0].tally, &b->now[1].tally);
    return ml_record_tally_check(&sum, b->config->max_bad, at_end, err);
}

/* ---- the build ---- */

static ml_status build_shards(builder *b, ml_error *err)
{
    ml_ids ids = { 0 };
    ml_status status = ML_OK;
    if (b->config->shuffle) ML_TRY_GOTO(shuffle_documents(b, err));
    for (int i = 0; i < ML_N_SPLIT; i++) b->now[i] = b->state.split[i];
    while (true) {
        ML_TRY_GOTO(collect_batch(b, err));
        if (b->batch.n == 0) break;
        ML_TRY_GOTO(encode_batch(b, &ids, err));
        ML_TRY_GOTO(check_bad(b, false, err));
        ml_progress_update(b->config->progress, done_bytes(b) / 1e6, NULL);
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

static ml_status open_records(builder *b, ml_error *err)
{
    const ml_build_config *c = b->config;
    ML_TRY(ml_records_open_texts(c->input, c->n_input, c->rule, c->marker, c->field, &b->records, err));
    if (!c->val_last) return ML_OK;
    uint64_t n_bytes;
    ML_TRY(ml_records_measure(b->records, &n_bytes, err));
    b->val_begin = ml_build_val_begin(c, n_bytes);
    ml_records_split(b->records, b->val_begin);
    return ML_OK;
}

static ml_status build_folder(builder *b, ml_build_result *result, ml_error *err)
{
    const ml_build_config *c = b->config;
    bool complete;
    ML_TRY(ml_build_identify(c, b->tokenizer, &b->format, &b->state.identity, err));
    ML_TRY(ml_build_state_open(&b->state, c->out, &complete, &result->resumed, err));
    result->was_complete = complete;
    if (complete) return ML_OK;
    ML_TRY(open_records(b, err));
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
    b->document = ml_calloc(BATCH_DOCUMENTS, sizeof *b->document);
    b->text = ml_calloc(BATCH_DOCUMENTS, sizeof *b->text);
    b->offset = ml_calloc(BATCH_DOCUMENTS + 1, sizeof *b->offset);
    if (b->document && b->text && b->offset) return ML_OK;
    return ml_fail_memory(err, BATCH_DOCUMENTS * sizeof *b->document, "a batch of documents");
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
        result->tally = ml_record_tally_sum(&result->tally, &s->tally);
        result->n_empty += s->n_empty;
    }
    ML_TRY_GOTO(report(config->out, result, err));
done:
    if (fd >= 0) close(fd);
    for (int i = 0; i < ML_N_SPLIT; i++) ml_shard_free(&b.writer[i]);
    ml_record_batch_free(&b.batch);
    ml_spool_free(b.spool);
    ml_records_free(b.records);
    ml_build_state_free(&b.state);
    ml_free(b.order);
    ml_free(b.document);
    ml_free(b.text);
    ml_free(b.offset);
    return status;
}
