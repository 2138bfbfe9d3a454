#include "format/pt_internal.h"

#include "base/alloc.h"

#include <string.h>

static ml_status open_bytes(ml_pt *pt, const uint8_t *data, size_t n_bytes, ml_error *err)
{
    ml_status status = ml_pt_read_container(pt, data, n_bytes, err);
    if (status == ML_OK) status = ml_pt_make_tensors(pt, err);
    if (status == ML_OK) status = ml_pt_name_tensors(pt, err);
    return status == ML_OK ? ML_OK : ml_fail_prefix(err, "%.300s", pt->path);
}

static ml_status make_pt(ml_pt **out, const char *path, ml_error *err)
{
    *out = NULL;
    ml_pt *pt = ml_calloc(1, sizeof *pt);
    if (!pt) return ml_fail_memory(err, sizeof *pt, path);
    pt->path = ml_strdup(path);
    if (!pt->path) {
        ml_free(pt);
        return ml_fail_memory(err, strlen(path), "a path");
    }
    *out = pt;
    return ML_OK;
}

static ml_status finish_open(ml_status status, ml_pt **out)
{
    if (status == ML_OK) return ML_OK;
    ml_pt_close(*out);
    *out = NULL;
    return status;
}

ml_status ml_pt_open(ml_pt **out, const char *path, ml_error *err)
{
    ML_TRY(make_pt(out, path, err));
    ml_pt *pt = *out;
    ml_status status = ml_map_open(path, &pt->map, err);
    if (status == ML_OK) status = open_bytes(pt, pt->map.data, pt->map.size, err);
    return finish_open(status, out);
}

ml_status ml_pt_open_memory(ml_pt **out, const void *data, size_t n_bytes, const char *where, ml_error *err)
{
    ML_TRY(make_pt(out, where, err));
    return finish_open(open_bytes(*out, data, n_bytes, err), out);
}

void ml_pt_close(ml_pt *pt)
{
    if (!pt) return;
    for (size_t i = 0; i < pt->n_tensor; i++) ml_free(pt->names[i]);
    ml_free(pt->names);
    ml_free(pt->tensors);
    ml_free(pt->made);
    ml_free(pt->tensor_of);
    ml_free(pt->keys);
    ml_free(pt->storages);
    ml_free(pt->folder);
    ml_name_table_free(&pt->storage_keys);
    ml_name_table_free(&pt->table);
    ml_zip_close(&pt->zip);
    ml_pickle_free(pt->values);
    ml_map_close(&pt->map);
    ml_free(pt->path);
    ml_free(pt);
}

size_t ml_pt_count(const ml_pt *pt)
{
    return pt->n_tensor;
}

const ml_pt_tensor *ml_pt_at(const ml_pt *pt, size_t i)
{
    return &pt->tensors[i];
}

const ml_pt_tensor *ml_pt_find(const ml_pt *pt, const char *name)
{
    size_t index;
    return ml_name_table_find(&pt->table, name, &index) ? &pt->tensors[index] : NULL;
}

ml_status ml_pt_get(const ml_pt *pt, const char *name, int n_dim, const int64_t *shape, const ml_pt_tensor **out,
                    ml_error *err)
{
    const ml_pt_tensor *t = ml_pt_find(pt, name);
    if (!t) {
        return ml_fail(err, ML_EFORMAT,
                       "%.300s: tensor %.160s: is missing among the %zu there: is this the right model?", pt->path,
                       name, pt->n_tensor);
    }
    if (n_dim >= 0 && (t->n_dim != n_dim || (n_dim && memcmp(t->shape, shape, (size_t)n_dim * sizeof *shape)))) {
        return ml_fail(err, ML_EFORMAT,
                       "%.300s: tensor %.160s: has another shape than expected: %d dimensions, %lld "
                       "elements",
                       pt->path, name, t->n_dim, (long long)t->n_element);
    }
    *out = t;
    return ML_OK;
}

const ml_pickle *ml_pt_values(const ml_pt *pt)
{
    return pt->values;
}

/* Elements of the tensor, in order, from `first` on, packed. */
static void gather(const ml_pt_tensor *t, int64_t first, int64_t n, uint8_t *out)
{
    size_t size = ml_st_dtype_size(t->dtype);
    int64_t index[ML_SAFETENSORS_MAX_DIM];
    for (int i = t->n_dim - 1; i >= 0; i--) {
        index[i] = first % t->shape[i];
        first /= t->shape[i];
    }
    for (int64_t k = 0; k < n; k++) {
        int64_t at = 0;
        for (int i = 0; i < t->n_dim; i++) at += index[i] * t->stride[i];
        memcpy(out + (size_t)k * size, t->data + (size_t)at * size, size);
        for (int i = t->n_dim - 1; i >= 0 && ++index[i] == t->shape[i]; i--) index[i] = 0;
    }
}

static bool is_packed(const ml_pt_tensor *t)
{
    int64_t expected = 1;
    for (int i = t->n_dim - 1; i >= 0; i--) {
        if (t->shape[i] != 1 && t->stride[i] != expected) return false;
        expected *= t->shape[i];
    }
    return true;
}

ml_status ml_pt_read_f32(const ml_pt_tensor *t, int64_t row, int64_t n_row, float *out, ml_error *err)
{
    enum { BLOCK = 4096 };
    ml_st_tensor packed = { .name = t->name, .file = t->file, .dtype = t->dtype, .n_dim = t->n_dim };
    packed.n_element = t->n_element;
    packed.data = t->data;
    memcpy(packed.shape, t->shape, sizeof t->shape);
    if (is_packed(t)) return ml_st_read_f32(&packed, row, n_row, out, err);
    int64_t rows = t->n_dim ? t->shape[0] : 1;
    if (row < 0 || n_row < 0 || row > rows || n_row > rows - row) {
        return ml_fail(err, ML_EINVAL, "%s: tensor %s has %lld rows, asked for rows %lld to %lld", t->file, t->name,
                       (long long)rows, (long long)row, (long long)row + (long long)n_row);
    }
    if (!n_row || !t->n_element) return ML_OK;
    int64_t width = t->n_element / rows, first = row * width, n = n_row * width;
    uint8_t block[BLOCK * 8];
    packed.data = block;
    packed.n_dim = 1;
    for (int64_t i = 0; i < n; i += BLOCK) {
        packed.n_element = packed.shape[0] = n - i < BLOCK ? n - i : BLOCK;
        gather(t, first + i, packed.n_element, block);
        ML_TRY(ml_st_read_all_f32(&packed, out + i, err));
    }
    return ML_OK;
}

ml_status ml_pt_read_all_f32(const ml_pt_tensor *t, float *out, ml_error *err)
{
    return ml_pt_read_f32(t, 0, t->n_dim ? t->shape[0] : 1, out, err);
}
