/* Zip archives whose entries are stored without compression, as PyTorch writes them: the directory at the end, with
 * 64-bit sizes where they are needed.  Compressed and encrypted entries are refused, and so is whatever points out of
 * the file. */
#ifndef ML_FORMAT_ZIP_H
#define ML_FORMAT_ZIP_H

#include "format/name_table.h"

#include <stdint.h>

enum { ML_ZIP_MAX_ENTRIES = 65535, ML_ZIP_MAX_NAME = 500 };

typedef struct {
    const char *name;
    const uint8_t *data; /* in the archive's bytes */
    size_t n_bytes;
} ml_zip_entry;

/* Start zeroed. */
typedef struct {
    ml_zip_entry *entries;
    size_t n;
    char *names;
    ml_name_table table; /* index i is entries[i] */
} ml_zip;

/* The bytes must outlive the archive.  ML_EFORMAT names the offset or the entry. */
ml_status ml_zip_open(ml_zip *z, const uint8_t *data, size_t n_bytes, ml_error *err);
void ml_zip_close(ml_zip *z);
/* NULL when there is none of that name. */
const ml_zip_entry *ml_zip_find(const ml_zip *z, const char *name);

#endif
