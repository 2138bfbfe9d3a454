/* Adapters as models of their own name (models.h). */
#include "serve/models_internal.h"

#include "base/alloc.h"
#include "format/find.h"

#include <string.h>

ml_status ml_models_add_adapter(ml_models *m, const char *given, ml_error *err)
{
    char *name;
    const char *path;
    ml_served *parent = m->n ? m->served[0] : NULL, *s;
    if (!parent) return ml_fail(err, ML_EINVAL, "--adapter %s: expected --model, which it is for", given);
    ML_TRY(ml_adapter_split_name(given, &name, &path, err));
    ml_status status = ML_OK;
    if (ml_models_find(m, name)) {
        status = ml_fail(err, ML_EINVAL, "--adapter: %.200s is taken: give another name, as in NAME=%s", name, path);
    } else if (strlen(name) >= ML_MODEL_ID_BYTES) {
        status = ml_fail(err, ML_EINVAL, "--adapter: a name of %zu bytes: expected fewer than %d", strlen(name),
                         ML_MODEL_ID_BYTES);
    }
    if (status == ML_OK) status = ml_models_add_entry(m, name, path, true, &s, err);
    if (status == ML_OK) s->parent = parent;
    ml_free(name);
    return status;
}

/* The first model that is loaded. */
static ml_served *first_model(const ml_models *m)
{
    for (size_t i = 0; i < m->n; i++) {
        if (!m->served[i]->parent && m->served[i]->state == ML_STATE_LOADED) return m->served[i];
    }
    return NULL;
}

ml_status ml_adapters_hold_parent(ml_models *m, ml_served *s, const char *parent, ml_web *h, ml_error *err)
{
    ml_served *found = parent ? ml_models_find(m, parent) : s->parent ? s->parent : first_model(m);
    if (!found || found->parent || found == s || found->state != ML_STATE_LOADED) {
        return ml_web_refuse(h, err, 409, "parent", "%s is an adapter, and %.200s is no model that is loaded", s->id,
                             parent  ? parent
                             : found ? found->id
                                     : "there");
    }
    s->parent = found;
    found->n_user++;
    return ML_OK;
}

/* The engine is the scheduler's while it computes a pass: then that forgets the adapter, before the next one. */
static void forget(ml_models *m, ml_served *parent, const ml_adapter *adapter)
{
    while (parent->leaving) pthread_cond_wait(&m->quiet, &m->lock);
    parent->leaving = adapter;
    while (parent->leaving && parent->stepping) pthread_cond_wait(&m->quiet, &m->lock);
    if (parent->leaving && parent->engine) ml_engine_forget_adapter(parent->engine, adapter);
    parent->leaving = NULL;
}

static void let_go(ml_models *m, ml_served *s)
{
    ml_adapter_free(s->adapter);
    s->adapter = NULL;
    s->state = ML_STATE_AVAILABLE;
    if (!s->argument) ml_models_remove_entry(m, s);
}

void ml_adapters_unload(ml_models *m, ml_served *s)
{
    ml_served *parent = s->parent;
    parent->n_user++; /* it stays meanwhile */
    while (s->n_user > 0) pthread_cond_wait(&m->quiet, &m->lock);
    forget(m, parent, s->adapter);
    parent->n_user--;
    let_go(m, s);
}

void ml_adapters_unload_all(ml_models *m, ml_served *parent)
{
    for (size_t i = m->n; i-- > 0;) {
        if (m->served[i]->parent == parent) let_go(m, m->served[i]);
    }
}
