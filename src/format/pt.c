#include "format/pt.h"

#include "base/alloc.h"
#include "base/file.h"
#include "format/name_table.h"
#include "format/zip.h"

#include <string.h>

enum {
    MAX_DEPTH = 32,      /* of dicts and lists in each other */
    MAX_VISIT = 1 << 18, /* values seen on the way to tensors: shared ones count each time */
    MAX_NAME = 600,
    MAX_TENSOR = 32768,
    LEGACY_VERSION = 1001,
};
static const uint8_t legacy_magic[] = { 0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46,
                                        0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e };

/* What a class of the table below is to the reader. */
typedef enum {
    ROLE_OPAQUE,    /* may be named and called, and means nothing here */
    ROLE_TENSOR,    /* (storage, offset, size, stride, ...) */
    ROLE_TYPED,     /* the same with the dtype as argument 6, over an untyped storage */
    ROLE_PARAMETER, /* (tensor, ...) */
    ROLE_STORAGE,
    ROLE_DTYPE,
} role;

/* clang-format off */
#define CLASSES(X) \
    X("torch._utils", "_rebuild_tensor_v2", false, ROLE_TENSOR, ML_ST_U8, false) \
    X("torch._utils", "_rebuild_tensor", false, ROLE_TENSOR, ML_ST_U8, false) \
    X("torch._utils", "_rebuild_tensor_v3", false, ROLE_TYPED, ML_ST_U8, false) \
    X("torch._utils", "_rebuild_parameter", false, ROLE_PARAMETER, ML_ST_U8, false) \
    X("torch._utils", "_rebuild_parameter_with_state", false, ROLE_PARAMETER, ML_ST_U8, false) \
    X("torch", "FloatStorage", false, ROLE_STORAGE, ML_ST_F32, false) \
    X("torch", "DoubleStorage", false, ROLE_STORAGE, ML_ST_F64, false) \
    X("torch", "HalfStorage", false, ROLE_STORAGE, ML_ST_F16, false) \
    X("torch", "BFloat16Storage", false, ROLE_STORAGE, ML_ST_BF16, false) \
    X("torch", "LongStorage", false, ROLE_STORAGE, ML_ST_I64, false) \
    X("torch", "IntStorage", false, ROLE_STORAGE, ML_ST_I32, false) \
    X("torch", "ShortStorage", false, ROLE_STORAGE, ML_ST_I16, false) \
    X("torch", "CharStorage", false, ROLE_STORAGE, ML_ST_I8, false) \
    X("torch", "ByteStorage", false, ROLE_STORAGE, ML_ST_U8, false) \
    X("torch", "BoolStorage", false, ROLE_STORAGE, ML_ST_BOOL, false) \
    X("torch", "ComplexFloatStorage", false, ROLE_STORAGE, ML_ST_F32, true) \
    X("torch", "ComplexDoubleStorage", false, ROLE_STORAGE, ML_ST_F64, true) \
    X("torch.storage", "UntypedStorage", false, ROLE_STORAGE, ML_ST_U8, false) \
    X("torch", "float32", false, ROLE_DTYPE, ML_ST_F32, false) \
    X("torch", "float64", false, ROLE_DTYPE, ML_ST_F64, false) \
    X("torch", "float16", false, ROLE_DTYPE, ML_ST_F16, false) \
    X("torch", "bfloat16", false, ROLE_DTYPE, ML_ST_BF16, false) \
    X("torch", "float8_e4m3fn", false, ROLE_DTYPE, ML_ST_F8_E4M3, false) \
    X("torch", "float8_e5m2", false, ROLE_DTYPE, ML_ST_F8_E5M2, false) \
    X("torch", "int64", false, ROLE_DTYPE, ML_ST_I64, false) \
    X("torch", "int32", false, ROLE_DTYPE, ML_ST_I32, false) \
    X("torch", "int16", false, ROLE_DTYPE, ML_ST_I16, false) \
    X("torch", "int8", false, ROLE_DTYPE, ML_ST_I8, false) \
    X("torch", "uint64", false, ROLE_DTYPE, ML_ST_U64, false) \
    X("torch", "uint32", false, ROLE_DTYPE, ML_ST_U32, false) \
    X("torch", "uint16", false, ROLE_DTYPE, ML_ST_U16, false) \
    X("torch", "uint8", false, ROLE_DTYPE, ML_ST_U8, false) \
    X("torch", "bool", false, ROLE_DTYPE, ML_ST_BOOL, false) \
    X("torch", "complex64", false, ROLE_DTYPE, ML_ST_F32, true) \
    X("torch", "complex128", false, ROLE_DTYPE, ML_ST_F64, true) \
    X("torch", "Size", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("torch", "device", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("collections", "OrderedDict", true, ROLE_OPAQUE, ML_ST_U8, false) \
    X("collections", "defaultdict", true, ROLE_OPAQUE, ML_ST_U8, false) \
    X("builtins", "dict", true, ROLE_OPAQUE, ML_ST_U8, false) \
    X("__builtin__", "dict", true, ROLE_OPAQUE, ML_ST_U8, false) \
    X("builtins", "list", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("__builtin__", "list", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("builtins", "set", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("__builtin__", "set", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("builtins", "complex", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("_codecs", "encode", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("argparse", "Namespace", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("pathlib", "PosixPath", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("numpy", "ndarray", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("numpy", "dtype", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("numpy.core.multiarray", "_reconstruct", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("numpy._core.multiarray", "_reconstruct", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("numpy.core.multiarray", "scalar", false, ROLE_OPAQUE, ML_ST_U8, false) \
    X("numpy._core.multiarray", "scalar", false, ROLE_OPAQUE, ML_ST_U8, false)
/* clang-format on */

#define CLASS_NAME(module, name, dict, role, type, complex) { module, name, dict },
#define CLASS_ROLE(module, name, dict, role, type, complex) { role, type, complex },
static const ml_pickle_class classes[] = { CLASSES(CLASS_NAME) };
static const struct {
    role role;
    ml_st_dtype dtype;
    bool is_complex;
} roles[] = { CLASSES(CLASS_ROLE) };
enum { N_CLASS = sizeof classes / sizeof *classes };

typedef struct {
    const uint8_t *data;
    size_t n_bytes;
} storage;

struct ml_pt {
    char *path;
    ml_map map; /* not used for a file in memory */
    ml_pickle *values;
    ml_zip zip;
    char *folder; /* of the archive, with the '/' */
    /* Before zip: storages by key. */
    char *keys;
    storage *storages;
    ml_name_table storage_keys; /* index i is storages[i] */
    int32_t *tensor_of;         /* [values] index of a CALL's tensor in `made`, -1 for others */
    ml_pt_tensor *made;
    size_t n_made, made_capacity;
    ml_pt_tensor *tensors; /* with names */
    size_t n_tensor, tensor_capacity;
    char **names;
    size_t name_capacity;
    ml_name_table table;
};

bool ml_pt_is(const void *data, size_t n_bytes)
{
    if (n_bytes >= 4 && !memcmp(data, "PK\3\4", 4)) return true;
    return n_bytes >= sizeof legacy_magic && !memcmp(data, legacy_magic, sizeof legacy_magic);
}

static size_t element_bytes(ml_st_dtype dtype, bool is_complex)
{
    return ml_st_dtype_size(dtype) * (is_complex ? 2 : 1);
}

/* The role of a class or call, ROLE_OPAQUE for other values. */
static role role_of(const ml_pt *pt, ml_pickle_id id, ml_pickle_kind kind)
{
    return ml_pickle_kind_of(pt->values, id) == kind ? roles[ml_pickle_class_index(pt->values, id)].role : ROLE_OPAQUE;
}

/* The first n entries of a tuple or list; false when it has fewer or is neither. */
static bool take_entries(const ml_pickle *p, ml_pickle_id id, size_t n, ml_pickle_id *out)
{
    ml_pickle_kind kind = ml_pickle_kind_of(p, id);
    if ((kind != ML_PICKLE_TUPLE && kind != ML_PICKLE_LIST) || ml_pickle_size(p, id) < n) return false;
    ml_pickle_walk walk = ml_pickle_begin(p, id);
    for (size_t i = 0; i < n; i++) ml_pickle_next(p, &walk, &out[i]);
    return true;
}

/* ("storage", class, key, location, count, view): a storage as the pickle names it. */
typedef struct {
    char key[MAX_NAME + 1];
    size_t class;
    int64_t n; /* elements */
} storage_id;

static ml_status read_storage_id(const ml_pt *pt, ml_pickle_id id, storage_id *out, ml_error *err)
{
    const ml_pickle *p = pt->values;
    ml_pickle_id e[6];
    size_t n_key;
    ml_pickle_id args = ml_pickle_call_args(p, id);
    if (!take_entries(p, args, 5, e) || !ml_pickle_is_text(p, e[0], "storage") ||
        role_of(pt, e[1], ML_PICKLE_CLASS) != ROLE_STORAGE || ml_pickle_kind_of(p, e[2]) != ML_PICKLE_TEXT ||
        ml_pickle_kind_of(p, e[4]) != ML_PICKLE_INT || ml_pickle_int(p, e[4]) < 0) {
        return ml_fail(err, ML_EFORMAT, "expected storages as (\"storage\", class, key, location, count)");
    }
    if (take_entries(p, args, 6, e) && ml_pickle_kind_of(p, e[5]) != ML_PICKLE_NONE) {
        return ml_fail(err, ML_EFORMAT,
                       "has views of storages as PyTorch before 0.4 wrote them: save it with a later one");
    }
    const char *key = ml_pickle_bytes(p, e[2], &n_key);
    if (!n_key || n_key > MAX_NAME || memchr(key, 0, n_key)) {
        return ml_fail(err, ML_EFORMAT, "a storage's key has %zu bytes or a 0 in it", n_key);
    }
    memcpy(out->key, key, n_key);
    out->key[n_key] = 0;
    out->class = ml_pickle_class_index(p, e[1]);
    out->n = ml_pickle_int(p, e[4]);
    return ML_OK;
}

static ml_status find_storage(const ml_pt *pt, const storage_id *id, storage *out, ml_error *err)
{
    size_t index, n_bytes;
    if (pt->folder) {
        char name[2 * MAX_NAME + 16];
        snprintf(name, sizeof name, "%sdata/%s", pt->folder, id->key);
        const ml_zip_entry *entry = ml_zip_find(&pt->zip, name);
        if (!entry) return ml_fail(err, ML_EFORMAT, "storage %.160s: is not in the archive", name);
        *out = (storage){ entry->data, entry->n_bytes };
    } else {
        if (!ml_name_table_find(&pt->storage_keys, id->key, &index) || !pt->storages[index].data) {
            return ml_fail(err, ML_EFORMAT, "storage %.160s: is not in the file", id->key);
        }
        *out = pt->storages[index];
    }
    size_t size = element_bytes(roles[id->class].dtype, roles[id->class].is_complex);
    if (ml_size_mul((size_t)id->n, size, &n_bytes) && n_bytes == out->n_bytes) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "storage %.160s: expected %lld elements of %zu bytes, found %zu bytes", id->key,
                   (long long)id->n, size, out->n_bytes);
}

static ml_status read_sizes(const ml_pt *pt, ml_pickle_id id, const char *what, int *n, int64_t *out, ml_error *err)
{
    const ml_pickle *p = pt->values;
    ml_pickle_id e[ML_SAFETENSORS_MAX_DIM];
    if (ml_pickle_kind_of(p, id) == ML_PICKLE_CALL) id = ml_pickle_call_args(p, id); // torch.Size((2, 3))
    size_t n_dim = ml_pickle_kind_of(p, id) == ML_PICKLE_TUPLE ? ml_pickle_size(p, id) : SIZE_MAX;
    ml_pickle_id inner;
    if (n_dim == 1 && take_entries(p, id, 1, &inner) && ml_pickle_kind_of(p, inner) == ML_PICKLE_TUPLE) {
        id = inner;
        n_dim = ml_pickle_size(p, id);
    }
    if (n_dim > ML_SAFETENSORS_MAX_DIM - 1 || !take_entries(p, id, n_dim, e)) {
        return ml_fail(err, ML_EFORMAT, "%s: expected a tuple of at most %d", what, ML_SAFETENSORS_MAX_DIM - 1);
    }
    for (size_t i = 0; i < n_dim; i++) {
        if (ml_pickle_kind_of(p, e[i]) != ML_PICKLE_INT || ml_pickle_int(p, e[i]) < 0) {
            return ml_fail(err, ML_EFORMAT, "%s: entry %zu is no whole number >= 0", what, i);
        }
        out[i] = ml_pickle_int(p, e[i]);
    }
    *n = (int)n_dim;
    return ML_OK;
}

/* Every element lies in the n elements of the storage behind `offset`. */
static ml_status check_extent(ml_pt_tensor *t, int64_t offset, int64_t n, ml_error *err)
{
    size_t last = (size_t)offset, n_element = 1, step;
    bool fits = true;
    for (int i = 0; i < t->n_dim; i++) fits = fits && ml_size_mul(n_element, (size_t)t->shape[i], &n_element);
    t->n_element = fits && n_element <= INT64_MAX ? (int64_t)n_element : -1;
    for (int i = 0; i < t->n_dim && n_element; i++) {
        fits =
            fits && ml_size_mul((size_t)t->shape[i] - 1, (size_t)t->stride[i], &step) && ml_size_add(last, step, &last);
    }
    if (fits && (n_element ? last < (size_t)n && n_element <= (size_t)n : last <= (size_t)n)) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "has elements outside its storage of %lld, or more than that", (long long)n);
}

/* Two numbers for one: sizes count in the numbers' type. */
static void split_complex(ml_pt_tensor *t)
{
    for (int i = 0; i < t->n_dim; i++) t->stride[i] *= 2;
    t->shape[t->n_dim] = 2;
    t->stride[t->n_dim] = 1;
    t->n_dim++;
    t->n_element *= 2;
}

static ml_status make_tensor(const ml_pt *pt, ml_pickle_id call, ml_pt_tensor *t, ml_error *err)
{
    const ml_pickle *p = pt->values;
    bool typed = role_of(pt, call, ML_PICKLE_CALL) == ROLE_TYPED;
    ml_pickle_id e[7];
    storage_id id;
    storage s;
    if (!take_entries(p, ml_pickle_call_args(p, call), typed ? 7 : 4, e) ||
        ml_pickle_kind_of(p, e[0]) != ML_PICKLE_PERSISTENT || ml_pickle_kind_of(p, e[1]) != ML_PICKLE_INT ||
        ml_pickle_int(p, e[1]) < 0 || (typed && role_of(pt, e[6], ML_PICKLE_CLASS) != ROLE_DTYPE)) {
        return ml_fail(err, ML_EFORMAT, "expected a storage, an offset, sizes and strides");
    }
    ML_TRY(read_storage_id(pt, e[0], &id, err));
    ML_TRY(find_storage(pt, &id, &s, err));
    size_t class = typed ? ml_pickle_class_index(p, e[6]) : id.class;
    *t = (ml_pt_tensor){ .file = pt->path, .dtype = roles[class].dtype, .is_complex = roles[class].is_complex };
    int n_stride;
    ML_TRY(read_sizes(pt, e[2], "size", &t->n_dim, t->shape, err));
    ML_TRY(read_sizes(pt, e[3], "stride", &n_stride, t->stride, err));
    if (n_stride != t->n_dim) return ml_fail(err, ML_EFORMAT, "has %d sizes but %d strides", t->n_dim, n_stride);
    size_t size = element_bytes(t->dtype, t->is_complex);
    ML_TRY(check_extent(t, ml_pickle_int(p, e[1]), (int64_t)(s.n_bytes / size), err));
    t->data = s.data + (size_t)ml_pickle_int(p, e[1]) * size;
    if (t->is_complex) split_complex(t);
    return ML_OK;
}

/* Every call that makes a tensor, whether the root leads to it or not. */
static ml_status make_tensors(ml_pt *pt, ml_error *err)
{
    size_t n = ml_pickle_count(pt->values);
    pt->tensor_of = ml_alloc(n * sizeof *pt->tensor_of);
    if (!pt->tensor_of) return ml_fail_memory(err, n * sizeof *pt->tensor_of, "the tensors of a checkpoint");
    for (size_t id = 0; id < n; id++) {
        role r = role_of(pt, (ml_pickle_id)id, ML_PICKLE_CALL);
        pt->tensor_of[id] = -1;
        if (r != ROLE_TENSOR && r != ROLE_TYPED) continue;
        if (pt->n_made == MAX_TENSOR) return ml_fail(err, ML_EFORMAT, "has more than %d tensors", MAX_TENSOR);
        ML_TRY(ml_grow((void **)&pt->made, &pt->made_capacity, pt->n_made + 1, sizeof *pt->made, err));
        if (make_tensor(pt, (ml_pickle_id)id, &pt->made[pt->n_made], err) != ML_OK) {
            return ml_fail_prefix(err, "tensor %zu of the pickle", pt->n_made);
        }
        pt->tensor_of[id] = (int32_t)pt->n_made++;
    }
    return ML_OK;
}

/* On the way through the tree to the tensors. */
typedef struct {
    ml_pt *pt;
    char name[MAX_NAME + 1];
    size_t n_visit;
} naming;

static ml_status add_named(ml_pt *pt, const char *name, int32_t index, ml_error *err)
{
    bool added = false;
    if (pt->n_tensor == MAX_TENSOR) return ml_fail(err, ML_EFORMAT, "has more than %d tensors", MAX_TENSOR);
    ML_TRY(ml_grow((void **)&pt->names, &pt->name_capacity, pt->n_tensor + 1, sizeof *pt->names, err));
    ML_TRY(ml_grow((void **)&pt->tensors, &pt->tensor_capacity, pt->n_tensor + 1, sizeof *pt->tensors, err));
    char *copy = ml_strdup(name);
    if (!copy) return ml_fail_memory(err, strlen(name), "a tensor's name");
    pt->names[pt->n_tensor] = copy;
    pt->tensors[pt->n_tensor] = pt->made[index];
    pt->tensors[pt->n_tensor].name = copy;
    pt->n_tensor++;
    ML_TRY(ml_name_table_add(&pt->table, copy, &added, err));
    return added ? ML_OK : ml_fail(err, ML_EFORMAT, "tensor %.160s: is there twice", name);
}

static ml_status name_value(naming *w, ml_pickle_id id, size_t n_name, int depth, ml_error *err);

/* Put ".<key>" behind the name; *n_name is its new length, or 0 when the key is nothing to name a tensor by. */
static ml_status extend_name(naming *w, ml_pickle_id key, size_t *n_name, ml_error *err)
{
    const ml_pickle *p = w->pt->values;
    char number[32];
    const char *text = number;
    size_t n = 0, at = *n_name;
    ml_pickle_kind kind = ml_pickle_kind_of(p, key);
    *n_name = 0;
    if (kind == ML_PICKLE_INT) n = (size_t)snprintf(number, sizeof number, "%lld", (long long)ml_pickle_int(p, key));
    if (kind == ML_PICKLE_TEXT) text = ml_pickle_bytes(p, key, &n);
    if (!n || memchr(text, 0, n)) return ML_OK;
    if (n >= MAX_NAME - at) return ml_fail(err, ML_EFORMAT, "a name of more than %d bytes", MAX_NAME);
    if (at) w->name[at++] = '.';
    memcpy(w->name + at, text, n);
    w->name[at + n] = 0;
    *n_name = at + n;
    return ML_OK;
}

static ml_status name_dict(naming *w, ml_pickle_id id, size_t n_name, int depth, ml_error *err)
{
    const ml_pickle *p = w->pt->values;
    ml_pickle_walk walk = ml_pickle_begin(p, id);
    ml_pickle_id key, value;
    while (ml_pickle_next(p, &walk, &key) && ml_pickle_next(p, &walk, &value)) {
        size_t n = n_name;
        ML_TRY(extend_name(w, key, &n, err));
        if (n) ML_TRY(name_value(w, value, n, depth + 1, err));
    }
    return ML_OK;
}

static ml_status name_list(naming *w, ml_pickle_id id, size_t n_name, int depth, ml_error *err)
{
    const ml_pickle *p = w->pt->values;
    ml_pickle_walk walk = ml_pickle_begin(p, id);
    ml_pickle_id value;
    for (size_t i = 0; ml_pickle_next(p, &walk, &value); i++) {
        char number[32];
        int n = snprintf(number, sizeof number, n_name ? ".%zu" : "%zu", i);
        if ((size_t)n >= MAX_NAME - n_name) return ml_fail(err, ML_EFORMAT, "a name of more than %d bytes", MAX_NAME);
        memcpy(w->name + n_name, number, (size_t)n + 1);
        ML_TRY(name_value(w, value, n_name + (size_t)n, depth + 1, err));
    }
    return ML_OK;
}

static ml_status name_value(naming *w, ml_pickle_id id, size_t n_name, int depth, ml_error *err)
{
    const ml_pickle *p = w->pt->values;
    if (depth > MAX_DEPTH || ++w->n_visit > MAX_VISIT) {
        return ml_fail(err, ML_EFORMAT,
                       "dicts and lists lie deeper than %d in each other, or lead to more than %d values", MAX_DEPTH,
                       MAX_VISIT);
    }
    ml_pickle_id inner;
    switch (ml_pickle_kind_of(p, id)) {
    case ML_PICKLE_DICT: return name_dict(w, id, n_name, depth, err);
    case ML_PICKLE_LIST:
    case ML_PICKLE_TUPLE: return name_list(w, id, n_name, depth, err);
    case ML_PICKLE_CALL:
        if (role_of(w->pt, id, ML_PICKLE_CALL) == ROLE_PARAMETER) {
            if (!take_entries(p, ml_pickle_call_args(p, id), 1, &inner)) return ML_OK;
            return name_value(w, inner, n_name, depth + 1, err);
        }
        if (w->pt->tensor_of[id] < 0) return ML_OK;
        w->name[n_name] = 0;
        return add_named(w->pt, n_name ? w->name : "tensor", w->pt->tensor_of[id], err);
    default: return ML_OK;
    }
}

static ml_status name_tensors(ml_pt *pt, ml_error *err)
{
    naming w = { .pt = pt };
    ML_TRY(make_tensors(pt, err));
    return name_value(&w, ml_pickle_root(pt->values), 0, 0, err);
}

/* The folder of data.pkl, which is the first entry of that name. */
static ml_status find_folder(ml_pt *pt, const ml_zip_entry **data, ml_error *err)
{
    static const char name[] = "data.pkl";
    for (size_t i = 0; i < pt->zip.n; i++) {
        const ml_zip_entry *e = &pt->zip.entries[i];
        const char *slash = strchr(e->name, '/');
        if (!slash || strcmp(slash + 1, name)) continue;
        pt->folder = ml_strdup(e->name);
        if (!pt->folder) return ml_fail_memory(err, strlen(e->name), "a name");
        pt->folder[slash + 1 - e->name] = 0;
        *data = e;
        return ML_OK;
    }
    return ml_fail(err, ML_EFORMAT, "is a zip archive without <name>/data.pkl: no checkpoint of torch.save");
}

static const ml_zip_entry *find_beside(const ml_pt *pt, const char *file)
{
    char name[ML_ZIP_MAX_NAME + 32];
    snprintf(name, sizeof name, "%s%s", pt->folder, file);
    return ml_zip_find(&pt->zip, name);
}

static ml_status open_zip(ml_pt *pt, ml_bytes file, ml_error *err)
{
    const ml_zip_entry *data = NULL;
    ML_TRY(ml_zip_open(&pt->zip, file.data, file.size, err));
    ML_TRY(find_folder(pt, &data, err));
    const ml_zip_entry *order = find_beside(pt, "byteorder");
    if (order && (order->n_bytes != 6 || memcmp(order->data, "little", 6))) {
        return ml_fail(err, ML_EFORMAT, "entry byteorder: expected \"little\", found \"%.*s\"",
                       (int)(order->n_bytes < 20 ? order->n_bytes : 20), (const char *)order->data);
    }
    if (find_beside(pt, "constants.pkl")) {
        return ml_fail(err, ML_EFORMAT, "asks for code: is a TorchScript program, expected a checkpoint of torch.save");
    }
    ml_bytes pickle = { data->data, data->n_bytes, 0 };
    if (ml_pickle_parse(&pickle, classes, N_CLASS, &pt->values, err) != ML_OK) {
        return ml_fail_prefix(err, "entry %.160s", data->name);
    }
    return name_tensors(pt, err);
}

/* Version and system of a file from before zip. */
static ml_status check_system(ml_bytes *file, ml_error *err)
{
    ml_pickle *p;
    ml_pickle_id id;
    ML_TRY(ml_pickle_parse(file, classes, N_CLASS, &p, err));
    id = ml_pickle_root(p);
    bool right = ml_pickle_kind_of(p, id) == ML_PICKLE_INT && ml_pickle_int(p, id) == LEGACY_VERSION;
    ml_pickle_free(p);
    if (!right) return ml_fail(err, ML_EFORMAT, "expected version %d of the format", LEGACY_VERSION);
    ML_TRY(ml_pickle_parse(file, classes, N_CLASS, &p, err));
    right = ml_pickle_get(p, ml_pickle_root(p), "little_endian", &id) && ml_pickle_kind_of(p, id) == ML_PICKLE_BOOL &&
            ml_pickle_int(p, id);
    ml_pickle_free(p);
    return right ? ML_OK : ml_fail(err, ML_EFORMAT, "key little_endian: expected true: it is from another machine");
}

/* Note every storage that the pickle names: its key, and the size of its elements as n_bytes until it is found. */
static ml_status list_storages(ml_pt *pt, ml_error *err)
{
    size_t n = 0, used = 0, count = ml_pickle_count(pt->values), n_chars = 0;
    storage_id id;
    for (size_t i = 0; i < count; i++) {
        if (ml_pickle_kind_of(pt->values, (ml_pickle_id)i) != ML_PICKLE_PERSISTENT) continue;
        ML_TRY(read_storage_id(pt, (ml_pickle_id)i, &id, err));
        n_chars += strlen(id.key) + 1;
        n++;
    }
    if (n_chars > (size_t)16 << 20) return ml_fail(err, ML_EFORMAT, "the keys of its storages have more than 16 MiB");
    pt->keys = ml_alloc(n_chars + 1);
    pt->storages = ml_calloc(n + 1, sizeof *pt->storages);
    if (!pt->keys || !pt->storages) return ml_fail_memory(err, n_chars, "the storages of a checkpoint");
    for (size_t i = 0; i < count; i++) {
        bool added;
        if (ml_pickle_kind_of(pt->values, (ml_pickle_id)i) != ML_PICKLE_PERSISTENT) continue;
        ML_TRY(read_storage_id(pt, (ml_pickle_id)i, &id, err));
        char *key = pt->keys + used;
        strcpy(key, id.key);
        used += strlen(key) + 1;
        ML_TRY(ml_name_table_add(&pt->storage_keys, key, &added, err));
        if (!added) continue;
        pt->storages[pt->storage_keys.n - 1].n_bytes = element_bytes(roles[id.class].dtype, roles[id.class].is_complex);
    }
    return ML_OK;
}

/* One storage of the file: u64 count and the elements. */
static ml_status read_storage(ml_pt *pt, const ml_pickle *keys, ml_pickle_id id, ml_bytes *file, ml_error *err)
{
    uint64_t n;
    size_t index, n_key, n_bytes, at = file->at;
    char key[MAX_NAME + 1] = "";
    if (ml_pickle_kind_of(keys, id) == ML_PICKLE_TEXT) {
        const char *text = ml_pickle_bytes(keys, id, &n_key);
        if (n_key <= MAX_NAME) memcpy(key, text, n_key);
    }
    if (!ml_name_table_find(&pt->storage_keys, key, &index) || pt->storages[index].data) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: storage \"%.100s\": no tensor names it, or it is there twice", at,
                       key);
    }
    storage *s = &pt->storages[index];
    ML_TRY(ml_bytes_u64(file, &n, err));
    if (n > SIZE_MAX / 16 || !ml_size_mul((size_t)n, s->n_bytes, &n_bytes)) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: storage \"%.100s\": %llu elements", at, key,
                       (unsigned long long)n);
    }
    s->n_bytes = n_bytes;
    return ml_bytes_take(file, n_bytes, &s->data, err);
}

static ml_status read_storages(ml_pt *pt, ml_bytes *file, ml_error *err)
{
    ml_pickle *keys;
    ML_TRY(ml_pickle_parse(file, classes, N_CLASS, &keys, err));
    ml_pickle_id root = ml_pickle_root(keys), id;
    ml_status status = ML_OK;
    if (ml_pickle_kind_of(keys, root) != ML_PICKLE_LIST) {
        status = ml_fail(err, ML_EFORMAT, "expected a list of the keys of storages, found %s",
                         ml_pickle_kind_name(ml_pickle_kind_of(keys, root)));
    } else {
        ml_pickle_walk walk = ml_pickle_begin(keys, root);
        while (status == ML_OK && ml_pickle_next(keys, &walk, &id)) status = read_storage(pt, keys, id, file, err);
    }
    ml_pickle_free(keys);
    return status;
}

static ml_status open_legacy(ml_pt *pt, ml_bytes file, ml_error *err)
{
    file.at = sizeof legacy_magic;
    ML_TRY(check_system(&file, err));
    ML_TRY(ml_pickle_parse(&file, classes, N_CLASS, &pt->values, err));
    ML_TRY(list_storages(pt, err));
    ML_TRY(read_storages(pt, &file, err));
    return name_tensors(pt, err);
}

static ml_status open_bytes(ml_pt *pt, const uint8_t *data, size_t n_bytes, ml_error *err)
{
    ml_bytes file = { data, n_bytes, 0 };
    ml_status status;
    if (!ml_pt_is(data, n_bytes)) {
        status = ml_fail(err, ML_EFORMAT,
                         "offset 0: expected a file of torch.save: a zip archive, or the magic number "
                         "of the format before");
    } else {
        status = data[0] == 'P' ? open_zip(pt, file, err) : open_legacy(pt, file, err);
    }
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
