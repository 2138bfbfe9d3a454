/* Writing: metadata and descriptions are put together in memory, then the file is written from front to end. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/file.h"
#include "format/gguf_types.h"
#include "format/name_table.h"

#include <assert.h>
#include <string.h>

typedef struct {
    char *name;
    ml_dtype dtype;
    int n_dim;
    int64_t shape[ML_GGUF_MAX_DIM];
    uint64_t offset; /* in its file's data */
    size_t n_bytes;
    size_t part; /* of a split set */
} declared;

/* Bytes, growing. */
typedef struct {
    uint8_t *data;
    size_t n, capacity;
} buffer;

struct ml_gguf_writer {
    char path[ML_PATH_MAX];
    buffer metadata; /* keys and values as they stand in the file */
    char **keys;
    size_t n_key, key_capacity;
    size_t n_text_due; /* of the array of texts in work */
    ml_name_table key_names, names;
    declared *tensors;
    size_t n_tensor, capacity;
    uint64_t total_bytes, split_bytes;
    bool started;
    size_t current, current_bytes;
    ml_file_writer *file; /* [n_part], once writing began */
    size_t n_part;
};

static ml_status put(buffer *b, const void *data, size_t n, ml_error *err)
{
    ML_TRY(ml_grow((void **)&b->data, &b->capacity, b->n + n, 1, err));
    if (n) memcpy(b->data + b->n, data, n);
    b->n += n;
    return ML_OK;
}

static ml_status put_u32(buffer *b, uint32_t value, ml_error *err)
{
    uint8_t bytes[4];
    ml_store_u32(bytes, value);
    return put(b, bytes, sizeof bytes, err);
}

static ml_status put_u64(buffer *b, uint64_t value, ml_error *err)
{
    uint8_t bytes[8];
    ml_store_u64(bytes, value);
    return put(b, bytes, sizeof bytes, err);
}

static ml_status put_text(buffer *b, const char *text, size_t n, ml_error *err)
{
    ML_TRY(put_u64(b, n, err));
    return put(b, text, n, err);
}

static uint64_t padding(uint64_t n)
{
    return (ML_GGUF_ALIGNMENT - n % ML_GGUF_ALIGNMENT) % ML_GGUF_ALIGNMENT;
}

ml_status ml_gguf_writer_begin(ml_gguf_writer **out, const char *path, ml_error *err)
{
    *out = NULL;
    if (strlen(path) >= ML_PATH_MAX) return ml_fail(err, ML_EINVAL, "%.300s...: the path is too long", path);
    ml_gguf_writer *w = ml_calloc(1, sizeof *w);
    if (!w) return ml_fail_memory(err, sizeof *w, path);
    strcpy(w->path, path);
    *out = w;
    return ML_OK;
}

void ml_gguf_writer_free(ml_gguf_writer *w)
{
    if (!w) return;
    for (size_t i = 0; w->file && i < w->n_part; i++) ml_file_abandon(&w->file[i]);
    ml_free(w->file);
    for (size_t i = 0; i < w->n_tensor; i++) ml_free(w->tensors[i].name);
    for (size_t i = 0; i < w->n_key; i++) ml_free(w->keys[i]);
    ml_free(w->metadata.data);
    ml_free(w->keys);
    ml_free(w->tensors);
    ml_name_table_free(&w->key_names);
    ml_name_table_free(&w->names);
    ml_free(w);
}

static ml_status fail_name(const ml_gguf_writer *w, const char *what, const char *name, const char *why, ml_error *err)
{
    return ml_fail(err, ML_EINVAL, "%.300s: %s %.160s: %s", w->path, what, name, why);
}

/* Note a name that must be new; the copy belongs to the caller. */
static ml_status note_name(ml_gguf_writer *w, ml_name_table *table, const char *what, const char *name, char **copy,
                           ml_error *err)
{
    if (w->started) return fail_name(w, what, name, "came after writing began", err);
    if (w->n_text_due) return fail_name(w, what, name, "came before the array of texts was complete", err);
    if (!*name || strlen(name) > ML_GGUF_MAX_NAME) return fail_name(w, what, name, "cannot be a name", err);
    *copy = ml_strdup(name);
    if (!*copy) return ml_fail_memory(err, strlen(name), "a name");
    bool added = false;
    ml_status status = ml_name_table_add(table, *copy, &added, err);
    if (status == ML_OK && !added) status = fail_name(w, what, name, "was given twice", err);
    if (status != ML_OK) ml_free(*copy);
    return status;
}

static ml_status begin_value(ml_gguf_writer *w, const char *key, ml_gguf_type type, ml_error *err)
{
    char *copy;
    ML_TRY(ml_grow((void **)&w->keys, &w->key_capacity, w->n_key + 1, sizeof *w->keys, err));
    ML_TRY(note_name(w, &w->key_names, "key", key, &copy, err));
    w->keys[w->n_key++] = copy;
    ML_TRY(put_text(&w->metadata, key, strlen(key), err));
    return put_u32(&w->metadata, (uint32_t)type, err);
}

ml_status ml_gguf_writer_set_u32(ml_gguf_writer *w, const char *key, uint32_t value, ml_error *err)
{
    ML_TRY(begin_value(w, key, ML_GGUF_U32, err));
    return put_u32(&w->metadata, value, err);
}

ml_status ml_gguf_writer_set_u64(ml_gguf_writer *w, const char *key, uint64_t value, ml_error *err)
{
    ML_TRY(begin_value(w, key, ML_GGUF_U64, err));
    return put_u64(&w->metadata, value, err);
}

ml_status ml_gguf_writer_set_f32(ml_gguf_writer *w, const char *key, float value, ml_error *err)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ML_TRY(begin_value(w, key, ML_GGUF_F32, err));
    return put_u32(&w->metadata, bits, err);
}

ml_status ml_gguf_writer_set_bool(ml_gguf_writer *w, const char *key, bool value, ml_error *err)
{
    uint8_t byte = value;
    ML_TRY(begin_value(w, key, ML_GGUF_BOOL, err));
    return put(&w->metadata, &byte, 1, err);
}

ml_status ml_gguf_writer_set_text(ml_gguf_writer *w, const char *key, const char *text, ml_error *err)
{
    ML_TRY(begin_value(w, key, ML_GGUF_TEXT, err));
    return put_text(&w->metadata, text, strlen(text), err);
}

static ml_status begin_array(ml_gguf_writer *w, const char *key, ml_gguf_type element, size_t n, ml_error *err)
{
    ML_TRY(begin_value(w, key, ML_GGUF_ARRAY, err));
    ML_TRY(put_u32(&w->metadata, (uint32_t)element, err));
    return put_u64(&w->metadata, n, err);
}

ml_status ml_gguf_writer_set_array(ml_gguf_writer *w, const char *key, ml_gguf_type element, const void *values,
                                   size_t n, ml_error *err)
{
    size_t size = ml_gguf_type_size(element), n_bytes;
    assert(size);
    if (!ml_size_mul(n, size, &n_bytes)) return fail_name(w, "key", key, "absurd count of values", err);
    ML_TRY(begin_array(w, key, element, n, err));
    return put(&w->metadata, values, n_bytes, err);
}

ml_status ml_gguf_writer_set_texts(ml_gguf_writer *w, const char *key, size_t n, ml_error *err)
{
    ML_TRY(begin_array(w, key, ML_GGUF_TEXT, n, err));
    w->n_text_due = n;
    return ML_OK;
}

ml_status ml_gguf_writer_add_text(ml_gguf_writer *w, const char *text, size_t n_bytes, ml_error *err)
{
    assert(w->n_text_due);
    ML_TRY(put_text(&w->metadata, text, n_bytes, err));
    w->n_text_due--;
    return ML_OK;
}

ml_status ml_gguf_writer_set_value(ml_gguf_writer *w, const ml_gguf_value *value, ml_error *err)
{
    if (value->type == ML_GGUF_ARRAY) {
        ML_TRY(begin_array(w, value->key, value->element, value->n, err));
    } else {
        ML_TRY(begin_value(w, value->key, value->type, err));
    }
    return put(&w->metadata, value->data, value->n_bytes, err);
}

ml_status ml_gguf_writer_declare(ml_gguf_writer *w, const char *name, ml_dtype dtype, int n_dim, const int64_t *shape,
                                 ml_error *err)
{
    declared t = { .dtype = dtype, .n_dim = n_dim, .offset = w->total_bytes };
    bool fits = n_dim >= 0 && n_dim <= ML_GGUF_MAX_DIM &&
                ml_dtype_row_bytes_checked(dtype, n_dim > 0 ? shape[n_dim - 1] : 1, &t.n_bytes);
    for (int i = 0; fits && i < n_dim; i++) {
        t.shape[i] = shape[i];
        if (i + 1 < n_dim) fits = shape[i] >= 0 && ml_size_mul(t.n_bytes, (size_t)shape[i], &t.n_bytes);
    }
    if (!fits || t.n_bytes > INT64_MAX / 2 || w->total_bytes > INT64_MAX / 2) {
        return fail_name(w, "tensor", name, "its shape cannot be stored in its type", err);
    }
    ML_TRY(ml_grow((void **)&w->tensors, &w->capacity, w->n_tensor + 1, sizeof *w->tensors, err));
    ML_TRY(note_name(w, &w->names, "tensor", name, &t.name, err));
    w->tensors[w->n_tensor++] = t;
    w->total_bytes += t.n_bytes + padding(t.n_bytes);
    return ML_OK;
}

uint64_t ml_gguf_writer_bytes(const ml_gguf_writer *w)
{
    return w->total_bytes;
}

static ml_status put_description(buffer *b, const declared *t, ml_error *err)
{
    ML_TRY(put_text(b, t->name, strlen(t->name), err));
    ML_TRY(put_u32(b, (uint32_t)t->n_dim, err));
    for (int i = t->n_dim - 1; i >= 0; i--) ML_TRY(put_u64(b, (uint64_t)t->shape[i], err));
    ML_TRY(put_u32(b, ml_gguf_dtype_to_file(t->dtype), err));
    return put_u64(b, t->offset, err);
}

static ml_status write_padding(ml_file_writer *file, uint64_t n, ml_error *err)
{
    static const uint8_t zeros[ML_GGUF_ALIGNMENT];
    return ml_file_write(file, zeros, (size_t)padding(n), err);
}

/* Finish tensors that have all their data, empty ones among them. */
static ml_status advance(ml_gguf_writer *w, ml_error *err)
{
    while (w->current < w->n_tensor && w->current_bytes == w->tensors[w->current].n_bytes) {
        ML_TRY(write_padding(&w->file[w->tensors[w->current].part], w->current_bytes, err));
        w->current++;
        w->current_bytes = 0;
    }
    return ML_OK;
}

void ml_gguf_writer_split(ml_gguf_writer *w, uint64_t n_bytes)
{
    assert(!w->started);
    w->split_bytes = n_bytes;
}

size_t ml_gguf_writer_file_count(const ml_gguf_writer *w)
{
    return w->n_part;
}

/* Which file each tensor goes to, and where: files are filled in order, each with one tensor at least. */
static void place(ml_gguf_writer *w)
{
    uint64_t used = 0;
    size_t part = 0;
    for (size_t i = 0; i < w->n_tensor; i++) {
        declared *t = &w->tensors[i];
        if (w->split_bytes && used && (used > w->split_bytes || t->n_bytes > w->split_bytes - used)) {
            part++;
            used = 0;
        }
        t->part = part;
        t->offset = used;
        used += t->n_bytes + padding(t->n_bytes);
    }
    w->n_part = part + 1;
}

/* The keys that a file of a set has, with the types that llama.cpp wants: u16, u16, i32. */
static ml_status put_split_keys(const ml_gguf_writer *w, size_t part, buffer *b, ml_error *err)
{
    const struct {
        const char *key;
        uint32_t type, n_bytes, value;
    } keys[] = { { "split.no", ML_GGUF_U16, 2, (uint32_t)part },
                 { "split.count", ML_GGUF_U16, 2, (uint32_t)w->n_part },
                 { "split.tensors.count", ML_GGUF_I32, 4, (uint32_t)w->n_tensor } };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        uint8_t value[4];
        ml_store_u32(value, keys[i].value);
        ML_TRY(put_text(b, keys[i].key, strlen(keys[i].key), err));
        ML_TRY(put_u32(b, keys[i].type, err));
        ML_TRY(put(b, value, keys[i].n_bytes, err));
    }
    return ML_OK;
}

/* All metadata are in the first file. */
static ml_status make_front(const ml_gguf_writer *w, size_t part, buffer *front, ml_error *err)
{
    enum { N_SPLIT_KEY = 3 };
    size_t n_tensor = 0, n_key = (part == 0 ? w->n_key : 0) + (w->n_part > 1 ? N_SPLIT_KEY : 0);
    for (size_t i = 0; i < w->n_tensor; i++) n_tensor += w->tensors[i].part == part;
    ML_TRY(put(front, ML_GGUF_MAGIC, 4, err));
    ML_TRY(put_u32(front, ML_GGUF_VERSION, err));
    ML_TRY(put_u64(front, n_tensor, err));
    ML_TRY(put_u64(front, n_key, err));
    if (part == 0) ML_TRY(put(front, w->metadata.data, w->metadata.n, err));
    if (w->n_part > 1) ML_TRY(put_split_keys(w, part, front, err));
    for (size_t i = 0; i < w->n_tensor; i++) {
        if (w->tensors[i].part == part) ML_TRY(put_description(front, &w->tensors[i], err));
    }
    return ML_OK;
}

/* "name-00002-of-00005.gguf" of "name.gguf"; the name itself when it is not split. */
static ml_status name_part(const ml_gguf_writer *w, size_t part, char path[ML_PATH_MAX], ml_error *err)
{
    size_t n = strlen(w->path);
    if (n > 5 && !strcmp(w->path + n - 5, ".gguf")) n -= 5;
    int length = w->n_part == 1
                     ? snprintf(path, ML_PATH_MAX, "%s", w->path)
                     : snprintf(path, ML_PATH_MAX, "%.*s-%05zu-of-%05zu.gguf", (int)n, w->path, part + 1, w->n_part);
    if (length < 0 || length >= ML_PATH_MAX) return ml_fail(err, ML_EINVAL, "%.300s: the path is too long", w->path);
    if (w->n_part == 1 || !ml_path_exists(path)) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s exists already: choose another name, or remove the set", path);
}

static ml_status begin_part(ml_gguf_writer *w, size_t part, ml_error *err)
{
    char path[ML_PATH_MAX];
    buffer front = { 0 };
    ML_TRY(name_part(w, part, path, err));
    ml_status status = make_front(w, part, &front, err);
    if (status == ML_OK) status = ml_file_begin(&w->file[part], path, err);
    if (status == ML_OK) status = ml_file_write(&w->file[part], front.data, front.n, err);
    if (status == ML_OK && w->n_tensor) status = write_padding(&w->file[part], front.n, err);
    ml_free(front.data);
    return status;
}

ml_status ml_gguf_writer_start(ml_gguf_writer *w, ml_error *err)
{
    enum { MOST_PARTS = 500 }; /* all are open at once */
    assert(!w->started);
    if (w->n_text_due) return ml_fail(err, ML_EINVAL, "%.300s: an array of texts lacks %zu", w->path, w->n_text_due);
    w->started = true;
    place(w);
    if (w->n_part > MOST_PARTS) {
        return ml_fail(err, ML_EINVAL,
                       "%.300s: would be %zu files of %llu bytes: expected at most %d; let them be larger", w->path,
                       w->n_part, (unsigned long long)w->split_bytes, MOST_PARTS);
    }
    w->file = ml_calloc(w->n_part, sizeof *w->file);
    if (!w->file) return ml_fail_memory(err, w->n_part * sizeof *w->file, w->path);
    for (size_t i = 0; i < w->n_part; i++) ML_TRY(begin_part(w, i, err));
    return advance(w, err);
}

ml_status ml_gguf_writer_put(ml_gguf_writer *w, const void *data, size_t n_bytes, ml_error *err)
{
    assert(w->started);
    if (!n_bytes) return ML_OK;
    if (w->current == w->n_tensor) return ml_fail(err, ML_EINVAL, "%.300s: more data than was declared", w->path);
    const declared *t = &w->tensors[w->current];
    if (n_bytes > t->n_bytes - w->current_bytes) {
        return fail_name(w, "tensor", t->name, "more data is given than its shape has", err);
    }
    ML_TRY(ml_file_write(&w->file[t->part], data, n_bytes, err));
    w->current_bytes += n_bytes;
    return advance(w, err);
}

ml_status ml_gguf_writer_end(ml_gguf_writer *w, ml_error *err)
{
    assert(w->started);
    if (w->current < w->n_tensor) {
        return fail_name(w, "tensor", w->tensors[w->current].name, "did not get all its data", err);
    }
    /* The first file, which is the one that people name, appears when the others are there. */
    for (size_t i = w->n_part; i-- > 0;) ML_TRY(ml_file_commit(&w->file[i], err));
    return ML_OK;
}
