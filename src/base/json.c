#include "base/json.h"

#include "base/alloc.h"
#include "base/file.h"

#include <math.h>
#include <string.h>

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a real number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    case JSON_NULL: return "null";
    }
    return "nothing";
}

ml_status ml_json_parse(const char *text, size_t n_bytes, const char *where, json_t **out, ml_error *err)
{
    json_error_t error;
    *out = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (*out) return ML_OK;
    if (json_error_code(&error) == json_error_out_of_memory) return ml_fail_memory(err, n_bytes, where);
    if (!memchr(text, '\n', n_bytes)) { /* a line of a file, say */
        return ml_fail(err, ML_EFORMAT, "%s: byte %d: not valid JSON: %s", where, error.position, error.text);
    }
    return ml_fail(err, ML_EFORMAT, "%s:%d:%d: not valid JSON: %s", where, error.line, error.column, error.text);
}

ml_status ml_json_load(const char *path, json_t **out, ml_error *err)
{
    char *text;
    size_t size;
    *out = NULL;
    ML_TRY(ml_file_read(path, &text, &size, err));
    ml_status status = ml_json_parse(text, size, path, out, err);
    ml_free(text);
    return status;
}

static ml_status fail_type(const json_t *found, const char *key, const char *where, const char *expected, ml_error *err)
{
    return ml_fail(err, ML_EFORMAT, "%s: key \"%s\": expected %s, found %s", where, key, expected, type_name(found));
}

/* The value of a key, NULL when it is absent or null. */
static ml_status find(const json_t *object, const char *key, const char *where, json_t **out, ml_error *err)
{
    *out = NULL;
    if (!json_is_object(object)) {
        return ml_fail(err, ML_EFORMAT, "%s: expected an object with the key \"%s\", found %s", where, key,
                       object ? type_name(object) : "nothing");
    }
    json_t *value = json_object_get(object, key);
    if (value && !json_is_null(value)) *out = value;
    return ML_OK;
}

static ml_status find_required(const json_t *object, const char *key, const char *where, const char *expected,
                               json_t **out, ml_error *err)
{
    ML_TRY(find(object, key, where, out, err));
    if (*out) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%s: key \"%s\": expected %s, found %s", where, key, expected,
                   json_object_get(object, key) ? "null" : "no such key");
}

ml_status ml_json_int(const json_t *object, const char *key, const char *where, int64_t *out, ml_error *err)
{
    json_t *value;
    ML_TRY(find_required(object, key, where, "an integer", &value, err));
    if (!json_is_integer(value)) return fail_type(value, key, where, "an integer", err);
    *out = json_integer_value(value);
    return ML_OK;
}

ml_status ml_json_int_or(const json_t *object, const char *key, const char *where, int64_t or_value, int64_t *out,
                         ml_error *err)
{
    json_t *value;
    ML_TRY(find(object, key, where, &value, err));
    if (value && !json_is_integer(value)) return fail_type(value, key, where, "an integer", err);
    *out = value ? json_integer_value(value) : or_value;
    return ML_OK;
}

ml_status ml_json_real_or(const json_t *object, const char *key, const char *where, double or_value, double *out,
                          ml_error *err)
{
    json_t *value;
    ML_TRY(find(object, key, where, &value, err));
    if (value && !json_is_number(value)) return fail_type(value, key, where, "a number", err);
    *out = value ? json_number_value(value) : or_value;
    return ML_OK;
}

ml_status ml_json_bool_or(const json_t *object, const char *key, const char *where, bool or_value, bool *out,
                          ml_error *err)
{
    json_t *value;
    ML_TRY(find(object, key, where, &value, err));
    if (value && !json_is_boolean(value)) return fail_type(value, key, where, "true or false", err);
    *out = value ? json_is_true(value) : or_value;
    return ML_OK;
}

ml_status ml_json_text(const json_t *object, const char *key, const char *where, const char **out, ml_error *err)
{
    json_t *value;
    ML_TRY(find_required(object, key, where, "a string", &value, err));
    if (!json_is_string(value)) return fail_type(value, key, where, "a string", err);
    *out = json_string_value(value);
    return ML_OK;
}

ml_status ml_json_text_or(const json_t *object, const char *key, const char *where, const char *or_value,
                          const char **out, ml_error *err)
{
    json_t *value;
    ML_TRY(find(object, key, where, &value, err));
    if (value && !json_is_string(value)) return fail_type(value, key, where, "a string", err);
    *out = value ? json_string_value(value) : or_value;
    return ML_OK;
}

ml_status ml_json_array(const json_t *object, const char *key, const char *where, json_t **out, ml_error *err)
{
    json_t *value;
    ML_TRY(find_required(object, key, where, "an array", &value, err));
    if (!json_is_array(value)) return fail_type(value, key, where, "an array", err);
    *out = value;
    return ML_OK;
}

ml_status ml_json_object(const json_t *object, const char *key, const char *where, json_t **out, ml_error *err)
{
    json_t *value;
    ML_TRY(find_required(object, key, where, "an object", &value, err));
    if (!json_is_object(value)) return fail_type(value, key, where, "an object", err);
    *out = value;
    return ML_OK;
}

json_t *ml_json_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

typedef struct {
    ml_file_writer writer;
    ml_error *err;
    ml_status status;
} save_state;

static int save_piece(const char *buffer, size_t n_bytes, void *arg)
{
    save_state *save = arg;
    save->status = ml_file_write(&save->writer, buffer, n_bytes, save->err);
    return save->status == ML_OK ? 0 : -1;
}

ml_status ml_json_save(const json_t *value, const char *path, ml_error *err)
{
    save_state save = { .err = err, .status = ML_OK };
    ML_TRY(ml_file_begin(&save.writer, path, err));
    if (json_dump_callback(value, save_piece, &save, JSON_INDENT(2) | JSON_ENCODE_ANY) != 0 && save.status == ML_OK) {
        save.status =
            ml_fail(err, ML_EINVAL, "%s: the value cannot be written as JSON (a text in it is not UTF-8?)", path);
    }
    if (save.status == ML_OK) save.status = ml_file_write(&save.writer, "\n", 1, err);
    if (save.status == ML_OK) save.status = ml_file_commit(&save.writer, err);
    ml_file_abandon(&save.writer);
    return save.status;
}
