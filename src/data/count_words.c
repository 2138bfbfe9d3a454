#include "data/count_words.h"

#include "base/alloc.h"

/* Hand the texts of a batch that begin before byte `end` to the trainer; *more: all of them do. */
static ml_status count_batch(ml_record_batch *batch, const char *field, uint64_t end, ml_bpe_trainer *trainer,
                             ml_record_tally *tally, bool *more, ml_error *err)
{
    size_t n = batch->n;
    while (end && n && batch->record[n - 1].position >= end) n--;
    *more = n == batch->n;
    ml_text *docs = ml_calloc(n, sizeof *docs);
    if (!docs) return ml_fail_memory(err, n * sizeof *docs, "a batch of documents");
    size_t n_good;
    ml_status status = ml_record_texts(batch, n, field, tally, docs, &n_good, err);
    if (status == ML_OK) status = ml_bpe_trainer_add(trainer, docs, n_good, err);
    ml_free(docs);
    return status;
}

ml_status ml_data_count_words(ml_records *records, const ml_count_words_config *config, ml_bpe_trainer *trainer,
                              ml_record_tally *tally, ml_error *err)
{
    enum { AT_ONCE = 4096, BYTES_AT_ONCE = 1 << 22 };
    ml_record_batch batch = { 0 };
    ml_status status = ML_OK;
    *tally = (ml_record_tally){ 0 };
    for (bool more = true; more && (!config->limit || tally->n_seen < config->limit);) {
        int64_t left = config->limit ? config->limit - tally->n_seen : AT_ONCE;
        ML_TRY_GOTO(ml_records_read(records, left < AT_ONCE ? (size_t)left : AT_ONCE, BYTES_AT_ONCE, &batch, err));
        if (batch.n == 0) break;
        ML_TRY_GOTO(count_batch(&batch, config->field, config->end, trainer, tally, &more, err));
        ML_TRY_GOTO(ml_record_tally_check(tally, config->max_bad, false, err));
        if (config->tell) ml_progress_update(config->progress, (double)ml_records_at(records) / 1e6, NULL);
        if (!ml_progress_stopped(config->progress)) continue;
        status = ml_fail(err, ML_ECANCEL, "stopped while counting words");
        goto done;
    }
    status = ml_record_tally_check(tally, config->max_bad, true, err);
done:
    ml_record_batch_free(&batch);
    return status;
}
