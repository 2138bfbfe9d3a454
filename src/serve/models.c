#include "serve/models_internal.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "format/ends.h"
#include "format/find.h"
#include "format/run.h"
#include "model/kv_cache.h"
#include "serve/limits.h"
#include "serve/server_internal.h"

#include <stdlib.h>
#include <string.h>

/* Prompt pieces are cut so that those who wait for their next token wait about so long. */
static const double PASS_SECONDS = 0.15;

ml_status ml_models_make(const ml_models_config *config, ml_models **out, ml_error *err)
{
    ml_models *m = ml_calloc(1, sizeof *m);
    *out = m;
    if (!m) return ml_fail_memory(err, sizeof *m, "models");
    m->config = *config;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->work, NULL);
    pthread_cond_init(&m->quiet, NULL);
    return ML_OK;
}

/* Give back what a loaded model has. */
static void unload(ml_served *s)
{
    ml_adapter_free(s->adapter);
    s->adapter = NULL;
    ml_engine_free(s->engine);
    ml_vocabulary_free(s->vocabulary);
    s->vocabulary = NULL;
    ml_ids_free(&s->stop);
    ml_loaded_free(&s->m);
    s->engine = NULL;
}

void ml_models_free(ml_models *m)
{
    if (!m) return;
    for (size_t i = m->n; i-- > 0;) { /* adapters stand behind their models, whose devices they lie on */
        unload(m->served[i]);
        ml_free(m->served[i]);
    }
    ml_free(m->served);
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->work);
    pthread_cond_destroy(&m->quiet);
    ml_free(m);
}

ml_served *ml_models_find(ml_models *m, const char *id)
{
    for (size_t i = 0; i < m->n; i++) {
        if (!strcmp(m->served[i]->id, id)) return m->served[i];
    }
    return NULL;
}

ml_status ml_models_add_entry(ml_models *m, const char *id, const char *path, bool argument, ml_served **out,
                              ml_error *err)
{
    ML_TRY(ml_grow((void **)&m->served, &m->capacity, m->n + 1, sizeof(ml_served *), err));
    ml_served *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "a model");
    snprintf(s->id, sizeof s->id, "%s", id);
    snprintf(s->path, sizeof s->path, "%s", path);
    s->argument = argument;
    m->served[m->n++] = s;
    *out = s;
    return ML_OK;
}

void ml_models_remove_entry(ml_models *m, ml_served *s)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++) {
        if (m->served[i] != s) m->served[n++] = m->served[i];
    }
    m->n = n;
    ml_free(s);
}

ml_status ml_models_add(ml_models *m, const char *path, ml_error *err)
{
    char id[ML_MODEL_ID_BYTES], found[ML_PATH_MAX];
    ML_TRY(ml_model_find(path, found, err)); /* a wrong path is said before anything is loaded */
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t begin = n;
    while (begin && path[begin - 1] != '/') begin--;
    int size = n - begin > 400 ? 400 : (int)(n - begin);
    snprintf(id, sizeof id, "%.*s", size, path + begin);
    for (int i = 2; ml_models_find(m, id); i++) snprintf(id, sizeof id, "%.*s#%d", size, path + begin, i);
    ml_served *s;
    return ml_models_add_entry(m, id, path, true, &s, err);
}

/* ---- loading ---- */

/* Tokens that the cache has room for: all slots, as far as a quarter of what is available goes, one at least. */
static int64_t cache_tokens(const ml_models_config *c, const ml_model *loaded, int64_t context)
{
    const ml_config *model = &loaded->config;
    if (c->cache_token > 0) return c->cache_token > context ? c->cache_token : context;
    int64_t all = c->n_slot * context, bytes = ml_kv_cache_token_bytes(model, c->budget.kv_dtype);
    int64_t available = loaded->device ? ml_device_get_info(loaded->device).free_bytes : ml_memory_available();
    int64_t room = available / 4 / (bytes > 0 ? bytes : 1);
    if (room < context) room = context;
    return all < room ? all : room;
}

static ml_status load(const ml_models *m, ml_served *s, bool is_first, ml_error *err)
{
    const ml_models_config *c = &m->config;
    if (s->parent) return ml_adapter_read(s->path, s->parent->m.model, &s->adapter, err);
    ml_memory_budget budget = c->budget;
    if (!is_first) budget.n_adapter = 0;
    ML_TRY(ml_loaded_open(s->path, c->repack, &budget, &s->m, err));
    ml_loaded_tell(s->m.model, ml_log_warn);
    if (s->m.model->device) ml_log_info("%s computes on %s", s->id, s->m.model->device_choice);
    char weights[128];
    if (ml_loaded_describe_weights(s->m.model, c->repack, weights, sizeof weights)) {
        ml_log_info("%s: weights: %s", s->id, weights);
    }
    const ml_config *model = &s->m.model->config;
    const char *given = strcmp(c->chat_format, "auto") ? c->chat_format : NULL;
    ml_status status = ml_chat_choose(s->m.tokenizer, given, ml_chat_words[model->chat_format], &s->format, err);
    if (status != ML_OK) return ml_fail_prefix(err, "%s", s->path);
    for (size_t i = 0; i < s->m.ends.n; i++) ML_TRY(ml_ends_add(&s->stop, s->m.ends.id[i], err));
    for (size_t i = 0; i < s->format.n_end; i++) ML_TRY(ml_ends_add(&s->stop, s->format.end[i], err));
    int64_t context = model->max_position_embeddings;
    if (c->context > 0 && c->context < context) context = c->context;
    s->config = (ml_engine_config){ .n_slot = c->n_slot,
                                    .capacity = context,
                                    .cache_token = cache_tokens(c, s->m.model, context),
                                    .chunk = c->chunk,
                                    .pass_seconds = PASS_SECONDS,
                                    .n_valid = ml_tokenizer_vocab_size(s->m.tokenizer),
                                    .kv_dtype = c->budget.kv_dtype,
                                    .reuse = true };
    ML_TRY(ml_vocabulary_make(s->m.tokenizer, &s->vocabulary, err));
    return ml_engine_make(s->m.model, &s->config, &s->engine, err);
}

/* Load a model whose state is `loading`, and say how it went. */
static ml_status load_now(ml_models *m, ml_served *s, ml_error *err)
{
    pthread_mutex_lock(&m->lock);
    while (s->n_user > 0) pthread_cond_wait(&m->quiet, &m->lock); /* of one whose engine failed */
    ml_adapters_unload_all(m, s);
    bool is_first = s == m->served[0];
    pthread_mutex_unlock(&m->lock);
    unload(s);
    ml_status status = load(m, s, is_first, err);
    pthread_mutex_lock(&m->lock);
    if (status == ML_OK && s->parent) status = ml_adapters_place(m, s, err);
    if (status != ML_OK) unload(s);
    if (s->parent) s->parent->n_user--; /* held while it was loaded */
    s->state = status == ML_OK ? ML_STATE_LOADED : ML_STATE_FAILED;
    s->loaded_at = ml_clock_unix_seconds();
    if (status != ML_OK) s->failure = *err;
    if (status == ML_OK && s->engine) s->stats = ml_engine_get_stats(s->engine);
    pthread_cond_broadcast(&m->quiet);
    pthread_mutex_unlock(&m->lock);
    return status;
}

ml_status ml_models_load_added(ml_models *m, ml_error *err)
{
    for (size_t i = 0; i < m->n; i++) { /* an adapter's parent stands before it */
        ml_served *s = m->served[i];
        s->state = ML_STATE_LOADING;
        if (s->parent) s->parent->n_user++;
        ML_TRY(load_now(m, s, err));
    }
    return ML_OK;
}

/* Models, or adapters. */
static size_t count_loaded(const ml_models *m, bool adapters)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++) {
        const ml_served *s = m->served[i];
        n += (s->state == ML_STATE_LOADED || s->state == ML_STATE_LOADING) && !s->parent == !adapters;
    }
    return n;
}

/* The checkpoint of a run that an id names, and whether it is an adapter's. */
static bool find_checkpoint(const ml_models *m, const char *id, char path[ML_PATH_MAX], bool *adapter)
{
    char config[ML_PATH_MAX];
    ml_error ignored;
    bool plain = m->config.runs && id[0] != '/' && id[0] != '.' && !strstr(id, "..") && strstr(id, "/step_");
    if (!plain || ml_path_join(path, m->config.runs, id, &ignored) != ML_OK) return false;
    if (ml_path_join(config, path, "adapter_config.json", &ignored) != ML_OK) return false;
    *adapter = ml_path_exists(config);
    return *adapter || (ml_path_join(config, path, "config.json", &ignored) == ML_OK && ml_path_exists(config));
}

/* Make one whose state allows it ready to be loaded, with the lock held. */
static ml_status begin_loading(ml_models *m, ml_served *s, bool adapter, const char *parent, ml_web *h, ml_error *err)
{
    int most = adapter ? ML_LIMIT_ADAPTER : ML_LIMIT_LOADED;
    if (s->state == ML_STATE_LOADING || s->state == ML_STATE_CLOSING) {
        return ml_web_refuse(h, err, 409, "id", "%s is being %s", s->id,
                             s->state == ML_STATE_LOADING ? "loaded" : "unloaded");
    }
    if (count_loaded(m, adapter) >= (size_t)most) {
        return ml_web_refuse(h, err, 409, "id", "%d %s are loaded already: unload one", most,
                             adapter ? "adapters" : "models");
    }
    if (parent && !adapter) return ml_web_refuse(h, err, 400, "parent", "parent: %s is no adapter", s->id);
    if (adapter) ML_TRY(ml_adapters_hold_parent(m, s, parent, h, err));
    s->state = ML_STATE_LOADING;
    return ML_OK;
}

/* The entry of that id, with the lock held: one that is known, or else a checkpoint of a run. */
static ml_status find_or_add(ml_models *m, const char *id, ml_web *h, bool *adapter, ml_served **out, ml_error *err)
{
    char path[ML_PATH_MAX];
    *out = ml_models_find(m, id);
    if (*out && (*out)->parent) *adapter = true;
    if (*out) return ML_OK;
    if (find_checkpoint(m, id, path, adapter)) return ml_models_add_entry(m, id, path, false, out, err);
    return ml_web_refuse(h, err, 404, "id", "there is no model %.200s: GET /api/models lists them", id);
}

ml_status ml_models_load(ml_models *m, const char *id, const char *parent, ml_web *h, ml_error *err)
{
    ml_served *s = NULL;
    bool adapter = false, loaded = false, added;
    pthread_mutex_lock(&m->lock);
    size_t n = m->n;
    ml_status status = find_or_add(m, id, h, &adapter, &s, err);
    added = m->n > n;
    if (status == ML_OK) loaded = s->state == ML_STATE_LOADED;
    if (status == ML_OK && !loaded) status = begin_loading(m, s, adapter, parent, h, err);
    if (status != ML_OK && added) ml_models_remove_entry(m, s);
    pthread_mutex_unlock(&m->lock);
    return status == ML_OK && !loaded ? load_now(m, s, err) : status;
}

ml_status ml_models_unload(ml_models *m, const char *id, ml_web *h, ml_error *err)
{
    pthread_mutex_lock(&m->lock);
    ml_served *s = ml_models_find(m, id);
    if (!s || s->state != ML_STATE_LOADED) {
        pthread_mutex_unlock(&m->lock);
        return ml_web_refuse(h, err, s ? 409 : 404, "id", "%.200s is not loaded", id);
    }
    s->state = ML_STATE_CLOSING;
    pthread_cond_broadcast(&m->work);
    if (s->parent) {
        ml_adapters_unload(m, s);
    } else {
        while (s->n_user > 0 || s->tasks || s->stepping) pthread_cond_wait(&m->quiet, &m->lock);
        ml_adapters_unload_all(m, s);
        unload(s);
        s->state = ML_STATE_AVAILABLE;
        if (!s->argument) ml_models_remove_entry(m, s);
    }
    pthread_cond_broadcast(&m->quiet);
    pthread_mutex_unlock(&m->lock);
    return ML_OK;
}

/* ---- using ---- */

ml_status ml_models_acquire(ml_web *h, const char *id, ml_served **out, ml_error *err)
{
    ml_models *m = h->server->models;
    ml_served *found = NULL;
    bool any = false;
    char failure[ML_MODEL_ID_BYTES + ML_ERROR_MAX + 8] = "";
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->n && !found; i++) {
        ml_served *s = m->served[i];
        if (s->state == ML_STATE_FAILED) snprintf(failure, sizeof failure, "; %s: %s", s->id, s->failure.message);
        if (s->state != ML_STATE_LOADED || ml_served_model(s)->state != ML_STATE_LOADED) continue;
        any = true;
        if (!id || !strcmp(id, s->id)) found = s;
    }
    if (found) found->n_user++;
    if (found && found->parent) found->parent->n_user++;
    pthread_mutex_unlock(&m->lock);
    *out = found;
    if (found) return ML_OK;
    if (!any) return ml_web_refuse(h, err, 503, NULL, "no model is loaded: POST /api/models/load loads one%s", failure);
    return ml_web_refuse(h, err, 404, "model", "there is no loaded model %.200s: GET /v1/models lists them", id);
}

void ml_models_release(ml_models *m, ml_served *served)
{
    if (!served) return;
    pthread_mutex_lock(&m->lock);
    served->n_user--;
    if (served->parent) served->parent->n_user--;
    pthread_cond_broadcast(&m->quiet);
    pthread_mutex_unlock(&m->lock);
}

bool ml_models_any_loaded(ml_models *m)
{
    bool any = false;
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->n; i++) any = any || m->served[i]->state == ML_STATE_LOADED;
    pthread_mutex_unlock(&m->lock);
    return any;
}

void ml_models_get_device(ml_models *m, char name[32])
{
    snprintf(name, 32, "cpu");
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->n; i++) {
        const ml_served *s = m->served[i];
        if (s->state != ML_STATE_LOADED || s->adapter) continue;
        if (s->m.model->device) snprintf(name, 32, "cuda:%d", ml_device_get_info(s->m.model->device).index);
        break;
    }
    pthread_mutex_unlock(&m->lock);
}

bool ml_models_is_closing(ml_models *m, const ml_served *served)
{
    pthread_mutex_lock(&m->lock);
    bool closing = served->state != ML_STATE_LOADED || (served->parent && served->parent->state != ML_STATE_LOADED);
    pthread_mutex_unlock(&m->lock);
    return closing;
}

int64_t ml_models_passes(ml_models *m)
{
    int64_t n = 0;
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->n; i++) n += m->served[i]->stats.n_pass + m->served[i]->gone.n_pass;
    pthread_mutex_unlock(&m->lock);
    return n;
}
