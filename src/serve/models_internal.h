/* What models.c, models_api.c and scheduler.c share. */
#ifndef ML_SERVE_MODELS_INTERNAL_H
#define ML_SERVE_MODELS_INTERNAL_H

#include "serve/scheduler.h"

#include <pthread.h>

struct ml_models {
    ml_models_config config;
    pthread_mutex_t lock;
    pthread_cond_t work;  /* for the scheduler: there is something to do */
    pthread_cond_t quiet; /* for those who wait: a state has changed, a pass is over, a model was released */
    ml_served **served;   /* [n] the first loaded one is the one that is meant by default */
    size_t n, capacity;
    size_t next; /* the scheduler's turn */
};

/* With the lock held. */
ml_served *ml_models_find(ml_models *m, const char *id);
ml_status ml_models_add_entry(ml_models *m, const char *id, const char *path, bool argument, ml_served **out,
                              ml_error *err);
void ml_models_remove_entry(ml_models *m, ml_served *s);
/* ---- adapters.c, with the lock held ---- */
/* Which model an adapter that is to be loaded is for, and hold it. */
ml_status ml_adapters_hold_parent(ml_models *m, ml_served *s, const char *parent, ml_web *h, ml_error *err);
/* Give an adapter its place on its parent's device, where that computes on one. */
ml_status ml_adapters_place(ml_models *m, ml_served *s, ml_error *err);
/* What the scheduler does for adapters between two passes of their parent's engine. */
void ml_adapters_between_passes(ml_served *parent);
/* Wait until nobody holds an adapter, and free it; its parent's engine forgets it. */
void ml_adapters_unload(ml_models *m, ml_served *s);
/* A model goes that nobody holds: so do its adapters. */
void ml_adapters_unload_all(ml_models *m, ml_served *parent);
/* {id, path, state, ...} */
json_t *ml_models_describe(const ml_served *s);

/* Without the lock. */
/* `parent`: the model that an adapter is for, NULL: the one that it was for, or the first. */
ml_status ml_models_load(ml_models *m, const char *id, const char *parent, ml_web *h, ml_error *err);
ml_status ml_models_unload(ml_models *m, const char *id, ml_web *h, ml_error *err);

#endif
