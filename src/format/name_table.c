#include "format/name_table.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <string.h>

static size_t hash_name(const char *name)
{
    uint64_t hash = ml_hash_bytes(name, strlen(name));
    return (size_t)(hash ^ hash >> 32);
}

/* The slot that holds the name, or the free one where it belongs. */
static size_t find_slot(const ml_name_table *t, const char *name)
{
    size_t slot = hash_name(name) & (t->n_slot - 1);
    while (t->slots[slot] && strcmp(t->names[t->slots[slot] - 1], name)) slot = (slot + 1) & (t->n_slot - 1);
    return slot;
}

static ml_status grow_slots(ml_name_table *t, ml_error *err)
{
    size_t n_slot = t->n_slot ? 2 * t->n_slot : 64;
    size_t *slots = ml_calloc(n_slot, sizeof *slots);
    if (!slots) return ml_fail_memory(err, n_slot * sizeof *slots, "a table of names");
    ml_free(t->slots);
    t->slots = slots;
    t->n_slot = n_slot;
    for (size_t i = 0; i < t->n; i++) t->slots[find_slot(t, t->names[i])] = i + 1;
    return ML_OK;
}

ml_status ml_name_table_add(ml_name_table *t, const char *name, bool *added, ml_error *err)
{
    *added = false;
    if (t->n_slot < 2 * (t->n + 1)) ML_TRY(grow_slots(t, err));
    size_t slot = find_slot(t, name);
    if (t->slots[slot]) return ML_OK;
    ML_TRY(ml_grow((void **)&t->names, &t->capacity, t->n + 1, sizeof *t->names, err));
    t->names[t->n++] = name;
    t->slots[slot] = t->n;
    *added = true;
    return ML_OK;
}

bool ml_name_table_find(const ml_name_table *t, const char *name, size_t *index)
{
    if (!t->n_slot) return false;
    size_t found = t->slots[find_slot(t, name)];
    if (!found) return false;
    *index = found - 1;
    return true;
}

void ml_name_table_free(ml_name_table *t)
{
    ml_free(t->names);
    ml_free(t->slots);
    *t = (ml_name_table){ 0 };
}
