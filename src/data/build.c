#include "data/build.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "data/build_rounds.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* ---- options ---- */

ml_status ml_build_check_config(const ml_build_config *c, ml_error *err)
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

ml_status ml_build_choose_format(const ml_build_config *c, const ml_tokenizer *t, ml_build_format *f, ml_error *err)
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

/* ---- documents ---- */

uint64_t ml_build_val_begin(const ml_build_config *config, uint64_t n_bytes)
{
    return n_bytes - (uint64_t)(config->val_fraction * (double)n_bytes);
}

/* All documents, in seeded random order (Fisher and Yates). */
static ml_status shuffle_documents(ml_build_work *b, ml_error *err)
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

static ml_status open_records(ml_build_work *b, ml_error *err)
{
    const ml_build_config *c = b->config;
    ML_TRY(ml_records_open_texts(c->input, c->n_input, c->rule, c->marker, c->field, &b->records, err));
    if (c->val_last) {
        uint64_t n_bytes;
        ML_TRY(ml_records_measure(b->records, &n_bytes, err));
        b->val_begin = ml_build_val_begin(c, n_bytes);
        ml_records_split(b->records, b->val_begin);
    }
    return c->shuffle ? shuffle_documents(b, err) : ML_OK;
}

/* ---- the build ---- */

/* Take up what is in the folder.  The hashes of the inputs are needed now where there is something to compare them
 * with, else when the first shard is finished. */
static ml_status open_state(ml_build_work *b, bool *complete, bool *resumed, ml_error *err)
{
    const ml_build_config *c = b->config;
    bool begun;
    ML_TRY(ml_build_state_is_begun(c->out, &begun, err));
    ML_TRY(ml_build_identify(c, b->tokenizer, &b->format, &b->state.identity, err));
    ML_TRY(ml_input_hash_begin(json_object_get(b->state.identity, "inputs"), &b->hash, err));
    uint64_t n_bytes = 0;
    for (bool done = false; begun && !done;) {
        ML_TRY(ml_input_hash_until(b->hash, n_bytes += (uint64_t)64 << 20, &done, err));
        if (!done && ml_progress_stopped(c->progress))
            return ml_fail(err, ML_ECANCEL, "%s: stopped before anything was written", c->out);
    }
    return ml_build_state_open(&b->state, c->out, complete, resumed, err);
}

static ml_status build_folder(ml_build_work *b, ml_build_result *result, ml_error *err)
{
    const ml_build_config *c = b->config;
    bool complete;
    ML_TRY(open_state(b, &complete, &result->resumed, err));
    result->was_complete = complete;
    if (complete) return ML_OK;
    char tokenizer[ML_PATH_MAX];
    ML_TRY(ml_path_join(tokenizer, c->out, "tokenizer", err));
    ML_TRY(open_records(b, err));
    b->tokenizer_folder = tokenizer;
    ML_TRY(ml_build_run_rounds(b, err));
    if (b->state.split[ML_SPLIT_TRAIN].n_document == 0) {
        return ml_fail(err, ML_EINVAL, "%s: no document for training among %llu found: check the inputs and --marker",
                       c->input[0], (unsigned long long)b->n_read);
    }
    return ml_build_state_finish(&b->state, NULL, c->out, err);
}

ml_status ml_build_lock_folder(const char *path, int *fd, ml_error *err)
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
    ml_build_work b = { .config = config, .tokenizer = tokenizer };
    int fd = -1;
    ml_status status;
    memset(result, 0, sizeof *result);
    ML_TRY(ml_build_check_config(config, err));
    ML_TRY(ml_build_choose_format(config, tokenizer, &b.format, err));
    ML_TRY_GOTO(ml_build_lock_folder(config->out, &fd, err));
    ML_TRY_GOTO(build_folder(&b, result, err));
    for (int i = 0; i < ML_N_SPLIT; i++) {
        const ml_build_split *s = &b.state.split[i];
        result->tally = ml_record_tally_sum(&result->tally, &s->tally);
        result->n_empty += s->n_empty;
    }
    ML_TRY_GOTO(report(config->out, result, err));
done:
    if (fd >= 0) close(fd);
    ml_input_hash_free(b.hash);
    ml_spool_free(b.spool);
    ml_records_free(b.records);
    ml_build_state_free(&b.state);
    ml_free(b.order);
    return status;
}
