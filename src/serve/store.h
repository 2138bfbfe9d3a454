/* What outlives the server: conversations and notes about runs, in one SQLite file.
 *
 * Every change is one transaction in write-ahead mode, synced before it is answered: kill -9 loses nothing that was
 * said to be done.  The file carries a version; older ones are brought up step by step when opened, a newer one is
 * refused.  Any thread may call; calls take turns.
 *
 * A conversation belongs to an owner (web.h) and is not there for others. */
#ifndef ML_SERVE_STORE_H
#define ML_SERVE_STORE_H

#include "base/json.h"

#include <stdint.h>

typedef struct ml_store ml_store;

/* NULL: kept in memory.  ML_EFORMAT for a file that is no store, or a newer one. */
ml_status ml_store_open(const char *path, ml_store **out, ml_error *err);
void ml_store_close(ml_store *s);

/* [{id, title, created, updated, n_message}], the latest first. */
ml_status ml_store_list(ml_store *s, const char *owner, json_t **out, ml_error *err);
/* With messages and settings; NULL: there is none. */
ml_status ml_store_get(ml_store *s, const char *owner, const char *id, json_t **out, ml_error *err);
ml_status ml_store_make(ml_store *s, const char *owner, const char *id, const char *title, const json_t *settings,
                        ml_error *err);
/* What is NULL (head: -1) stays; head 0: none.  *found: whether there is such a conversation and such a head in it. */
ml_status ml_store_change(ml_store *s, const char *owner, const char *id, const char *title, const json_t *settings,
                          int64_t head, bool *found, ml_error *err);
ml_status ml_store_delete(ml_store *s, const char *owner, const char *id, bool *found, ml_error *err);

typedef struct {
    int64_t parent; /* 0: the first of a branch */
    const char *role, *content, *model;
    const json_t *meta;
} ml_store_message;

/* *out: the message; NULL: no such conversation, or the parent is none of its messages. */
ml_status ml_store_add_message(ml_store *s, const char *owner, const char *id, const ml_store_message *message,
                               json_t **out, ml_error *err);

/* A run's note; "" when there is none. */
ml_status ml_store_get_note(ml_store *s, const char *run, json_t **out, ml_error *err);
ml_status ml_store_set_note(ml_store *s, const char *run, const char *note, ml_error *err);

#endif
