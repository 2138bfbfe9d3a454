#include "data/mix_rows.h"

#include "base/alloc.h"
#include "data/mix_quota.h"
#include "data/permute.h"
#include "data/rows_write.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const ml_build_rows_config *config;
    const ml_tokenizer *tokenizer;
    ml_build_rows_result *result; /* of the mixture */
    ml_build_rows_result part[ML_MAX_SOURCES];
    ml_rows *rows[ML_MAX_SOURCES];
    ml_mix_quota quota;
    int64_t n_row[ML_N_SPLIT][ML_MAX_SOURCES]; /* taken */
    int64_t n_token[ML_N_SPLIT][ML_MAX_SOURCES];
    ml_rows_writer *writer;
    ml_row row;
} mixer;

static ml_status source_folder(const mixer *m, size_t i, char path[ML_PATH_MAX], ml_error *err)
{
    char name[32];
    snprintf(name, sizeof name, "source_%03zu", i);
    return ml_path_join(path, m->config->out, name, err);
}

/* ---- the rows of each source ---- */

static ml_status add_bytes(const ml_source *s, double *megabytes, ml_error *err)
{
    for (size_t i = 0; i < s->n_file; i++) {
        ml_map map;
        ML_TRY(ml_map_open(s->file[i], &map, err));
        *megabytes += (double)map.size / 1e6;
        ml_map_close(&map);
    }
    return ML_OK;
}

static ml_status build_source(mixer *m, size_t i, double *megabytes, ml_error *err)
{
    char folder[ML_PATH_MAX];
    const ml_source *s = &m->config->sources->source[i];
    ml_build_rows_result *r = &m->part[i], *sum = m->result;
    ml_build_rows_config c = *m->config;
    ML_TRY(source_folder(m, i, folder, err));
    c.sources = NULL;
    c.input = (const char *const *)s->file;
    c.n_input = s->n_file;
    c.n_val_input = 0;
    c.out = folder;
    c.name = s->name;
    c.progress_begin = m->config->progress_begin + *megabytes;
    ML_TRY(ml_build_rows(&c, m->tokenizer, r, err));
    ML_TRY(add_bytes(s, megabytes, err));
    sum->n_record += r->n_record;
    for (int k = 0; k < ML_N_REJECT; k++) sum->n_reject[k] += r->n_reject[k];
    if (!*sum->first_bad) snprintf(sum->first_bad, sizeof sum->first_bad, "%s", r->first_bad);
    return ml_rows_open(folder, &m->rows[i], err);
}

/* ---- taking them ---- */

/* The source that is furthest behind its quota; n when all are done. */
static size_t choose_source(const mixer *m, ml_data_split split, const bool *done)
{
    size_t n = m->config->sources->n, best = n;
    double least = 2;
    for (size_t i = 0; i < n; i++) {
        double share = (double)m->n_token[split][i] / (double)m->quota.quota[split][i];
        if (done[i] || share >= least) continue;
        least = share;
        best = i;
    }
    return best;
}

static ml_status take_rows(mixer *m, ml_data_split split, ml_error *err)
{
    size_t n = m->config->sources->n, i;
    bool done[ML_MAX_SOURCES];
    uint64_t key = ml_permute_key(m->config->seed, split);
    for (i = 0; i < n; i++) {
        done[i] = m->quota.quota[split][i] == 0 || m->rows[i]->split[split].n_row == 0;
        ML_TRY(ml_rows_reserve(m->rows[i], split, &m->row, err));
    }
    while ((i = choose_source(m, split, done)) < n) {
        int64_t *taken = &m->n_row[split][i], n_row = m->rows[i]->split[split].n_row;
        ML_TRY(ml_rows_read(m->rows[i], split, ml_permute(*taken, n_row, key + i), &m->row, err));
        int64_t n_token = (int64_t)m->row.ids.n;
        done[i] = m->n_token[split][i] + n_token > m->quota.quota[split][i];
        if (done[i]) continue;
        ML_TRY(ml_rows_writer_add(m->writer, split, &m->row, err));
        m->n_token[split][i] += n_token;
        done[i] = ++*taken == n_row;
        if (ml_progress_stopped(m->config->progress)) return ml_fail(err, ML_ECANCEL, "%s: stopped", m->config->out);
    }
    return ML_OK;
}

/* ---- the folder ---- */

/* All rejects of the sources in one file, or none. */
static ml_status join_rejects(const mixer *m, ml_error *err)
{
    char path[ML_PATH_MAX], folder[ML_PATH_MAX];
    ml_file_writer file = { 0 };
    ml_status status;
    bool some = *m->result->first_bad;
    ML_TRY(ml_path_join(path, m->config->out, "rejects.jsonl", err));
    if (!some) return unlink(path) == 0 || errno == ENOENT ? ML_OK : ml_fail_errno(err, "%s: cannot be removed", path);
    ML_TRY_GOTO(ml_file_begin(&file, path, err));
    for (size_t i = 0; i < m->config->sources->n; i++) {
        ml_map map;
        ML_TRY_GOTO(source_folder(m, i, folder, err));
        ML_TRY_GOTO(ml_path_join(path, folder, "rejects.jsonl", err));
        if (!ml_path_exists(path)) continue;
        ML_TRY_GOTO(ml_map_open(path, &map, err));
        status = ml_file_write(&file, map.data, map.size, err);
        ml_map_close(&map);
        ML_TRY_GOTO(status);
    }
    status = ml_file_commit(&file, err);
done:
    ml_file_abandon(&file);
    return status;
}

static json_t *describe_source(const mixer *m, size_t i)
{
    const ml_build_rows_result *r = &m->part[i];
    json_t *j = ml_mix_quota_describe(&m->quota, m->config->sources, i);
    json_t *more = json_pack("{s:{s:I, s:I}, s:{s:I, s:I}, s:I, s:o}", "rows", "train", (json_int_t)m->n_row[0][i],
                             "val", (json_int_t)m->n_row[1][i], "tokens", "train", (json_int_t)m->n_token[0][i], "val",
                             (json_int_t)m->n_token[1][i], "records", (json_int_t)r->n_record, "rejected",
                             ml_build_rows_describe_rejects(r));
    if (*r->first_bad) json_object_set_new(more, "first_rejected", json_string(r->first_bad));
    json_object_update(j, more);
    json_decref(more);
    return j;
}

static json_t *describe(const mixer *m)
{
    const ml_build_rows_config *c = m->config;
    json_t *sources = json_array();
    for (size_t i = 0; i < c->sources->n; i++) json_array_append_new(sources, describe_source(m, i));
    m->result->sources = sources;
    return json_pack("{s:s, s:I, s:f, s:I, s:o, s:{s:I, s:I, s:O}}", "form", ml_row_form_name(c->form), "max_tokens",
                     (json_int_t)c->max_tokens, "val_fraction", c->val_fraction, "records",
                     (json_int_t)m->result->n_record, "left_out", ml_build_rows_describe_rejects(m->result), "mixture",
                     "tokens", (json_int_t)m->quota.total[ML_SPLIT_TRAIN], "seed", (json_int_t)c->seed, "sources",
                     sources);
}

static ml_status write_folder(mixer *m, ml_error *err)
{
    const ml_build_rows_config *c = m->config;
    const char *slash = strrchr(c->out, '/'), *name = c->name ? c->name : slash && slash[1] ? slash + 1 : c->out;
    ml_rows_kind kind = c->form == ML_ROW_PREFERENCE ? ML_ROWS_PAIR : ML_ROWS_SINGLE;
    ML_TRY(ml_rows_writer_make(c->out, name, kind, m->tokenizer, &m->writer, err));
    for (int split = 0; split < ML_N_SPLIT; split++) ML_TRY(take_rows(m, (ml_data_split)split, err));
    ML_TRY(join_rejects(m, err));
    json_t *facts = describe(m);
    if (!facts) return ml_fail_memory(err, 0, "the description of a mixture");
    ml_status status = ml_rows_writer_finish(m->writer, facts, err);
    json_decref(facts);
    return status;
}

static ml_status mix(mixer *m, ml_error *err)
{
    const ml_build_rows_config *c = m->config;
    double megabytes = 0;
    char folder[ML_PATH_MAX];
    for (size_t i = 0; i < c->sources->n; i++) {
        ML_TRY(build_source(m, i, &megabytes, err));
        for (int s = 0; s < ML_N_SPLIT; s++) m->quota.available[s][i] = m->rows[i]->split[s].n_token;
    }
    ML_TRY(ml_mix_quota_decide(&m->quota, c->sources, c->tokens, c->allow_fewer, c->val_fraction, err));
    ML_TRY(write_folder(m, err));
    for (size_t i = 0; i < c->sources->n; i++) {
        ML_TRY(source_folder(m, i, folder, err));
        ml_rows_free(m->rows[i]);
        m->rows[i] = NULL;
        ML_TRY(ml_dir_remove(folder, err));
    }
    ml_rows *rows;
    ML_TRY(ml_rows_open(c->out, &rows, err));
    for (int i = 0; i < ML_N_SPLIT; i++) {
        m->result->n_row[i] = rows->split[i].n_row;
        m->result->n_token[i] = rows->split[i].n_token;
        m->result->n_target[i] = rows->split[i].n_target;
    }
    ml_rows_free(rows);
    return ML_OK;
}

ml_status ml_mix_rows(const ml_build_rows_config *config, const ml_tokenizer *tokenizer, ml_build_rows_result *result,
                      ml_error *err)
{
    if (config->n_input || config->n_val_input)
        return ml_fail(err, ML_EINVAL, "a mixture takes its records from its sources: name no other inputs");
    mixer *m = ml_calloc(1, sizeof *m);
    if (!m) return ml_fail_memory(err, sizeof *m, "a mixture");
    m->config = config;
    m->tokenizer = tokenizer;
    m->result = result;
    ml_status status = mix(m, err);
    if (status != ML_OK) {
        json_decref(result->sources);
        result->sources = NULL;
    }
    for (size_t i = 0; i < config->sources->n; i++) ml_rows_free(m->rows[i]);
    ml_rows_writer_free(m->writer);
    ml_row_free(&m->row);
    ml_free(m);
    return status;
}
