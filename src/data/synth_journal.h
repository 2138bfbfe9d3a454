/* What a long collection has so far: a file of JSON lines that is appended to and survives any end of the program.
 *
 *   {"asked": {...}}                                 what it collects: must be the same to go on
 *   {"index": 0, "row": {...} or null, "rejects": [...], ...}     one line for each piece of work done, in any order
 *
 * A line that was cut by a crash is dropped when the file is opened again.  One process at a time may have it open. */
#ifndef ML_DATA_SYNTH_JOURNAL_H
#define ML_DATA_SYNTH_JOURNAL_H

#include "base/file.h"
#include "base/json.h"

typedef struct {
    uint64_t index, offset;
    size_t n_bytes;
} ml_journal_entry;

typedef struct {
    char path[ML_PATH_MAX];
    FILE *file;
    uint64_t n_bytes;
    ml_journal_entry *entry; /* [n] in the order of the file */
    size_t n, capacity;
    bool resumed; /* there were entries */
} ml_journal;

/* Open it, or begin it with `asked`; `see` is told of every entry that is there.  ML_EINVAL when it was begun with
 * something else, or another process has it; ML_EFORMAT for a file of another kind. */
ml_status ml_journal_open(ml_journal *j, const char *path, const json_t *asked,
                          void (*see)(void *arg, const json_t *entry), void *arg, ml_error *err);
/* Safe on a zeroed one. */
void ml_journal_close(ml_journal *j);
/* Append an entry, which has "index". */
ml_status ml_journal_add(ml_journal *j, const json_t *entry, ml_error *err);
/* Sort the entries by index. */
void ml_journal_sort(ml_journal *j);
ml_status ml_journal_read(const ml_journal *j, size_t i, json_t **entry, ml_error *err);
/* Close it and remove its file. */
ml_status ml_journal_remove(ml_journal *j, ml_error *err);

#endif
