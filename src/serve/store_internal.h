/* What the files of the store share: its handle, statements, transactions. */
#ifndef ML_SERVE_STORE_INTERNAL_H
#define ML_SERVE_STORE_INTERNAL_H

#include "serve/store.h"

#include <pthread.h>
#include <sqlite3.h>

struct ml_store {
    sqlite3 *db;
    pthread_mutex_t lock;
};

ml_status ml_store_fail(const ml_store *s, ml_error *err);
ml_status ml_store_execute(const ml_store *s, const char *sql, ml_error *err);

/* A statement with ?1, ?2, ... from a list of types: s text, i int64_t, d double, j a json_t (a number, else null). */
ml_status ml_store_prepare(const ml_store *s, sqlite3_stmt **q, ml_error *err, const char *sql, const char *types, ...);
/* One row: *row; the end: not. */
ml_status ml_store_step(const ml_store *s, sqlite3_stmt *q, bool *row, ml_error *err);
/* Run a statement that gives no rows, and end it. */
ml_status ml_store_finish(const ml_store *s, sqlite3_stmt *q, ml_error *err);
json_t *ml_store_text_of(sqlite3_stmt *q, int i);
/* The object that a column holds as text. */
json_t *ml_store_json_of(sqlite3_stmt *q, int i);

/* Take the lock and begin a transaction; when that fails, the lock is free. */
ml_status ml_store_begin(ml_store *s, ml_error *err);
/* Keep what was changed, or nothing of it where `status` is a failure, and give the lock back; -> what became of it. */
ml_status ml_store_end(ml_store *s, ml_status status, ml_error *err);

#endif
