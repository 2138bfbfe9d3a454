/* Inside the reader of PyTorch checkpoints (format/pt.h): what its files share. */
#ifndef ML_FORMAT_PT_INTERNAL_H
#define ML_FORMAT_PT_INTERNAL_H

#include "base/bytes.h"
#include "base/file.h"
#include "format/name_table.h"
#include "format/pt.h"
#include "format/zip.h"

enum {
    ML_PT_MAX_NAME = 600, /* bytes of a tensor's name, or of a storage's key */
    ML_PT_MAX_TENSOR = 32768,
};

/* What a class that a pickle may name is to the reader. */
typedef enum {
    ML_PT_OPAQUE,    /* may be named and called, and means nothing here */
    ML_PT_TENSOR,    /* (storage, offset, size, stride, ...) */
    ML_PT_TYPED,     /* the same with the dtype as argument 6, over an untyped storage */
    ML_PT_PARAMETER, /* (tensor, ...) */
    ML_PT_STORAGE,
    ML_PT_DTYPE,
} ml_pt_role;

typedef struct {
    const uint8_t *data;
    size_t n_bytes;
} ml_pt_storage;

struct ml_pt {
    char *path;
    ml_map map; /* not used for a file in memory */
    ml_pickle *values;
    ml_zip zip;
    char *folder; /* of the archive, with the '/' */
    /* Before zip: storages by key. */
    char *keys;
    ml_pt_storage *storages;
    ml_name_table storage_keys; /* index i is storages[i] */
    int32_t *tensor_of;         /* [values] index of a CALL's tensor in `made`, -1 for others */
    ml_pt_tensor *made;
    size_t n_made, made_capacity;
    ml_pt_tensor *tensors; /* with names */
    size_t n_tensor, tensor_capacity;
    char **names;
    size_t name_capacity;
    ml_name_table table;
};

/* ("storage", class, key, location, count, view): a storage as the pickle names it. */
typedef struct {
    char key[ML_PT_MAX_NAME + 1];
    size_t class;
    int64_t n; /* elements */
} ml_pt_storage_id;

/* pt_classes.c: parse one pickle that may name the classes of its table; what `class` (ml_pickle_class_index) is. */
ml_status ml_pt_parse(ml_bytes *file, ml_pickle **out, ml_error *err);
ml_st_dtype ml_pt_class_dtype(size_t class, bool *is_complex);
/* Bytes of an element of a storage or dtype class. */
size_t ml_pt_class_bytes(size_t class);
/* The role of a class or call (`kind`), ML_PT_OPAQUE for other values. */
ml_pt_role ml_pt_role_of(const ml_pt *pt, ml_pickle_id id, ml_pickle_kind kind);
/* The first n entries of a tuple or list; false when it has fewer or is neither. */
bool ml_pt_take_entries(const ml_pickle *p, ml_pickle_id id, size_t n, ml_pickle_id *out);

/* pt_tensors.c: the storage that a persistent id means; every call that makes a tensor, into `made`, whether the root
 * leads to it or not. */
ml_status ml_pt_read_storage_id(const ml_pt *pt, ml_pickle_id id, ml_pt_storage_id *out, ml_error *err);
ml_status ml_pt_make_tensors(ml_pt *pt, ml_error *err);
/* pt_names.c: `tensors`, those of `made` that the root leads to, by name. */
ml_status ml_pt_name_tensors(ml_pt *pt, ml_error *err);
/* pt_container.c: storages, values and tensors of a file in memory, zip or from before. */
ml_status ml_pt_read_container(ml_pt *pt, const uint8_t *data, size_t n_bytes, ml_error *err);

#endif
