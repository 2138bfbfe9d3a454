/* /v1/models and /api/models: what the server says of its models, and has them do. */
#include "serve/models_internal.h"

#include "format/run.h"
#include "model/kv_cache.h"
#include "serve/server_internal.h"

#include <stdlib.h>
#include <string.h>

static json_t *openai_model(const ml_served *s)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s?}", "id", s->id, "object", "model", "created", (json_int_t)s->loaded_at,
                     "owned_by", "moonlight", "parent", s->parent ? s->parent->id : NULL);
}

json_t *ml_models_list_openai(ml_models *m)
{
    json_t *list = json_array();
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->n; i++) {
        if (m->served[i]->state == ML_STATE_LOADED) json_array_append_new(list, openai_model(m->served[i]));
    }
    pthread_mutex_unlock(&m->lock);
    return json_pack("{s:s, s:o}", "object", "list", "data", list);
}

json_t *ml_models_find_openai(ml_models *m, const char *id)
{
    pthread_mutex_lock(&m->lock);
    const ml_served *s = ml_models_find(m, id);
    json_t *found = s && s->state == ML_STATE_LOADED ? openai_model(s) : NULL;
    pthread_mutex_unlock(&m->lock);
    return found;
}

/* ---- descriptions ---- */

static json_t *expert_layers(const ml_config *c)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < c->num_hidden_layers; i++) {
        if (ml_config_layer_is_moe(c, i)) json_array_append_new(list, json_integer(i));
    }
    return list;
}

/* What a request finds; of an adapter: its parent's, and how many numbers are its own. */
static void describe_loaded(const ml_served *named, json_t *out)
{
    const ml_served *s = named->parent ? named->parent : named;
    const ml_config *c = &s->m.model->config;
    ml_model_info info = ml_model_get_info(s->m.model);
    json_t *more = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:i, s:i, s:o, s:I, s:s, s:b, s:s?, s:I, s:s}", "class_name", info.class_name,
        "n_params", (json_int_t)info.n_params, "n_params_active", (json_int_t)info.n_params_active, "n_layer",
        (json_int_t)info.n_layer, "n_vocab", (json_int_t)info.n_vocab, "n_expert", info.n_expert, "top_k", info.top_k,
        "expert_layers", expert_layers(c), "context", (json_int_t)s->config.capacity, "chat_format",
        ml_chat_name(&s->format), "tools", ml_chat_has_tools(&s->format), "default_system",
        ml_chat_default_system(&s->format), "kv_token_bytes",
        (json_int_t)ml_kv_cache_token_bytes(c, s->config.kv_dtype), "kv_cache_type", ml_dtype_name(s->config.kv_dtype));
    json_object_update_new(out, more);
    if (!named->adapter) return;
    json_object_set_new(out, "n_params_adapter", json_integer(ml_adapter_count(named->adapter)));
    json_object_set_new(out, "adapter_kind", json_string(named->adapter->dora ? "dora" : "lora"));
}

json_t *ml_models_describe(const ml_served *s)
{
    static const char *const states[] = { "available", "loading", "loaded", "closing", "failed" };
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:s, s:s}", "id", s->id, "path", s->path, "kind", s->parent ? "adapter" : "model",
                  "state", states[s->state], "source", s->argument ? "argument" : "run");
    if (s->parent) json_object_set_new(o, "parent", json_string(s->parent->id));
    if (s->state == ML_STATE_FAILED) json_object_set_new(o, "error", json_string(s->failure.message));
    bool usable = s->state == ML_STATE_LOADED && (!s->parent || s->parent->state == ML_STATE_LOADED);
    if (usable) describe_loaded(s, o);
    return o;
}

/* ---- checkpoints of runs ---- */

static int64_t step_of(const char *folder, ml_run_which which)
{
    char path[ML_PATH_MAX];
    int64_t step = -1;
    ml_error ignored;
    return ml_run_find(folder, which, path, &step, &ignored) == ML_OK ? step : -1;
}

static bool holds_adapter(const char *folder)
{
    char config[ML_PATH_MAX];
    ml_error ignored;
    return ml_path_join(config, folder, "adapter_config.json", &ignored) == ML_OK && ml_path_exists(config);
}

static void list_run(ml_models *m, const char *name, json_t *list)
{
    char folder[ML_PATH_MAX], path[ML_PATH_MAX], id[ML_MODEL_ID_BYTES];
    int64_t *steps = NULL;
    size_t n = 0;
    ml_error err;
    if (ml_path_join(folder, m->config.runs, name, &err) != ML_OK || !ml_path_is_dir(folder)) return;
    if (ml_run_list(folder, &steps, &n, &err) != ML_OK) return;
    int64_t best = step_of(folder, ML_RUN_BEST), latest = step_of(folder, ML_RUN_LATEST);
    for (size_t i = 0; i < n; i++) {
        if (ml_run_step_path(folder, steps[i], path, &err) != ML_OK) continue;
        snprintf(id, sizeof id, "%s/%s", name, strrchr(path, '/') + 1);
        const ml_served *s = ml_models_find(m, id);
        json_t *o = s ? ml_models_describe(s)
                      : json_pack("{s:s, s:s, s:s, s:s, s:s}", "id", id, "path", path, "kind",
                                  holds_adapter(path) ? "adapter" : "model", "state", "available", "source", "run");
        json_object_update_new(o, json_pack("{s:s, s:I, s:b, s:b}", "run", name, "step", (json_int_t)steps[i], "best",
                                            steps[i] == best, "latest", steps[i] == latest));
        json_array_append_new(list, o);
    }
    ml_free(steps);
}

static void list_runs(ml_models *m, json_t *list)
{
    char **names = NULL;
    size_t n = 0;
    ml_error ignored;
    if (!m->config.runs || ml_dir_list(m->config.runs, &names, &n, &ignored) != ML_OK) return;
    for (size_t i = 0; i < n; i++) list_run(m, names[i], list);
    ml_dir_list_free(names, n);
}

/* Those of the command line and the checkpoints of runs; the lock is held. */
static json_t *list_models(ml_models *m)
{
    json_t *list = json_array();
    for (size_t i = 0; i < m->n; i++) {
        if (m->served[i]->argument) json_array_append_new(list, ml_models_describe(m->served[i]));
    }
    list_runs(m, list);
    return list;
}

ml_status ml_api_models(ml_web *h, ml_error *err)
{
    ml_models *m = h->server->models;
    pthread_mutex_lock(&m->lock);
    json_t *list = list_models(m);
    pthread_mutex_unlock(&m->lock);
    return ml_web_reply_json(h, 200, json_pack("{s:o}", "models", list), err);
}

/* ---- load, unload, switch ---- */

/* `parent` may be NULL: there is no such key. */
static ml_status read_id(ml_web *h, const char **id, const char **parent, ml_error *err)
{
    json_t *body;
    ML_TRY(ml_web_json(h, &body, err));
    const json_t *given = parent ? json_object_get(body, "parent") : NULL;
    *id = json_string_value(json_object_get(body, "id"));
    if (parent) *parent = json_string_value(given);
    bool fine = !given || json_is_string(given);
    if (*id && fine && json_object_size(body) == (given ? 2 : 1)) return ML_OK;
    return ml_web_refuse(h, err, 400, "id", "expected {\"id\": \"MODEL\"%s}", parent ? ", \"parent\"?: \"MODEL\"" : "");
}

/* What /api/models says of it; NULL: nothing. */
static json_t *find_listed(ml_models *m, const char *id)
{
    json_t *list = list_models(m), *found = NULL;
    for (size_t i = 0; i < json_array_size(list) && !found; i++) {
        json_t *o = json_array_get(list, i);
        if (!strcmp(json_string_value(json_object_get(o, "id")), id)) found = json_incref(o);
    }
    json_decref(list);
    return found;
}

/* `kind` of one that is not there any more: a run that goes on leaves few checkpoints. */
static ml_status reply_model(ml_web *h, const char *id, const char *kind, ml_error *err)
{
    ml_models *m = h->server->models;
    pthread_mutex_lock(&m->lock);
    json_t *o = find_listed(m, id);
    const ml_served *s = o ? NULL : ml_models_find(m, id);
    if (s) o = ml_models_describe(s);
    pthread_mutex_unlock(&m->lock);
    if (!o) o = json_pack("{s:s, s:s, s:s, s:s}", "id", id, "kind", kind, "state", "available", "source", "run");
    return ml_web_reply_json(h, 200, o, err);
}

ml_status ml_api_models_load(ml_web *h, ml_error *err)
{
    const char *id, *parent;
    ML_TRY(read_id(h, &id, &parent, err));
    ML_TRY(ml_models_load(h->server->models, id, parent, h, err));
    return reply_model(h, id, "model", err);
}

static bool is_adapter(ml_models *m, const char *id)
{
    pthread_mutex_lock(&m->lock);
    const ml_served *s = ml_models_find(m, id);
    bool adapter = s && s->parent;
    pthread_mutex_unlock(&m->lock);
    return adapter;
}

ml_status ml_api_models_unload(ml_web *h, ml_error *err)
{
    const char *id;
    ML_TRY(read_id(h, &id, NULL, err));
    bool adapter = is_adapter(h->server->models, id);
    ML_TRY(ml_models_unload(h->server->models, id, h, err));
    return reply_model(h, id, adapter ? "adapter" : "model", err);
}

/* Make it the first. */
static void put_first(ml_models *m, const char *id)
{
    pthread_mutex_lock(&m->lock);
    ml_served *s = ml_models_find(m, id);
    size_t at = 0;
    while (s && m->served[at] != s) at++;
    if (s) {
        memmove(m->served + 1, m->served, at * sizeof *m->served);
        m->served[0] = s;
    }
    pthread_mutex_unlock(&m->lock);
}

ml_status ml_api_models_switch(ml_web *h, ml_error *err)
{
    const char *id, *parent;
    ML_TRY(read_id(h, &id, &parent, err));
    ML_TRY(ml_models_load(h->server->models, id, parent, h, err));
    put_first(h->server->models, id);
    return reply_model(h, id, "model", err);
}
