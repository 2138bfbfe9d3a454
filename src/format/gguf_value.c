/* Metadata by key, with its type checked. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "format/gguf_types.h"

#include <stdio.h>
#include <string.h>

static bool is_integer(ml_gguf_type type)
{
    return type != ML_GGUF_F32 && type != ML_GGUF_F64 && type != ML_GGUF_BOOL && type != ML_GGUF_TEXT &&
           type != ML_GGUF_ARRAY;
}

int64_t ml_gguf_integer(const ml_gguf_value *value, size_t i)
{
    const uint8_t *p = value->data + i * ml_gguf_type_size(value->element);
    switch (value->element) {
    case ML_GGUF_I8: return (int8_t)*p;
    case ML_GGUF_U16: return p[0] | p[1] << 8;
    case ML_GGUF_I16: return (int16_t)(p[0] | p[1] << 8);
    case ML_GGUF_U32: return ml_load_u32(p);
    case ML_GGUF_I32: return (int32_t)ml_load_u32(p);
    case ML_GGUF_I64: return (int64_t)ml_load_u64(p);
    case ML_GGUF_U64: return ml_load_u64(p) > INT64_MAX ? INT64_MAX : (int64_t)ml_load_u64(p);
    default: return *p;
    }
}

double ml_gguf_number(const ml_gguf_value *value, size_t i)
{
    const uint8_t *p = value->data + i * ml_gguf_type_size(value->element);
    if (value->element == ML_GGUF_F32) {
        uint32_t bits = ml_load_u32(p);
        float f;
        memcpy(&f, &bits, sizeof f);
        return (double)f;
    }
    if (value->element == ML_GGUF_F64) {
        uint64_t bits = ml_load_u64(p);
        double d;
        memcpy(&d, &bits, sizeof d);
        return d;
    }
    return (double)ml_gguf_integer(value, i);
}

bool ml_gguf_next_text(const ml_gguf_value *value, size_t *at, const char **text, size_t *n_bytes)
{
    if (*at >= value->n_bytes) return false;
    *n_bytes = (size_t)ml_load_u64(value->data + *at); // opening checked every length
    *text = (const char *)value->data + *at + 8;
    *at += 8 + *n_bytes;
    return true;
}

static ml_status need_key(const ml_gguf *g, const char *key, const char *what, const ml_gguf_value **out, ml_error *err)
{
    *out = ml_gguf_find_key(g, key);
    if (*out) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%.300s: key %.160s: expected %s, but it is missing among the %zu keys",
                   ml_gguf_path(g), key, what, ml_gguf_key_count(g));
}

static ml_status fail_type(const ml_gguf *g, const ml_gguf_value *v, const char *what, ml_error *err)
{
    bool array = v->type == ML_GGUF_ARRAY;
    return ml_fail(err, ML_EFORMAT, "%.300s: offset %zu: key %.160s: expected %s, found %s%s", ml_gguf_path(g),
                   v->offset, v->key, what, array ? "an array of " : "", ml_gguf_type_name(v->element));
}

ml_status ml_gguf_get_integer(const ml_gguf *g, const char *key, int64_t least, int64_t most, int64_t *out,
                              ml_error *err)
{
    const ml_gguf_value *v;
    ML_TRY(need_key(g, key, "a whole number", &v, err));
    if (!is_integer(v->type)) return fail_type(g, v, "a whole number", err);
    int64_t value = ml_gguf_integer(v, 0);
    if (value < least || value > most) {
        return ml_fail(err, ML_EFORMAT, "%.300s: offset %zu: key %.160s: expected %lld to %lld, found %lld",
                       ml_gguf_path(g), v->offset, key, (long long)least, (long long)most, (long long)value);
    }
    *out = value;
    return ML_OK;
}

ml_status ml_gguf_get_number(const ml_gguf *g, const char *key, double *out, ml_error *err)
{
    const ml_gguf_value *v;
    ML_TRY(need_key(g, key, "a number", &v, err));
    if (!is_integer(v->type) && v->type != ML_GGUF_F32 && v->type != ML_GGUF_F64)
        return fail_type(g, v, "a number", err);
    *out = ml_gguf_number(v, 0);
    return ML_OK;
}

ml_status ml_gguf_get_bool(const ml_gguf *g, const char *key, bool *out, ml_error *err)
{
    const ml_gguf_value *v;
    ML_TRY(need_key(g, key, "a bool", &v, err));
    if (v->type != ML_GGUF_BOOL) return fail_type(g, v, "a bool", err);
    *out = v->data[0];
    return ML_OK;
}

ml_status ml_gguf_get_text(const ml_gguf *g, const char *key, const char **text, size_t *n_bytes, ml_error *err)
{
    const ml_gguf_value *v;
    size_t at = 0;
    ML_TRY(need_key(g, key, "a text", &v, err));
    if (v->type != ML_GGUF_TEXT) return fail_type(g, v, "a text", err);
    ml_gguf_next_text(v, &at, text, n_bytes);
    return ML_OK;
}

ml_status ml_gguf_copy_text(const ml_gguf *g, const char *key, char **text, ml_error *err)
{
    const char *bytes;
    size_t n;
    ML_TRY(ml_gguf_get_text(g, key, &bytes, &n, err));
    if (memchr(bytes, 0, n)) {
        return ml_fail(err, ML_EFORMAT, "%.300s: key %.160s: expected a text without a 0 in it", ml_gguf_path(g), key);
    }
    char *copy = ml_alloc(n + 1);
    if (!copy) return ml_fail_memory(err, n, key);
    memcpy(copy, bytes, n);
    copy[n] = 0;
    *text = copy;
    return ML_OK;
}

ml_status ml_gguf_get_array(const ml_gguf *g, const char *key, ml_gguf_type element, const ml_gguf_value **out,
                            ml_error *err)
{
    const ml_gguf_value *v;
    char what[32];
    snprintf(what, sizeof what, "an array of %s", ml_gguf_type_name(element));
    ML_TRY(need_key(g, key, what, &v, err));
    if (v->type != ML_GGUF_ARRAY || v->element != element) return fail_type(g, v, what, err);
    *out = v;
    return ML_OK;
}
