/* safetensors: reading and writing named tensors.
 *
 * The format, all integers little endian:
 *
 *   u64 header_bytes | header: JSON, padded with spaces | data
 *   {"__metadata__": {"format": "pt"}, "name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}
 *
 * data_offsets count from the first byte after the header.  The tensors cover the data exactly: no hole, no
 * overlap, nothing behind the last one.  A model larger than one file is split into
 * `model-00001-of-00007.safetensors`... with `model.safetensors.index.json`:
 * {"metadata": {"total_size": bytes}, "weight_map": {"name": "file", ...}}.
 *
 * Nothing in a file is trusted: a file that breaks a rule above is refused with the file, the tensor and the
 * offset or key.  Data stays in the mapped file and is converted when asked for. */
#ifndef ML_FORMAT_SAFETENSORS_H
#define ML_FORMAT_SAFETENSORS_H

#include "base/status.h"
#include "format/manifest.h"
#include "tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>

enum { ML_SAFETENSORS_MAX_DIM = 8 };

typedef enum {
    ML_ST_F32,
    ML_ST_BF16,
    ML_ST_F16,
    ML_ST_F64,
    ML_ST_F8_E4M3, /* OCP e4m3fn; DeepSeek stores a "<name>_scale_inv" beside it, which the caller applies */
    ML_ST_F8_E5M2,
    ML_ST_I64,
    ML_ST_I32,
    ML_ST_I16,
    ML_ST_I8,
    ML_ST_U64,
    ML_ST_U32,
    ML_ST_U16,
    ML_ST_U8,
    ML_ST_BOOL,
    ML_ST_N_DTYPE,
} ml_st_dtype;

/* "F32", "BF16", ... */
const char *ml_st_dtype_name(ml_st_dtype dtype);
size_t ml_st_dtype_size(ml_st_dtype dtype);
/* The file type that stores a tensor type. */
ml_st_dtype ml_st_dtype_of(ml_dtype dtype);
/* The tensor type of the same bits of F32, BF16 and F16; false for all others. */
bool ml_st_dtype_to_float(ml_st_dtype dtype, ml_dtype *out);

typedef struct {
    const char *name;
    const char *file; /* path, for messages */
    ml_st_dtype dtype;
    int n_dim; /* 0: a scalar */
    int64_t shape[ML_SAFETENSORS_MAX_DIM];
    int64_t n_element;
    const uint8_t *data; /* in the mapped file; aligned to nothing in particular */
    size_t n_bytes;
} ml_st_tensor;

/* A file or a set of shards, open for reading. */
typedef struct ml_safetensors ml_safetensors;

/* `path` is a .safetensors file, an index.json, or a folder with `model.safetensors` or
 * `model.safetensors.index.json` in it.  ML_EIO: missing; ML_EFORMAT: refused. */
ml_status ml_safetensors_open(ml_safetensors **out, const char *path, ml_error *err);
/* One file that is already in memory; `data` must outlive the result.  `where` names it in messages. */
ml_status ml_safetensors_open_memory(ml_safetensors **out, const void *data, size_t n_bytes, const char *where,
                                     ml_error *err);
void ml_safetensors_close(ml_safetensors *s);

/* Tensors in the order of their data, file by file. */
size_t ml_safetensors_count(const ml_safetensors *s);
const ml_st_tensor *ml_safetensors_at(const ml_safetensors *s, size_t i);
/* NULL when there is none of that name. */
const ml_st_tensor *ml_safetensors_find(const ml_safetensors *s, const char *name);
/* As find, but absence is ML_EFORMAT, and so is another shape when n_dim >= 0. */
ml_status ml_safetensors_get(const ml_safetensors *s, const char *name, int n_dim, const int64_t *shape,
                             const ml_st_tensor **out, ml_error *err);
/* A text of the (first) file's __metadata__, or NULL. */
const char *ml_safetensors_metadata(const ml_safetensors *s, const char *key);

/* Rows [row, row + n_row) of a tensor as fp32: out [n_row, n_element / shape[0]].  A row is what one index of
 * the first dimension selects; a scalar is one row.  Integers are converted by value, fp8 without its scale.
 * ML_EINVAL when the rows are not there. */
ml_status ml_st_read_f32(const ml_st_tensor *t, int64_t row, int64_t n_row, float *out, ml_error *err);
/* All of it. */
ml_status ml_st_read_all_f32(const ml_st_tensor *t, float *out, ml_error *err);
/* All of an integer or bool tensor. ML_EFORMAT for another type, or a U64 that does not fit. */
ml_status ml_st_read_all_i64(const ml_st_tensor *t, int64_t *out, ml_error *err);

/* Writing.  Declare every tensor, start, then give the data of each in the order declared, in one piece or
 * many; end.  The files are listed in the manifest `m` and hashed on the way.
 *
 * `name` is the single file, e.g. "model.safetensors" or "state/optimizer.safetensors".  When the data is more
 * than max_shard_bytes (0: no limit) it is split, between tensors, into "model-0000i-of-0000n.safetensors" and
 * the index is written; a tensor larger than that gets a file alone.  The data begins 64-byte aligned, and a
 * tensor is aligned to its element when wider types are declared before narrower ones. */
typedef struct ml_st_writer ml_st_writer;

ml_status ml_st_writer_begin(ml_st_writer **out, ml_manifest *m, const char *name, uint64_t max_shard_bytes,
                             ml_error *err);
/* ML_EINVAL for a name declared twice, a bad shape, or after start. */
ml_status ml_st_writer_declare(ml_st_writer *w, const char *name, ml_st_dtype dtype, int n_dim, const int64_t *shape,
                               ml_error *err);
/* Bytes of data declared so far, for the caller's estimate of disk space. */
uint64_t ml_st_writer_bytes(const ml_st_writer *w);
ml_status ml_st_writer_start(ml_st_writer *w, ml_error *err);
/* The next n values of the current tensor, rounded to its type (F32, BF16 or F16).  They may not cross into
 * the next tensor. */
ml_status ml_st_writer_put_f32(ml_st_writer *w, const float *values, int64_t n, ml_error *err);
/* The next bytes of the current tensor as they shall stand in the file. */
ml_status ml_st_writer_put_raw(ml_st_writer *w, const void *data, size_t n_bytes, ml_error *err);
/* ML_EINVAL if a declared tensor did not get all its data. */
ml_status ml_st_writer_end(ml_st_writer *w, ml_error *err);
/* Free, dropping the file in work if end was not reached.  NULL is legal. */
void ml_st_writer_free(ml_st_writer *w);

#endif
