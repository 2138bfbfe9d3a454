/* GET /api/runs/{id}/rollouts: generated answers with their grades, from rollouts.jsonl and rollouts/NAME.jsonl of a
 * run, looked up in the store. */
#include "base/text.h"
#include "serve/handlers.h"
#include "serve/limits.h"
#include "serve/run_index.h"
#include "serve/runs.h"
#include "serve/server_internal.h"

#include <string.h>

/* Bring the store up to date with the files that are there. */
static ml_status update(ml_web *h, const char *folder, ml_error *err)
{
    char path[ML_PATH_MAX], name[ML_PATH_MAX], **names = NULL;
    size_t n = 0;
    ml_store_file file;
    ml_error ignored;
    ML_TRY(ml_run_index_update(h->server->store, h->id, folder, "rollouts.jsonl", ML_STORE_ROLLOUTS, &file, err));
    ML_TRY(ml_path_join(path, folder, "rollouts", err));
    if (!ml_path_is_dir(path) || ml_dir_list(path, &names, &n, &ignored) != ML_OK) return ML_OK;
    ml_status status = ML_OK;
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        if (names[i][0] == '.' || !ml_text_ends_with(names[i], ".jsonl")) continue;
        status = ml_path_join(name, "rollouts", names[i], err);
        if (status == ML_OK) {
            status = ml_run_index_update(h->server->store, h->id, folder, name, ML_STORE_ROLLOUTS, &file, err);
        }
    }
    ml_dir_list_free(names, n);
    return status;
}

/* Forget files that are gone; *gone: there was one. */
static ml_status forget(ml_web *h, const char *folder, const json_t *files, bool *gone, ml_error *err)
{
    char path[ML_PATH_MAX];
    *gone = false;
    for (size_t i = 0; i < json_array_size(files); i++) {
        const char *name = json_string_value(json_object_get(json_array_get(files, i), "file"));
        ML_TRY(ml_path_join(path, folder, name, err));
        if (ml_path_exists(path)) continue;
        ML_TRY(ml_store_drop_file(h->server->store, h->id, name, err));
        *gone = true;
    }
    return ML_OK;
}

static ml_status read_query(ml_web *h, ml_store_rollout_query *q, ml_error *err)
{
    static const char *const orders[] = { "newest", "oldest", "best", "worst" };
    *q = (ml_store_rollout_query){ .run = h->id,
                                   .file = ml_web_argument(h, "file"),
                                   .search = ml_web_argument(h, "search"),
                                   .order = ml_web_argument(h, "order") };
    ML_TRY(ml_web_int_argument(h, "after", -1, INT64_MAX / 2, -1, &q->after, err));
    ML_TRY(ml_web_int_argument(h, "offset", 0, INT64_MAX / 2, 0, &q->offset, err));
    ML_TRY(ml_web_int_argument(h, "limit", 0, ML_LIMIT_ROLLOUT, 50, &q->limit, err));
    if (!q->order) q->order = orders[0];
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        if (!strcmp(orders[i], q->order)) return ML_OK;
    }
    return ml_web_refuse(h, err, 400, "order", "order: expected newest, oldest, best or worst, found %.40s", q->order);
}

ml_status ml_api_run_rollouts(ml_web *h, ml_error *err)
{
    char folder[ML_PATH_MAX];
    ml_store_rollout_query query;
    json_t *out = NULL;
    bool gone = false;
    ML_TRY(ml_run_folder_of(h, folder, err));
    ML_TRY(read_query(h, &query, err));
    ML_TRY(update(h, folder, err));
    ml_status status = ml_store_find_rollouts(h->server->store, &query, &out, err);
    if (status == ML_OK) status = forget(h, folder, json_object_get(out, "files"), &gone, err);
    if (status == ML_OK && gone) {
        json_decref(out);
        status = ml_store_find_rollouts(h->server->store, &query, &out, err);
    }
    if (status == ML_OK) return ml_web_reply_json(h, 200, out, err);
    json_decref(out);
    return status;
}
