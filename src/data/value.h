/* Values like JSON's, as the rows of data sets hold them: millions are read, used once and dropped.
 *
 * A value is a node in an arena with its children as a list; whoever has it only reads.  Texts are not 0-terminated and
 * point into the bytes that were read wherever that can be, so that both must outlive the value.  An arena is used by
 * one thread; releasing it to an earlier mark drops everything made since.
 *
 * (Settings and metadata are read through base/json.h, which checks more and keeps things alive by itself.) */
#ifndef ML_DATA_VALUE_H
#define ML_DATA_VALUE_H

#include "base/alloc.h"
#include "base/json.h"

typedef enum {
    ML_VALUE_NULL = 0,
    ML_VALUE_BOOL,
    ML_VALUE_INTEGER,
    ML_VALUE_REAL,
    ML_VALUE_TEXT,
    ML_VALUE_ARRAY,
    ML_VALUE_OBJECT,
} ml_value_kind;

typedef struct ml_value {
    ml_value_kind kind;
    size_t n; /* bytes of a text; children of an array or object */
    union {
        bool truth;
        int64_t integer;
        double real;
        const char *text;
        const struct ml_value *child; /* the first, NULL when there is none */
    };
    const struct ml_value *next; /* of the parent's children */
    const char *key;             /* of a member of an object, and its bytes */
    size_t key_bytes;
} ml_value;

enum { ML_VALUE_MAX_DEPTH = 128 };

/* "null", "a boolean", "text", ... for messages; NULL is "nothing". */
const char *ml_value_kind_name(const ml_value *value);
/* The member of an object with this key (of several the last, as in Python); NULL when there is none or the value is
 * no object, or NULL. */
const ml_value *ml_value_find(const ml_value *object, const char *key);
/* Whether a text is these bytes. */
bool ml_value_is(const ml_value *value, const char *text);

/* One JSON text (RFC 8259), nothing behind it.  Strings must be UTF-8; \u0000 is a byte like others.  ML_EFORMAT names
 * the byte, from 1; ML_ENOMEM when the arena is full. */
ml_status ml_value_parse(ml_arena *arena, const char *text, size_t n_bytes, const ml_value **out, ml_error *err);

/* What a JSON object has under a key, without making values: everything is checked as above, nothing is kept. */
typedef struct {
    bool is_object;     /* else there is no member */
    const char *member; /* where the value begins, NULL without one */
    bool is_text;       /* then `member` lies behind the quote, and */
    size_t n_bytes;     /* so many bytes later comes the other one */
    bool has_escape;    /* they are to be unescaped first */
} ml_json_member;

ml_status ml_json_find_member(const char *text, size_t n_bytes, const char *key, ml_json_member *out, ml_error *err);
/* The bytes between the quotes of a checked JSON string, escapes resolved, into out[n_bytes]; returns how many. */
size_t ml_json_unescape(const char *text, size_t n_bytes, char *out);

/* A copy through base/json.h, for what is printed or stored; NULL when memory is out. */
json_t *ml_value_to_json(const ml_value *value);

#endif
