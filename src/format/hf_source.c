/* The weights of a Hugging Face folder, where they are. */
#include "format/hf.h"
#include "format/hf_names.h"

#include "format/safetensors.h"

#include <stdio.h>
#include <string.h>

enum { FP8_BLOCK = 128 }; /* DeepSeek's FP8: one scale for each 128 x 128 */

typedef struct {
    ml_weight_source base;
    ml_safetensors *file;
    const char *class_name;
    char where[ML_PATH_MAX];
} hf_source;

static const ml_st_tensor *find_stored(const hf_source *s, const char *name, int n_dim, const int64_t *dim,
                                       ml_hf_tensor *stored)
{
    *stored = ml_hf_stored_as(s->class_name, name, n_dim, dim);
    return ml_safetensors_find(s->file, stored->name);
}

static bool has(const ml_weight_source *source, const char *name)
{
    ml_hf_tensor stored;
    return find_stored((const hf_source *)source, name, 1, (int64_t[]){ 1 }, &stored) != NULL;
}

static void name_scales(const ml_st_tensor *t, char out[ML_WEIGHT_NAME_MAX + 32])
{
    snprintf(out, ML_WEIGHT_NAME_MAX + 32, "%.*s_scale_inv", ML_WEIGHT_NAME_MAX + 16, t->name);
}

/* Integers are codes whose meaning is not in the file, FP8 means nothing without its scales, and nobody publishes
 * weights in F64: whatever else was read as numbers would answer with rubbish. */
static ml_status check_encoding(const ml_safetensors *file, const ml_st_tensor *t, ml_error *err)
{
    char scales[ML_WEIGHT_NAME_MAX + 32];
    ml_dtype plain;
    if (ml_st_dtype_to_float(t->dtype, &plain)) return ML_OK;
    if (t->dtype != ML_ST_F8_E4M3) {
        return ml_fail(err, ML_EINVAL,
                       "%.300s: tensor %.160s: expected weights of type BF16, F16, F32, or F8_E4M3 with scales, found "
                       "%s: use the model's unquantised folder, or a GGUF file of it",
                       t->file, t->name, ml_st_dtype_name(t->dtype));
    }
    name_scales(t, scales);
    if (t->n_dim == 2 && ml_safetensors_find(file, scales)) return ML_OK;
    return ml_fail(err, ML_EFORMAT,
                   "%.300s: tensor %.160s: is of type F8_E4M3, which has scales beside it, but there is no tensor "
                   "%.160s: use the model's unquantised folder, or a GGUF file of it",
                   t->file, t->name, scales);
}

/* Operators read elements of their own size only where they are aligned to it. */
static bool is_aligned(const void *data, ml_dtype dtype)
{
    return (uintptr_t)data % ml_dtype_size(dtype) == 0;
}

static ml_status find(const ml_weight_source *source, const char *name, int n_dim, const int64_t *dim,
                      ml_stored_weight *out, ml_error *err)
{
    const hf_source *s = (const hf_source *)source;
    ml_hf_tensor stored;
    const ml_st_tensor *t = find_stored(s, name, n_dim, dim, &stored);
    ML_TRY(ml_safetensors_get(s->file, stored.name, stored.n_dim, stored.dim, &t, err));
    ML_TRY(check_encoding(s->file, t, err));
    *out = (ml_stored_weight){ .dtype = ML_BF16, .n_dim = n_dim, .entry = t };
    memcpy(out->dim, dim, (size_t)n_dim * sizeof *dim);
    if (ml_st_dtype_to_float(t->dtype, &out->dtype) && is_aligned(t->data, out->dtype)) out->data = t->data;
    return ML_OK;
}

/* Multiply rows [row, row + n_row) of an FP8 matrix by the scales stored beside it. */
static ml_status apply_scales(const ml_safetensors *file, const ml_st_tensor *t, int64_t row, int64_t n_row, float *x,
                              ml_error *err)
{
    const ml_st_tensor *scales;
    char name[ML_WEIGHT_NAME_MAX + 32];
    name_scales(t, name);
    int64_t cols = t->shape[1], n_block = (cols + FP8_BLOCK - 1) / FP8_BLOCK;
    int64_t shape[2] = { (t->shape[0] + FP8_BLOCK - 1) / FP8_BLOCK, n_block };
    ML_TRY(ml_safetensors_get(file, name, 2, shape, &scales, err));
    float *scale = ml_alloc((size_t)n_block * sizeof *scale);
    if (!scale) return ml_fail_memory(err, (size_t)n_block * sizeof *scale, name);
    ml_status status = ML_OK;
    for (int64_t r = 0; r < n_row && status == ML_OK; r++) {
        if (r == 0 || (row + r) % FP8_BLOCK == 0) {
            status = ml_st_read_f32(scales, (row + r) / FP8_BLOCK, 1, scale, err);
        }
        for (int64_t j = 0; j < cols && status == ML_OK; j++) x[r * cols + j] *= scale[j / FP8_BLOCK];
    }
    ml_free(scale);
    return status;
}

ml_status ml_hf_read_f32(const ml_safetensors *file, const ml_st_tensor *t, int64_t row, int64_t n_row, float *out,
                         ml_error *err)
{
    bool narrow = t->dtype == ML_ST_F8_E4M3 || t->dtype == ML_ST_F8_E5M2;
    if (narrow) ML_TRY(check_encoding(file, t, err));
    ML_TRY(ml_st_read_f32(t, row, n_row, out, err));
    return narrow ? apply_scales(file, t, row, n_row, out, err) : ML_OK;
}

static ml_status read_f32(const ml_weight_source *source, const ml_stored_weight *w, int64_t row, int64_t n_row,
                          float *out, ml_error *err)
{
    const hf_source *s = (const hf_source *)source;
    const ml_st_tensor *t = w->entry;
    /* Ernie's bias is one row of all experts. */
    if (t->n_dim == 2 && w->n_dim == 1) return ml_st_read_all_f32(t, out, err);
    ML_TRY(ml_hf_read_f32(s->file, t, row, n_row, out, err));
    /* What no operator reads in place has been copied: its pages may go. */
    size_t row_bytes = t->n_dim && t->shape[0] ? t->n_bytes / (size_t)t->shape[0] : 0;
    if (!w->data && source->drop) ml_map_drop(t->data + (size_t)row * row_bytes, (size_t)n_row * row_bytes);
    return ML_OK;
}

static void drop(const ml_weight_source *source, const void *data, size_t n_bytes)
{
    (void)source;
    ml_map_drop(data, n_bytes);
}

const ml_safetensors *ml_hf_source_file(const ml_weight_source *source)
{
    return source->find == find ? ((const hf_source *)source)->file : NULL;
}

static void free_source(ml_weight_source *source)
{
    hf_source *s = (hf_source *)source;
    if (!s) return;
    ml_safetensors_close(s->file);
    ml_free(s);
}

/* The rows of embedding and head decide: a checkpoint may have more of them than config.json says, and they stay. */
static ml_status take_vocab_size(const hf_source *s, ml_config *c, ml_error *err)
{
    const ml_st_tensor *t = ml_safetensors_find(s->file, "model.embed_tokens.weight");
    if (!t || t->n_dim != 2 || t->shape[0] <= c->vocab_size) return ML_OK;
    c->vocab_size = t->shape[0];
    return ml_config_check(c, s->where, err);
}

ml_status ml_hf_source_open(const char *path, ml_config *config, ml_weight_source **out, ml_error *err)
{
    char folder[ML_PATH_MAX], config_path[ML_PATH_MAX];
    bool is_folder = ml_path_is_dir(path);
    *out = NULL;
    if (!is_folder) ML_TRY(ml_path_parent(folder, path, err));
    ML_TRY(ml_path_join(config_path, is_folder ? path : folder, "config.json", err));
    ML_TRY(ml_config_load(config_path, config, err));
    ml_safetensors *file;
    ML_TRY(ml_safetensors_open(&file, path, err));
    ml_status status = ml_hf_source_make(file, path, config, out, err);
    if (status == ML_OK)
        (*out)->drop = drop; // the pages are a file's: dropped ones are read again
    else
        ml_safetensors_close(file);
    return status;
}

ml_status ml_hf_source_make(ml_safetensors *file, const char *where, ml_config *config, ml_weight_source **out,
                            ml_error *err)
{
    *out = NULL;
    hf_source *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "a model's file");
    s->base =
        (ml_weight_source){ .where = s->where, .has = has, .find = find, .read_f32 = read_f32, .free = free_source };
    s->class_name = ml_config_class_name(config);
    snprintf(s->where, sizeof s->where, "%s", where);
    s->file = file;
    ml_status status = take_vocab_size(s, config, err);
    if (status != ML_OK) {
        ml_free(s);
        return status;
    }
    *out = &s->base;
    return ML_OK;
}
