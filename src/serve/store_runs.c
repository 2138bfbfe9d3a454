/* Runs in the store: notes, and what their folders said when they were last looked at. */
#include "serve/store_internal.h"

#include <stdlib.h>

static ml_status list(ml_store *s, json_t *out, ml_error *err)
{
    sqlite3_stmt *q;
    bool row;
    ML_TRY(ml_store_prepare(s, &q, err, "SELECT id, note, stamp, summary FROM run", ""));
    ml_status status;
    while ((status = ml_store_step(s, q, &row, err)) == ML_OK && row) {
        json_object_set_new(out, (const char *)sqlite3_column_text(q, 0),
                            json_pack("{s:o, s:o, s:o}", "note", ml_store_text_of(q, 1), "stamp",
                                      ml_store_text_of(q, 2), "summary", ml_store_json_of(q, 3)));
    }
    sqlite3_finalize(q);
    return status;
}

ml_status ml_store_list_runs(ml_store *s, json_t **out, ml_error *err)
{
    *out = json_object();
    if (!*out) return ml_fail_memory(err, 0, "a list of runs");
    pthread_mutex_lock(&s->lock);
    ml_status status = list(s, *out, err);
    pthread_mutex_unlock(&s->lock);
    return status;
}

ml_status ml_store_set_note(ml_store *s, const char *run, const char *note, ml_error *err)
{
    sqlite3_stmt *q;
    ML_TRY(ml_store_begin(s, err));
    ml_status status =
        ml_store_prepare(s, &q, err, "INSERT INTO run(id, note) VALUES(?1, ?2) ON CONFLICT(id) DO UPDATE SET note = ?2",
                         "ss", run, note);
    if (status == ML_OK) status = ml_store_finish(s, q, err);
    return ml_store_end(s, status, err);
}

static ml_status put(ml_store *s, const json_t *run, ml_error *err)
{
    sqlite3_stmt *q;
    char *summary = json_dumps(json_object_get(run, "summary"), JSON_COMPACT);
    if (!summary) return ml_fail_memory(err, 0, "a run's summary");
    ml_status status = ml_store_prepare(s, &q, err,
                                        "INSERT INTO run(id, note, stamp, summary) VALUES(?1, '', ?2, ?3)"
                                        " ON CONFLICT(id) DO UPDATE SET stamp = ?2, summary = ?3",
                                        "sss", json_string_value(json_object_get(run, "id")),
                                        json_string_value(json_object_get(run, "stamp")), summary);
    free(summary);
    return status == ML_OK ? ml_store_finish(s, q, err) : status;
}

ml_status ml_store_put_summaries(ml_store *s, const json_t *runs, ml_error *err)
{
    size_t n = json_array_size(runs);
    if (n == 0) return ML_OK;
    ML_TRY(ml_store_begin(s, err));
    ml_status status = ML_OK;
    for (size_t i = 0; i < n && status == ML_OK; i++) status = put(s, json_array_get(runs, i), err);
    return ml_store_end(s, status, err);
}
