/* Thrift's compact protocol, as far as Parquet's footer and page headers use it.
 *
 * A struct is a row of fields until a stop byte; a field has a number and a type, so that unknown ones are skipped:
 *
 *   ml_thrift_field f = { 0 };
 *   while (true) {
 *       ML_TRY(ml_thrift_next(b, &f, err));
 *       if (f.type == ML_THRIFT_STOP) break;
 *       switch (f.id) {
 *       case 1: ML_TRY(ml_thrift_int(b, &f, INT32_MAX, &x, err)); break;
 *       default: ML_TRY(ml_thrift_skip(b, &f, err));
 *       }
 *   }
 *
 * Every length is checked against the bytes that are left; failures are ML_EFORMAT and name the offset. */
#ifndef ML_DATA_PARQUET_THRIFT_H
#define ML_DATA_PARQUET_THRIFT_H

#include "base/bytes.h"

#include <stdbool.h>

typedef enum {
    ML_THRIFT_STOP = 0,
    ML_THRIFT_TRUE,
    ML_THRIFT_FALSE,
    ML_THRIFT_I8,
    ML_THRIFT_I16,
    ML_THRIFT_I32,
    ML_THRIFT_I64,
    ML_THRIFT_DOUBLE,
    ML_THRIFT_TEXT,
    ML_THRIFT_LIST,
    ML_THRIFT_SET,
    ML_THRIFT_MAP,
    ML_THRIFT_STRUCT,
} ml_thrift_type;

/* A field of a struct; zeroed before the first. */
typedef struct {
    int32_t id;
    int type; /* ml_thrift_type */
} ml_thrift_field;

/* Unsigned number of seven bits a byte, as Parquet's encodings use it too; at most ten bytes. */
ml_status ml_thrift_varint(ml_bytes *b, uint64_t *out, ml_error *err);
/* The same with the sign in the lowest bit. */
ml_status ml_thrift_zigzag(ml_bytes *b, int64_t *out, ml_error *err);

ml_status ml_thrift_next(ml_bytes *b, ml_thrift_field *field, ml_error *err);
/* The value of the field just met.  An integer of any width in [-1, max]; -1 stands in some files for "none". */
ml_status ml_thrift_int(ml_bytes *b, const ml_thrift_field *field, int64_t max, int64_t *out, ml_error *err);
ml_status ml_thrift_bool(ml_bytes *b, const ml_thrift_field *field, bool *out, ml_error *err);
/* Bytes within b, not 0-terminated. */
ml_status ml_thrift_text(ml_bytes *b, const ml_thrift_field *field, const char **out, size_t *n_bytes, ml_error *err);
/* n elements of `type` follow, which are not fields: read them with a field of that type. */
ml_status ml_thrift_list(ml_bytes *b, const ml_thrift_field *field, int type, size_t *n, ml_error *err);
/* Fails unless the field is a struct; its fields follow. */
ml_status ml_thrift_struct(const ml_bytes *b, const ml_thrift_field *field, ml_error *err);
/* Pass over the value of the field just met. */
ml_status ml_thrift_skip(ml_bytes *b, const ml_thrift_field *field, ml_error *err);

#endif
