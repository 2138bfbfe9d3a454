/* PyTorch checkpoints: what torch.save writes, without PyTorch and without running anything of the file.
 *
 * A zip archive (PyTorch 1.6 and later): `<name>/data.pkl`, a pickle whose tensors name storages, and
 * `<name>/data/<key>` with the bytes of each storage.  Or the format before it: five pickles one after the other
 * (magic number, version, system, the object, keys of storages), then each storage as u64 count and its elements.
 * Little-endian files only.
 *
 * Nothing in a file is trusted, and a pickle may name no classes but those that tensors, plain containers and the
 * random states beside them need (format/pickle.h).  Tensors stay in the mapped file, with their strides; every
 * element of every tensor is known to lie in its storage when open returns, and no tensor has more elements than its
 * storage. */
#ifndef ML_FORMAT_PT_H
#define ML_FORMAT_PT_H

#include "format/pickle.h"
#include "format/safetensors.h"

typedef struct {
    const char *name; /* the keys that lead to it, with dots between: "model.blocks.0.norm.weight" */
    const char *file; /* path, for messages */
    ml_st_dtype dtype;
    bool is_complex; /* of two dtype each, real and imaginary: the last dimension, 2, is those */
    int n_dim;       /* 0: a scalar */
    int64_t shape[ML_SAFETENSORS_MAX_DIM];
    int64_t stride[ML_SAFETENSORS_MAX_DIM]; /* elements from one index to the next, >= 0 */
    int64_t n_element;
    const uint8_t *data; /* element 0, in the mapped file; tensors that share a storage share this */
} ml_pt_tensor;

typedef struct ml_pt ml_pt;

/* ML_EIO: missing; ML_EFORMAT: refused. */
ml_status ml_pt_open(ml_pt **out, const char *path, ml_error *err);
/* A file that is already in memory; `data` must outlive the result.  `where` names it in messages. */
ml_status ml_pt_open_memory(ml_pt **out, const void *data, size_t n_bytes, const char *where, ml_error *err);
void ml_pt_close(ml_pt *pt);
/* True when the bytes begin as one of the two formats does. */
bool ml_pt_is(const void *data, size_t n_bytes);

/* Every tensor that dicts, lists and tuples lead to from the root, in their order. */
size_t ml_pt_count(const ml_pt *pt);
const ml_pt_tensor *ml_pt_at(const ml_pt *pt, size_t i);
/* NULL when there is none of that name. */
const ml_pt_tensor *ml_pt_find(const ml_pt *pt, const char *name);
/* As find, but absence is ML_EFORMAT, and so is another shape when n_dim >= 0. */
ml_status ml_pt_get(const ml_pt *pt, const char *name, int n_dim, const int64_t *shape, const ml_pt_tensor **out,
                    ml_error *err);
/* The other values of the file: steps, configurations. */
const ml_pickle *ml_pt_values(const ml_pt *pt);

/* Rows [row, row + n_row) as fp32, out [n_row, n_element / shape[0]]; as ml_st_read_f32. */
ml_status ml_pt_read_f32(const ml_pt_tensor *t, int64_t row, int64_t n_row, float *out, ml_error *err);
ml_status ml_pt_read_all_f32(const ml_pt_tensor *t, float *out, ml_error *err);

#endif
