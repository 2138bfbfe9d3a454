/* Fresh weights. */
#include "model/model.h"

#include "base/thread.h"

#include <assert.h>
#include <math.h>

typedef struct {
    ml_model *m;
    uint64_t seed;
} init_work;

double ml_model_init_std(const ml_config *c, ml_param_kind kind, int64_t fan_in)
{
    switch ((ml_init_kind)c->init) {
    case ML_INIT_TRUNCATED: return sqrt(0.1 / (double)fan_in);
    case ML_INIT_HE:
        if (kind != ML_PARAM_EMBEDDING && kind != ML_PARAM_ROUTER) return sqrt(2.0 / (double)fan_in);
        break;
    case ML_INIT_NORMAL: break;
    }
    return c->initializer_range;
}

static void init_weight(const ml_config *c, ml_weight *w, ml_rng rng)
{
    int64_t n = ml_weight_count(w);
    float *x = w->data;
    if (w->n_dim == 1) {
        float value = w->kind == ML_PARAM_NORM ? 1.0f : 0.0f;
        for (int64_t i = 0; i < n; i++) x[i] = value;
        return;
    }
    double std = ml_model_init_std(c, w->kind, w->dim[1]);
    for (int64_t i = 0; i < n; i++) {
        double z = ml_rng_normal(&rng);
        while (c->init == ML_INIT_TRUNCATED && fabs(z) > 2) z = ml_rng_normal(&rng);
        x[i] = (float)(std * z);
    }
}

static void init_weights(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const init_work *work = arg;
    /* One random stream per tensor: the values depend on the seed and the tensor's place in the list alone. */
    for (int64_t i = begin; i < end; i++) {
        init_weight(&work->m->config, &work->m->weight[i], ml_rng_make(work->seed, (uint64_t)i + 1));
    }
}

void ml_model_init(ml_model *m, uint64_t seed)
{
    assert(m->dtype == ML_F32);
    init_work work = { m, seed };
    ml_parallel_for((int64_t)m->n_weight, 1, init_weights, &work);
}
