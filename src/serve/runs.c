/* /api/runs: what runs there are, and how far. */
#include "serve/runs.h"

#include "base/alloc.h"
#include "format/run.h"
#include "serve/handlers.h"
#include "serve/limits.h"
#include "serve/run_index.h"
#include "serve/server_internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TAIL_BYTES = 64 << 10, STAMP_BYTES = 256 };

static bool is_run(const char *folder)
{
    char log[ML_PATH_MAX];
    ml_error ignored;
    return ml_path_join(log, folder, "log.jsonl", &ignored) == ML_OK && ml_path_exists(log);
}

/* A name in the folder of runs, and nothing else. */
static bool is_name(const char *name)
{
    return *name && name[0] != '.' && !strchr(name, '/');
}

ml_status ml_run_folder_of(ml_web *h, char folder[ML_PATH_MAX], ml_error *err)
{
    bool fine = h->server->runs && is_name(h->id) && ml_path_join(folder, h->server->runs, h->id, err) == ML_OK;
    if (fine && is_run(folder)) return ML_OK;
    return ml_web_refuse(h, err, 404, "id", "there is no run %.100s: GET /api/runs lists them", h->id);
}

/* Whether a process holds the run's lock. */
static bool is_active(const char *folder)
{
    char path[ML_PATH_MAX];
    ml_error ignored;
    if (ml_path_join(path, folder, "run.lock", &ignored) != ML_OK) return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool free_lock = flock(fd, LOCK_SH | LOCK_NB) == 0;
    close(fd);
    return !free_lock;
}

/* The last lines of the log that hold what is asked for; *text with a 0 behind it. */
static char *read_tail(const char *folder)
{
    char path[ML_PATH_MAX];
    ml_error ignored;
    if (ml_path_join(path, folder, "log.jsonl", &ignored) != ML_OK) return NULL;
    FILE *file = fopen(path, "re");
    char *text = file ? ml_calloc(1, TAIL_BYTES + 1) : NULL;
    if (text && fseek(file, -TAIL_BYTES, SEEK_END) != 0) rewind(file);
    if (text) text[fread(text, 1, TAIL_BYTES, file)] = 0;
    if (file) fclose(file);
    return text;
}

/* Copy keys that the line has, where `out` still has null. */
static void take_keys(const json_t *line, json_t *out)
{
    static const char *const keys[] = { "step", "tokens", "loss", "val_loss" };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        json_t *v = json_object_get(line, keys[i]);
        if (v && json_is_null(json_object_get(out, keys[i]))) json_object_set(out, keys[i], v);
    }
}

static void add_progress(const char *folder, json_t *out)
{
    char *text = read_tail(folder);
    size_t n = text ? strlen(text) : 0;
    json_object_update_new(out, json_pack("{s:n, s:n, s:n, s:n}", "step", "tokens", "loss", "val_loss"));
    while (n) { /* from the last line backward */
        size_t end = n;
        while (n && text[n - 1] != '\n') n--;
        json_t *line = end > n ? json_loadb(text + n, end - n, 0, NULL) : NULL;
        if (json_is_object(line)) take_keys(line, out);
        json_decref(line);
        if (n) n--;
    }
    ml_free(text);
}

static json_t *step_or_null(const char *folder, ml_run_which which)
{
    char path[ML_PATH_MAX];
    int64_t step;
    ml_error ignored;
    return ml_run_find(folder, which, path, &step, &ignored) == ML_OK ? json_integer(step) : json_null();
}

static json_t *checkpoints(const char *folder, const char *name)
{
    int64_t *steps = NULL;
    size_t n = 0;
    char path[ML_PATH_MAX], id[ML_PATH_MAX];
    ml_error ignored;
    json_t *list = json_array();
    if (ml_run_list(folder, &steps, &n, &ignored) != ML_OK) return list;
    for (size_t i = 0; i < n; i++) {
        if (ml_run_step_path(folder, steps[i], path, &ignored) != ML_OK) continue;
        snprintf(id, sizeof id, "%s/%s", name, strrchr(path, '/') + 1);
        json_array_append_new(list, json_pack("{s:I, s:s}", "step", (json_int_t)steps[i], "model", id));
    }
    ml_free(steps);
    return list;
}

/* What the files say, read anew. */
static json_t *summarize(const char *folder, const char *name)
{
    json_t *out = json_pack("{s:o, s:o, s:o}", "best_step", step_or_null(folder, ML_RUN_BEST), "latest_step",
                            step_or_null(folder, ML_RUN_LATEST), "checkpoints", checkpoints(folder, name));
    if (out) add_progress(folder, out);
    return out;
}

/* A run as the API shows it.  `known`: what the store says of it, NULL for nothing; a summary that is not of the
 * present state of the files is made anew and appended to `fresh`. */
static ml_status describe(const char *name, const char *folder, const json_t *known, json_t *fresh, json_t **out,
                          ml_error *err)
{
    char stamp[STAMP_BYTES];
    const char *note = json_string_value(json_object_get(known, "note"));
    ml_run_index_stamp(folder, stamp, sizeof stamp);
    bool same = *stamp && known && !strcmp(stamp, json_string_value(json_object_get(known, "stamp")));
    json_t *summary = same ? json_incref(json_object_get(known, "summary")) : summarize(folder, name);
    if (!same && *stamp) {
        json_array_append_new(fresh, json_pack("{s:s, s:s, s:O}", "id", name, "stamp", stamp, "summary", summary));
    }
    *out = json_pack("{s:s, s:s, s:b, s:s}", "id", name, "path", folder, "active", is_active(folder), "note",
                     note ? note : "");
    if (*out) json_object_update(*out, summary);
    json_decref(summary);
    return *out ? ML_OK : ml_fail_memory(err, 0, "a run");
}

static ml_status describe_all(ml_web *h, char **names, size_t n, const json_t *known, json_t *fresh, json_t *list,
                              ml_error *err)
{
    char folder[ML_PATH_MAX];
    json_t *one;
    for (size_t i = 0; i < n; i++) {
        if (!is_name(names[i]) || ml_path_join(folder, h->server->runs, names[i], err) != ML_OK || !is_run(folder)) {
            continue;
        }
        ML_TRY(describe(names[i], folder, json_object_get(known, names[i]), fresh, &one, err));
        json_array_append_new(list, one);
    }
    return ML_OK;
}

ml_status ml_api_runs(ml_web *h, ml_error *err)
{
    char **names = NULL;
    size_t n = 0;
    json_t *list = json_array(), *fresh = json_array(), *known = NULL;
    ml_status status = ml_store_list_runs(h->server->store, &known, err);
    if (status == ML_OK && h->server->runs) status = ml_dir_list(h->server->runs, &names, &n, err);
    if (status == ML_OK) status = describe_all(h, names, n, known, fresh, list, err);
    if (status == ML_OK) status = ml_store_put_summaries(h->server->store, fresh, err);
    ml_dir_list_free(names, n);
    json_decref(known);
    json_decref(fresh);
    if (status == ML_OK) return ml_web_reply_json(h, 200, json_pack("{s:o}", "runs", list), err);
    json_decref(list);
    return status;
}

ml_status ml_api_run_note(ml_web *h, ml_error *err)
{
    char folder[ML_PATH_MAX];
    json_t *body, *out, *known, *fresh;
    ML_TRY(ml_run_folder_of(h, folder, err));
    ML_TRY(ml_web_json(h, &body, err));
    const json_t *note = json_object_get(body, "note");
    if (!json_is_string(note) || json_object_size(body) != 1 || json_string_length(note) > ML_LIMIT_NOTE) {
        return ml_web_refuse(h, err, 400, "note", "expected {\"note\": TEXT}, %d bytes at most", ML_LIMIT_NOTE);
    }
    ML_TRY(ml_store_set_note(h->server->store, h->id, json_string_value(note), err));
    ML_TRY(ml_store_list_runs(h->server->store, &known, err));
    fresh = json_array();
    ml_status status = describe(h->id, folder, json_object_get(known, h->id), fresh, &out, err);
    json_decref(known);
    json_decref(fresh);
    return status == ML_OK ? ml_web_reply_json(h, 200, out, err) : status;
}

/* ---- options.ini: [section], name = value ---- */

static void take_line(char *line, char *section, size_t size, json_t *out)
{
    char key[512];
    line[strcspn(line, "\r\n")] = 0;
    if (line[0] == '[') {
        snprintf(section, size, "%.*s", (int)strcspn(line + 1, "]"), line + 1);
        return;
    }
    char *equals = strchr(line, '=');
    if (line[0] == ';' || line[0] == '#' || !equals) return;
    size_t n = (size_t)(equals - line);
    while (n && line[n - 1] == ' ') n--;
    snprintf(key, sizeof key, "%s%s%.*s", section, *section ? "." : "", (int)n, line);
    json_t *value = json_string(equals + 1 + strspn(equals + 1, " "));
    if (value) json_object_set_new(out, key, value);
}

ml_status ml_api_run_options(ml_web *h, ml_error *err)
{
    char folder[ML_PATH_MAX], path[ML_PATH_MAX], section[128] = "", line[4096];
    ML_TRY(ml_run_folder_of(h, folder, err));
    ML_TRY(ml_path_join(path, folder, "options.ini", err));
    json_t *out = json_object();
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) take_line(line, section, sizeof section, out);
    if (file) fclose(file);
    return ml_web_reply_json(h, 200, json_pack("{s:o}", "options", out), err);
}
