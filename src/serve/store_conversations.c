/* Conversations in the store. */
#include "base/clock.h"
#include "serve/store_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- conversations, the lock being held ---- */

static ml_status list(ml_store *s, const char *owner, json_t **out, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    ML_TRY(
        ml_store_prepare(s, &q, err,
                         "SELECT id, title, created, updated, (SELECT count(*) FROM message WHERE conversation = c.id)"
                         " FROM conversation c WHERE owner = ?1 ORDER BY updated DESC, rowid DESC",
                         "s", owner));
    *out = json_array();
    ml_status status;
    while ((status = ml_store_step(s, q, &row, err)) == ML_OK && row) {
        json_array_append_new(*out, json_pack("{s:o, s:o, s:f, s:f, s:I}", "id", ml_store_text_of(q, 0), "title",
                                              ml_store_text_of(q, 1), "created", sqlite3_column_double(q, 2), "updated",
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
                     parent ? json_integer(parent) : json_null(), "role", ml_store_text_of(q, 2), "content",
                     ml_store_text_of(q, 3), "created", sqlite3_column_double(q, 4), "model", ml_store_text_of(q, 5),
                     "meta", ml_store_json_of(q, 6));
}

static ml_status messages(ml_store *s, const char *id, json_t *out, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    ML_TRY(
        ml_store_prepare(s, &q, err,
                         "SELECT id, parent, role, content, created, model, meta FROM message WHERE conversation = ?1"
                         " ORDER BY id",
                         "s", id));
    ml_status status;
    while ((status = ml_store_step(s, q, &row, err)) == ML_OK && row) json_array_append_new(out, message_of(q));
    sqlite3_finalize(q);
    return status;
}

static ml_status get(ml_store *s, const char *owner, const char *id, json_t **out, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    *out = NULL;
    ML_TRY(ml_store_prepare(
        s, &q, err, "SELECT id, title, created, updated, settings, head FROM conversation WHERE id = ?1 AND owner = ?2",
        "ss", id, owner));
    ml_status status = ml_store_step(s, q, &row, err);
    if (status == ML_OK && row) {
        int64_t head = sqlite3_column_int64(q, 5);
        *out = json_pack("{s:o, s:o, s:f, s:f, s:o, s:o, s:[]}", "id", ml_store_text_of(q, 0), "title",
                         ml_store_text_of(q, 1), "created", sqlite3_column_double(q, 2), "updated",
                         sqlite3_column_double(q, 3), "settings", ml_store_json_of(q, 4), "head",
                         head ? json_integer(head) : json_null(), "messages");
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
    ML_TRY(ml_store_prepare(
        s, &q, err,
        "INSERT INTO conversation(id, owner, title, created, updated, settings) VALUES(?1, ?2, ?3, ?4, ?4, ?5)",
        "sssds", id, owner, title, now, settings));
    return ml_store_finish(s, q, err);
}

/* Whether a message (0: none, which always is) belongs to a conversation of the owner. */
static ml_status has(ml_store *s, const char *owner, const char *id, int64_t message, bool *found, ml_error *err)
{
    sqlite3_stmt *q;
    ML_TRY(ml_store_prepare(s, &q, err,
                            "SELECT 1 FROM conversation c WHERE id = ?1 AND owner = ?2 AND (?3 <= 0 OR EXISTS"
                            " (SELECT 1 FROM message WHERE id = ?3 AND conversation = c.id))",
                            "ssi", id, owner, message));
    ml_status status = ml_store_step(s, q, found, err);
    sqlite3_finalize(q);
    return status;
}

static ml_status change(ml_store *s, const char *id, const char *title, const char *settings, int64_t head,
                        ml_error *err)
{
    sqlite3_stmt *q;
    ML_TRY(ml_store_prepare(
        s, &q, err,
        "UPDATE conversation SET updated = ?2, title = coalesce(?3, title),"
        " settings = coalesce(?4, settings), head = CASE WHEN ?5 < 0 THEN head ELSE ?5 END WHERE id = ?1",
        "sdssi", id, ml_clock_unix_seconds(), title, settings, head));
    return ml_store_finish(s, q, err);
}

static ml_status add_message(ml_store *s, const char *id, const ml_store_message *m, const char *meta, json_t **out,
                             ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    ML_TRY(ml_store_prepare(s, &q, err,
                            "INSERT INTO message(conversation, parent, role, content, created, model, meta)"
                            " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                            "sissdss", id, m->parent, m->role, m->content, ml_clock_unix_seconds(), m->model, meta));
    ML_TRY(ml_store_finish(s, q, err));
    int64_t message = sqlite3_last_insert_rowid(s->db);
    ML_TRY(change(s, id, NULL, NULL, message, err));
    ML_TRY(ml_store_prepare(
        s, &q, err, "SELECT id, parent, role, content, created, model, meta FROM message WHERE id = ?1", "i", message));
    ml_status status = ml_store_step(s, q, &row, err);
    if (status == ML_OK && row) *out = message_of(q);
    sqlite3_finalize(q);
    return status;
}

/* ---- the same for anybody: under the lock, changes as one transaction ---- */

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
    ml_status status = ml_store_begin(s, err);
    if (status == ML_OK) status = ml_store_end(s, make(s, owner, id, title, text ? text : "{}", err), err);
    free(text);
    return status;
}

ml_status ml_store_change(ml_store *s, const char *owner, const char *id, const char *title, const json_t *settings,
                          int64_t head, bool *found, ml_error *err)
{
    char *text = settings ? dump(settings) : NULL;
    ml_status status = ml_store_begin(s, err);
    if (status == ML_OK) {
        status = has(s, owner, id, head, found, err);
        if (status == ML_OK && *found) status = change(s, id, title, text, head, err);
        status = ml_store_end(s, status, err);
    }
    free(text);
    return status;
}

ml_status ml_store_delete(ml_store *s, const char *owner, const char *id, bool *found, ml_error *err)
{
    sqlite3_stmt *q;
    ML_TRY(ml_store_begin(s, err));
    ml_status status =
        ml_store_prepare(s, &q, err, "DELETE FROM conversation WHERE id = ?1 AND owner = ?2", "ss", id, owner);
    if (status == ML_OK) status = ml_store_finish(s, q, err);
    *found = sqlite3_changes(s->db) > 0;
    return ml_store_end(s, status, err);
}

ml_status ml_store_add_message(ml_store *s, const char *owner, const char *id, const ml_store_message *m, json_t **out,
                               ml_error *err)
{
    char *meta = m->meta ? dump(m->meta) : NULL;
    bool found;
    *out = NULL;
    ml_status status = ml_store_begin(s, err);
    if (status == ML_OK) {
        status = has(s, owner, id, m->parent, &found, err);
        if (status == ML_OK && found) status = add_message(s, id, m, meta ? meta : "{}", out, err);
        status = ml_store_end(s, status, err);
    }
    free(meta);
    return status;
}
