#include "quant/gguf_export.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread.h"
#include "format/gguf_config.h"
#include "format/gguf_tokenizer.h"
#include "tensor/blocks.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    PIECE_ELEMENTS = 8 << 20, /* written at a time, about */
    TASK_ELEMENTS = 64 << 10, /* made by one thread at a time, about */
    MOST_TASKS = PIECE_ELEMENTS / TASK_ELEMENTS + 2,
};

typedef struct {
    const ml_gguf_export *x;
    ml_dtype *dtype; /* [layout->n] */
    uint64_t total, done;
    float *values; /* [threads, 2, task_rows * cols] of the largest tensor: exact, and read back */
    size_t values_size;
    uint8_t *bytes;
    size_t bytes_size;
} job;

static void describe(const job *j, const ml_gguf_entry *e, char ours[ML_GGUF_OUR_NAME_MAX], ml_quant_tensor *out)
{
    ml_gguf_entry_part_name(e, 0, ours);
    *out =
        (ml_quant_tensor){ .ours = ours,
                           .theirs = e->name,
                           .layer = e->layer,
                           .n_layer = j->x->config->num_hidden_layers,
                           .n_col = e->cols,
                           .is_head = j->x->config->tie_word_embeddings && !strcmp(ours, "model.embed_tokens.weight") };
}

/* A rule that changes nothing is a mistake in its name. */
static ml_status check_rules(const job *j, ml_error *err)
{
    const ml_gguf_layout *layout = j->x->layout;
    for (size_t r = 0; r < j->x->plan.n_rule; r++) {
        const ml_quant_rule *rule = &j->x->plan.rule[r];
        bool found = false, has[ML_N_CLASS] = { false };
        for (size_t i = 0; i < layout->n; i++) {
            char ours[ML_GGUF_OUR_NAME_MAX];
            ml_quant_tensor t;
            const ml_quant_rule any = { .glob = "*" };
            describe(j, &layout->entry[i], ours, &t);
            found = found || ml_quant_rule_matches(rule, &t);
            if (ml_quant_rule_matches(&any, &t)) has[ml_weight_class_of(ours)] = true;
        }
        if (found) continue;
        char names[400] = "";
        for (size_t c = 0, n = 0; c < ML_N_CLASS && n < sizeof names; c++) {
            if (has[c])
                n += (size_t)snprintf(names + n, sizeof names - n, ", %s", ml_weight_class_name((ml_weight_class)c));
        }
        return ml_fail(err, ML_EINVAL,
                       "rule \"%s=%s\" matches nothing: expected the name of a tensor, such as %s, or one of %s",
                       rule->glob, ml_dtype_name(rule->dtype), layout->n ? layout->entry[0].name : "none",
                       names[0] ? names + 2 : "no class");
    }
    return ML_OK;
}

static ml_status choose_types(job *j, ml_error *err)
{
    const ml_gguf_layout *layout = j->x->layout;
    j->dtype = ml_alloc(layout->n * sizeof *j->dtype);
    if (!j->dtype) return ml_fail_memory(err, layout->n * sizeof *j->dtype, "types of tensors");
    ML_TRY(check_rules(j, err));
    for (size_t i = 0; i < layout->n; i++) {
        const ml_gguf_entry *e = &layout->entry[i];
        char ours[ML_GGUF_OUR_NAME_MAX];
        ml_quant_tensor t;
        describe(j, e, ours, &t);
        if (!j->x->plan.mix) ML_TRY(j->x->type_of(j->x->arg, e, &t.stored, err));
        ML_TRY(ml_quant_choose(&j->x->plan, &t, &j->dtype[i], err));
        j->total += (uint64_t)(e->n_part * e->rows) * ml_dtype_row_bytes(j->dtype[i], e->cols);
    }
    return ML_OK;
}

ml_status ml_gguf_export_bytes(const ml_gguf_export *x, uint64_t *out, ml_error *err)
{
    job j = { .x = x };
    ml_status status = choose_types(&j, err);
    *out = j.total;
    ml_free(j.dtype);
    return status;
}

/* Without a mix and a number from elsewhere, that of the type most of the file is in. */
static uint32_t file_type(const job *j)
{
    uint64_t n_bytes[ML_N_DTYPE] = { 0 };
    const ml_gguf_layout *layout = j->x->layout;
    if (j->x->plan.mix) return ml_quant_mix_file_type(j->x->plan.mix);
    if (j->x->file_type >= 0) return (uint32_t)j->x->file_type;
    for (size_t i = 0; i < layout->n; i++) {
        const ml_gguf_entry *e = &layout->entry[i];
        n_bytes[j->dtype[i]] += (uint64_t)(e->n_part * e->rows) * ml_dtype_row_bytes(j->dtype[i], e->cols);
    }
    ml_dtype most = ML_F32;
    for (int i = 0; i < ML_N_DTYPE; i++) {
        if (n_bytes[i] > n_bytes[most]) most = (ml_dtype)i;
    }
    return ml_quant_file_type(most);
}

static ml_status put_metadata(const job *j, ml_gguf_writer *w, ml_error *err)
{
    const ml_gguf_export *x = j->x;
    ML_TRY(ml_gguf_put_config(w, x->config, x->arch, err));
    if (x->name) ML_TRY(ml_gguf_writer_set_text(w, "general.name", x->name, err));
    ML_TRY(ml_gguf_writer_set_u32(w, "general.file_type", file_type(j), err));
    ML_TRY(ml_gguf_writer_set_u32(w, "general.quantization_version", 2, err));
    if (x->tokenizer) return ml_gguf_put_tokenizer(w, x->tokenizer, x->config->vocab_size, err);
    return ml_gguf_writer_set_text(w, "tokenizer.ggml.model", "no_vocab", err);
}

static ml_status declare(const job *j, ml_gguf_writer *w, ml_error *err)
{
    for (size_t i = 0; i < j->x->layout->n; i++) {
        const ml_gguf_entry *e = &j->x->layout->entry[i];
        const int64_t shape[3] = { e->n_part, e->rows, e->cols };
        ML_TRY(ml_gguf_writer_declare(w, e->name, j->dtype[i], e->n_dim, shape + 3 - e->n_dim, err));
    }
    return ML_OK;
}

/* Some rows of a tensor, counted through all its parts, made and quantised. */
typedef struct {
    const job *j;
    const ml_gguf_entry *e;
    ml_dtype dtype;
    int64_t first; /* first row of the piece */
    int64_t task_rows;
    double (*lost)[2]; /* [tasks] sums of ml_quant_error: added up in their order */
    atomic_flag failing;
    _Atomic(ml_status) status;
    ml_error error;
} piece;

/* What no weight is behind; all of it is one row. */
static void fill_from_config(const ml_config *c, const ml_gguf_entry *e, float *out)
{
    for (int64_t i = 0; i < e->cols; i++) {
        out[i] = e->form == ML_GGUF_ZEROS ? 0 : (float)ml_config_llama3_divisor(c, i);
    }
}

static void add_loss(ml_dtype dtype, const float *exact, const uint8_t *written, int64_t n, float *back, double lost[2])
{
    double error = 0, square = 0;
    ml_dequantize(dtype, written, back, n);
    for (int64_t i = 0; i < n; i++) {
        double d = (double)back[i] - (double)exact[i];
        error += d * d;
        square += (double)exact[i] * (double)exact[i];
    }
    lost[0] += error;
    lost[1] += square;
}

/* Rows of one part: [row, row + n_row) of it, to `to`. */
static ml_status make_rows(piece *p, int64_t part, int64_t row, int64_t n_row, uint8_t *to, double lost[2], int thread,
                           ml_error *err)
{
    const ml_gguf_entry *e = p->e;
    size_t row_bytes = ml_dtype_row_bytes(p->dtype, e->cols);
    const ml_gguf_export *x = p->j->x;
    const uint8_t *bytes = x->bytes_of ? x->bytes_of(x->arg, e, part, p->dtype) : NULL;
    if (bytes) {
        memcpy(to, bytes + (size_t)row * row_bytes, (size_t)n_row * row_bytes);
        return ML_OK;
    }
    float *values = p->j->values + 2 * (size_t)thread * (size_t)(p->task_rows * e->cols);
    if (p->dtype == ML_F32) values = (float *)(void *)to;
    if (e->form == ML_GGUF_ZEROS || e->form == ML_GGUF_ROPE_DIVISORS)
        fill_from_config(x->config, e, values);
    else
        ML_TRY(x->fill(x->arg, e, part, row, n_row, values, err));
    if (p->dtype == ML_F32) return ML_OK;
    if (!ml_dtype_is_block(p->dtype)) {
        ml_convert_from_f32(p->dtype, values, to, n_row * e->cols);
        return ML_OK;
    }
    const float *importance = NULL;
    if (x->importance) ML_TRY(ml_importance_find(x->importance, e, part, &importance, err));
    if (ml_quantize_rows(p->dtype, values, n_row, e->cols, importance, to, err) == ML_OK) {
        if (x->errors) add_loss(p->dtype, values, to, n_row * e->cols, values + p->task_rows * e->cols, lost);
        return ML_OK;
    }
    return ml_fail_prefix(err, "tensor %s, from row %lld of part %lld", e->name, (long long)row, (long long)part);
}

static void run_task(void *arg, int64_t begin, int64_t end, int thread)
{
    piece *p = arg;
    ml_error error;
    ml_status status = ML_OK;
    double *lost = p->lost[begin / p->task_rows];
    uint8_t *to = p->j->bytes + (size_t)begin * ml_dtype_row_bytes(p->dtype, p->e->cols);
    while (begin < end && status == ML_OK) {
        if (atomic_load(&p->status) != ML_OK) return;
        int64_t part = (p->first + begin) / p->e->rows, row = (p->first + begin) % p->e->rows;
        int64_t n_row = p->e->rows - row < end - begin ? p->e->rows - row : end - begin;
        status = make_rows(p, part, row, n_row, to, lost, thread, &error);
        to += (size_t)n_row * ml_dtype_row_bytes(p->dtype, p->e->cols);
        begin += n_row;
    }
    if (status == ML_OK || atomic_flag_test_and_set(&p->failing)) return;
    p->error = error;
    atomic_store(&p->status, error.code);
}

static ml_quant_error *errors_of(const job *j, const ml_gguf_entry *e, ml_dtype dtype)
{
    bool wanted = j->x->errors && ml_dtype_is_block(dtype);
    return wanted ? &j->x->errors->by[ml_weight_class_of(e->ours)][dtype] : NULL;
}

static void note_tensor(const job *j, const ml_gguf_entry *e, ml_dtype dtype)
{
    ml_quant_error *errors = errors_of(j, e, dtype);
    if (!errors) return;
    errors->n_tensor++;
    errors->n_element += e->n_part * e->rows * e->cols;
}

static void note_loss(const job *j, const ml_gguf_entry *e, ml_dtype dtype, const double lost[2])
{
    ml_quant_error *errors = errors_of(j, e, dtype);
    if (!errors) return;
    errors->error += lost[0];
    errors->square += lost[1];
}

static ml_status write_tensor(job *j, ml_gguf_writer *w, const ml_gguf_entry *e, ml_dtype dtype, ml_error *err)
{
    size_t row_bytes = ml_dtype_row_bytes(dtype, e->cols);
    int64_t step = PIECE_ELEMENTS / e->cols + 1, n = e->n_part * e->rows;
    double lost[MOST_TASKS][2];
    note_tensor(j, e, dtype);
    for (int64_t row = 0; row < n; row += step) {
        int64_t n_row = n - row < step ? n - row : step;
        memset(lost, 0, sizeof lost);
        if (ml_stop_requested()) return ml_fail(err, ML_ECANCEL, "stopped: nothing was written");
        piece p = { .j = j,
                    .e = e,
                    .dtype = dtype,
                    .first = row,
                    .task_rows = TASK_ELEMENTS / e->cols + 1,
                    .lost = lost,
                    .failing = ATOMIC_FLAG_INIT };
        ml_parallel_for(n_row, p.task_rows, run_task, &p);
        if (p.status != ML_OK) {
            *err = p.error;
            return p.status;
        }
        for (int64_t i = 0; i * p.task_rows < n_row; i++) note_loss(j, e, dtype, lost[i]);
        ML_TRY(ml_gguf_writer_put(w, j->bytes, (size_t)n_row * row_bytes, err));
        j->done += (uint64_t)n_row * row_bytes;
        if (j->x->progress) j->x->progress(j->x->arg, j->done, j->total);
    }
    return ML_OK;
}

/* Buffers for the largest piece of any tensor. */
static ml_status allocate(job *j, ml_error *err)
{
    for (size_t i = 0; i < j->x->layout->n; i++) {
        const ml_gguf_entry *e = &j->x->layout->entry[i];
        int64_t step = PIECE_ELEMENTS / e->cols + 1, task_rows = TASK_ELEMENTS / e->cols + 1;
        if (step > e->n_part * e->rows) step = e->n_part * e->rows;
        size_t bytes = (size_t)step * ml_dtype_row_bytes(j->dtype[i], e->cols);
        size_t values = 2 * (size_t)ml_thread_count() * (size_t)(task_rows * e->cols) * sizeof(float);
        if (bytes > j->bytes_size) j->bytes_size = bytes;
        if (values > j->values_size) j->values_size = values;
    }
    j->bytes = ml_alloc(j->bytes_size);
    j->values = ml_alloc(j->values_size);
    return j->bytes && j->values ? ML_OK : ml_fail_memory(err, j->bytes_size + j->values_size, "pieces of tensors");
}

static ml_status check_disk(const job *j, const char *path, ml_error *err)
{
    char folder[ML_PATH_MAX];
    uint64_t n_free, need = j->total + (32 << 20);
    ML_TRY(ml_path_parent(folder, path, err));
    if (!ml_path_is_dir(folder)) return ml_fail(err, ML_EINVAL, "%s: there is no such folder: make it first", folder);
    ML_TRY(ml_disk_free(folder, &n_free, err));
    if (n_free >= need) return ML_OK;
    return ml_fail(err, ML_EIO, "%s: %.2f GB are needed, but its disk has %.2f GB free", path, (double)need / 1e9,
                   (double)n_free / 1e9);
}

static ml_status write_all(job *j, ml_gguf_writer *w, ml_error *err)
{
    ML_TRY(put_metadata(j, w, err));
    ML_TRY(declare(j, w, err));
    ML_TRY(allocate(j, err));
    ml_gguf_writer_split(w, j->x->split_bytes);
    ML_TRY(ml_gguf_writer_start(w, err));
    if (j->x->n_file) *j->x->n_file = ml_gguf_writer_file_count(w);
    for (size_t i = 0; i < j->x->layout->n; i++) {
        const ml_gguf_entry *e = &j->x->layout->entry[i];
        ML_TRY(write_tensor(j, w, e, j->dtype[i], err));
        if (j->x->finished) j->x->finished(j->x->arg, e);
    }
    return ml_gguf_writer_end(w, err);
}

ml_status ml_gguf_export_write(const ml_gguf_export *x, const char *path, ml_error *err)
{
    job j = { .x = x };
    ml_gguf_writer *w = NULL;
    ml_status status = choose_types(&j, err);
    if (status == ML_OK) status = check_disk(&j, path, err);
    if (status == ML_OK) status = ml_gguf_writer_begin(&w, path, err);
    if (status == ML_OK) status = write_all(&j, w, err);
    ml_gguf_writer_free(w);
    ml_free(j.values);
    ml_free(j.bytes);
    ml_free(j.dtype);
    return status;
}
