/* Names to indices: a hash table over names that live elsewhere. */
#ifndef ML_FORMAT_NAME_TABLE_H
#define ML_FORMAT_NAME_TABLE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

/* Zeroed is empty.  names[i] is the i-th name added; the caller keeps the text alive and unchanged. */
typedef struct {
    const char **names;
    size_t n, capacity;
    size_t *slots; /* open addressing: index + 1, 0 for free; n_slot is a power of two, at most half full */
    size_t n_slot;
} ml_name_table;

/* Add a name as index n.  *added is false, and nothing changes, when it is there already. */
ml_status ml_name_table_add(ml_name_table *t, const char *name, bool *added, ml_error *err);
/* False when there is none. */
bool ml_name_table_find(const ml_name_table *t, const char *name, size_t *index);
void ml_name_table_free(ml_name_table *t);

#endif
