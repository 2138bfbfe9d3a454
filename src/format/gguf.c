/* Reading.  Keys and names are copied, with a 0 behind each, into one block of memory per file; everything else
 * stays in the mapped file.  Keys of the first file and tensors of all files have a hash table each. */
#include "format/gguf.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/file.h"
#include "format/gguf_types.h"
#include "format/name_table.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_ALIGNMENT = 1 << 20,
    MAX_SPLIT = 99999,
    LEAST_KEY_BYTES = 8 + 1 + 4 + 1,
    LEAST_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8
};

typedef struct {
    char *path;
    char *names; /* keys and tensor names, each with a 0 */
    size_t names_used, names_size;
    ml_map map; /* not used for a file in memory */
} part;

struct ml_gguf {
    part *parts;
    size_t n_part, part_capacity;
    ml_gguf_value *values;
    size_t n_value, value_capacity;
    ml_gguf_tensor *tensors;
    size_t n_tensor, tensor_capacity;
    ml_name_table keys, names; /* index i is values[i], tensors[i] */
};

/* What is being read of one file. */
typedef struct {
    ml_gguf *g;
    part *part;
    const char *path;
    ml_bytes bytes;
    uint64_t n_key, n_tensor;
    size_t first_tensor; /* of this file */
    size_t alignment, data_at;
    int64_t split_no, split_count; /* -1: not stored */
} reader;

bool ml_gguf_is(const void *data, size_t n_bytes)
{
    return n_bytes >= 4 && !memcmp(data, ML_GGUF_MAGIC, 4);
}

ml_status ml_gguf_is_file(const char *path, bool *out, ml_error *err)
{
    char head[4];
    size_t n;
    ML_TRY(ml_file_read_head(path, head, sizeof head, &n, err));
    *out = ml_gguf_is(head, n);
    return ML_OK;
}

/* The length of a text, which has to be in the file. */
static ml_status read_text(ml_bytes *b, const uint8_t **text, size_t *n, ml_error *err)
{
    uint64_t length;
    size_t at = b->at;
    ML_TRY(ml_bytes_u64(b, &length, err));
    if (length > b->size - b->at) {
        return ml_fail(err, ML_EFORMAT,
                       "offset %zu: a text of %llu bytes, but %zu are left: the file is cut short or damaged", at,
                       (unsigned long long)length, b->size - b->at);
    }
    *n = (size_t)length;
    return ml_bytes_take(b, *n, text, err);
}

/* A key or a tensor's name, copied; `what` says which in messages. */
static ml_status read_name(reader *r, const char *what, uint64_t index, const char **out, ml_error *err)
{
    const uint8_t *text;
    size_t n, at = r->bytes.at;
    if (read_text(&r->bytes, &text, &n, err) != ML_OK) {
        return ml_fail_prefix(err, "%.300s: %s %llu", r->path, what, (unsigned long long)index);
    }
    if (!n || n > ML_GGUF_MAX_NAME || memchr(text, 0, n)) {
        return ml_fail(err, ML_EFORMAT,
                       "%.300s: offset %zu: %s %llu: expected a name of 1 to %d bytes without a 0, "
                       "found %zu bytes",
                       r->path, at, what, (unsigned long long)index, ML_GGUF_MAX_NAME, n);
    }
    char *copy = r->part->names + r->part->names_used;
    memcpy(copy, text, n);
    copy[n] = 0;
    r->part->names_used += n + 1;
    *out = copy;
    return ML_OK;
}

static ml_status read_type(ml_bytes *b, const char *what, ml_gguf_type *out, ml_error *err)
{
    uint32_t type;
    size_t at = b->at;
    ML_TRY(ml_bytes_u32(b, &type, err));
    if (type >= ML_GGUF_N_TYPE) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: %s %u: expected a type below %d", at, what, type, ML_GGUF_N_TYPE);
    }
    *out = (ml_gguf_type)type;
    return ML_OK;
}

/* Step over n values, checking that they are in the file. */
static ml_status skip_values(ml_bytes *b, ml_gguf_type type, uint64_t n, ml_error *err)
{
    size_t size = ml_gguf_type_size(type), at = b->at, left = b->size - b->at;
    uint64_t least = size ? size : 8;
    if (n > left / least) {
        return ml_fail(err, ML_EFORMAT,
                       "offset %zu: %llu values of type %s, but %zu bytes are left: the file is cut short or damaged",
                       at, (unsigned long long)n, ml_gguf_type_name(type), left);
    }
    const uint8_t *p;
    if (size) {
        ML_TRY(ml_bytes_take(b, (size_t)n * size, &p, err));
        for (size_t i = 0; type == ML_GGUF_BOOL && i < n; i++) {
            if (p[i] > 1) return ml_fail(err, ML_EFORMAT, "offset %zu: expected a bool, found %d", at + i, p[i]);
        }
        return ML_OK;
    }
    size_t length;
    for (uint64_t i = 0; i < n; i++) ML_TRY(read_text(b, &p, &length, err));
    return ML_OK;
}

static ml_status read_value(ml_bytes *b, ml_gguf_value *v, ml_error *err)
{
    uint64_t n = 1;
    ML_TRY(read_type(b, "value type", &v->type, err));
    v->element = v->type;
    if (v->type == ML_GGUF_ARRAY) {
        size_t at = b->at;
        ML_TRY(read_type(b, "element type", &v->element, err));
        if (v->element == ML_GGUF_ARRAY) {
            return ml_fail(err, ML_EFORMAT, "offset %zu: an array of arrays, expected an array of values", at);
        }
        ML_TRY(ml_bytes_u64(b, &n, err));
    }
    v->offset = b->at;
    v->data = b->data + b->at;
    ML_TRY(skip_values(b, v->element, n, err));
    v->n = (size_t)n;
    v->n_bytes = b->at - v->offset;
    return ML_OK;
}

/* Keys that say how to read the file itself. */
static ml_status note_value(reader *r, const ml_gguf_value *v, ml_error *err)
{
    bool alignment = !strcmp(v->key, "general.alignment"), no = !strcmp(v->key, "split.no"),
         count = !strcmp(v->key, "split.count");
    if (!alignment && !no && !count) return ML_OK;
    ml_gguf_type t = v->type;
    bool integer = t != ML_GGUF_F32 && t != ML_GGUF_F64 && t != ML_GGUF_TEXT && t != ML_GGUF_ARRAY && t != ML_GGUF_BOOL;
    int64_t value = integer ? ml_gguf_integer(v, 0) : -1;
    if (alignment) {
        if (value < 1 || value > MAX_ALIGNMENT || value & (value - 1)) {
            return ml_fail(err, ML_EFORMAT, "%.300s: key %s: expected a power of two up to %d, found %lld of type %s",
                           r->path, v->key, MAX_ALIGNMENT, (long long)value, ml_gguf_type_name(t));
        }
        r->alignment = (size_t)value;
        return ML_OK;
    }
    if (value < 0 || value > MAX_SPLIT) {
        return ml_fail(err, ML_EFORMAT, "%.300s: key %s: expected a whole number up to %d, found %lld of type %s",
                       r->path, v->key, MAX_SPLIT, (long long)value, ml_gguf_type_name(t));
    }
    *(no ? &r->split_no : &r->split_count) = value;
    return ML_OK;
}

static ml_status read_keys(reader *r, ml_error *err)
{
    bool keep = r->g->n_part == 1; // the other files of a set repeat nothing that counts
    ml_name_table own = { 0 }, *table = keep ? &r->g->keys : &own;
    ml_status status = ML_OK;
    for (uint64_t i = 0; i < r->n_key && status == ML_OK; i++) {
        ml_gguf_value v = { 0 };
        bool added = false;
        ML_TRY_GOTO(read_name(r, "key", i, &v.key, err));
        status = read_value(&r->bytes, &v, err);
        if (status != ML_OK) {
            ml_fail_prefix(err, "%.300s: key %.160s", r->path, v.key);
            goto done;
        }
        ML_TRY_GOTO(ml_name_table_add(table, v.key, &added, err));
        if (!added) {
            status =
                ml_fail(err, ML_EFORMAT, "%.300s: offset %zu: key %.160s: is there twice", r->path, v.offset, v.key);
            goto done;
        }
        ML_TRY_GOTO(note_value(r, &v, err));
        if (!keep) continue;
        ML_TRY_GOTO(ml_grow((void **)&r->g->values, &r->g->value_capacity, r->g->n_value + 1, sizeof v, err));
        r->g->values[r->g->n_value++] = v;
    }
done:
    ml_name_table_free(&own);
    return status;
}

static ml_status read_dims(reader *r, ml_gguf_tensor *t, ml_error *err)
{
    uint32_t n_dim;
    size_t at = r->bytes.at, n_element = 1;
    ML_TRY(ml_bytes_u32(&r->bytes, &n_dim, err));
    if (n_dim > ML_GGUF_MAX_DIM) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: expected at most %d dimensions, found %u", at, ML_GGUF_MAX_DIM,
                       n_dim);
    }
    t->n_dim = (int)n_dim;
    for (int i = t->n_dim - 1; i >= 0; i--) {
        uint64_t dim;
        at = r->bytes.at;
        ML_TRY(ml_bytes_u64(&r->bytes, &dim, err));
        if (dim > INT64_MAX || !ml_size_mul(n_element, (size_t)dim, &n_element) || n_element > INT64_MAX) {
            return ml_fail(err, ML_EFORMAT, "offset %zu: a dimension of %llu: the product of the dimensions overflows",
                           at, (unsigned long long)dim);
        }
        t->shape[i] = (int64_t)dim;
    }
    t->n_element = (int64_t)n_element;
    return ML_OK;
}

static ml_status read_dtype(reader *r, ml_gguf_tensor *t, ml_error *err)
{
    uint32_t number;
    size_t at = r->bytes.at;
    ML_TRY(ml_bytes_u32(&r->bytes, &number, err));
    if (!ml_gguf_dtype_from_file(number, &t->dtype)) {
        const char *name = ml_gguf_dtype_file_name(number);
        return ml_fail(err, ML_EFORMAT,
                       "offset %zu: element type %u (%s) is none that this program reads: use a file of another "
                       "quantisation, such as q4_k_m or q8_0",
                       at, number, name ? name : "unknown");
    }
    int64_t row = t->n_dim ? t->shape[t->n_dim - 1] : 1;
    size_t row_bytes, n_row = row ? (size_t)(t->n_element / row) : 0;
    if (!ml_dtype_row_bytes_checked(t->dtype, row, &row_bytes) || !ml_size_mul(row_bytes, n_row, &t->n_bytes)) {
        return ml_fail(err, ML_EFORMAT,
                       "offset %zu: rows of %lld elements of %s: expected a multiple of %lld, and a "
                       "size that fits",
                       at, (long long)row, ml_dtype_name(t->dtype), (long long)ml_dtype_block_length(t->dtype));
    }
    return ML_OK;
}

/* t->offset counts from the beginning of the data until check_places. */
static ml_status read_tensor(reader *r, ml_gguf_tensor *t, ml_error *err)
{
    uint64_t offset;
    ML_TRY(read_dims(r, t, err));
    ML_TRY(read_dtype(r, t, err));
    size_t at = r->bytes.at;
    ML_TRY(ml_bytes_u64(&r->bytes, &offset, err));
    if (offset > r->bytes.size || offset % r->alignment) {
        return ml_fail(err, ML_EFORMAT,
                       "offset %zu: its data is said to be at %llu, expected a multiple of %zu within "
                       "the file's %zu bytes",
                       at, (unsigned long long)offset, r->alignment, r->bytes.size);
    }
    t->offset = (size_t)offset;
    return ML_OK;
}

static ml_status read_tensors(reader *r, ml_error *err)
{
    ml_gguf *g = r->g;
    for (uint64_t i = 0; i < r->n_tensor; i++) {
        ml_gguf_tensor t = { .file = r->path };
        bool added;
        ML_TRY(read_name(r, "tensor", i, &t.name, err));
        if (read_tensor(r, &t, err) != ML_OK) return ml_fail_prefix(err, "%.300s: tensor %.160s", r->path, t.name);
        ML_TRY(ml_name_table_add(&g->names, t.name, &added, err));
        if (!added) {
            return ml_fail(err, ML_EFORMAT, "%.300s: tensor %.160s: is there twice", r->path, t.name);
        }
        ML_TRY(ml_grow((void **)&g->tensors, &g->tensor_capacity, g->n_tensor + 1, sizeof t, err));
        g->tensors[g->n_tensor++] = t;
    }
    return ML_OK;
}

static int compare_places(const void *a, const void *b)
{
    const ml_gguf_tensor *x = *(const ml_gguf_tensor *const *)a, *y = *(const ml_gguf_tensor *const *)b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->n_bytes < y->n_bytes ? -1 : x->n_bytes > y->n_bytes;
}

/* Every tensor lies in the file, none in another. */
static ml_status check_overlap(const reader *r, ml_error *err)
{
    size_t n = r->g->n_tensor - r->first_tensor;
    const ml_gguf_tensor **order = ml_alloc(n * sizeof *order);
    if (!order) return ml_fail_memory(err, n * sizeof *order, "the places of tensors");
    for (size_t i = 0; i < n; i++) order[i] = &r->g->tensors[r->first_tensor + i];
    if (n) qsort(order, n, sizeof *order, compare_places);
    ml_status status = ML_OK;
    for (size_t i = 1; i < n && status == ML_OK; i++) {
        const ml_gguf_tensor *a = order[i - 1], *b = order[i];
        if (b->offset - a->offset >= a->n_bytes) continue;
        status =
            ml_fail(err, ML_EFORMAT,
                    "%.300s: tensor %.160s: its data at offset %zu overlaps that of %.160s, which has %zu bytes at %zu",
                    r->path, b->name, b->offset, a->name, a->n_bytes, a->offset);
    }
    ml_free(order);
    return status;
}

static ml_status check_places(reader *r, ml_error *err)
{
    size_t end = r->bytes.at, pad = (r->alignment - end % r->alignment) % r->alignment;
    bool any = r->g->n_tensor > r->first_tensor;
    if (any && pad > r->bytes.size - end) {
        return ml_fail(err, ML_EFORMAT, "%.300s: offset %zu: the file ends before its data: it was cut short", r->path,
                       end);
    }
    r->data_at = any ? end + pad : end;
    for (size_t i = r->first_tensor; i < r->g->n_tensor; i++) {
        ml_gguf_tensor *t = &r->g->tensors[i];
        size_t left = r->bytes.size - r->data_at;
        if (t->offset > left || t->n_bytes > left - t->offset) {
            return ml_fail(err, ML_EFORMAT,
                           "%.300s: tensor %.160s: %zu bytes at offset %zu of the data, but the file has %zu of it: it "
                           "was cut short",
                           r->path, t->name, t->n_bytes, t->offset, left);
        }
        t->offset += r->data_at;
        t->data = r->bytes.data + t->offset;
    }
    return check_overlap(r, err);
}

static ml_status read_counts(reader *r, ml_error *err)
{
    uint32_t version;
    const uint8_t *magic;
    ML_TRY(ml_bytes_take(&r->bytes, 4, &magic, err));
    if (!ml_gguf_is(magic, 4)) return ml_fail(err, ML_EFORMAT, "offset 0: expected \"GGUF\": this is no GGUF file");
    ML_TRY(ml_bytes_u32(&r->bytes, &version, err));
    if (version != 2 && version != 3) {
        bool big = version && !(version & 0xffff);
        return ml_fail(err, ML_EFORMAT, "offset 4: expected version 2 or 3, found %s%u",
                       big ? "a big-endian file, " : "", version);
    }
    ML_TRY(ml_bytes_u64(&r->bytes, &r->n_tensor, err));
    ML_TRY(ml_bytes_u64(&r->bytes, &r->n_key, err));
    size_t left = r->bytes.size - r->bytes.at;
    if (r->n_key > ML_GGUF_MAX_ENTRIES || r->n_tensor > ML_GGUF_MAX_ENTRIES ||
        r->n_key * LEAST_KEY_BYTES + r->n_tensor * LEAST_TENSOR_BYTES > left) {
        return ml_fail(
            err, ML_EFORMAT,
            "offset 8: %llu tensors and %llu keys: expected at most %d of each, and those that %zu bytes can "
            "hold",
            (unsigned long long)r->n_tensor, (unsigned long long)r->n_key, ML_GGUF_MAX_ENTRIES, left);
    }
    return ML_OK;
}

static ml_status read_part(reader *r, ml_error *err)
{
    if (read_counts(r, err) != ML_OK) return ml_fail_prefix(err, "%.300s", r->path);
    /* A name and the 0 behind it are less than the file holds for it, with the length before it. */
    size_t most = (size_t)(r->n_key + r->n_tensor) * (ML_GGUF_MAX_NAME + 1), left = r->bytes.size - r->bytes.at;
    r->part->names_size = most < left ? most : left;
    r->part->names = ml_alloc(r->part->names_size + 1);
    if (!r->part->names) return ml_fail_memory(err, r->part->names_size, "the names of a GGUF file");
    r->alignment = ML_GGUF_ALIGNMENT;
    r->split_no = r->split_count = -1;
    r->first_tensor = r->g->n_tensor;
    ML_TRY(read_keys(r, err));
    ML_TRY(read_tensors(r, err));
    return check_places(r, err);
}

static ml_status add_part(ml_gguf *g, const char *path, reader *r, ml_error *err)
{
    ML_TRY(ml_grow((void **)&g->parts, &g->part_capacity, g->n_part + 1, sizeof *g->parts, err));
    part *p = &g->parts[g->n_part];
    *p = (part){ .path = ml_strdup(path) };
    if (!p->path) return ml_fail_memory(err, strlen(path), "a path");
    g->n_part++;
    *r = (reader){ .g = g, .part = p, .path = p->path };
    return ML_OK;
}

static ml_status open_file(ml_gguf *g, const char *path, reader *r, ml_error *err)
{
    ML_TRY(add_part(g, path, r, err));
    ML_TRY(ml_map_open(path, &r->part->map, err));
    r->bytes = (ml_bytes){ r->part->map.data, r->part->map.size, 0 };
    return read_part(r, err);
}

/* "name-00002-of-00005.gguf": the length of the name, and the numbers; false when it ends otherwise. */
static bool parse_split_name(const char *path, size_t *n_stem, int *no, int *count)
{
    const size_t n_tail = strlen("-00001-of-00001.gguf");
    size_t n = strlen(path);
    if (n <= n_tail) return false;
    const char *tail = path + n - n_tail;
    int used = 0;
    if (sscanf(tail, "-%5d-of-%5d.gguf%n", no, count, &used) != 2 || (size_t)used != n_tail) return false;
    *n_stem = n - n_tail;
    return *no > 0 && *count > 0;
}

static ml_status check_split(const reader *r, int no, int count, ml_error *err)
{
    if (r->split_no == no - 1 && r->split_count == count) return ML_OK;
    return ml_fail(err, ML_EFORMAT,
                   "%.300s: keys split.no and split.count: expected %d and %d as the file's name says, found %lld and "
                   "%lld: was it renamed?",
                   r->path, no - 1, count, (long long)r->split_no, (long long)r->split_count);
}

static ml_status open_set(ml_gguf *g, const char *path, ml_error *err)
{
    reader r;
    size_t n_stem;
    int no, count;
    bool named = parse_split_name(path, &n_stem, &no, &count);
    if (!named) {
        ML_TRY(open_file(g, path, &r, err));
        if (r.split_count <= 1) return ML_OK;
        return ml_fail(err, ML_EFORMAT,
                       "%.300s: key split.count: is one of %lld files, but its name does not end in "
                       "-00001-of-%05lld.gguf: rename the files of the set",
                       path, (long long)r.split_count, (long long)r.split_count);
    }
    for (int i = 1; i <= count; i++) {
        char file[ML_PATH_MAX];
        int n = snprintf(file, sizeof file, "%.*s-%05d-of-%05d.gguf", (int)n_stem, path, i, count);
        if (n < 0 || n >= ML_PATH_MAX) return ml_fail(err, ML_EINVAL, "%.300s: the path is too long", path);
        ML_TRY(open_file(g, file, &r, err));
        if (count > 1 || r.split_count >= 0) ML_TRY(check_split(&r, i, count, err));
    }
    return ML_OK;
}

/* Memory that both ways of opening begin and end with. */
static ml_status finish_open(ml_status status, ml_gguf *g, ml_gguf **out)
{
    if (status == ML_OK) {
        *out = g;
    } else {
        ml_gguf_close(g);
    }
    return status;
}

ml_status ml_gguf_open(ml_gguf **out, const char *path, ml_error *err)
{
    *out = NULL;
    ml_gguf *g = ml_calloc(1, sizeof *g);
    if (!g) return ml_fail_memory(err, sizeof *g, path);
    return finish_open(open_set(g, path, err), g, out);
}

ml_status ml_gguf_open_memory(ml_gguf **out, const void *data, size_t n_bytes, const char *where, ml_error *err)
{
    *out = NULL;
    ml_gguf *g = ml_calloc(1, sizeof *g);
    if (!g) return ml_fail_memory(err, sizeof *g, where);
    reader r;
    ml_status status = add_part(g, where, &r, err);
    if (status == ML_OK) {
        r.bytes = (ml_bytes){ data, n_bytes, 0 };
        status = read_part(&r, err);
    }
    return finish_open(status, g, out);
}

void ml_gguf_close(ml_gguf *g)
{
    if (!g) return;
    for (size_t i = 0; i < g->n_part; i++) {
        ml_map_close(&g->parts[i].map);
        ml_free(g->parts[i].path);
        ml_free(g->parts[i].names);
    }
    ml_free(g->parts);
    ml_free(g->values);
    ml_free(g->tensors);
    ml_name_table_free(&g->keys);
    ml_name_table_free(&g->names);
    ml_free(g);
}

const char *ml_gguf_path(const ml_gguf *g)
{
    return g->parts[0].path;
}

size_t ml_gguf_key_count(const ml_gguf *g)
{
    return g->n_value;
}

const ml_gguf_value *ml_gguf_key_at(const ml_gguf *g, size_t i)
{
    return &g->values[i];
}

const ml_gguf_value *ml_gguf_find_key(const ml_gguf *g, const char *key)
{
    size_t index;
    return ml_name_table_find(&g->keys, key, &index) ? &g->values[index] : NULL;
}

size_t ml_gguf_count(const ml_gguf *g)
{
    return g->n_tensor;
}

const ml_gguf_tensor *ml_gguf_at(const ml_gguf *g, size_t i)
{
    return &g->tensors[i];
}

const ml_gguf_tensor *ml_gguf_find(const ml_gguf *g, const char *name)
{
    size_t index;
    return ml_name_table_find(&g->names, name, &index) ? &g->tensors[index] : NULL;
}

static void format_shape(char *out, size_t size, int n_dim, const int64_t *shape)
{
    size_t used = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < n_dim && used < size; i++) {
        used += (size_t)snprintf(out + used, size - used, i ? ", %lld" : "%lld", (long long)shape[i]);
    }
    if (used < size) snprintf(out + used, size - used, "]");
}

ml_status ml_gguf_get(const ml_gguf *g, const char *name, int n_dim, const int64_t *shape, const ml_gguf_tensor **out,
                      ml_error *err)
{
    const ml_gguf_tensor *t = ml_gguf_find(g, name);
    if (!t) {
        return ml_fail(err, ML_EFORMAT,
                       "%.300s%s: tensor %.160s: is missing among the %zu there: is this the right model?",
                       ml_gguf_path(g), g->n_part > 1 ? " and the other files of the set" : "", name, g->n_tensor);
    }
    if (n_dim >= 0 && (t->n_dim != n_dim || (n_dim && memcmp(t->shape, shape, (size_t)n_dim * sizeof *shape)))) {
        char expected[128], found[128];
        format_shape(expected, sizeof expected, n_dim, shape);
        format_shape(found, sizeof found, t->n_dim, t->shape);
        return ml_fail(err, ML_EFORMAT, "%.300s: tensor %.160s: expected shape %s as the metadata says, found %s",
                       t->file, name, expected, found);
    }
    *out = t;
    return ML_OK;
}
