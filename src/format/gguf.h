/* GGUF: reading and writing models as llama.cpp's ecosystem stores them.
 *
 * The format (versions 2 and 3 are the same bytes on little-endian machines), all integers little endian:
 *
 *   "GGUF" | u32 version | u64 n_tensor | u64 n_key
 *   n_key times:    text key | u32 value type | value
 *   n_tensor times: text name | u32 n_dim | u64 dim[n_dim] | u32 element type | u64 offset
 *   padding to the alignment | data
 *
 * A text is a u64 length and that many bytes, without a 0.  An array is u32 element type, u64 count and the values
 * end to end; arrays of arrays exist in the format, not in models, and are refused.  dim[0] is the length of a row,
 * so dims stand here in the reverse of the order everybody else writes.  An offset counts from the beginning of the
 * data and is a multiple of the alignment: `general.alignment`, 32 unless stored.
 *
 * A model may be split into `name-00001-of-00003.gguf`...: the first file has the metadata and `split.count`, each
 * file has `split.no` (from 0) and some of the tensors.
 *
 * Nothing in a file is trusted: what breaks a rule above, counts and sizes beyond the file, duplicate names,
 * overlapping tensors and element types that this program cannot compute with are refused (ML_EFORMAT) with the
 * file, the key or tensor, and the offset.  Metadata arrays and tensors stay in the mapped file. */
#ifndef ML_FORMAT_GGUF_H
#define ML_FORMAT_GGUF_H

#include "base/status.h"
#include "tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    ML_GGUF_MAX_DIM = 4,
    ML_GGUF_MAX_NAME = 1000,    /* bytes of a key or a tensor's name; those in use have below 64 */
    ML_GGUF_MAX_ENTRIES = 65536 /* keys, and tensors, of a file; the largest models have below 3,000 */
};

/* Types of metadata, by the numbers of the file. */
typedef enum {
    ML_GGUF_U8 = 0,
    ML_GGUF_I8,
    ML_GGUF_U16,
    ML_GGUF_I16,
    ML_GGUF_U32,
    ML_GGUF_I32,
    ML_GGUF_F32,
    ML_GGUF_BOOL,
    ML_GGUF_TEXT,
    ML_GGUF_ARRAY,
    ML_GGUF_U64,
    ML_GGUF_I64,
    ML_GGUF_F64,
    ML_GGUF_N_TYPE,
} ml_gguf_type;

/* "u8", ..., "text", "array" */
const char *ml_gguf_type_name(ml_gguf_type type);

typedef struct {
    const char *key;
    ml_gguf_type type;    /* of the value; ML_GGUF_ARRAY: of `element` */
    ml_gguf_type element; /* the same as type when that is no array */
    size_t n;             /* values: 1 unless an array */
    size_t offset;        /* of the first value in the file, for messages */
    const uint8_t *data;  /* the values, end to end, in the mapped file; aligned to nothing */
    size_t n_bytes;
} ml_gguf_value;

typedef struct {
    const char *name;
    const char *file; /* path, for messages */
    ml_dtype dtype;
    int n_dim;
    int64_t shape[ML_GGUF_MAX_DIM]; /* slowest first, as everywhere in this project: [rows, row length] */
    int64_t n_element;
    size_t offset;       /* in the file */
    const uint8_t *data; /* in the mapped file, aligned as it says */
    size_t n_bytes;
} ml_gguf_tensor;

/* A file or a set of files, open for reading. */
typedef struct ml_gguf ml_gguf;

/* `path` is a .gguf file, any of a split set.  ML_EIO: missing; ML_EFORMAT: refused. */
ml_status ml_gguf_open(ml_gguf **out, const char *path, ml_error *err);
/* One file that is already in memory; `data` must outlive the result.  `where` names it in messages. */
ml_status ml_gguf_open_memory(ml_gguf **out, const void *data, size_t n_bytes, const char *where, ml_error *err);
void ml_gguf_close(ml_gguf *g);
/* The (first) file's path. */
const char *ml_gguf_path(const ml_gguf *g);
/* True when the bytes begin as a GGUF file does. */
bool ml_gguf_is(const void *data, size_t n_bytes);
/* The same of a file; fails as ml_file_read_head. */
ml_status ml_gguf_is_file(const char *path, bool *out, ml_error *err);

/* Metadata of the first file, in its order. */
size_t ml_gguf_key_count(const ml_gguf *g);
const ml_gguf_value *ml_gguf_key_at(const ml_gguf *g, size_t i);
/* NULL when there is none. */
const ml_gguf_value *ml_gguf_find_key(const ml_gguf *g, const char *key);

/* One value.  ML_EFORMAT when the key is missing, of another type or out of range: the message names it.  Integers
 * of any width are taken, numbers from any integer too. */
ml_status ml_gguf_get_integer(const ml_gguf *g, const char *key, int64_t least, int64_t most, int64_t *out,
                              ml_error *err);
ml_status ml_gguf_get_number(const ml_gguf *g, const char *key, double *out, ml_error *err);
ml_status ml_gguf_get_bool(const ml_gguf *g, const char *key, bool *out, ml_error *err);
/* Not 0-terminated, any bytes. */
ml_status ml_gguf_get_text(const ml_gguf *g, const char *key, const char **text, size_t *n_bytes, ml_error *err);
/* In new memory (ml_free), 0-terminated; ML_EFORMAT also for a 0 inside. */
ml_status ml_gguf_copy_text(const ml_gguf *g, const char *key, char **text, ml_error *err);
/* An array of exactly this element type. */
ml_status ml_gguf_get_array(const ml_gguf *g, const char *key, ml_gguf_type element, const ml_gguf_value **out,
                            ml_error *err);

/* Value i, below value->n, of an integer or bool type; U64 above the range of int64_t becomes its greatest. */
int64_t ml_gguf_integer(const ml_gguf_value *value, size_t i);
/* Of any type but texts. */
double ml_gguf_number(const ml_gguf_value *value, size_t i);
/* Texts one after the other: *at starts 0; false at the end. */
bool ml_gguf_next_text(const ml_gguf_value *value, size_t *at, const char **text, size_t *n_bytes);

/* Tensors of all files, in the order of their descriptions. */
size_t ml_gguf_count(const ml_gguf *g);
const ml_gguf_tensor *ml_gguf_at(const ml_gguf *g, size_t i);
/* NULL when there is none of that name. */
const ml_gguf_tensor *ml_gguf_find(const ml_gguf *g, const char *name);
/* As find, but absence is ML_EFORMAT, and so is another shape when n_dim >= 0. */
ml_status ml_gguf_get(const ml_gguf *g, const char *name, int n_dim, const int64_t *shape, const ml_gguf_tensor **out,
                      ml_error *err);

/* Writing one file.  Set the metadata and declare the tensors, start, then give the data of each in the order
 * declared, in one piece or many; end.  The file appears under its name when that is done (base/file.h).  The
 * alignment is 32. */
typedef struct ml_gguf_writer ml_gguf_writer;

ml_status ml_gguf_writer_begin(ml_gguf_writer **out, const char *path, ml_error *err);
/* ML_EINVAL for a key that was set before, a bad name, or after start. */
ml_status ml_gguf_writer_set_u32(ml_gguf_writer *w, const char *key, uint32_t value, ml_error *err);
ml_status ml_gguf_writer_set_u64(ml_gguf_writer *w, const char *key, uint64_t value, ml_error *err);
ml_status ml_gguf_writer_set_f32(ml_gguf_writer *w, const char *key, float value, ml_error *err);
ml_status ml_gguf_writer_set_bool(ml_gguf_writer *w, const char *key, bool value, ml_error *err);
ml_status ml_gguf_writer_set_text(ml_gguf_writer *w, const char *key, const char *text, ml_error *err);
/* An array of n values as they shall stand in the file; not of texts. */
ml_status ml_gguf_writer_set_array(ml_gguf_writer *w, const char *key, ml_gguf_type element, const void *values,
                                   size_t n, ml_error *err);
/* An array of n texts, given one by one right after it. */
ml_status ml_gguf_writer_set_texts(ml_gguf_writer *w, const char *key, size_t n, ml_error *err);
ml_status ml_gguf_writer_add_text(ml_gguf_writer *w, const char *text, size_t n_bytes, ml_error *err);
/* A value as another file holds it, under the same key. */
ml_status ml_gguf_writer_set_value(ml_gguf_writer *w, const ml_gguf_value *value, ml_error *err);
/* shape: slowest first. */
ml_status ml_gguf_writer_declare(ml_gguf_writer *w, const char *name, ml_dtype dtype, int n_dim, const int64_t *shape,
                                 ml_error *err);
/* Bytes of data declared so far, with padding. */
uint64_t ml_gguf_writer_bytes(const ml_gguf_writer *w);
/* Before writing begins: more than n_bytes of data become a set of files "NAME-00001-of-00003.gguf" of at most so many
 * each (one tensor at least), the first with all metadata; 0: one file. */
void ml_gguf_writer_split(ml_gguf_writer *w, uint64_t n_bytes);
/* Once writing began. */
size_t ml_gguf_writer_file_count(const ml_gguf_writer *w);
/* ML_EINVAL when a set would have too many files, or there is one of its files already. */
ml_status ml_gguf_writer_start(ml_gguf_writer *w, ml_error *err);
/* The next bytes of the current tensor as they shall stand in the file; they may not cross into the next. */
ml_status ml_gguf_writer_put(ml_gguf_writer *w, const void *data, size_t n_bytes, ml_error *err);
/* ML_EINVAL if a declared tensor did not get all its data. */
ml_status ml_gguf_writer_end(ml_gguf_writer *w, ml_error *err);
/* Free, dropping the file in work if end was not reached.  NULL is legal. */
void ml_gguf_writer_free(ml_gguf_writer *w);

#endif
