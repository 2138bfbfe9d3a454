#include "support/formula.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static uint64_t fnv1a64(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *text; text++) h = (h ^ (uint8_t)*text) * 0x100000001b3u;
    return h;
}

static uint64_t splitmix64(uint64_t x)
{
    uint64_t z = x + 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void test_formula(const char *name, double base, double std, int64_t n, float *out)
{
    uint64_t seed = fnv1a64(name);
    float scale = (float)(std * sqrt(3.0));
    for (int64_t i = 0; i < n; i++) {
        float r = (float)(splitmix64(seed + (uint64_t)i) >> 40) * 0x1p-24f;
        float t = 2.0f * r - 1.0f;
        out[i] = (float)base + scale * t;
    }
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static void fill_weight(const ml_config *c, const char *prefix, ml_weight *w)
{
    double base = 0, std = 1 / sqrt((double)w->dim[1]);
    if (c->init == ML_INIT_TRUNCATED && w->n_dim > 1) std *= sqrt(0.1); /* moonlight-moe-130m: its own initial scale */
    if (ends_with(w->name, "e_score_correction_bias"))
        std = 0.01;
    else if (ends_with(w->name, "bias"))
        std = 0.1;
    else if (w->n_dim == 1)
        base = 1, std = 0.1;
    else if (w->kind == ML_PARAM_EMBEDDING && !c->tie_word_embeddings)
        std = 1;
    char name[2 * ML_WEIGHT_NAME_MAX];
    snprintf(name, sizeof name, "%s%s", prefix, w->name);
    test_formula(name, base, std, ml_weight_count(w), w->data);
}

void test_fill_by_formula(ml_model *m, const char *prefix)
{
    for (size_t i = 0; i < m->n_weight; i++) fill_weight(&m->config, prefix, &m->weight[i]);
}
