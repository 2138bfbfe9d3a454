/* Pickles as data: a reader of Python's pickle format that runs nothing.
 *
 * A pickle is a program for a stack machine whose values are numbers, texts and containers, and which may call any
 * function by its name: that is how it takes over whoever loads it.  Here a call stays a record of which function
 * would be called with what, and only functions and classes of the caller's table may be named at all.  Another name
 * is ML_EFORMAT, "asks for code".
 *
 * Protocols 2 to 5.  Values are numbers (ids) into one pool; they may be shared and, since containers can be put into
 * themselves, form cycles: who walks them bounds the depth.  Bounds of the pool, the stack and the memo keep memory
 * below 64 MiB whatever the bytes are. */
#ifndef ML_FORMAT_PICKLE_H
#define ML_FORMAT_PICKLE_H

#include "base/bytes.h"

#include <stdbool.h>

typedef struct ml_pickle ml_pickle;
typedef uint32_t ml_pickle_id;

typedef enum {
    ML_PICKLE_NONE,
    ML_PICKLE_BOOL,
    ML_PICKLE_INT,
    ML_PICKLE_BIG, /* an integer of more than 64 bits: its bytes, little endian, two's complement */
    ML_PICKLE_FLOAT,
    ML_PICKLE_TEXT,
    ML_PICKLE_BYTES,
    ML_PICKLE_LIST, /* sets too */
    ML_PICKLE_TUPLE,
    ML_PICKLE_DICT,
    ML_PICKLE_CLASS,      /* a name of the caller's table */
    ML_PICKLE_CALL,       /* of a class, with arguments */
    ML_PICKLE_PERSISTENT, /* a value that the file keeps elsewhere */
} ml_pickle_kind;

/* A function or class that a pickle may name. */
typedef struct {
    const char *module, *name;
    bool makes_dict; /* called, it gives a dict: its first argument's pairs, or an empty one */
} ml_pickle_class;

/* Read the pickle at bytes->at, and leave that behind it.  `classes` must outlive the result, and so must the bytes.
 * ML_EFORMAT names the offset. */
ml_status ml_pickle_parse(ml_bytes *bytes, const ml_pickle_class *classes, size_t n_class, ml_pickle **out,
                          ml_error *err);
void ml_pickle_free(ml_pickle *p);

ml_pickle_id ml_pickle_root(const ml_pickle *p);
/* Ids are 0 .. count - 1. */
size_t ml_pickle_count(const ml_pickle *p);
ml_pickle_kind ml_pickle_kind_of(const ml_pickle *p, ml_pickle_id id);
/* "a dict", for messages */
const char *ml_pickle_kind_name(ml_pickle_kind kind);

/* Each of the following is for the kinds it names only. */
int64_t ml_pickle_int(const ml_pickle *p, ml_pickle_id id); /* INT, BOOL */
double ml_pickle_float(const ml_pickle *p, ml_pickle_id id);
const char *ml_pickle_bytes(const ml_pickle *p, ml_pickle_id id, size_t *n_bytes); /* TEXT, BYTES, BIG */
/* True for a TEXT that says this. */
bool ml_pickle_is_text(const ml_pickle *p, ml_pickle_id id, const char *text);
size_t ml_pickle_class_index(const ml_pickle *p, ml_pickle_id id);     /* CLASS, CALL: in the caller's table */
ml_pickle_id ml_pickle_call_args(const ml_pickle *p, ml_pickle_id id); /* CALL: any value; PERSISTENT: its id */

/* Entries of a LIST or TUPLE; a DICT counts its pairs. */
size_t ml_pickle_size(const ml_pickle *p, ml_pickle_id id);

/* A walk over the entries of a LIST or TUPLE, or the keys and values by turns of a DICT. */
typedef struct {
    uint32_t cell;
} ml_pickle_walk;

ml_pickle_walk ml_pickle_begin(const ml_pickle *p, ml_pickle_id id);
bool ml_pickle_next(const ml_pickle *p, ml_pickle_walk *walk, ml_pickle_id *out);
/* The value that a DICT gives last for a text; false when there is none, or `id` is no dict. */
bool ml_pickle_get(const ml_pickle *p, ml_pickle_id id, const char *key, ml_pickle_id *out);

#endif
