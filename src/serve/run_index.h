/* What the files of runs say, brought into the store: each line is read once.
 *
 * The files are what counts.  A file is known by its device, inode and the bytes before the place up to which it was
 * taken in; when these are others, because a resumed run wrote its log anew, it is taken in from the beginning. */
#ifndef ML_SERVE_RUN_INDEX_H
#define ML_SERVE_RUN_INDEX_H

#include "serve/store.h"

/* Take in what is new in FOLDER/NAME of a run; *out: how far it is known now, key 0 when there is no such file or
 * nothing in it.  A line without its end waits for it; what is no JSON object is passed over. */
ml_status ml_run_index_update(ml_store *store, const char *run, const char *folder, const char *name,
                              ml_store_lines kind, ml_store_file *out, ml_error *err);

/* Which state of a run's files a summary of it is made from; "" when they changed so recently that they may change
 * again within the clock's resolution. */
void ml_run_index_stamp(const char *folder, char *out, size_t size);

#endif
