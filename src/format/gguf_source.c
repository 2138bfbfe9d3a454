#include "format/gguf_source.h"

#include "base/alloc.h"
#include "base/file.h"
#include "format/gguf_config.h"
#include "format/gguf_names.h"
#include "tensor/blocks.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    ml_weight_source base;
    ml_gguf *file;
    char *architecture;
    int64_t n_expert, n_head;
} gguf_source;

/* How the file stores a matrix: two or three dimensions. */
typedef struct {
    int n_dim;
    int64_t dim[3];
} stored_shape;

static stored_shape shape_of(const gguf_source *s, const ml_gguf_place *place, int n_dim, const int64_t *dim)
{
    stored_shape shape = { .n_dim = n_dim };
    memcpy(shape.dim, dim, (size_t)n_dim * sizeof *dim);
    bool split = place->stack == ML_GGUF_HEADS && n_dim == 2 && dim[0] % s->n_head == 0;
    if (place->stack == ML_GGUF_EXPERTS || split) {
        bool experts = place->stack == ML_GGUF_EXPERTS;
        shape =
            (stored_shape){ 3, { experts ? s->n_expert : s->n_head, experts ? dim[0] : dim[0] / s->n_head, dim[1] } };
    }
    return shape;
}

static bool has(const ml_weight_source *source, const char *name)
{
    const gguf_source *s = (const gguf_source *)source;
    ml_gguf_place place;
    return ml_gguf_place_of(s->architecture, name, &place) && ml_gguf_find(s->file, place.name);
}

/* Where the file has gate and up as one tensor, that becomes the place. */
static bool use_fused(const gguf_source *s, ml_gguf_place *place, bool *second)
{
    char name[ML_GGUF_TENSOR_NAME_MAX];
    bool fused =
        ml_gguf_fused_place(place, name, second) && !ml_gguf_find(s->file, place->name) && ml_gguf_find(s->file, name);
    if (fused) memcpy(place->name, name, sizeof name);
    if (!fused) *second = false;
    return fused;
}

static bool is_readable(const void *data, ml_dtype dtype)
{
    return ml_dtype_is_block(dtype) || (uintptr_t)data % ml_dtype_size(dtype) == 0;
}

static ml_status find(const ml_weight_source *source, const char *name, int n_dim, const int64_t *dim,
                      ml_stored_weight *out, ml_error *err)
{
    const gguf_source *s = (const gguf_source *)source;
    ml_gguf_place place;
    const ml_gguf_tensor *t;
    if (!ml_gguf_place_of(s->architecture, name, &place)) {
        return ml_fail(err, ML_EFORMAT, "%.300s: %.160s: files of architecture %.60s have no such weight",
                       s->base.where, name, s->architecture);
    }
    stored_shape shape = shape_of(s, &place, n_dim, dim);
    bool second = false, fused = use_fused(s, &place, &second);
    if (fused) shape.dim[1] *= 2;
    ML_TRY(ml_gguf_get(s->file, place.name, shape.n_dim, shape.dim, &t, err));
    *out = (ml_stored_weight){ .dtype = t->dtype, .n_dim = n_dim, .entry = t };
    memcpy(out->dim, dim, (size_t)n_dim * sizeof *dim);
    if (place.stack == ML_GGUF_EXPERTS) {
        if (place.expert >= s->n_expert) {
            return ml_fail(err, ML_EFORMAT, "%.300s: tensor %.160s: has %lld experts, not one of number %lld", t->file,
                           place.name, (long long)s->n_expert, (long long)place.expert);
        }
        out->first = place.expert * shape.dim[1] + (second ? dim[0] : 0);
    }
    if (t->dtype == ML_I32) {
        out->dtype = ML_F32;
        return ML_OK;
    }
    const uint8_t *data = t->data;
    if (out->first) data += (size_t)out->first * ml_dtype_row_bytes(t->dtype, dim[1]);
    if (is_readable(data, t->dtype)) out->data = data;
    return ML_OK;
}

/* n elements of a type that stores one number each, at any address. */
static ml_status convert_plain(const ml_gguf_tensor *t, const uint8_t *data, int64_t n, float *out)
{
    size_t size = ml_dtype_size(t->dtype);
    for (int64_t i = 0; i < n; i++) {
        uint8_t element[4];
        memcpy(element, data + (size_t)i * size, size);
        if (t->dtype == ML_I32) {
            int32_t value;
            memcpy(&value, element, sizeof value);
            out[i] = (float)value;
        } else {
            ml_convert_to_f32(t->dtype, element, &out[i], 1);
        }
    }
    return ML_OK;
}

static ml_status read_f32(const ml_weight_source *source, const ml_stored_weight *w, int64_t row, int64_t n_row,
                          float *out, ml_error *err)
{
    (void)source;
    const ml_gguf_tensor *t = w->entry;
    int64_t cols = 1;
    for (int i = 1; i < w->n_dim; i++) cols *= w->dim[i];
    int64_t block = ml_dtype_block_length(t->dtype), first = (w->first + row) * cols;
    if (row < 0 || n_row < 0 || row > w->dim[0] || n_row > w->dim[0] - row || first % block || n_row * cols % block) {
        return ml_fail(err, ML_EINVAL, "%.300s: tensor %.160s: rows %lld to %lld of it cannot be read", t->file,
                       t->name, (long long)row, (long long)(row + n_row));
    }
    if (!n_row) return ML_OK;
    const uint8_t *data = t->data + (size_t)(first / block) * ml_dtype_block_bytes(t->dtype);
    if (t->dtype == ML_I32 || !is_readable(data, t->dtype)) return convert_plain(t, data, n_row * cols, out);
    ml_convert_to_f32(t->dtype, data, out, n_row * cols);
    return ML_OK;
}

static void drop(const ml_weight_source *source, const void *data, size_t n_bytes)
{
    (void)source;
    ml_map_drop(data, n_bytes);
}

static void free_source(ml_weight_source *source)
{
    gguf_source *s = (gguf_source *)source;
    if (!s) return;
    ml_gguf_close(s->file);
    ml_free(s->architecture);
    ml_free(s);
}

const ml_gguf *ml_gguf_source_file(const ml_weight_source *source)
{
    return source->free == free_source ? ((const gguf_source *)source)->file : NULL;
}

ml_status ml_gguf_source_make(ml_gguf *g, ml_config *config, ml_weight_source **out, ml_error *err)
{
    *out = NULL;
    ML_TRY(ml_gguf_config(g, config, err));
    gguf_source *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "a model's file");
    s->base = (ml_weight_source){
        .where = ml_gguf_path(g), .has = has, .find = find, .read_f32 = read_f32, .free = free_source
    };
    s->n_expert = config->n_routed_experts;
    s->n_head = config->num_attention_heads;
    ml_status status = ml_gguf_copy_text(g, "general.architecture", &s->architecture, err);
    if (status != ML_OK) {
        free_source(&s->base);
        return status;
    }
    s->file = g;
    *out = &s->base;
    return ML_OK;
}

ml_status ml_gguf_source_open(const char *path, ml_config *config, ml_weight_source **out, ml_error *err)
{
    ml_gguf *g;
    *out = NULL;
    ML_TRY(ml_gguf_open(&g, path, err));
    ml_status status = ml_gguf_source_make(g, config, out, err);
    if (status == ML_OK)
        (*out)->drop = drop; // the pages are a file's: dropped ones are read again
    else
        ml_gguf_close(g);
    return status;
}
