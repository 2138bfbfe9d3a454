/* Reading. The header of each file is parsed into JSON, which is kept for the names in it; the tensors of all
 * files stand in one array with a hash table over their names. */
#include "format/safetensors.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/json.h"
#include "base/text.h"
#include "format/name_table.h"

#include <stdlib.h>
#include <string.h>

/* The reference implementation's limit; DeepSeek-V3's largest header has less than a tenth of a megabyte. */
#define MAX_HEADER_BYTES 100000000u
#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"

typedef struct {
    char *path;
    ml_map map; /* not used for a file in memory */
    json_t *header;
} shard;

struct ml_safetensors {
    shard *shards;
    size_t n_shard, shard_capacity;
    ml_st_tensor *tensors;
    size_t n_tensor, tensor_capacity;
    ml_name_table names; /* index i is tensors[i] */
};

static bool parse_dtype(const char *name, ml_st_dtype *out)
{
    for (int i = 0; i < ML_ST_N_DTYPE; i++) {
        if (strcmp(name, ml_st_dtype_name((ml_st_dtype)i))) continue;
        *out = (ml_st_dtype)i;
        return true;
    }
    return false;
}

static ml_status parse_shape(const json_t *value, const char *where, ml_st_tensor *t, ml_error *err)
{
    json_t *shape;
    ML_TRY(ml_json_array(value, "shape", where, &shape, err));
    size_t n_dim = json_array_size(shape);
    if (n_dim > ML_SAFETENSORS_MAX_DIM) {
        return ml_fail(err, ML_EFORMAT, "%s: key \"shape\": expected at most %d dimensions, found %zu", where,
                       ML_SAFETENSORS_MAX_DIM, n_dim);
    }
    size_t n_element = 1;
    for (size_t i = 0; i < n_dim; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0) {
            return ml_fail(err, ML_EFORMAT, "%s: key \"shape\": entry %zu is not a whole number >= 0", where, i);
        }
        t->shape[i] = json_integer_value(dim);
        if (!ml_size_mul(n_element, (size_t)t->shape[i], &n_element) || n_element > INT64_MAX) {
            return ml_fail(err, ML_EFORMAT, "%s: key \"shape\": the product of the dimensions overflows", where);
        }
    }
    t->n_dim = (int)n_dim;
    t->n_element = (int64_t)n_element;
    return ML_OK;
}

static ml_status parse_offsets(const json_t *value, const char *where, ml_bytes data, ml_st_tensor *t, ml_error *err)
{
    json_t *offsets;
    ML_TRY(ml_json_array(value, "data_offsets", where, &offsets, err));
    const json_t *first = json_array_get(offsets, 0), *second = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(second)) {
        return ml_fail(err, ML_EFORMAT, "%s: key \"data_offsets\": expected two whole numbers", where);
    }
    int64_t begin = json_integer_value(first), end = json_integer_value(second);
    if (begin < 0 || end < begin || (uint64_t)end > data.size) {
        return ml_fail(err, ML_EFORMAT,
                       "%s: key \"data_offsets\": [%lld, %lld] lies outside the %zu bytes of data: the file was cut "
                       "off or is damaged",
                       where, (long long)begin, (long long)end, data.size);
    }
    size_t expected;
    if (!ml_size_mul((size_t)t->n_element, ml_st_dtype_size(t->dtype), &expected) ||
        expected != (size_t)(end - begin)) {
        return ml_fail(err, ML_EFORMAT,
                       "%s: key \"data_offsets\": [%lld, %lld] is %lld bytes, but the shape has %lld elements of %s",
                       where, (long long)begin, (long long)end, (long long)(end - begin), (long long)t->n_element,
                       ml_st_dtype_name(t->dtype));
    }
    t->data = data.data + begin;
    t->n_bytes = expected;
    return ML_OK;
}

static ml_status parse_tensor(const char *path, const char *name, const json_t *value, ml_bytes data, ml_st_tensor *out,
                              ml_error *err)
{
    char where[ML_ERROR_MAX / 2];
    snprintf(where, sizeof where, "%.300s: tensor %.160s", path, name);
    ml_st_tensor t = { .name = name, .file = path };
    const char *dtype;
    ML_TRY(ml_json_text(value, "dtype", where, &dtype, err));
    if (!parse_dtype(dtype, &t.dtype)) {
        return ml_fail(err, ML_EFORMAT, "%s: key \"dtype\": \"%.40s\" is no type that this program reads", where,
                       dtype);
    }
    ML_TRY(parse_shape(value, where, &t, err));
    ML_TRY(parse_offsets(value, where, data, &t, err));
    *out = t;
    return ML_OK;
}

/* By place; an empty tensor comes before the one that begins where it lies. */
static int compare_places(const void *a, const void *b)
{
    const ml_st_tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    if (x->n_bytes != y->n_bytes) return x->n_bytes < y->n_bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The tensors, sorted by place, cover the data without hole or overlap. */
static ml_status check_cover(const ml_st_tensor *tensors, size_t n, const char *path, ml_bytes data, ml_error *err)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t begin = (size_t)(tensors[i].data - data.data);
        if (begin != at) {
            return ml_fail(err, ML_EFORMAT,
                           "%.300s: tensor %.160s: expected its data at offset %zu, where the one before ends, found "
                           "%zu: %s",
                           path, tensors[i].name, at, begin, begin < at ? "they overlap" : "there is a hole");
        }
        at = begin + tensors[i].n_bytes;
    }
    if (at == data.size) return ML_OK;
    return ml_fail(err, ML_EFORMAT,
                   "%.300s: the tensors end at offset %zu of the data, but the file has %zu bytes of it", path, at,
                   data.size);
}

/* Header length, JSON text, and what is left is data. */
static ml_status parse_header(ml_bytes file, const char *path, json_t **header, ml_bytes *data, ml_error *err)
{
    uint64_t n_bytes;
    const uint8_t *text;
    if (ml_bytes_u64(&file, &n_bytes, err) != ML_OK) return ml_fail_prefix(err, "%.300s: header length", path);
    if (n_bytes > MAX_HEADER_BYTES || n_bytes > file.size - file.at) {
        return ml_fail(err, ML_EFORMAT,
                       "%.300s: offset 0: the header is said to have %llu bytes, expected at most %u and the %zu that "
                       "are left: the file was cut off, or is no safetensors file",
                       path, (unsigned long long)n_bytes, MAX_HEADER_BYTES, file.size - file.at);
    }
    ML_TRY(ml_bytes_take(&file, (size_t)n_bytes, &text, err));
    if (n_bytes == 0 || text[0] != '{') {
        return ml_fail(err, ML_EFORMAT, "%.300s: offset 8: expected a header that begins with '{'", path);
    }
    char where[ML_ERROR_MAX / 2];
    snprintf(where, sizeof where, "%.300s: header", path);
    ML_TRY(ml_json_parse((const char *)text, (size_t)n_bytes, where, header, err));
    *data = (ml_bytes){ file.data + file.at, file.size - file.at, 0 };
    return ML_OK;
}

static ml_status check_metadata(const json_t *metadata, const char *path, ml_error *err)
{
    if (!json_is_object(metadata)) {
        return ml_fail(err, ML_EFORMAT, "%.300s: key \"__metadata__\": expected an object of strings", path);
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value)
    {
        if (!json_is_string(value)) {
            return ml_fail(err, ML_EFORMAT, "%.300s: key \"__metadata__\".\"%.160s\": expected a string", path, key);
        }
    }
    return ML_OK;
}

/* All tensors of one file, appended to s->tensors in the order of their data. */
static ml_status parse_file(ml_safetensors *s, shard *file, ml_bytes bytes, ml_error *err)
{
    ml_bytes data;
    ML_TRY(parse_header(bytes, file->path, &file->header, &data, err));
    size_t first = s->n_tensor, n = json_object_size(file->header);
    ML_TRY(ml_grow((void **)&s->tensors, &s->tensor_capacity, first + n, sizeof *s->tensors, err));
    const char *name;
    json_t *value;
    json_object_foreach(file->header, name, value)
    {
        if (!strcmp(name, "__metadata__")) {
            ML_TRY(check_metadata(value, file->path, err));
            continue;
        }
        ML_TRY(parse_tensor(file->path, name, value, data, &s->tensors[s->n_tensor], err));
        s->n_tensor++;
    }
    n = s->n_tensor - first;
    if (n) qsort(s->tensors + first, n, sizeof *s->tensors, compare_places);
    ML_TRY(check_cover(s->tensors + first, n, file->path, data, err));
    for (size_t i = first; i < s->n_tensor; i++) {
        bool added;
        ML_TRY(ml_name_table_add(&s->names, s->tensors[i].name, &added, err));
        if (!added) {
            return ml_fail(err, ML_EFORMAT, "%.300s: tensor %.160s: is in another file of the set too", file->path,
                           s->tensors[i].name);
        }
    }
    return ML_OK;
}

static ml_status add_shard(ml_safetensors *s, const char *path, shard **out, ml_error *err)
{
    ML_TRY(ml_grow((void **)&s->shards, &s->shard_capacity, s->n_shard + 1, sizeof *s->shards, err));
    shard *file = &s->shards[s->n_shard];
    *file = (shard){ .path = ml_strdup(path) };
    if (!file->path) return ml_fail_memory(err, strlen(path), "a path");
    s->n_shard++;
    *out = file;
    return ML_OK;
}

static ml_status open_file(ml_safetensors *s, const char *path, ml_error *err)
{
    shard *file;
    ML_TRY(add_shard(s, path, &file, err));
    ML_TRY(ml_map_open(path, &file->map, err));
    return parse_file(s, file, (ml_bytes){ file->map.data, file->map.size, 0 }, err);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Open every file that the index names, once each, in the order of their names. */
static ml_status open_shards(ml_safetensors *s, const char *index, json_t *weight_map, ml_error *err)
{
    size_t n = json_object_size(weight_map), i = 0;
    const char **files = ml_alloc(n * sizeof *files);
    if (!files) return ml_fail_memory(err, n * sizeof *files, "the files of an index");
    const char *name;
    json_t *value;
    char path[ML_PATH_MAX], folder[ML_PATH_MAX] = ".";
    const char *slash = strrchr(index, '/');
    if (slash) snprintf(folder, sizeof folder, "%.*s", slash == index ? 1 : (int)(slash - index), index);
    ml_status status = ML_OK;
    json_object_foreach(weight_map, name, value)
    {
        const char *file = json_string_value(value);
        if (!file || !*file || strchr(file, '/') || !strcmp(file, "..") || !strcmp(file, ".")) {
            status = ml_fail(err, ML_EFORMAT, "%.300s: tensor %.160s: expected the name of a file in the same folder",
                             index, name);
            goto done;
        }
        files[i++] = file;
    }
    if (n) qsort(files, n, sizeof *files, compare_texts);
    for (i = 0; i < n; i++) {
        if (i && !strcmp(files[i], files[i - 1])) continue;
        ML_TRY_GOTO(ml_path_join(path, folder, files[i], err));
        ML_TRY_GOTO(open_file(s, path, err));
    }
done:
    ml_free(files);
    return status;
}

/* What the index promises is where it says. Tensors it does not list are fine: published models have some. */
static ml_status check_index(const ml_safetensors *s, const char *index, json_t *weight_map, ml_error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach(weight_map, name, value)
    {
        const ml_st_tensor *t = ml_safetensors_find(s, name);
        const char *slash = t ? strrchr(t->file, '/') : NULL;
        if (t && !strcmp(slash ? slash + 1 : t->file, json_string_value(value))) continue;
        return ml_fail(err, ML_EFORMAT, "%.300s: tensor %.160s: expected in %.160s, found %s: copy that file again",
                       index, name, json_string_value(value), t ? "in another file" : "nowhere");
    }
    return ML_OK;
}

static ml_status open_index(ml_safetensors *s, const char *index, ml_error *err)
{
    json_t *json, *weight_map;
    ML_TRY(ml_json_load(index, &json, err));
    ml_status status;
    ML_TRY_GOTO(ml_json_object(json, "weight_map", index, &weight_map, err));
    ML_TRY_GOTO(open_shards(s, index, weight_map, err));
    ML_TRY_GOTO(check_index(s, index, weight_map, err));
done:
    json_decref(json);
    return status;
}

static ml_status open_path(ml_safetensors *s, const char *path, ml_error *err)
{
    if (!ml_path_is_dir(path)) {
        return ml_text_ends_with(path, ".index.json") ? open_index(s, path, err) : open_file(s, path, err);
    }
    char inside[ML_PATH_MAX];
    ML_TRY(ml_path_join(inside, path, SINGLE_NAME, err));
    if (ml_path_exists(inside)) return open_file(s, inside, err);
    ML_TRY(ml_path_join(inside, path, INDEX_NAME, err));
    if (ml_path_exists(inside)) return open_index(s, inside, err);
    return ml_fail(err, ML_EIO, "%s: the folder has neither %s nor %s", path, SINGLE_NAME, INDEX_NAME);
}

ml_status ml_safetensors_open(ml_safetensors **out, const char *path, ml_error *err)
{
    *out = NULL;
    ml_safetensors *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, path);
    ml_status status = open_path(s, path, err);
    if (status == ML_OK) {
        *out = s;
    } else {
        ml_safetensors_close(s);
    }
    return status;
}

ml_status ml_safetensors_open_memory(ml_safetensors **out, const void *data, size_t n_bytes, const char *where,
                                     ml_error *err)
{
    *out = NULL;
    ml_safetensors *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, where);
    shard *file;
    ml_status status = add_shard(s, where, &file, err);
    if (status == ML_OK) status = parse_file(s, file, (ml_bytes){ data, n_bytes, 0 }, err);
    if (status == ML_OK) {
        *out = s;
    } else {
        ml_safetensors_close(s);
    }
    return status;
}

void ml_safetensors_close(ml_safetensors *s)
{
    if (!s) return;
    for (size_t i = 0; i < s->n_shard; i++) {
        ml_map_close(&s->shards[i].map);
        json_decref(s->shards[i].header);
        ml_free(s->shards[i].path);
    }
    ml_free(s->shards);
    ml_free(s->tensors);
    ml_name_table_free(&s->names);
    ml_free(s);
}

size_t ml_safetensors_count(const ml_safetensors *s)
{
    return s->n_tensor;
}

const ml_st_tensor *ml_safetensors_at(const ml_safetensors *s, size_t i)
{
    return &s->tensors[i];
}

const ml_st_tensor *ml_safetensors_find(const ml_safetensors *s, const char *name)
{
    size_t index;
    return ml_name_table_find(&s->names, name, &index) ? &s->tensors[index] : NULL;
}

static void format_shape(char *out, size_t size, int n_dim, const int64_t *shape)
{
    size_t used = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < n_dim && used < size; i++) {
        used += (size_t)snprintf(out + used, size - used, i ? ", %lld" : "%lld", (long long)shape[i]);
    }
    if (used < size) snprintf(out + used, size - used, "]");
}

ml_status ml_safetensors_get(const ml_safetensors *s, const char *name, int n_dim, const int64_t *shape,
                             const ml_st_tensor **out, ml_error *err)
{
    const char *path = s->n_shard ? s->shards[0].path : "an empty set";
    const ml_st_tensor *t = ml_safetensors_find(s, name);
    if (!t) {
        return ml_fail(err, ML_EFORMAT, "%s%s: tensor %s: is missing among the %zu there: is this the right model?",
                       path, s->n_shard > 1 ? " and the other shards" : "", name, s->n_tensor);
    }
    if (n_dim >= 0 && (t->n_dim != n_dim || (n_dim && memcmp(t->shape, shape, (size_t)n_dim * sizeof *shape)))) {
        char expected[160], found[160];
        format_shape(expected, sizeof expected, n_dim, shape);
        format_shape(found, sizeof found, t->n_dim, t->shape);
        return ml_fail(err, ML_EFORMAT, "%s: tensor %s: expected shape %s, found %s: does config.json belong to it?",
                       t->file, name, expected, found);
    }
    *out = t;
    return ML_OK;
}

const char *ml_safetensors_metadata(const ml_safetensors *s, const char *key)
{
    if (!s->n_shard) return NULL;
    return json_string_value(json_object_get(json_object_get(s->shards[0].header, "__metadata__"), key));
}
