/* Names of tensors: the keys of the dicts and lists that lead to them. */
#include "base/alloc.h"
#include "format/pt_internal.h"

#include <string.h>

enum {
    MAX_DEPTH = 32,      /* of dicts and lists in each other */
    MAX_VISIT = 1 << 18, /* values seen on the way to tensors: shared ones count each time */
};

/* On the way through the tree to the tensors. */
typedef struct {
    ml_pt *pt;
    char name[ML_PT_MAX_NAME + 1];
    size_t n_visit;
} naming;

static ml_status add_named(ml_pt *pt, const char *name, int32_t index, ml_error *err)
{
    bool added = false;
    if (pt->n_tensor == ML_PT_MAX_TENSOR) return ml_fail(err, ML_EFORMAT, "has more than %d tensors", ML_PT_MAX_TENSOR);
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
    if (n >= ML_PT_MAX_NAME - at) return ml_fail(err, ML_EFORMAT, "a name of more than %d bytes", ML_PT_MAX_NAME);
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
        if ((size_t)n >= ML_PT_MAX_NAME - n_name)
            return ml_fail(err, ML_EFORMAT, "a name of more than %d bytes", ML_PT_MAX_NAME);
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
        if (ml_pt_role_of(w->pt, id, ML_PICKLE_CALL) == ML_PT_PARAMETER) {
            if (!ml_pt_take_entries(p, ml_pickle_call_args(p, id), 1, &inner)) return ML_OK;
            return name_value(w, inner, n_name, depth + 1, err);
        }
        if (w->pt->tensor_of[id] < 0) return ML_OK;
        w->name[n_name] = 0;
        return add_named(w->pt, n_name ? w->name : "tensor", w->pt->tensor_of[id], err);
    default: return ML_OK;
    }
}

ml_status ml_pt_name_tensors(ml_pt *pt, ml_error *err)
{
    naming w = { .pt = pt };
    return name_value(&w, ml_pickle_root(pt->values), 0, 0, err);
}
