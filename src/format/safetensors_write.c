/* Writing: everything is declared before the first byte, so that headers and shards are known and each file is
 * written, and hashed, from front to end. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "format/name_table.h"
#include "format/safetensors.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { DATA_ALIGN = 64, CHUNK_ELEMENTS = 1 << 16 };
#define SUFFIX ".safetensors"

typedef struct {
    char *name;
    ml_st_dtype dtype;
    int n_dim;
    int64_t shape[ML_SAFETENSORS_MAX_DIM];
    uint64_t n_bytes;
    size_t shard;
} declared;

struct ml_st_writer {
    ml_manifest *manifest;
    char name[ML_PATH_MAX]; /* as given: ends in SUFFIX */
    uint64_t max_shard_bytes;
    declared *tensors;
    size_t n_tensor, capacity;
    ml_name_table names;
    uint64_t total_bytes;
    bool started;
    size_t n_shard;
    size_t current;         /* tensor that the next data belongs to; n_tensor when all are written */
    uint64_t current_bytes; /* of it, written */
    bool is_open;
    ml_manifest_file file;
    uint16_t *chunk; /* [CHUNK_ELEMENTS] */
};

ml_status ml_st_writer_begin(ml_st_writer **out, ml_manifest *m, const char *name, uint64_t max_shard_bytes,
                             ml_error *err)
{
    *out = NULL;
    size_t n = strlen(name);
    if (n <= strlen(SUFFIX) || n >= ML_PATH_MAX || strcmp(name + n - strlen(SUFFIX), SUFFIX)) {
        return ml_fail(err, ML_EINVAL, "%s/%s: expected a file name that ends in %s", ml_manifest_folder(m), name,
                       SUFFIX);
    }
    ml_st_writer *w = ml_calloc(1, sizeof *w);
    if (!w) return ml_fail_memory(err, sizeof *w, name);
    w->chunk = ml_alloc(CHUNK_ELEMENTS * sizeof *w->chunk);
    if (!w->chunk) {
        ml_free(w);
        return ml_fail_memory(err, CHUNK_ELEMENTS * sizeof *w->chunk, name);
    }
    w->manifest = m;
    strcpy(w->name, name);
    w->max_shard_bytes = max_shard_bytes;
    *out = w;
    return ML_OK;
}

void ml_st_writer_free(ml_st_writer *w)
{
    if (!w) return;
    if (w->is_open) ml_manifest_abandon_file(&w->file);
    for (size_t i = 0; i < w->n_tensor; i++) ml_free(w->tensors[i].name);
    ml_free(w->tensors);
    ml_name_table_free(&w->names);
    ml_free(w->chunk);
    ml_free(w);
}

static ml_status fail_tensor(const ml_st_writer *w, const char *name, ml_error *err, const char *what)
{
    return ml_fail(err, ML_EINVAL, "%s/%s: tensor %s: %s", ml_manifest_folder(w->manifest), w->name, name, what);
}

static bool is_utf8(const char *text)
{
    json_t *value = json_string(text);
    json_decref(value);
    return value != NULL;
}

/* Sizes of a declaration; false when they overflow. */
static bool count_bytes(ml_st_dtype dtype, int n_dim, const int64_t *shape, size_t *n_bytes)
{
    size_t n = ml_st_dtype_size(dtype);
    for (int i = 0; i < n_dim; i++) {
        if (shape[i] < 0 || !ml_size_mul(n, (size_t)shape[i], &n) || n > INT64_MAX) return false;
    }
    *n_bytes = n;
    return true;
}

ml_status ml_st_writer_declare(ml_st_writer *w, const char *name, ml_st_dtype dtype, int n_dim, const int64_t *shape,
                               ml_error *err)
{
    size_t n_bytes;
    if (w->started) return fail_tensor(w, name, err, "was declared after writing began");
    if (n_dim < 0 || n_dim > ML_SAFETENSORS_MAX_DIM || !count_bytes(dtype, n_dim, shape, &n_bytes)) {
        return fail_tensor(w, name, err, "its shape cannot be stored");
    }
    if (!strcmp(name, "__metadata__") || !is_utf8(name)) return fail_tensor(w, name, err, "cannot be a tensor's name");
    ML_TRY(ml_grow((void **)&w->tensors, &w->capacity, w->n_tensor + 1, sizeof *w->tensors, err));
    declared *t = &w->tensors[w->n_tensor];
    *t = (declared){ .name = ml_strdup(name), .dtype = dtype, .n_dim = n_dim, .n_bytes = n_bytes };
    if (!t->name) return ml_fail_memory(err, strlen(name), "a tensor's name");
    if (n_dim) memcpy(t->shape, shape, (size_t)n_dim * sizeof *shape);
    bool added = false;
    ml_status status = ml_name_table_add(&w->names, t->name, &added, err);
    if (status == ML_OK && !added) status = fail_tensor(w, name, err, "was declared twice");
    if (status != ML_OK) {
        ml_free(t->name);
        return status;
    }
    w->n_tensor++;
    w->total_bytes += n_bytes;
    return ML_OK;
}

uint64_t ml_st_writer_bytes(const ml_st_writer *w)
{
    return w->total_bytes;
}

/* Fill files in the order declared; a file takes at least one tensor. */
static void assign_shards(ml_st_writer *w)
{
    uint64_t used = 0;
    size_t shard = 0;
    for (size_t i = 0; i < w->n_tensor; i++) {
        uint64_t n_bytes = w->tensors[i].n_bytes;
        if (w->max_shard_bytes && used && (n_bytes > w->max_shard_bytes || used > w->max_shard_bytes - n_bytes)) {
            shard++;
            used = 0;
        }
        w->tensors[i].shard = shard;
        used += n_bytes;
    }
    w->n_shard = shard + 1;
}

static ml_status shard_name(const ml_st_writer *w, size_t shard, char out[ML_PATH_MAX], ml_error *err)
{
    int base = (int)(strlen(w->name) - strlen(SUFFIX));
    int n = w->n_shard == 1
                ? snprintf(out, ML_PATH_MAX, "%s", w->name)
                : snprintf(out, ML_PATH_MAX, "%.*s-%05zu-of-%05zu%s", base, w->name, shard + 1, w->n_shard, SUFFIX);
    if (n < 0 || n >= ML_PATH_MAX) return ml_fail(err, ML_EINVAL, "%s: the path is too long", w->name);
    return ML_OK;
}

static json_t *tensor_to_json(const declared *t, uint64_t begin)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->n_dim; i++) json_array_append_new(shape, json_integer(t->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", ml_st_dtype_name(t->dtype), "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)(begin + t->n_bytes));
}

/* NULL when memory is out. */
static char *header_text(const ml_st_writer *w, size_t first)
{
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    uint64_t at = 0;
    int failed = !header;
    for (size_t i = first; i < w->n_tensor && w->tensors[i].shard == w->tensors[first].shard && !failed; i++) {
        failed = json_object_set_new(header, w->tensors[i].name, tensor_to_json(&w->tensors[i], at));
        at += w->tensors[i].n_bytes;
    }
    char *text = failed ? NULL : json_dumps(header, JSON_COMPACT);
    json_decref(header);
    return text;
}

/* Begin the file whose first tensor is `first`: length, JSON, spaces up to the alignment. */
static ml_status open_shard(ml_st_writer *w, size_t first, ml_error *err)
{
    char name[ML_PATH_MAX];
    ML_TRY(shard_name(w, first < w->n_tensor ? w->tensors[first].shard : 0, name, err));
    char *text = header_text(w, first);
    if (!text) return ml_fail_memory(err, w->n_tensor, "a safetensors header");
    size_t n = strlen(text), padding = (DATA_ALIGN - (8 + n) % DATA_ALIGN) % DATA_ALIGN;
    uint8_t length[8];
    char spaces[DATA_ALIGN];
    ml_store_u64(length, n + padding);
    memset(spaces, ' ', sizeof spaces);
    ml_status status;
    ML_TRY_GOTO(ml_manifest_open_file(&w->file, w->manifest, name, err));
    w->is_open = true;
    ML_TRY_GOTO(ml_manifest_write(&w->file, length, sizeof length, err));
    ML_TRY_GOTO(ml_manifest_write(&w->file, text, n, err));
    ML_TRY_GOTO(ml_manifest_write(&w->file, spaces, padding, err));
done:
    free(text);
    return status;
}

static ml_status close_shard(ml_st_writer *w, ml_error *err)
{
    ml_status status = ml_manifest_close_file(&w->file, err);
    ml_manifest_abandon_file(&w->file);
    w->is_open = false;
    return status;
}

/* Step over what is complete, from file to file. */
static ml_status advance(ml_st_writer *w, ml_error *err)
{
    while (w->current < w->n_tensor && w->current_bytes == w->tensors[w->current].n_bytes) {
        size_t next = w->current + 1;
        if (next < w->n_tensor && w->tensors[next].shard != w->tensors[w->current].shard) {
            ML_TRY(close_shard(w, err));
            ML_TRY(open_shard(w, next, err));
        }
        w->current = next;
        w->current_bytes = 0;
    }
    return ML_OK;
}

ml_status ml_st_writer_start(ml_st_writer *w, ml_error *err)
{
    assert(!w->started);
    w->started = true;
    assign_shards(w);
    ML_TRY(open_shard(w, 0, err));
    return advance(w, err);
}

/* The tensor that takes n_bytes more, if it is so. */
static ml_status expect_bytes(const ml_st_writer *w, uint64_t n_bytes, ml_error *err)
{
    assert(w->started);
    if (w->current == w->n_tensor) {
        return ml_fail(err, ML_EINVAL, "%s/%s: more data is given than was declared", ml_manifest_folder(w->manifest),
                       w->name);
    }
    const declared *t = &w->tensors[w->current];
    if (n_bytes > t->n_bytes - w->current_bytes) {
        return fail_tensor(w, t->name, err, "more data is given than its shape has");
    }
    return ML_OK;
}

ml_status ml_st_writer_put_raw(ml_st_writer *w, const void *data, size_t n_bytes, ml_error *err)
{
    if (n_bytes == 0) return ML_OK;
    ML_TRY(expect_bytes(w, n_bytes, err));
    ML_TRY(ml_manifest_write(&w->file, data, n_bytes, err));
    w->current_bytes += n_bytes;
    return advance(w, err);
}

ml_status ml_st_writer_put_f32(ml_st_writer *w, const float *values, int64_t n, ml_error *err)
{
    if (n == 0) return ML_OK;
    ML_TRY(expect_bytes(w, 0, err));
    const declared *t = &w->tensors[w->current];
    ml_dtype dtype;
    if (!ml_st_dtype_to_float(t->dtype, &dtype)) {
        return fail_tensor(w, t->name, err, "fp32 values are given for a type that is not F32, BF16 or F16");
    }
    size_t size = ml_dtype_size(dtype), n_bytes;
    if (n < 0 || !ml_size_mul((size_t)n, size, &n_bytes)) return fail_tensor(w, t->name, err, "absurd count of values");
    ML_TRY(expect_bytes(w, n_bytes, err));
    if (dtype == ML_F32) return ml_st_writer_put_raw(w, values, n_bytes, err);
    for (int64_t i = 0; i < n; i += CHUNK_ELEMENTS) {
        int64_t count = n - i < CHUNK_ELEMENTS ? n - i : CHUNK_ELEMENTS;
        ml_convert_from_f32(dtype, values + i, w->chunk, count);
        ML_TRY(ml_st_writer_put_raw(w, w->chunk, (size_t)count * size, err));
    }
    return ML_OK;
}

static ml_status put_index(ml_st_writer *w, ml_error *err)
{
    char name[ML_PATH_MAX];
    if (snprintf(name, sizeof name, "%s.index.json", w->name) >= ML_PATH_MAX) {
        return ml_fail(err, ML_EINVAL, "%s: the path is too long", w->name);
    }
    json_t *weight_map = json_object();
    int failed = !weight_map;
    for (size_t i = 0; i < w->n_tensor && !failed; i++) {
        char file[ML_PATH_MAX];
        ml_status status = shard_name(w, w->tensors[i].shard, file, err);
        if (status != ML_OK) {
            json_decref(weight_map);
            return status;
        }
        const char *slash = strrchr(file, '/');
        failed = json_object_set_new(weight_map, w->tensors[i].name, json_string(slash ? slash + 1 : file));
    }
    json_t *index = failed ? NULL
                           : json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)w->total_bytes,
                                       "weight_map", weight_map);
    json_decref(weight_map);
    if (!index) return ml_fail_memory(err, w->n_tensor, "a safetensors index");
    ml_status status = ml_manifest_put_json(w->manifest, name, index, err);
    json_decref(index);
    return status;
}

ml_status ml_st_writer_end(ml_st_writer *w, ml_error *err)
{
    assert(w->started);
    if (w->current < w->n_tensor) {
        return fail_tensor(w, w->tensors[w->current].name, err, "did not get all its data");
    }
    ML_TRY(close_shard(w, err));
    return w->n_shard > 1 ? put_index(w, err) : ML_OK;
}
