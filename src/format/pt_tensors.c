/* Calls of the pickle to tensors over the bytes of their storages. */
#include "base/alloc.h"
#include "format/pt_internal.h"

#include <string.h>

ml_status ml_pt_read_storage_id(const ml_pt *pt, ml_pickle_id id, ml_pt_storage_id *out, ml_error *err)
{
    const ml_pickle *p = pt->values;
    ml_pickle_id e[6];
    size_t n_key;
    ml_pickle_id args = ml_pickle_call_args(p, id);
    if (!ml_pt_take_entries(p, args, 5, e) || !ml_pickle_is_text(p, e[0], "storage") ||
        ml_pt_role_of(pt, e[1], ML_PICKLE_CLASS) != ML_PT_STORAGE || ml_pickle_kind_of(p, e[2]) != ML_PICKLE_TEXT ||
        ml_pickle_kind_of(p, e[4]) != ML_PICKLE_INT || ml_pickle_int(p, e[4]) < 0) {
        return ml_fail(err, ML_EFORMAT, "expected storages as (\"storage\", class, key, location, count)");
    }
    if (ml_pt_take_entries(p, args, 6, e) && ml_pickle_kind_of(p, e[5]) != ML_PICKLE_NONE) {
        return ml_fail(err, ML_EFORMAT,
                       "has views of storages as PyTorch before 0.4 wrote them: save it with a later one");
    }
    const char *key = ml_pickle_bytes(p, e[2], &n_key);
    if (!n_key || n_key > ML_PT_MAX_NAME || memchr(key, 0, n_key)) {
        return ml_fail(err, ML_EFORMAT, "a storage's key has %zu bytes or a 0 in it", n_key);
    }
    memcpy(out->key, key, n_key);
    out->key[n_key] = 0;
    out->class = ml_pickle_class_index(p, e[1]);
    out->n = ml_pickle_int(p, e[4]);
    return ML_OK;
}

static ml_status find_storage(const ml_pt *pt, const ml_pt_storage_id *id, ml_pt_storage *out, ml_error *err)
{
    size_t index, n_bytes;
    if (pt->folder) {
        char name[2 * ML_PT_MAX_NAME + 16];
        snprintf(name, sizeof name, "%sdata/%s", pt->folder, id->key);
        const ml_zip_entry *entry = ml_zip_find(&pt->zip, name);
        if (!entry) return ml_fail(err, ML_EFORMAT, "storage %.160s: is not in the archive", name);
        *out = (ml_pt_storage){ entry->data, entry->n_bytes };
    } else {
        if (!ml_name_table_find(&pt->storage_keys, id->key, &index) || !pt->storages[index].data) {
            return ml_fail(err, ML_EFORMAT, "storage %.160s: is not in the file", id->key);
        }
        *out = pt->storages[index];
    }
    size_t size = ml_pt_class_bytes(id->class);
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
    if (n_dim == 1 && ml_pt_take_entries(p, id, 1, &inner) && ml_pickle_kind_of(p, inner) == ML_PICKLE_TUPLE) {
        id = inner;
        n_dim = ml_pickle_size(p, id);
    }
    if (n_dim > ML_SAFETENSORS_MAX_DIM - 1 || !ml_pt_take_entries(p, id, n_dim, e)) {
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
    bool typed = ml_pt_role_of(pt, call, ML_PICKLE_CALL) == ML_PT_TYPED;
    ml_pickle_id e[7];
    ml_pt_storage_id id;
    ml_pt_storage s;
    if (!ml_pt_take_entries(p, ml_pickle_call_args(p, call), typed ? 7 : 4, e) ||
        ml_pickle_kind_of(p, e[0]) != ML_PICKLE_PERSISTENT || ml_pickle_kind_of(p, e[1]) != ML_PICKLE_INT ||
        ml_pickle_int(p, e[1]) < 0 || (typed && ml_pt_role_of(pt, e[6], ML_PICKLE_CLASS) != ML_PT_DTYPE)) {
        return ml_fail(err, ML_EFORMAT, "expected a storage, an offset, sizes and strides");
    }
    ML_TRY(ml_pt_read_storage_id(pt, e[0], &id, err));
    ML_TRY(find_storage(pt, &id, &s, err));
    size_t class = typed ? ml_pickle_class_index(p, e[6]) : id.class;
    *t = (ml_pt_tensor){ .file = pt->path };
    t->dtype = ml_pt_class_dtype(class, &t->is_complex);
    int n_stride;
    ML_TRY(read_sizes(pt, e[2], "size", &t->n_dim, t->shape, err));
    ML_TRY(read_sizes(pt, e[3], "stride", &n_stride, t->stride, err));
    if (n_stride != t->n_dim) return ml_fail(err, ML_EFORMAT, "has %d sizes but %d strides", t->n_dim, n_stride);
    size_t size = ml_pt_class_bytes(class);
    ML_TRY(check_extent(t, ml_pickle_int(p, e[1]), (int64_t)(s.n_bytes / size), err));
    t->data = s.data + (size_t)ml_pickle_int(p, e[1]) * size;
    if (t->is_complex) split_complex(t);
    return ML_OK;
}

ml_status ml_pt_make_tensors(ml_pt *pt, ml_error *err)
{
    size_t n = ml_pickle_count(pt->values);
    pt->tensor_of = ml_alloc(n * sizeof *pt->tensor_of);
    if (!pt->tensor_of) return ml_fail_memory(err, n * sizeof *pt->tensor_of, "the tensors of a checkpoint");
    for (size_t id = 0; id < n; id++) {
        ml_pt_role r = ml_pt_role_of(pt, (ml_pickle_id)id, ML_PICKLE_CALL);
        pt->tensor_of[id] = -1;
        if (r != ML_PT_TENSOR && r != ML_PT_TYPED) continue;
        if (pt->n_made == ML_PT_MAX_TENSOR)
            return ml_fail(err, ML_EFORMAT, "has more than %d tensors", ML_PT_MAX_TENSOR);
        ML_TRY(ml_grow((void **)&pt->made, &pt->made_capacity, pt->n_made + 1, sizeof *pt->made, err));
        if (make_tensor(pt, (ml_pickle_id)id, &pt->made[pt->n_made], err) != ML_OK) {
            return ml_fail_prefix(err, "tensor %zu of the pickle", pt->n_made);
        }
        pt->tensor_of[id] = (int32_t)pt->n_made++;
    }
    return ML_OK;
}
