#include "ops/case.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>

/* The data keep a distance between neighbours in every ranking (experts of a token, groups of a token, tokens of
 * an expert over capacity), so that neither fp32 nor the probes of the gradient check change a choice: a probe of
 * 2e-3 moves a score by at most 1/4 * 2e-3 * max(|x|, 2 |w|) < 3e-3. */
static const double MARGIN = 6e-3;

typedef enum { RANDOM, TIED_EXPERTS, TIED_TOKENS } data_kind;

typedef struct {
    int64_t n_token, d;
    bool bias;
    data_kind data;
    ml_router_param param;
    bool fast; /* the product for inference */
} variant;

static const variant variants[] = {
    /* softmax, raw weights */
    { 40, 12, false, RANDOM, { 6, 2, ML_SCORE_SOFTMAX, false, 1, 1, 1, 0, false }, false },
    /* softmax, weights that sum to 1 */
    { 33, 9, false, RANDOM, { 4, 2, ML_SCORE_SOFTMAX, true, 1, 1, 1, 0, false }, false },
    /* sigmoid with correction bias, groups */
    { 30, 10, true, RANDOM, { 12, 3, ML_SCORE_SIGMOID, true, 2.446f, 4, 2, 0, false }, false },
    { 20, 10, true, RANDOM, { 4, 2, ML_SCORE_SIGMOID, true, 2.446f, 4, 3, 0, false }, false },
    /* softmax, groups by their best expert */
    { 30, 10, false, RANDOM, { 12, 3, ML_SCORE_SOFTMAX, false, 16, 4, 2, 0, true }, false },
    { 24, 10, true, RANDOM, { 12, 2, ML_SCORE_SIGMOID, true, 1, 3, 1, 0, true }, false },
    /* sigmoid, 6 of 64 */
    { 50, 64, true, RANDOM, { 64, 6, ML_SCORE_SIGMOID, true, 2.446f, 1, 1, 0, false }, false },
    /* several slices of the weight's gradient, several chunks of the sort on a GPU */
    { 300, 12, false, RANDOM, { 6, 2, ML_SCORE_SOFTMAX, false, 1, 1, 1, 0, false }, false },
    /* capacity */
    { 40, 12, false, RANDOM, { 6, 2, ML_SCORE_SOFTMAX, false, 1, 1, 1, 1.0f, false }, false },
    { 24, 12, true, RANDOM, { 5, 2, ML_SCORE_SIGMOID, true, 2.446f, 1, 1, 0.75f, false }, false },
    { 24, 12, true, RANDOM, { 4, 2, ML_SCORE_SOFTMAX, true, 1, 1, 1, 1.25f, false }, false },
    /* every expert; one expert; no token */
    { 9, 5, false, RANDOM, { 3, 3, ML_SCORE_SIGMOID, true, 1, 1, 1, 0, false }, false },
    { 5, 4, false, RANDOM, { 1, 1, ML_SCORE_SOFTMAX, false, 0.5f, 1, 1, 0, false }, false },
    { 0, 4, false, RANDOM, { 4, 2, ML_SCORE_SOFTMAX, true, 1, 1, 1, 1.25f, false }, false },
    /* ties: experts with equal weights; equal tokens competing for places */
    { 20, 6, false, TIED_EXPERTS, { 8, 3, ML_SCORE_SIGMOID, true, 1, 1, 1, 0, false }, false },
    { 20, 6, false, TIED_EXPERTS, { 8, 4, ML_SCORE_SOFTMAX, false, 1, 4, 2, 1.0f, false }, false },
    { 21, 6, false, TIED_TOKENS, { 4, 2, ML_SCORE_SOFTMAX, false, 1, 1, 1, 0.5f, false }, false },
    { 15, 40, true, RANDOM, { 12, 3, ML_SCORE_SIGMOID, true, 2.446f, 1, 1, 0, false }, .fast = true },
};

enum { MAX_EXPERT = 64 };

typedef struct {
    double score[MAX_EXPERT], biased[MAX_EXPERT]; /* biased: -INFINITY where the group is not eligible */
    double gap;                                   /* smallest distance in a ranking that matters */
} scores;

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Smallest distance between neighbours among the first n + 1 of count values in descending order; the places after
 * n matter only against the n-th. */
static double smallest_gap(const double *value, int64_t count, int64_t n)
{
    double sorted[MAX_EXPERT], gap = INFINITY;
    for (int64_t i = 0; i < count; i++) sorted[i] = value[i];
    qsort(sorted, (size_t)count, sizeof *sorted, descending);
    for (int64_t i = 0; i < n && i + 1 < count && isfinite(sorted[i + 1]); i++) {
        gap = fmin(gap, sorted[i] - sorted[i + 1]);
    }
    return gap;
}

/* Position of value i in descending order, ties to the lower index. */
static int64_t rank_of(const double *value, int64_t n, int64_t i)
{
    int64_t rank = 0;
    for (int64_t j = 0; j < n; j++) rank += value[j] > value[i] || (value[j] == value[i] && j < i);
    return rank;
}

static void logits_of(const test_case *c, int64_t token, double *logit)
{
    int64_t d = c->in[0].dim[1], n = c->in[1].dim[0];
    for (int64_t e = 0; e < n; e++) {
        logit[e] = 0;
        for (int64_t j = 0; j < d; j++) logit[e] += c->in[0].real[token * d + j] * c->in[1].real[e * d + j];
    }
}

static scores score_token(const test_case *c, int64_t token)
{
    const ml_router_param *p = &c->param.router;
    int64_t n = p->n_expert, size = n / p->n_group;
    double logit[MAX_EXPERT], sum = 0, group[MAX_EXPERT];
    scores s;
    logits_of(c, token, logit);
    for (int64_t e = 0; e < n; e++) sum += exp(logit[e]);
    for (int64_t e = 0; e < n; e++) {
        s.score[e] = p->score == ML_SCORE_SOFTMAX ? exp(logit[e]) / sum : 1 / (1 + exp(-logit[e]));
        s.biased[e] = s.score[e] + (c->in[2].n_dim ? c->in[2].real[e] : 0);
    }
    for (int64_t g = 0; g < p->n_group; g++) {
        group[g] = 0;
        for (int64_t e = 0; e < size; e++) {
            if (rank_of(s.biased + g * size, size, e) < (p->group_by_best ? 1 : 2)) group[g] += s.biased[g * size + e];
        }
    }
    s.gap = p->topk_group < p->n_group ? smallest_gap(group, p->n_group, p->topk_group) : INFINITY;
    for (int64_t g = 0; g < p->n_group; g++) {
        if (p->n_group > 1) s.gap = fmin(s.gap, smallest_gap(s.biased + g * size, size, 2));
        if (rank_of(group, p->n_group, g) < p->topk_group) continue;
        for (int64_t e = 0; e < size; e++) s.biased[g * size + e] = -INFINITY;
    }
    s.gap = fmin(s.gap, smallest_gap(s.biased, n, p->top_k));
    return s;
}

typedef struct {
    double *prob; /* [tokens, top_k] */
    int32_t *id, *count;
    double gap; /* smallest distance between the weights that won and lost an expert's last place */
} routing;

/* Keep the `capacity` highest weights of expert e, the earlier token where they are equal. */
static void drop(const ml_router_param *p, int64_t n_token, int32_t e, int64_t capacity, routing *r)
{
    int64_t n = n_token * p->top_k;
    bool *lost = calloc((size_t)n + 1, sizeof *lost);
    double lowest_kept = INFINITY, highest_lost = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        if (r->id[i] != e) continue;
        int64_t n_before = 0;
        for (int64_t j = 0; j < n; j++) {
            if (r->id[j] == e) n_before += r->prob[j] > r->prob[i] || (r->prob[j] == r->prob[i] && j < i);
        }
        lost[i] = n_before >= capacity;
        if (lost[i]) {
            highest_lost = fmax(highest_lost, r->prob[i]);
        } else {
            lowest_kept = fmin(lowest_kept, r->prob[i]);
        }
    }
    r->gap = fmin(r->gap, lowest_kept - highest_lost);
    for (int64_t i = 0; i < n; i++) {
        if (!lost[i]) continue;
        r->id[i] = -1;
        r->prob[i] = 0;
        r->count[e]--;
    }
    free(lost);
}

static routing route(const test_case *c)
{
    const ml_router_param *p = &c->param.router;
    int64_t n_token = c->in[0].dim[0], k_end = p->top_k;
    routing r = { .prob = calloc((size_t)(n_token * k_end) + 1, sizeof *r.prob),
                  .id = calloc((size_t)(n_token * k_end) + 1, sizeof *r.id),
                  .count = calloc((size_t)p->n_expert, sizeof *r.count),
                  .gap = INFINITY };
    for (int64_t t = 0; t < n_token; t++) {
        scores s = score_token(c, t);
        double sum = 0;
        for (int64_t e = 0; e < p->n_expert; e++) {
            int64_t rank = rank_of(s.biased, p->n_expert, e);
            if (rank >= k_end) continue;
            r.id[t * k_end + rank] = (int32_t)e;
            r.prob[t * k_end + rank] = s.score[e];
            r.count[e]++;
            sum += s.score[e];
        }
        for (int64_t k = 0; k < k_end; k++) {
            if (p->renormalise) r.prob[t * k_end + k] /= sum + 1e-20;
            r.prob[t * k_end + k] *= (double)p->scale;
        }
    }
    if (p->capacity_factor > 0) {
        double share = (double)(n_token * k_end) * (double)p->capacity_factor / (double)p->n_expert;
        for (int32_t e = 0; e < p->n_expert; e++) {
            if (r.count[e] > ceil(share)) drop(p, n_token, e, (int64_t)ceil(share), &r);
        }
    }
    return r;
}

static void free_routing(routing *r)
{
    free(r->prob);
    free(r->id);
    free(r->count);
}

static void fill_token(test_case *c, int64_t token, ml_rng *rng)
{
    int64_t d = c->in[0].dim[1];
    for (int64_t j = 0; j < d; j++) c->in[0].real[token * d + j] = (float)ml_rng_normal(rng);
}

/* Draw tokens again until every ranking has its margin. */
static void separate(test_case *c, ml_rng *rng)
{
    for (int try = 0; try < 1000; try++) {
        for (int64_t t = 0; t < c->in[0].dim[0]; t++) {
            for (int i = 0; i < 10000 && score_token(c, t).gap < MARGIN; i++) fill_token(c, t, rng);
            assert_true(score_token(c, t).gap >= MARGIN);
        }
        routing r = route(c);
        double gap = r.gap;
        free_routing(&r);
        if (gap >= 2 * MARGIN) return; /* weights are scaled scores */
        for (int64_t t = 0; t < c->in[0].dim[0]; t++) fill_token(c, t, rng);
    }
    fail_msg("router: no data with margins found");
}

static void make(test_case *c, ml_rng *rng)
{
    const variant *v = &variants[c->variant];
    int64_t d = v->d, n = v->param.n_expert;
    c->param.router = v->param;
    test_real(c, 0, 2, (int64_t[]){ v->n_token, d }, 1, rng);
    test_real(c, 1, 2, (int64_t[]){ n, d }, 1 / sqrt((double)d), rng);
    if (v->bias) {
        test_real(c, 2, 1, &n, 0.1, rng);
        c->in[2].constant = true;
    }
    if (v->data == RANDOM) separate(c, rng);
    if (v->data != RANDOM) c->in[0].constant = c->in[1].constant = true; /* a tie has no gradient */
    for (int64_t e = 0; v->data == TIED_EXPERTS && e < n; e++) {
        for (int64_t j = 0; j < d; j++) c->in[1].real[e * d + j] = c->in[1].real[e % 3 * d + j];
    }
    for (int64_t t = 0; v->data == TIED_TOKENS && t < v->n_token; t++) {
        for (int64_t j = 0; j < d; j++) c->in[0].real[t * d + j] = c->in[0].real[t % 2 * d + j];
    }
    c->out_count[0] = v->n_token * v->param.top_k;
    c->out_count[1] = v->n_token * n;
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    ml_routing routing_out;
    if (variants[c->variant].fast) ctx->mode = ML_MODE_FAST;
    ml_router(ctx, in[0], in[1], in[2], &c->param.router, &routing_out);
    out[0] = routing_out.prob;
    out[1] = routing_out.logit;
    out[2] = routing_out.id;
    out[3] = routing_out.count;
}

static void reference(const test_case *c, double *const *out)
{
    routing r = route(c);
    for (int64_t i = 0; i < c->out_count[0]; i++) out[0][i] = r.prob[i];
    for (int64_t t = 0; t < c->in[0].dim[0]; t++) logits_of(c, t, out[1] + t * c->param.router.n_expert);
    free_routing(&r);
}

static void check(const test_case *c, ml_tensor *const *out)
{
    routing r = route(c);
    int64_t n_dropped = 0;
    for (int64_t i = 0; i < c->out_count[0]; i++) {
        if (ml_i32(out[2])[i] != r.id[i]) {
            fail_msg("router variant %d: choice %lld is expert %d, expected %d", c->variant, (long long)i,
                     ml_i32(out[2])[i], r.id[i]);
        }
        n_dropped += r.id[i] < 0;
    }
    for (int64_t e = 0; e < c->param.router.n_expert; e++) assert_int_equal(ml_i32(out[3])[e], r.count[e]);
    /* The cases of capacity do drop something. */
    if (c->param.router.capacity_factor > 0 && c->in[0].dim[0] > 0) assert_true(n_dropped > 0);
    free_routing(&r);
}

const test_op test_op_router = { .n_variant = sizeof variants / sizeof *variants,
                                 .make = make,
                                 .build = build,
                                 .reference = reference,
                                 .check = check };
