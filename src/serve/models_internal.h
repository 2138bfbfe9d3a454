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
/* {id, path, state, ...} */
json_t *ml_models_describe(const ml_served *s);

/* Without the lock. */
ml_status ml_models_load(ml_models *m, const char *id, ml_web *h, ml_error *err);
ml_status ml_models_unload(ml_models *m, const char *id, ml_web *h, ml_error *err);

#endif
