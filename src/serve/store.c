#include "serve/store.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

struct ml_store {
    sqlite3 *db;
    pthread_mutex_t lock;
};

/* Step i brings a store of version i to version i + 1.  Steps are never changed, only added. */
static const char *const migrations[] = {
    "CREATE TABLE conversation(id TEXT PRIMARY KEY, owner TEXT NOT NULL, title TEXT NOT NULL, created REAL NOT NULL,"
    " updated REAL NOT NULL, settings TEXT NOT NULL, head INTEGER NOT NULL DEFAULT 0) STRICT;"
    "CREATE INDEX conversation_owner ON conversation(owner, updated);"
    "CREATE TABLE message(id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " conversation TEXT NOT NULL REFERENCES conversation(id) ON DELETE CASCADE, parent INTEGER NOT NULL,"
    " role TEXT NOT NULL, content TEXT NOT NULL, created REAL NOT NULL, model TEXT NOT NULL, meta TEXT NOT NULL) "
    "STRICT;"
    "CREATE INDEX message_conversation ON message(conversation, id);",
    "CREATE TABLE run(id TEXT PRIMARY KEY, note TEXT NOT NULL) STRICT;",
};
enum { VERSION = sizeof migrations / sizeof migrations[0] };

static ml_status fail(const ml_store *s, ml_error *err)
{
    int code = sqlite3_extended_errcode(s->db) & 0xff;
    ml_status status = code == SQLITE_NOMEM                              ? ML_ENOMEM
                       : code == SQLITE_NOTADB || code == SQLITE_CORRUPT ? ML_EFORMAT
                                                                         : ML_EIO;
    return ml_fail(err, status, "the store: %s", sqlite3_errmsg(s->db));
}

static ml_status execute(const ml_store *s, const char *sql, ml_error *err)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? ML_OK : fail(s, err);
}

/* ---- statements ----  ?1, ?2, ... from a list of types: s text, i int64_t, d double */

static ml_status prepare(const ml_store *s, sqlite3_stmt **q, ml_error *err, const char *sql, const char *types, ...)
{
    *q = NULL;
    if (sqlite3_prepare_v2(s->db, sql, -1, q, NULL) != SQLITE_OK) return fail(s, err);
    va_list list;
    va_start(list, types);
    for (int i = 0; types[i]; i++) {
        switch (types[i]) {
        case 's': sqlite3_bind_text(*q, i + 1, va_arg(list, const char *), -1, SQLITE_TRANSIENT); break;
        case 'i': sqlite3_bind_int64(*q, i + 1, va_arg(list, int64_t)); break;
        default: sqlite3_bind_double(*q, i + 1, va_arg(list, double)); break;
        }
    }
    va_end(list);
    return ML_OK;
}

/* One row: *row; the end: not. */
static ml_status step(const ml_store *s, sqlite3_stmt *q, bool *row, ml_error *err)
{
    int code = sqlite3_step(q);
    *row = code == SQLITE_ROW;
    return code == SQLITE_ROW || code == SQLITE_DONE ? ML_OK : fail(s, err);
}

/* Run a statement that gives no rows, and end it. */
static ml_status finish(const ml_store *s, sqlite3_stmt *q, ml_error *err)
{
    bool row;
    ml_status status = step(s, q, &row, err);
    sqlite3_finalize(q);
    return status;
}

static json_t *column_text(sqlite3_stmt *q, int i)
{
    const char *text = (const char *)sqlite3_column_text(q, i);
    return json_stringn(text ? text : "", (size_t)sqlite3_column_bytes(q, i));
}

static json_t *column_json(sqlite3_stmt *q, int i)
{
    json_t *v = json_loads((const char *)sqlite3_column_text(q, i), 0, NULL);
    return v ? v : json_object();
}

/* ---- opening ---- */

static ml_status migrate(const ml_store *s, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    char sql[64];
    ML_TRY(prepare(s, &q, err, "PRAGMA user_version", ""));
    ml_status status = step(s, q, &row, err);
    int version = status == ML_OK ? sqlite3_column_int(q, 0) : 0;
    sqlite3_finalize(q);
    ML_TRY(status);
    if (version > VERSION) {
        return ml_fail(err, ML_EFORMAT, "the store has version %d, this program knows %d: use a newer program", version,
                       VERSION);
    }
    for (; version < VERSION; version++) {
        snprintf(sql, sizeof sql, "PRAGMA user_version = %d; COMMIT;", version + 1);
        ML_TRY(execute(s, "BEGIN IMMEDIATE", err));
        ML_TRY(execute(s, migrations[version], err));
        ML_TRY(execute(s, sql, err));
    }
    return ML_OK;
}

static ml_status set_up(const ml_store *s, ml_error *err)
{
    sqlite3_busy_timeout(s->db, 5000);
    ML_TRY(execute(s, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON", err));
    return migrate(s, err);
}

ml_status ml_store_open(const char *path, ml_store **out, ml_error *err)
{
    *out = NULL;
    ml_store *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "a store");
    pthread_mutex_init(&s->lock, NULL);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    ml_status status = ML_OK;
    if (sqlite3_open_v2(path ? path : ":memory:", &s->db, flags, NULL) != SQLITE_OK) status = fail(s, err);
    if (status == ML_OK) status = set_up(s, err);
    if (status == ML_OK) {
        *out = s;
        return ML_OK;
    }
    ml_store_close(s);
    return ml_fail_prefix(err, "%s", path ? path : "memory");
}

void ml_store_close(ml_store *s)
{
    if (!s) return;
    sqlite3_close(s->db);
    pthread_mutex_destroy(&s->lock);
    ml_free(s);
}

/* ---- conversations, the lock being held ---- */

static ml_status list(ml_store *s, const char *owner, json_t **out, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    ML_TRY(prepare(s, &q, err,
                   "SELECT id, title, created, updated, (SELECT count(*) FROM message WHERE conversation = c.id)"
                   " FROM conversation c WHERE owner = ?1 ORDER BY updated DESC, rowid DESC",
                   "s", owner));
    *out = json_array();
    ml_status status;
    while ((status = step(s, q, &row, err)) == ML_OK && row) {
        json_array_append_new(*out, json_pack("{s:o, s:o, s:f, s:f, s:I}", "id", column_text(q, 0), "title",
                                              column_text(q, 1), "created", sqlite3_column_double(q, 2), "updated",
                                              sqlite3_column_double(q, 3), "n_message",
                                              (json_int_t)sqlite3_column_int64(q, 4)));
    }
    sqlite3_finalize(q);
    return status;
}

static json_t *message_of(sqlite3_stmt *q)
{
    int64_t parent = sqlite3_column_int64(q, 1);
    return json_pack("{s:I, s:o, s:o, s:o, s:f, s:o, s:o}", "id", (json_int_t)sqlite3_column_int64(q, 0), "parent",
                     parent ? json_integer(parent) : json_null(), "role", column_text(q, 2), "content",
                     column_text(q, 3), "created", sqlite3_column_double(q, 4), "model", column_text(q, 5), "meta",
                     column_json(q, 6));
}

static ml_status messages(ml_store *s, const char *id, json_t *out, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    ML_TRY(prepare(s, &q, err,
                   "SELECT id, parent, role, content, created, model, meta FROM message WHERE conversation = ?1"
                   " ORDER BY id",
                   "s", id));
    ml_status status;
    while ((status = step(s, q, &row, err)) == ML_OK && row) json_array_append_new(out, message_of(q));
    sqlite3_finalize(q);
    return status;
}

static ml_status get(ml_store *s, const char *owner, const char *id, json_t **out, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    *out = NULL;
    ML_TRY(prepare(s, &q, err,
                   "SELECT id, title, created, updated, settings, head FROM conversation WHERE id = ?1 AND owner = ?2",
                   "ss", id, owner));
    ml_status status = step(s, q, &row, err);
    if (status == ML_OK && row) {
        int64_t head = sqlite3_column_int64(q, 5);
        *out = json_pack("{s:o, s:o, s:f, s:f, s:o, s:o, s:[]}", "id", column_text(q, 0), "title", column_text(q, 1),
                         "created", sqlite3_column_double(q, 2), "updated", sqlite3_column_double(q, 3), "settings",
                         column_json(q, 4), "head", head ? json_integer(head) : json_null(), "messages");
        status = messages(s, id, json_object_get(*out, "messages"), err);
    }
    sqlite3_finalize(q);
    return status;
}

static ml_status make(ml_store *s, const char *owner, const char *id, const char *title, const char *settings,
                      ml_error *err)
{
    sqlite3_stmt *q;
    double now = ml_clock_unix_seconds();
    ML_TRY(
        prepare(s, &q, err,
                "INSERT INTO conversation(id, owner, title, created, updated, settings) VALUES(?1, ?2, ?3, ?4, ?4, ?5)",
                "sssds", id, owner, title, now, settings));
    return finish(s, q, err);
}

/* Whether a message (0: none, which always is) belongs to a conversation of the owner. */
static ml_status has(ml_store *s, const char *owner, const char *id, int64_t message, bool *found, ml_error *err)
{
    sqlite3_stmt *q;
    ML_TRY(prepare(s, &q, err,
                   "SELECT 1 FROM conversation c WHERE id = ?1 AND owner = ?2 AND (?3 <= 0 OR EXISTS"
                   " (SELECT 1 FROM message WHERE id = ?3 AND conversation = c.id))",
                   "ssi", id, owner, message));
    ml_status status = step(s, q, found, err);
    sqlite3_finalize(q);
    return status;
}

static ml_status change(ml_store *s, const char *id, const char *title, const char *settings, int64_t head,
                        ml_error *err)
{
    sqlite3_stmt *q;
    ML_TRY(prepare(s, &q, err,
                   "UPDATE conversation SET updated = ?2, title = coalesce(?3, title),"
                   " settings = coalesce(?4, settings), head = CASE WHEN ?5 < 0 THEN head ELSE ?5 END WHERE id = ?1",
                   "sdssi", id, ml_clock_unix_seconds(), title, settings, head));
    return finish(s, q, err);
}

static ml_status add_message(ml_store *s, const char *id, const ml_store_message *m, const char *meta, json_t **out,
                             ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    ML_TRY(prepare(s, &q, err,
                   "INSERT INTO message(conversation, parent, role, content, created, model, meta)"
                   " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                   "sissdss", id, m->parent, m->role, m->content, ml_clock_unix_seconds(), m->model, meta));
    ML_TRY(finish(s, q, err));
    int64_t message = sqlite3_last_insert_rowid(s->db);
    ML_TRY(change(s, id, NULL, NULL, message, err));
    ML_TRY(prepare(s, &q, err, "SELECT id, parent, role, content, created, model, meta FROM message WHERE id = ?1", "i",
                   message));
    ml_status status = step(s, q, &row, err);
    if (status == ML_OK && row) *out = message_of(q);
    sqlite3_finalize(q);
    return status;
}

/* ---- the same for anybody: under the lock, changes as one transaction ---- */

static ml_status end(ml_store *s, ml_status status, ml_error *err)
{
    if (status == ML_OK) {
        status = execute(s, "COMMIT", err);
    }
    if (status != ML_OK) sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    pthread_mutex_unlock(&s->lock);
    return status;
}

static ml_status begin(ml_store *s, ml_error *err)
{
    pthread_mutex_lock(&s->lock);
    ml_status status = execute(s, "BEGIN IMMEDIATE", err);
    if (status != ML_OK) pthread_mutex_unlock(&s->lock);
    return status;
}

static char *dump(const json_t *v)
{
    return json_dumps(v, JSON_COMPACT);
}

ml_status ml_store_list(ml_store *s, const char *owner, json_t **out, ml_error *err)
{
    pthread_mutex_lock(&s->lock);
    ml_status status = list(s, owner, out, err);
    pthread_mutex_unlock(&s->lock);
    return status;
}

ml_status ml_store_get(ml_store *s, const char *owner, const char *id, json_t **out, ml_error *err)
{
    pthread_mutex_lock(&s->lock);
    ml_status status = get(s, owner, id, out, err);
    pthread_mutex_unlock(&s->lock);
    return status;
}

ml_status ml_store_make(ml_store *s, const char *owner, const char *id, const char *title, const json_t *settings,
                        ml_error *err)
{
    char *text = settings ? dump(settings) : NULL;
    ml_status status = begin(s, err);
    if (status == ML_OK) status = end(s, make(s, owner, id, title, text ? text : "{}", err), err);
    free(text);
    return status;
}

ml_status ml_store_change(ml_store *s, const char *owner, const char *id, const char *title, const json_t *settings,
                          int64_t head, bool *found, ml_error *err)
{
    char *text = settings ? dump(settings) : NULL;
    ml_status status = begin(s, err);
    if (status == ML_OK) {
        status = has(s, owner, id, head, found, err);
        if (status == ML_OK && *found) status = change(s, id, title, text, head, err);
        status = end(s, status, err);
    }
    free(text);
    return status;
}

ml_status ml_store_delete(ml_store *s, const char *owner, const char *id, bool *found, ml_error *err)
{
    sqlite3_stmt *q;
    ML_TRY(begin(s, err));
    ml_status status = prepare(s, &q, err, "DELETE FROM conversation WHERE id = ?1 AND owner = ?2", "ss", id, owner);
    if (status == ML_OK) status = finish(s, q, err);
    *found = sqlite3_changes(s->db) > 0;
    return end(s, status, err);
}

ml_status ml_store_add_message(ml_store *s, const char *owner, const char *id, const ml_store_message *m, json_t **out,
                               ml_error *err)
{
    char *meta = m->meta ? dump(m->meta) : NULL;
    bool found;
    *out = NULL;
    ml_status status = begin(s, err);
    if (status == ML_OK) {
        status = has(s, owner, id, m->parent, &found, err);
        if (status == ML_OK && found) status = add_message(s, id, m, meta ? meta : "{}", out, err);
        status = end(s, status, err);
    }
    free(meta);
    return status;
}

static ml_status get_note(ml_store *s, const char *run, json_t **out, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    ML_TRY(prepare(s, &q, err, "SELECT note FROM run WHERE id = ?1", "s", run));
    ml_status status = step(s, q, &row, err);
    *out = status == ML_OK && row ? column_text(q, 0) : json_string("");
    sqlite3_finalize(q);
    return status;
}

ml_status ml_store_get_note(ml_store *s, const char *run, json_t **out, ml_error *err)
{
    pthread_mutex_lock(&s->lock);
    ml_status status = get_note(s, run, out, err);
    pthread_mutex_unlock(&s->lock);
    return status;
}

ml_status ml_store_set_note(ml_store *s, const char *run, const char *note, ml_error *err)
{
    sqlite3_stmt *q;
    ML_TRY(begin(s, err));
    ml_status status =
        prepare(s, &q, err, "INSERT INTO run(id, note) VALUES(?1, ?2) ON CONFLICT(id) DO UPDATE SET note = ?2", "ss",
                run, note);
    if (status == ML_OK) status = finish(s, q, err);
    return end(s, status, err);
}
