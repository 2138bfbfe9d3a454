#include "quant/importance.h"

#include "base/alloc.h"
#include "base/file.h"
#include "format/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUMS ".in_sum2"
#define COUNTS ".counts"

ml_status ml_importance_add(ml_importance *im, const char *name, int64_t n_matrix, int64_t n_col,
                            ml_importance_entry **out, ml_error *err)
{
    size_t index;
    if (strlen(name) >= ML_GGUF_TENSOR_NAME_MAX) return ml_fail(err, ML_EINVAL, "%.100s: the name is too long", name);
    for (index = 0; index < im->n; index++) {
        if (!strcmp(im->entry[index].name, name)) return ml_fail(err, ML_EINVAL, "%s: is there twice", name);
    }
    ML_TRY(ml_grow((void **)&im->entry, &im->capacity, im->n + 1, sizeof *im->entry, err));
    ml_importance_entry *e = &im->entry[im->n];
    *e = (ml_importance_entry){ .n_matrix = n_matrix, .n_col = n_col };
    strcpy(e->name, name);
    size_t n = 0;
    bool fits = ml_size_mul((size_t)n_matrix, (size_t)n_col, &n);
    e->sum = fits ? ml_calloc(n, sizeof *e->sum) : NULL;
    e->mean = fits ? ml_calloc(n, sizeof *e->mean) : NULL;
    e->count = ml_calloc((size_t)n_matrix, sizeof *e->count);
    im->n++;
    if (!e->sum || !e->mean || !e->count) return ml_fail_memory(err, n * sizeof *e->mean, name);
    *out = e;
    return ML_OK;
}

void ml_importance_finish(ml_importance_entry *e)
{
    for (int64_t i = 0; i < e->n_matrix; i++) {
        float scale = e->count[i] > 0 ? 1 / e->count[i] : 0;
        for (int64_t j = i * e->n_col; j < (i + 1) * e->n_col; j++) e->mean[j] = e->sum[j] * scale;
    }
}

void ml_importance_free(ml_importance *im)
{
    for (size_t i = 0; i < im->n; i++) {
        ml_free(im->entry[i].sum);
        ml_free(im->entry[i].mean);
        ml_free(im->entry[i].count);
    }
    ml_free(im->entry);
    *im = (ml_importance){ 0 };
}

/* Of an entry with the columns of all matrices end to end; a matrix of zeros saw nothing. */
static const float *find_in_row(const ml_importance_entry *x, int64_t n_col, int64_t part)
{
    const float *mean = x->mean + part * n_col;
    for (int64_t j = 0; j < n_col; j++) {
        if (mean[j] > 0) return mean;
    }
    return NULL;
}

ml_status ml_importance_find(const ml_importance *im, const ml_gguf_entry *e, int64_t part, const float **out,
                             ml_error *err)
{
    *out = NULL;
    for (size_t i = 0; i < im->n; i++) {
        const ml_importance_entry *x = &im->entry[i];
        if (strcmp(x->name, e->name)) continue;
        if (x->n_matrix == 1 && e->n_part > 1 && x->n_col / e->n_part == e->cols && x->n_col % e->n_part == 0) {
            *out = find_in_row(x, e->cols, part);
            return ML_OK;
        }
        if (x->n_col != e->cols || (x->n_matrix != 1 && x->n_matrix != e->n_part)) {
            return ml_fail(err, ML_EINVAL,
                           "importance of %s: expected %lld columns of 1 or %lld matrices, found %lld of %lld: it was "
                           "gathered from another model",
                           e->name, (long long)e->cols, (long long)e->n_part, (long long)x->n_col,
                           (long long)x->n_matrix);
        }
        int64_t matrix = x->n_matrix == 1 ? 0 : part;
        if (x->count[matrix] > 0) *out = x->mean + matrix * x->n_col;
        return ML_OK;
    }
    return ML_OK;
}

/* ---- coverage ---- */

static int compare_counts(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static bool is_of_experts(const ml_importance_entry *x)
{
    return x->n_matrix > 1 && strstr(x->name, "ffn_down_exps");
}

ml_status ml_importance_measure_coverage(const ml_importance *im, ml_importance_coverage *out, ml_error *err)
{
    size_t n = 0;
    *out = (ml_importance_coverage){ 0 };
    for (size_t i = 0; i < im->n; i++) n += is_of_experts(&im->entry[i]) ? (size_t)im->entry[i].n_matrix : 0;
    if (n == 0) return ML_OK;
    float *count = ml_calloc(n, sizeof *count);
    if (!count) return ml_fail_memory(err, n * sizeof *count, "counts of experts");
    n = 0;
    for (size_t i = 0; i < im->n; i++) {
        const ml_importance_entry *x = &im->entry[i];
        if (!is_of_experts(x)) continue;
        memcpy(count + n, x->count, (size_t)x->n_matrix * sizeof *count);
        n += (size_t)x->n_matrix;
    }
    qsort(count, n, sizeof *count, compare_counts);
    while (out->n_unseen < (int64_t)n && count[out->n_unseen] == 0) out->n_unseen++;
    out->n_expert = (int64_t)n;
    out->fewest = (double)count[0];
    out->median = (double)count[n / 2];
    out->most = (double)count[n - 1];
    ml_free(count);
    return ML_OK;
}

/* ---- files ---- */

static ml_status fail_values(const ml_gguf_tensor *t, const char *expected, ml_error *err)
{
    return ml_fail(err, ML_EFORMAT, "%.300s: tensor %.160s: expected %s", t->file, t->name, expected);
}

static ml_status load_entry(const ml_gguf *g, const ml_gguf_tensor *sums, const char *name, ml_importance *im,
                            ml_error *err)
{
    char counts_name[ML_GGUF_TENSOR_NAME_MAX + sizeof COUNTS];
    const ml_gguf_tensor *counts;
    ml_importance_entry *e;
    int64_t n_col = sums->n_dim ? sums->shape[sums->n_dim - 1] : 0, n_matrix = n_col ? sums->n_element / n_col : 0;
    snprintf(counts_name, sizeof counts_name, "%s%s", name, COUNTS);
    ML_TRY(ml_gguf_get(g, counts_name, -1, NULL, &counts, err));
    if (sums->dtype != ML_F32 || !sums->n_element) return fail_values(sums, "some numbers of f32", err);
    if (counts->dtype != ML_F32 || counts->n_element != n_matrix) {
        return fail_values(counts, "one number of f32 for each matrix", err);
    }
    ML_TRY(ml_importance_add(im, name, n_matrix, n_col, &e, err));
    memcpy(e->sum, sums->data, sums->n_bytes);
    memcpy(e->count, counts->data, counts->n_bytes);
    for (int64_t i = 0; i < n_matrix; i++) {
        if (!(e->count[i] >= 0 && isfinite(e->count[i]))) return fail_values(counts, "numbers of 0 or more", err);
        for (int64_t j = 0; j < n_col; j++) {
            float sum = e->sum[i * n_col + j];
            if (!(sum >= 0 && isfinite(sum))) return fail_values(sums, "sums of squares", err);
        }
    }
    ml_importance_finish(e);
    return ML_OK;
}

static ml_status load(const ml_gguf *g, ml_importance *out, ml_error *err)
{
    for (size_t i = 0; i < ml_gguf_count(g); i++) {
        const ml_gguf_tensor *t = ml_gguf_at(g, i);
        size_t n = strlen(t->name), n_end = strlen(SUMS);
        char name[ML_GGUF_TENSOR_NAME_MAX];
        if (n <= n_end || strcmp(t->name + n - n_end, SUMS)) continue;
        if (n - n_end >= sizeof name) return fail_values(t, "a shorter name", err);
        memcpy(name, t->name, n - n_end);
        name[n - n_end] = 0;
        ML_TRY(load_entry(g, t, name, out, err));
    }
    if (out->n) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%.300s: holds no tensor named *" SUMS ": expected an importance matrix",
                   ml_gguf_path(g));
}

ml_status ml_importance_load(const char *path, ml_importance *out, ml_error *err)
{
    ml_gguf *g;
    bool gguf;
    *out = (ml_importance){ 0 };
    ML_TRY(ml_gguf_is_file(path, &gguf, err));
    if (!gguf) return ml_importance_load_dat(path, out, err);
    ML_TRY(ml_gguf_open(&g, path, err));
    ml_status status = load(g, out, err);
    ml_gguf_close(g);
    if (status != ML_OK) ml_importance_free(out);
    return status;
}

static ml_status declare(const ml_importance *im, ml_gguf_writer *w, ml_error *err)
{
    char name[ML_GGUF_TENSOR_NAME_MAX + sizeof SUMS];
    ML_TRY(ml_gguf_writer_set_text(w, "general.type", "imatrix", err));
    ML_TRY(ml_gguf_writer_set_u32(w, "imatrix.chunk_size", (uint32_t)(im->n_token ? im->n_token : 1), err));
    ML_TRY(ml_gguf_writer_set_u32(w, "imatrix.chunk_count", 1, err));
    for (size_t i = 0; i < im->n; i++) {
        const ml_importance_entry *e = &im->entry[i];
        snprintf(name, sizeof name, "%s%s", e->name, SUMS);
        ML_TRY(ml_gguf_writer_declare(w, name, ML_F32, 2, (int64_t[]){ e->n_matrix, e->n_col }, err));
        snprintf(name, sizeof name, "%s%s", e->name, COUNTS);
        ML_TRY(ml_gguf_writer_declare(w, name, ML_F32, 2, (int64_t[]){ e->n_matrix, 1 }, err));
    }
    return ml_gguf_writer_start(w, err);
}

static ml_status put_entry(const ml_importance_entry *e, ml_gguf_writer *w, ml_error *err)
{
    ML_TRY(ml_gguf_writer_put(w, e->sum, (size_t)(e->n_matrix * e->n_col) * sizeof *e->sum, err));
    return ml_gguf_writer_put(w, e->count, (size_t)e->n_matrix * sizeof *e->count, err);
}

ml_status ml_importance_save(const ml_importance *im, const char *path, ml_error *err)
{
    ml_gguf_writer *w = NULL;
    ML_TRY(ml_gguf_writer_begin(&w, path, err));
    ml_status status = declare(im, w, err);
    for (size_t i = 0; i < im->n && status == ML_OK; i++) status = put_entry(&im->entry[i], w, err);
    if (status == ML_OK) status = ml_gguf_writer_end(w, err);
    ml_gguf_writer_free(w);
    return status;
}
