#include "data/mix.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "data/build_state.h"
#include "data/input_hash.h"
#include "data/mix_quota.h"

#include <string.h>
#include <unistd.h>

typedef struct {
    const ml_mix_config *config;
    const ml_tokenizer *tokenizer;
    ml_build_config whole; /* all inputs as one */
    const char **input;    /* of it */
    ml_build_format format;
    ml_build_state state;
    ml_dataset *data[ML_MAX_SOURCES];
    json_t *meta[ML_MAX_SOURCES]; /* of the sources' folders */
    ml_mix_quota quota;
    int64_t n_document[ML_N_SPLIT][ML_MAX_SOURCES], n_token[ML_N_SPLIT][ML_MAX_SOURCES]; /* taken */
    ml_shard_writer writer;
    int32_t *id; /* of a document */
    size_t id_capacity;
} mixer;

static ml_status source_folder(const mixer *m, size_t i, char path[ML_PATH_MAX], ml_error *err)
{
    char name[32];
    snprintf(name, sizeof name, "source_%03zu", i);
    return ml_path_join(path, m->whole.out, name, err);
}

/* ---- what it is ---- */

static ml_status check_config(const ml_mix_config *c, ml_error *err)
{
    if (c->build.n_input) return ml_fail(err, ML_EINVAL, "a mixture takes its text from its sources: name no inputs");
    if (c->build.val_last || c->build.val_every) {
        return ml_fail(err, ML_EINVAL,
                       "--val-last and --val-every count documents in one order: mixtures have --val-fraction only");
    }
    return ML_OK;
}

static ml_status gather_inputs(mixer *m, ml_error *err)
{
    const ml_source_list *list = m->config->sources;
    size_t n = 0;
    for (size_t i = 0; i < list->n; i++) n += list->source[i].n_file;
    m->input = ml_calloc(n + 1, sizeof *m->input);
    if (!m->input) return ml_fail_memory(err, n * sizeof *m->input, "the list of inputs");
    for (size_t i = 0; i < list->n; i++) {
        for (size_t k = 0; k < list->source[i].n_file; k++) m->input[m->whole.n_input++] = list->source[i].file[k];
    }
    m->whole.input = m->input;
    return ml_build_check_config(&m->whole, err);
}

static ml_status identify(mixer *m, ml_error *err)
{
    const ml_mix_config *c = m->config;
    json_t *sources = json_array();
    ML_TRY(ml_build_identify(&m->whole, m->tokenizer, &m->format, &m->state.identity, err));
    for (size_t i = 0; i < c->sources->n; i++) {
        const ml_source *s = &c->sources->source[i];
        json_array_append_new(sources, json_pack("{s:s, s:f}", "name", s->name, "share", s->share));
    }
    json_t *what = json_pack("{s:I, s:o}", "tokens", (json_int_t)c->tokens, "sources", sources);
    if (!what) return ml_fail(err, ML_EINVAL, "the names of the sources: expected UTF-8, found other bytes");
    json_object_set_new(m->state.identity, "asked", what);
    return ML_OK;
}

/* The hashes of the inputs are needed here only to compare them with those of a finished folder. */
static ml_status open_state(mixer *m, bool *complete, bool *resumed, ml_error *err)
{
    char meta[ML_PATH_MAX];
    ml_input_hash *hash;
    ml_status status = ML_OK;
    ML_TRY(identify(m, err));
    ML_TRY(ml_path_join(meta, m->whole.out, "meta.json", err));
    if (ml_path_exists(meta)) {
        bool done;
        ML_TRY(ml_input_hash_begin(json_object_get(m->state.identity, "inputs"), &hash, err));
        status = ml_input_hash_until(hash, UINT64_MAX, &done, err);
        ml_input_hash_free(hash);
    }
    ML_TRY(status);
    return ml_build_state_open(&m->state, m->whole.out, complete, resumed, err);
}

/* ---- the tokens of each source ---- */

static double count_megabytes(json_t *inputs)
{
    size_t i;
    json_t *input;
    double sum = 0;
    json_array_foreach(inputs, i, input) sum += (double)json_integer_value(json_object_get(input, "bytes")) / 1e6;
    return sum;
}

/* What the records of a source were, added to the folder's. */
static void count_rejects(mixer *m, const json_t *meta)
{
    const json_t *dropped = json_object_get(meta, "dropped");
    const char *first = json_string_value(json_object_get(meta, "first_malformed"));
    ml_build_split *sum = &m->state.split[ML_SPLIT_TRAIN];
    if (first && !sum->tally.n_bad) snprintf(sum->tally.first, sizeof sum->tally.first, "%.511s", first);
    sum->tally.n_seen += json_integer_value(json_object_get(meta, "records"));
    sum->tally.n_bad += json_integer_value(json_object_get(dropped, "malformed"));
    sum->n_empty += json_integer_value(json_object_get(dropped, "empty"));
}

static ml_status build_source(mixer *m, size_t i, double *megabytes, ml_error *err)
{
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    const ml_source *s = &m->config->sources->source[i];
    ml_build_config c = m->config->build;
    ml_build_result result;
    ML_TRY(source_folder(m, i, folder, err));
    c.input = (const char *const *)s->file;
    c.n_input = s->n_file;
    c.out = folder;
    c.name = s->name;
    for (int k = 0; k < ML_N_SPLIT; k++) c.limit[k] = m->quota.quota[k][i];
    c.progress_begin = m->config->build.progress_begin + *megabytes;
    ML_TRY(ml_data_build(&c, m->tokenizer, &result, err));
    ML_TRY(ml_path_join(path, folder, "meta.json", err));
    ML_TRY(ml_json_load(path, &m->meta[i], err));
    *megabytes += count_megabytes(json_object_get(m->meta[i], "inputs"));
    count_rejects(m, m->meta[i]);
    return ml_dataset_open(folder, &m->data[i], err);
}

/* Where the total is known, so is how far each source has to be read. */
static void set_limits(mixer *m)
{
    const ml_mix_config *c = m->config;
    if (!c->tokens) return;
    ml_source_list_divide(c->sources, c->tokens, m->quota.quota[ML_SPLIT_TRAIN]);
    ml_source_list_divide(c->sources, ml_mix_quota_val(c->tokens, c->build.val_fraction), m->quota.quota[ML_SPLIT_VAL]);
}

static ml_status build_sources(mixer *m, ml_error *err)
{
    const ml_source_list *list = m->config->sources;
    double megabytes = 0;
    json_t *inputs = json_object_get(m->state.identity, "inputs");
    set_limits(m);
    for (size_t i = 0; i < list->n; i++) ML_TRY(build_source(m, i, &megabytes, err));
    json_array_clear(inputs); /* now with their hashes */
    for (size_t i = 0; i < list->n; i++) {
        json_array_extend(inputs, json_object_get(m->meta[i], "inputs"));
        for (int s = 0; s < ML_N_SPLIT; s++) m->quota.available[s][i] = m->data[i]->split[s].n_token;
    }
    return ML_OK;
}

static ml_status decide_quota(mixer *m, ml_error *err)
{
    const ml_mix_config *c = m->config;
    return ml_mix_quota_decide(&m->quota, c->sources, c->tokens, c->allow_fewer, c->build.val_fraction, err);
}

/* ---- taking documents ---- */

/* Documents of all sources in one seeded order, as numbers over all of them (Fisher and Yates). */
static ml_status shuffle(const mixer *m, ml_data_split split, uint64_t **order, size_t *n_order, ml_error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < m->config->sources->n; i++) n += (size_t)m->data[i]->split[split].n_document;
    uint64_t *at = ml_calloc(n + 1, sizeof *at);
    if (!at) return ml_fail_memory(err, n * sizeof *at, "the order of the documents");
    for (size_t i = 0; i < n; i++) at[i] = i;
    ml_rng rng = ml_rng_make(m->config->build.seed, 0x6d697800 + (uint64_t)split);
    for (size_t i = n; i > 1; i--) {
        size_t k = ml_rng_below(&rng, i);
        uint64_t last = at[i - 1];
        at[i - 1] = at[k];
        at[k] = last;
    }
    *order = at;
    *n_order = n;
    return ML_OK;
}

static ml_status close_shard(mixer *m, ml_data_split split, ml_error *err)
{
    char file[32];
    ml_shard_record record;
    ml_build_split *s = &m->state.split[split];
    if (!m->writer.open) return ML_OK;
    snprintf(file, sizeof file, "%s_%05zu.bin", ml_dataset_split_name(split), json_array_size(s->shards));
    ML_TRY(ml_shard_finish(&m->writer, &record, err));
    return ml_build_state_add(s, file, &record, err);
}

static ml_status open_shard(mixer *m, ml_data_split split, ml_error *err)
{
    char path[ML_PATH_MAX], file[32];
    snprintf(file, sizeof file, "%s_%05zu.bin", ml_dataset_split_name(split),
             json_array_size(m->state.split[split].shards));
    ML_TRY(ml_path_join(path, m->whole.out, file, err));
    return ml_shard_begin(&m->writer, path, m->format.id_bytes, err);
}

/* Document `at` of a source, or as much of it as the source may still give. */
static ml_status take_document(mixer *m, size_t source, ml_data_split split, int64_t at, ml_error *err)
{
    int64_t first, n, left = m->quota.quota[split][source] - m->n_token[split][source];
    if (left == 0) return ML_OK;
    ML_TRY(ml_dataset_document(m->data[source], split, at, &first, &n, err));
    if (n > left) n = left;
    void *items = m->id;
    ML_TRY(ml_grow(&items, &m->id_capacity, (size_t)n, sizeof *m->id, err));
    m->id = items;
    ML_TRY(ml_dataset_read(m->data[source], split, first, n, m->id, err));
    if (!m->writer.open) ML_TRY(open_shard(m, split, err));
    ML_TRY(ml_shard_begin_document(&m->writer, err));
    ML_TRY(ml_shard_add(&m->writer, m->id, (size_t)n, err));
    m->n_document[split][source]++;
    m->n_token[split][source] += n;
    return m->writer.n_token >= m->whole.shard_tokens ? close_shard(m, split, err) : ML_OK;
}

static ml_status take_split(mixer *m, ml_data_split split, ml_error *err)
{
    uint64_t *order = NULL;
    size_t n;
    ml_status status = shuffle(m, split, &order, &n, err);
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        uint64_t at = order[i];
        size_t source = 0;
        while (at >= (uint64_t)m->data[source]->split[split].n_document)
            at -= (uint64_t)m->data[source++]->split[split].n_document;
        status = take_document(m, source, split, (int64_t)at, err);
        if (status == ML_OK && i % 1024 == 0 && ml_progress_stopped(m->whole.progress))
            status = ml_fail(err, ML_ECANCEL,
                             "stopped: %s: the sources are kept: run the same command again to continue", m->whole.out);
    }
    if (status == ML_OK) status = close_shard(m, split, err);
    ml_free(order);
    return status;
}

/* ---- the folder ---- */

static json_t *describe_source(const mixer *m, size_t i)
{
    const json_t *meta = m->meta[i];
    json_t *j = ml_mix_quota_describe(&m->quota, m->config->sources, i);
    json_t *more = json_pack("{s:{s:I, s:I}, s:{s:I, s:I}, s:O?, s:O?, s:O*}", "documents", "train",
                             (json_int_t)m->n_document[0][i], "val", (json_int_t)m->n_document[1][i], "tokens", "train",
                             (json_int_t)m->n_token[0][i], "val", (json_int_t)m->n_token[1][i], "records",
                             json_object_get(meta, "records"), "rejected", json_object_get(meta, "dropped"),
                             "first_rejected", json_object_get(meta, "first_malformed"));
    json_object_update(j, more);
    json_decref(more);
    return j;
}

static ml_status remove_sources(mixer *m, ml_error *err)
{
    char path[ML_PATH_MAX];
    for (size_t i = 0; i < m->config->sources->n; i++) {
        ml_dataset_free(m->data[i]);
        m->data[i] = NULL;
        ML_TRY(source_folder(m, i, path, err));
        ML_TRY(ml_dir_remove(path, err));
    }
    return ML_OK;
}

/* Nothing of a mixture that cannot be: the same folder can then be given to another. */
static ml_status give_up(mixer *m, ml_error *err)
{
    char path[ML_PATH_MAX];
    ml_error ignored;
    if (remove_sources(m, &ignored) == ML_OK && ml_path_join(path, m->whole.out, "build.json", &ignored) == ML_OK)
        unlink(path);
    return err->code;
}

static ml_status finish(mixer *m, ml_error *err)
{
    char path[ML_PATH_MAX];
    json_t *sources = json_array();
    for (size_t i = 0; i < m->config->sources->n; i++) json_array_append_new(sources, describe_source(m, i));
    json_t *facts = json_pack("{s:{s:I, s:I, s:o}}", "mixture", "tokens", (json_int_t)m->quota.total[ML_SPLIT_TRAIN],
                              "seed", (json_int_t)m->whole.seed, "sources", sources);
    if (!facts) return ml_fail_memory(err, 0, "the description of a mixture");
    ml_status status = ml_path_join(path, m->whole.out, "tokenizer", err);
    if (status == ML_OK) status = ml_tokenizer_save(m->tokenizer, path, err);
    if (status == ML_OK) status = ml_build_state_finish(&m->state, facts, m->whole.out, err);
    json_decref(facts);
    return status == ML_OK ? remove_sources(m, err) : status;
}

static ml_status mix_folder(mixer *m, ml_build_result *result, ml_error *err)
{
    bool complete;
    ML_TRY(open_state(m, &complete, &result->resumed, err));
    result->was_complete = complete;
    if (complete) return ML_OK;
    ML_TRY(build_sources(m, err));
    if (decide_quota(m, err) != ML_OK) return give_up(m, err);
    for (int s = 0; s < ML_N_SPLIT; s++) ML_TRY(take_split(m, (ml_data_split)s, err));
    return finish(m, err);
}

/* From the finished folder. */
static ml_status report(const char *out, ml_build_result *result, json_t **sources, ml_error *err)
{
    ml_dataset *data;
    char path[ML_PATH_MAX];
    json_t *meta, *mixture, *list;
    ML_TRY(ml_dataset_open(out, &data, err));
    for (int s = 0; s < ML_N_SPLIT; s++) {
        result->n_document[s] = data->split[s].n_document;
        result->n_token[s] = data->split[s].n_token;
        result->n_shard[s] = data->split[s].n_shard;
    }
    ml_dataset_free(data);
    ML_TRY(ml_path_join(path, out, "meta.json", err));
    ML_TRY(ml_json_load(path, &meta, err));
    ml_status status = ml_json_object(meta, "mixture", path, &mixture, err);
    if (status == ML_OK) status = ml_json_array(mixture, "sources", path, &list, err);
    if (status == ML_OK) {
        const json_t *dropped = json_object_get(meta, "dropped");
        const char *first = json_string_value(json_object_get(meta, "first_malformed"));
        *sources = json_incref(list);
        result->tally.n_seen = json_integer_value(json_object_get(meta, "records"));
        result->tally.n_bad = json_integer_value(json_object_get(dropped, "malformed"));
        result->n_empty = json_integer_value(json_object_get(dropped, "empty"));
        snprintf(result->tally.first, sizeof result->tally.first, "%.511s", first ? first : "");
    }
    json_decref(meta);
    return status;
}

static void free_mixer(mixer *m)
{
    for (size_t i = 0; i < m->config->sources->n; i++) {
        ml_dataset_free(m->data[i]);
        json_decref(m->meta[i]);
    }
    ml_build_state_free(&m->state);
    ml_shard_free(&m->writer);
    ml_free(m->input);
    ml_free(m->id);
    ml_free(m);
}

ml_status ml_data_mix(const ml_mix_config *config, const ml_tokenizer *tokenizer, ml_build_result *result,
                      json_t **sources, ml_error *err)
{
    int fd = -1;
    memset(result, 0, sizeof *result);
    *sources = NULL;
    ML_TRY(check_config(config, err));
    mixer *m = ml_calloc(1, sizeof *m);
    if (!m) return ml_fail_memory(err, sizeof *m, "a mixture");
    m->config = config;
    m->tokenizer = tokenizer;
    m->whole = config->build;
    ml_status status = gather_inputs(m, err);
    if (status == ML_OK) status = ml_build_choose_format(&m->whole, tokenizer, &m->format, err);
    if (status == ML_OK) status = ml_build_lock_folder(m->whole.out, &fd, err);
    if (status == ML_OK) status = mix_folder(m, result, err);
    if (status == ML_OK) status = report(m->whole.out, result, sources, err);
    if (fd >= 0) close(fd);
    free_mixer(m);
    return status;
}
