#include "serve/store_internal.h"

#include "base/alloc.h"

#include <stdarg.h>
#include <stdio.h>

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
    /* What the files of runs say, so that they need not be read each time: the files remain what counts. */
    "ALTER TABLE run ADD COLUMN stamp TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE run ADD COLUMN summary TEXT NOT NULL DEFAULT '{}';"
    "CREATE TABLE run_file(key INTEGER PRIMARY KEY, run TEXT NOT NULL, name TEXT NOT NULL, identity TEXT NOT NULL,"
    " n_byte INTEGER NOT NULL, n_line INTEGER NOT NULL, UNIQUE(run, name)) STRICT;"
    "CREATE TABLE metric(file INTEGER NOT NULL REFERENCES run_file(key) ON DELETE CASCADE, line INTEGER NOT NULL,"
    " step INTEGER NOT NULL, is_evaluation INTEGER NOT NULL, place INTEGER NOT NULL, PRIMARY KEY(file, line))"
    " STRICT, WITHOUT ROWID;"
    "CREATE TABLE rollout(file INTEGER NOT NULL REFERENCES run_file(key) ON DELETE CASCADE, line INTEGER NOT NULL,"
    " step INTEGER, prompt TEXT NOT NULL, text TEXT NOT NULL, reward REAL, record TEXT NOT NULL,"
    " PRIMARY KEY(file, line)) STRICT, WITHOUT ROWID;",
};
enum { VERSION = sizeof migrations / sizeof migrations[0] };

ml_status ml_store_fail(const ml_store *s, ml_error *err)
{
    int code = sqlite3_extended_errcode(s->db) & 0xff;
    ml_status status = code == SQLITE_NOMEM                              ? ML_ENOMEM
                       : code == SQLITE_NOTADB || code == SQLITE_CORRUPT ? ML_EFORMAT
                                                                         : ML_EIO;
    return ml_fail(err, status, "the store: %s", sqlite3_errmsg(s->db));
}

ml_status ml_store_execute(const ml_store *s, const char *sql, ml_error *err)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? ML_OK : ml_store_fail(s, err);
}

/* ---- statements ---- */

/* A number, NULL for anything else. */
static void bind_json(sqlite3_stmt *q, int i, const json_t *v)
{
    if (json_is_integer(v)) {
        sqlite3_bind_int64(q, i, json_integer_value(v));
    } else if (json_is_real(v)) {
        sqlite3_bind_double(q, i, json_real_value(v));
    } else {
        sqlite3_bind_null(q, i);
    }
}

ml_status ml_store_prepare(const ml_store *s, sqlite3_stmt **q, ml_error *err, const char *sql, const char *types, ...)
{
    *q = NULL;
    if (sqlite3_prepare_v2(s->db, sql, -1, q, NULL) != SQLITE_OK) return ml_store_fail(s, err);
    va_list list;
    va_start(list, types);
    for (int i = 0; types[i]; i++) {
        switch (types[i]) {
        case 's': sqlite3_bind_text(*q, i + 1, va_arg(list, const char *), -1, SQLITE_TRANSIENT); break;
        case 'i': sqlite3_bind_int64(*q, i + 1, va_arg(list, int64_t)); break;
        case 'j': bind_json(*q, i + 1, va_arg(list, const json_t *)); break;
        default: sqlite3_bind_double(*q, i + 1, va_arg(list, double)); break;
        }
    }
    va_end(list);
    return ML_OK;
}

ml_status ml_store_step(const ml_store *s, sqlite3_stmt *q, bool *row, ml_error *err)
{
    int code = sqlite3_step(q);
    *row = code == SQLITE_ROW;
    return code == SQLITE_ROW || code == SQLITE_DONE ? ML_OK : ml_store_fail(s, err);
}

ml_status ml_store_finish(const ml_store *s, sqlite3_stmt *q, ml_error *err)
{
    bool row;
    ml_status status = ml_store_step(s, q, &row, err);
    sqlite3_finalize(q);
    return status;
}

json_t *ml_store_text_of(sqlite3_stmt *q, int i)
{
    const char *text = (const char *)sqlite3_column_text(q, i);
    return json_stringn(text ? text : "", (size_t)sqlite3_column_bytes(q, i));
}

json_t *ml_store_json_of(sqlite3_stmt *q, int i)
{
    json_t *v = json_loads((const char *)sqlite3_column_text(q, i), JSON_ALLOW_NUL, NULL);
    return v ? v : json_object();
}

/* ---- changes as one transaction ---- */

ml_status ml_store_end(ml_store *s, ml_status status, ml_error *err)
{
    if (status == ML_OK) {
        status = ml_store_execute(s, "COMMIT", err);
    }
    if (status != ML_OK) sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    pthread_mutex_unlock(&s->lock);
    return status;
}

ml_status ml_store_begin(ml_store *s, ml_error *err)
{
    pthread_mutex_lock(&s->lock);
    ml_status status = ml_store_execute(s, "BEGIN IMMEDIATE", err);
    if (status != ML_OK) pthread_mutex_unlock(&s->lock);
    return status;
}

/* ---- opening ---- */

static ml_status migrate(const ml_store *s, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    char sql[64];
    ML_TRY(ml_store_prepare(s, &q, err, "PRAGMA user_version", ""));
    ml_status status = ml_store_step(s, q, &row, err);
    int version = status == ML_OK ? sqlite3_column_int(q, 0) : 0;
    sqlite3_finalize(q);
    ML_TRY(status);
    if (version > VERSION) {
        return ml_fail(err, ML_EFORMAT, "the store has version %d, this program knows %d: use a newer program", version,
                       VERSION);
    }
    for (; version < VERSION; version++) {
        snprintf(sql, sizeof sql, "PRAGMA user_version = %d; COMMIT;", version + 1);
        ML_TRY(ml_store_execute(s, "BEGIN IMMEDIATE", err));
        ML_TRY(ml_store_execute(s, migrations[version], err));
        ML_TRY(ml_store_execute(s, sql, err));
    }
    return ML_OK;
}

static ml_status set_up(const ml_store *s, ml_error *err)
{
    sqlite3_busy_timeout(s->db, 5000);
    ML_TRY(ml_store_execute(s, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON", err));
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
    if (sqlite3_open_v2(path ? path : ":memory:", &s->db, flags, NULL) != SQLITE_OK) status = ml_store_fail(s, err);
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
