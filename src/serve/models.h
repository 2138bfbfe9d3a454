/* The models a server has: which there are, which are in memory, and whose turn it is to use them.
 *
 *   available --load--> loading --> loaded --unload--> closing --> available
 *                          \-> failed, with the reason
 *
 * A handler that uses a model holds it (ml_models_acquire .. ml_models_release), and a model goes only when nobody
 * does.  One lock guards states and the scheduler's lists (scheduler.h).
 *
 * An adapter is a model of its own name: the same states, the weights, engine and tasks of its parent (adapters.c).
 * It goes with its parent. */
#ifndef ML_SERVE_MODELS_H
#define ML_SERVE_MODELS_H

#include "base/file.h"
#include "grammar/constraint.h"
#include "infer/engine.h"
#include "infer/loaded.h"
#include "serve/web.h"
#include "token/chat.h"

enum { ML_MODEL_ID_BYTES = 512 };

typedef enum { ML_STATE_AVAILABLE, ML_STATE_LOADING, ML_STATE_LOADED, ML_STATE_CLOSING, ML_STATE_FAILED } ml_state;

typedef struct ml_served {
    struct ml_served *parent; /* of an adapter: whose terms they are; NULL: a model */
    char id[ML_MODEL_ID_BYTES], path[ML_PATH_MAX];
    bool argument; /* named on the command line: stays known when it is unloaded */
    ml_state state;
    ml_error failure;
    double loaded_at;    /* seconds since 1970 */
    ml_adapter *adapter; /* while loaded, of an adapter; all below is of models */
    /* while loaded */
    ml_loaded m;
    ml_chat_format format;
    ml_ids stop; /* ids that end an answer */
    ml_engine_config config;
    ml_engine *engine;         /* the scheduler's */
    ml_engine_stats stats;     /* of the last pass */
    ml_engine_stats gone;      /* of engines that failed and were replaced: counters only */
    ml_vocabulary *vocabulary; /* for constraints */
    bool stepping;             /* the scheduler is in its engine */
    int64_t n_user, n_task;
    struct ml_task *tasks;      /* submitted and not ended */
    ml_adapter *leaving;        /* the engine is to forget it before its next pass, and it gives its place up */
    struct ml_served *arriving; /* an adapter that is to get a place on the model's device before the next pass */
    ml_status arrival;          /* of an adapter: how that went; the reason is in `failure` */
} ml_served;

/* How engines are made, and where checkpoints are. */
typedef struct {
    const char *runs; /* NULL: none */
    const char *repack, *chat_format;
    int64_t n_slot, context, cache_token, chunk;
    ml_memory_budget budget; /* of each model; its adapters are the first one's */
} ml_models_config;

typedef struct ml_models ml_models;

ml_status ml_models_make(const ml_models_config *config, ml_models **out, ml_error *err);
/* All must be released. */
void ml_models_free(ml_models *m);
/* Name a model of the command line. */
ml_status ml_models_add(ml_models *m, const char *path, ml_error *err);
/* Name an adapter of the first model: "[NAME=]PATH".  ML_EINVAL when there is no model, or one of that name. */
ml_status ml_models_add_adapter(ml_models *m, const char *given, ml_error *err);
/* Load every model that was added. */
ml_status ml_models_load_added(ml_models *m, ml_error *err);

/* What a request uses, `id` NULL: the first that is loaded, a model or an adapter.  404 when there is none of that
 * name, 503 when none is loaded. */
ml_status ml_models_acquire(ml_web *h, const char *id, ml_served **out, ml_error *err);
void ml_models_release(ml_models *m, ml_served *served);
bool ml_models_any_loaded(ml_models *m);
/* Where the first loaded one computes: "cuda:0", or "cpu". */
void ml_models_get_device(ml_models *m, char name[32]);
/* The model behind a name: itself, or an adapter's parent. */
static inline ml_served *ml_served_model(ml_served *named)
{
    return named->parent ? named->parent : named;
}
/* Whether somebody wants it unloaded: who holds it lets go soon. */
bool ml_models_is_closing(ml_models *m, const ml_served *served);
/* Passes of all engines so far. */
int64_t ml_models_passes(ml_models *m);

/* /v1/models, and what it says of one (NULL: not loaded) */
json_t *ml_models_list_openai(ml_models *m);
json_t *ml_models_find_openai(ml_models *m, const char *id);

/* Handlers of /api/models. */
ml_status ml_api_models(ml_web *h, ml_error *err);
ml_status ml_api_models_load(ml_web *h, ml_error *err);
ml_status ml_api_models_unload(ml_web *h, ml_error *err);
ml_status ml_api_models_switch(ml_web *h, ml_error *err);

#endif
