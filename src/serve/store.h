/* What outlives the server, in one SQLite file: conversations; notes on runs; and what the files of runs say (how far
 * each is, where in the log each step stands, its rollouts), so that hundreds of them need not be read again.
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

/* ---- runs (store_runs.c) ---- */

/* {id: {note, stamp, summary}} of all runs that the store knows. */
ml_status ml_store_list_runs(ml_store *s, json_t **out, ml_error *err);
ml_status ml_store_set_note(ml_store *s, const char *run, const char *note, ml_error *err);
/* [{id, stamp, summary}]: what was found out about runs; `stamp` says of which state of their files. */
ml_status ml_store_put_summaries(ml_store *s, const json_t *runs, ml_error *err);

/* ---- lines of a run's files (store_lines.c) ---- */

/* How far a file has been taken in.  `identity`: which file it was, "" before the first line. */
typedef struct {
    int64_t key, n_byte, n_line;
    char identity[96];
} ml_store_file;

typedef enum { ML_STORE_METRICS, ML_STORE_ROLLOUTS } ml_store_lines;

ml_status ml_store_get_file(ml_store *s, const char *run, const char *name, ml_store_file *out, ml_error *err);
/* Take in the lines between two states of a file, as a JSON array: of a log [step, is_evaluation, place], of rollouts
 * [step, prompt, text, reward, record] with null for what is not there; null for a line that is not wanted.  One
 * transaction; nothing when somebody else took them in meanwhile.  With n_byte 0 in `from` what was known of the file
 * is forgotten first. */
ml_status ml_store_add_lines(ml_store *s, const char *run, const char *name, ml_store_lines kind,
                             const ml_store_file *from, const ml_store_file *to, const json_t *lines, ml_error *err);
ml_status ml_store_drop_file(ml_store *s, const char *run, const char *name, ml_error *err);

/* Places in a log of the lines behind step `after`: evaluations all, of the others about `points` (0: all), evenly; the
 * first `most` of them.  *place: ml_free. */
ml_status ml_store_find_metrics(ml_store *s, int64_t file, int64_t after, int64_t points, int64_t most, int64_t **place,
                                size_t *n, ml_error *err);

typedef struct {
    const char *run, *file, *search; /* file, search: NULL for all */
    const char *order;               /* newest, oldest, best or worst */
    int64_t after, offset, limit;
} ml_store_rollout_query;

/* {files: [{file, n, mean_reward}], total, rollouts: [{file, line, step, prompt, text, reward, record}]} */
ml_status ml_store_find_rollouts(ml_store *s, const ml_store_rollout_query *query, json_t **out, ml_error *err);

#endif
