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

/* ---- between passes ----
 * The engine, and the queue of its device, are the scheduler's while it computes a pass. */

void ml_adapters_between_passes(ml_served *parent)
{
    ml_served *s = parent->arriving;
    if (parent->leaving) {
        if (parent->engine) ml_engine_forget_adapter(parent->engine, parent->leaving);
        ml_adapter_leave_place(parent->leaving);
    }
    if (s) s->arrival = ml_adapter_place(s->adapter, parent->m.model->device, &s->failure);
    parent->leaving = NULL;
    parent->arriving = NULL;
}

/* Until what was set is done: by the scheduler, before its next pass, or here when it is in none. */
static void wait_for_gap(ml_models *m, ml_served *parent)
{
    while ((parent->leaving || parent->arriving) && parent->stepping) pthread_cond_wait(&m->quiet, &m->lock);
    ml_adapters_between_passes(parent);
}

static void forget(ml_models *m, ml_served *parent, ml_adapter *adapter)
{
    while (parent->leaving) pthread_cond_wait(&m->quiet, &m->lock);
    parent->leaving = adapter;
    wait_for_gap(m, parent);
}

ml_status ml_adapters_place(ml_models *m, ml_served *s, ml_error *err)
{
    ml_served *parent = s->parent;
    if (!parent->m.model->device) return ML_OK;
    while (parent->arriving) pthread_cond_wait(&m->quiet, &m->lock);
    parent->arriving = s;
    wait_for_gap(m, parent);
    if (s->arrival != ML_OK) *err = s->failure;
    return s->arrival;
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
