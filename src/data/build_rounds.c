#include "data/build_rounds.h"

#include "base/alloc.h"
#include "base/thread.h"
#include "data/split_rule.h"
#include "token/encoder.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum {
    BATCH_BYTES = 8 << 20, /* of input text encoded in a round */
    BATCH_DOCUMENTS = 1 << 16,
    N_ROUND = 3, /* being read, encoded, written */
};

typedef struct {
    ml_data_split split;
    bool wanted; /* not yet in a finished shard */
    bool is_blank;
    ml_error *problem; /* why the record is malformed, or NULL */
} document;

/* A batch of documents on its way. */
typedef struct {
    ml_record_batch batch;
    uint64_t first;     /* number of its first document, in processing order */
    document *document; /* [BATCH_DOCUMENTS] */
    ml_text *text;      /* [BATCH_DOCUMENTS] */
    ml_encoded encoded;
} batch_round;

typedef struct {
    ml_build_work *work;
    ml_build_split now[ML_N_SPLIT]; /* counts including the unfinished shard; `shards` unused */
    ml_shard_writer writer[ML_N_SPLIT];
    ml_encoders encoders;
    batch_round round[N_ROUND];
    batch_round *reading, *encoding, *writing;
    atomic_bool memory_out; /* a thread could not keep a text or a message */
    ml_status io_status;    /* of reading and writing beside the encoding */
    ml_error io_err;
    pthread_t saver; /* of the tokenizer, while there is one: it mostly waits for the disk */
    bool is_saving;
    ml_status save_status;
    ml_error save_err;
} builder;

/* ---- reading ---- */

/* Whether the text decides which split a document goes to, rather than its place. */
static bool text_decides(const ml_build_config *c)
{
    return !c->val_last && c->val_every == 0 && c->val_fraction > 0;
}

static ml_data_split split_by_place(const ml_build_work *w, const ml_record *record)
{
    const ml_build_config *c = w->config;
    if (c->val_last) return record->position >= w->val_begin ? ML_SPLIT_VAL : ML_SPLIT_TRAIN;
    bool is_val = c->val_every > 0 && (record->index + 1) % (uint64_t)c->val_every == 0;
    return is_val ? ML_SPLIT_VAL : ML_SPLIT_TRAIN;
}

static int64_t count_tokens(const builder *b, ml_data_split split)
{
    const ml_shard_writer *w = &b->writer[split];
    return b->work->state.split[split].n_token + (w->open ? w->n_token : 0);
}

static bool is_split_full(const builder *b, ml_data_split split)
{
    const ml_build_config *c = b->work->config;
    return c->limit[ML_SPLIT_TRAIN] > 0 && count_tokens(b, split) >= c->limit[split];
}

static ml_status take_shuffled(const ml_build_work *w, ml_record_batch *batch, ml_error *err)
{
    size_t n_bytes = 0;
    batch->n = 0;
    for (uint64_t i = w->n_read; i < ml_spool_count(w->spool); i++) {
        if (batch->n == BATCH_DOCUMENTS || n_bytes >= BATCH_BYTES) break;
        ML_TRY(ml_spool_get(w->spool, w->order[i], batch, err));
        n_bytes += batch->record[batch->n - 1].n_bytes;
    }
    return ml_record_batch_make_rooms(batch, err);
}

static void drop_problems(batch_round *r)
{
    for (size_t i = 0; i < r->batch.n; i++) {
        ml_free(r->document[i].problem);
        r->document[i].problem = NULL;
    }
}

/* Bytes of the inputs that were read. */
static double done_bytes(const ml_build_work *w)
{
    if (!w->spool) return (double)ml_records_at(w->records);
    double n = (double)ml_spool_count(w->spool);
    return n > 0 ? (double)ml_records_size(w->records) * (double)w->n_read / n : 0;
}

/* The next documents; none when there are no more. */
static ml_status read_round(builder *b, batch_round *r, ml_error *err)
{
    ml_build_work *w = b->work;
    drop_problems(r);
    r->batch.n = 0;
    if (is_split_full(b, ML_SPLIT_TRAIN) && is_split_full(b, ML_SPLIT_VAL)) return ML_OK;
    if (w->spool)
        ML_TRY(take_shuffled(w, &r->batch, err));
    else
        ML_TRY(ml_records_read(w->records, BATCH_DOCUMENTS, BATCH_BYTES, &r->batch, err));
    r->first = w->n_read;
    bool later = text_decides(w->config);
    const ml_build_split *done = w->state.split;
    uint64_t all_done = done[0].next < done[1].next ? done[0].next : done[1].next;
    for (size_t i = 0; i < r->batch.n; i++, w->n_read++) {
        ml_data_split split = split_by_place(w, &r->batch.record[i]);
        r->document[i] = (document){ .split = split, .wanted = w->n_read >= (later ? all_done : done[split].next) };
        r->text[i] = (ml_text){ "", 0 };
    }
    return ML_OK;
}

/* ---- encoding ---- */

/* The text of a document and, where that decides it, the split: whether it is not in a finished shard of that. */
static ml_status find_text(const builder *b, int64_t i, ml_sha256 *hash, ml_error *err)
{
    batch_round *r = b->encoding;
    document *d = &r->document[i];
    ml_text *text = &r->text[i];
    const ml_build_config *c = b->work->config;
    ML_TRY(ml_record_text(&r->batch, (size_t)i, c->field, text, err));
    if (hash) {
        bool is_val = ml_split_rule_is_val(hash, text->data, text->n_bytes, c->val_fraction);
        d->split = is_val ? ML_SPLIT_VAL : ML_SPLIT_TRAIN;
        d->wanted = r->first + (uint64_t)i >= b->work->state.split[d->split].next;
    }
    d->is_blank = ml_cut_is_blank(text->data, text->n_bytes);
    if (!d->wanted) *text = (ml_text){ "", 0 };
    return ML_OK;
}

/* The texts of some documents of the batch that is encoded. */
static void find_texts(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    builder *b = arg;
    batch_round *r = b->encoding;
    ml_error problem;
    ml_sha256 *hash = NULL;
    if (text_decides(b->work->config) && ml_sha256_begin(&hash, &problem) != ML_OK) {
        atomic_store(&b->memory_out, true);
        return;
    }
    for (int64_t i = begin; i < end; i++) {
        document *d = &r->document[i];
        if (!d->wanted || find_text(b, i, hash, &problem) == ML_OK) continue;
        d->wanted = r->first + (uint64_t)i >= b->work->state.split[d->split].next;
        d->problem = ml_alloc(sizeof *d->problem);
        if (d->problem && problem.code != ML_ENOMEM)
            *d->problem = problem;
        else
            atomic_store(&b->memory_out, true);
    }
    ml_sha256_free(hash);
}

/* ---- writing ---- */

ml_status ml_build_finish_hash(ml_build_work *w, ml_error *err)
{
    bool done = false;
    if (!w->hash) return ML_OK;
    ML_TRY(ml_input_hash_until(w->hash, UINT64_MAX, &done, err));
    ml_input_hash_free(w->hash);
    w->hash = NULL;
    return ML_OK;
}

static ml_status close_shard(builder *b, ml_data_split split, uint64_t next, ml_error *err)
{
    ml_build_split *saved = &b->work->state.split[split];
    const ml_build_split *now = &b->now[split];
    ml_shard_writer *w = &b->writer[split];
    ML_TRY(ml_build_finish_hash(b->work, err));
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
    return ml_build_state_save(&b->work->state, b->work->config->out, err);
}

static ml_status open_shard(builder *b, ml_data_split split, ml_error *err)
{
    const ml_build_config *c = b->work->config;
    char path[ML_PATH_MAX], file[32];
    size_t shard = json_array_size(b->work->state.split[split].shards);
    if (shard > 99999) {
        return ml_fail(err, ML_EINVAL, "more than 100,000 shards in the %s split: raise --shard-tokens above %lld",
                       ml_dataset_split_name(split), (long long)c->shard_tokens);
    }
    snprintf(file, sizeof file, "%s_%05zu.bin", ml_dataset_split_name(split), shard);
    ML_TRY(ml_path_join(path, c->out, file, err));
    return ml_shard_begin(&b->writer[split], path, b->work->format.id_bytes, err);
}

/* Whether the document goes into the data; counts what does not. */
static bool is_kept(builder *b, const document *d)
{
    if (!d->wanted) return false;
    ml_build_split *now = &b->now[d->split];
    if (is_split_full(b, d->split)) return false;
    ml_record_tally_add(&now->tally, d->problem);
    if (!d->problem && d->is_blank) now->n_empty++;
    return !d->problem && !d->is_blank;
}

static ml_status begin_document(builder *b, const document *d, ml_error *err)
{
    ml_shard_writer *w = &b->writer[d->split];
    int32_t bos = b->work->format.bos_id;
    if (!w->open) ML_TRY(open_shard(b, d->split, err));
    ML_TRY(ml_shard_begin_document(w, err));
    return bos >= 0 ? ml_shard_add(w, &bos, 1, err) : ML_OK;
}

/* `number`: the document's, in processing order. */
static ml_status end_document(builder *b, const document *d, uint64_t number, ml_error *err)
{
    ml_shard_writer *w = &b->writer[d->split];
    int32_t eos = b->work->format.eos_id;
    if (eos >= 0) ML_TRY(ml_shard_add(w, &eos, 1, err));
    return w->n_token >= b->work->config->shard_tokens ? close_shard(b, d->split, number + 1, err) : ML_OK;
}

static ml_status check_bad(const builder *b, bool at_end, ml_error *err)
{
    ml_record_tally sum = ml_record_tally_sum(&b->now[0].tally, &b->now[1].tally);
    return ml_record_tally_check(&sum, b->work->config->max_bad, at_end, err);
}

static ml_status write_round(builder *b, const batch_round *r, ml_error *err)
{
    ml_encoded_cursor at = { 0 };
    ml_id_stretch s;
    bool within = false, kept = false; /* a document that has begun */
    if (r->batch.n == 0) return ML_OK;
    while (ml_encoded_next(&r->encoded, &at, &s)) {
        const document *d = &r->document[s.doc];
        if (!within) {
            kept = is_kept(b, d);
            if (kept) ML_TRY(begin_document(b, d, err));
        }
        within = !s.ends;
        if (!kept) continue;
        ML_TRY(ml_shard_add(&b->writer[d->split], s.id, s.n, err));
        if (s.ends) ML_TRY(end_document(b, d, r->first + s.doc, err));
    }
    return check_bad(b, false, err);
}

/* ---- rounds ---- */

/* What one thread does beside the encoding.  The inputs are hashed up to where they have been read: in memory. */
static ml_status read_and_write(builder *b, ml_error *err)
{
    bool done;
    ML_TRY(write_round(b, b->writing, err));
    ML_TRY(read_round(b, b->reading, err));
    uint64_t n_read = (uint64_t)done_bytes(b->work);
    return b->work->hash ? ml_input_hash_until(b->work->hash, n_read, &done, err) : ML_OK;
}

/* Item 0 is reading and writing; the others are parts of the batch to be encoded. */
static void run_items(void *arg, int64_t begin, int64_t end, int thread)
{
    builder *b = arg;
    for (int64_t i = begin; i < end; i++) {
        if (i == 0)
            b->io_status = read_and_write(b, &b->io_err);
        else
            ml_encoded_run(&b->encoding->encoded, &b->encoders, (size_t)i - 1, thread);
    }
}

static ml_status run_round(builder *b, ml_error *err)
{
    batch_round *r = b->encoding;
    ml_parallel_for((int64_t)r->batch.n, 64, find_texts, b);
    if (atomic_load(&b->memory_out))
        return ml_fail_memory(err, sizeof(ml_error), "a text, or the message of a malformed record");
    ML_TRY(ml_encoded_plan(&r->encoded, &b->encoders, r->text, r->batch.n, err));
    ml_parallel_for(1 + (int64_t)r->encoded.n_parts, 1, run_items, b);
    if (b->io_status != ML_OK) {
        *err = b->io_err;
        return b->io_status;
    }
    return ml_encoded_check(&r->encoded, err);
}

/* ---- the tokenizer ---- */

static void *save_tokenizer(void *arg)
{
    builder *b = arg;
    b->save_status = ml_tokenizer_save(b->work->tokenizer, b->work->tokenizer_folder, &b->save_err);
    return NULL;
}

static void begin_saving(builder *b)
{
    if (!b->work->tokenizer_folder) return;
    b->is_saving = ml_thread_count() > 1 && pthread_create(&b->saver, NULL, save_tokenizer, b) == 0;
    if (!b->is_saving) save_tokenizer(b);
}

static ml_status end_saving(builder *b, ml_error *err)
{
    if (b->is_saving) pthread_join(b->saver, NULL);
    b->is_saving = false;
    if (b->save_status != ML_OK) *err = b->save_err;
    return b->save_status;
}

/* ---- all rounds ---- */

static ml_status run_all(builder *b, ml_error *err)
{
    const ml_build_config *c = b->work->config;
    begin_saving(b);
    ML_TRY(read_round(b, b->encoding, err));
    while (b->encoding->batch.n || b->writing->batch.n) {
        ML_TRY(run_round(b, err));
        batch_round *written = b->writing;
        b->writing = b->encoding;
        b->encoding = b->reading;
        b->reading = written;
        ml_progress_update(c->progress, c->progress_begin + done_bytes(b->work) / 1e6, NULL);
        if (ml_progress_stopped(c->progress)) {
            return ml_fail(err, ML_ECANCEL,
                           "stopped: %s: finished shards are kept: run the same command again to continue", c->out);
        }
    }
    ML_TRY(end_saving(b, err));
    ML_TRY(check_bad(b, true, err));
    for (int i = 0; i < ML_N_SPLIT; i++) ML_TRY(close_shard(b, (ml_data_split)i, b->work->n_read, err));
    return ML_OK;
}

static ml_status set_up(builder *b, ml_error *err)
{
    ML_TRY(ml_encoders_make(b->work->tokenizer, false, &b->encoders, err));
    for (int i = 0; i < N_ROUND; i++) {
        batch_round *r = &b->round[i];
        r->document = ml_calloc(BATCH_DOCUMENTS, sizeof *r->document);
        r->text = ml_calloc(BATCH_DOCUMENTS, sizeof *r->text);
        if (!r->document || !r->text)
            return ml_fail_memory(err, BATCH_DOCUMENTS * sizeof *r->document, "a batch of documents");
    }
    for (int i = 0; i < ML_N_SPLIT; i++) b->now[i] = b->work->state.split[i];
    b->writing = &b->round[0];
    b->encoding = &b->round[1];
    b->reading = &b->round[2];
    return ML_OK;
}

static void tear_down(builder *b)
{
    for (int i = 0; i < N_ROUND; i++) {
        batch_round *r = &b->round[i];
        if (r->document) drop_problems(r);
        ml_record_batch_free(&r->batch);
        ml_encoded_free(&r->encoded);
        ml_free(r->document);
        ml_free(r->text);
    }
    for (int i = 0; i < ML_N_SPLIT; i++) ml_shard_free(&b->writer[i]);
    ml_encoders_free(&b->encoders);
}

ml_status ml_build_run_rounds(ml_build_work *work, ml_error *err)
{
    builder b = { .work = work };
    ml_status status = set_up(&b, err);
    if (status == ML_OK) status = run_all(&b, err);
    ml_error ignored;
    (void)end_saving(&b, &ignored); /* the first failure was another */
    tear_down(&b);
    return status;
}
