/* JSON through jansson, with this project's errors: a failed look-up names the file and the key path.
 *
 * ml_json_* getters take the object, the key and a `where` text (usually the file's path) for messages.
 * "_or" variants return the default when the key is absent or null, and fail when its type is wrong. */
#ifndef ML_BASE_JSON_H
#define ML_BASE_JSON_H

#include "base/status.h"

#include <jansson.h>
#include <stdbool.h>

/* Parse a file / text of n bytes.  Duplicate keys and trailing bytes are errors; the message has line and
 * column.  Free with json_decref. */
ml_status ml_json_load(const char *path, json_t **out, ml_error *err);
ml_status ml_json_parse(const char *text, size_t n_bytes, const char *where, json_t **out, ml_error *err);

ml_status ml_json_int(const json_t *object, const char *key, const char *where, int64_t *out, ml_error *err);
ml_status ml_json_int_or(const json_t *object, const char *key, const char *where, int64_t or_value, int64_t *out,
                         ml_error *err);
/* Accepts an integer where a real is expected. */
ml_status ml_json_real_or(const json_t *object, const char *key, const char *where, double or_value, double *out,
                          ml_error *err);
ml_status ml_json_bool_or(const json_t *object, const char *key, const char *where, bool or_value, bool *out,
                          ml_error *err);
/* The text lives as long as the object. */
ml_status ml_json_text(const json_t *object, const char *key, const char *where, const char **out, ml_error *err);
ml_status ml_json_text_or(const json_t *object, const char *key, const char *where, const char *or_value,
                          const char **out, ml_error *err);
ml_status ml_json_array(const json_t *object, const char *key, const char *where, json_t **out, ml_error *err);
ml_status ml_json_object(const json_t *object, const char *key, const char *where, json_t **out, ml_error *err);

/* A measured or computed number: null where it is infinite or not a number, which JSON cannot say (json_real, and "f"
 * of json_pack, give NULL for it, and with it a missing item or no object at all). */
json_t *ml_json_number(double value);

/* Write atomically, indented by 2, keys in insertion order.  Steals no reference. */
ml_status ml_json_save(const json_t *value, const char *path, ml_error *err);

#endif
