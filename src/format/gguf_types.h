/* The numbers of types in GGUF files; for the reader and the writer. */
#ifndef ML_FORMAT_GGUF_TYPES_H
#define ML_FORMAT_GGUF_TYPES_H

#include "format/gguf.h"

#define ML_GGUF_MAGIC "GGUF"
enum { ML_GGUF_VERSION = 3, ML_GGUF_ALIGNMENT = 32 };

/* Bytes of a value of fixed size; 0 for texts and arrays. */
size_t ml_gguf_type_size(ml_gguf_type type);
/* The element type of that number, false when there is none that this program reads. */
bool ml_gguf_dtype_from_file(uint32_t number, ml_dtype *out);
uint32_t ml_gguf_dtype_to_file(ml_dtype dtype);
/* ggml's name of an element type, also of those that are not read; NULL for a number that has none. */
const char *ml_gguf_dtype_file_name(uint32_t number);

#endif
