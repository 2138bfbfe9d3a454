#include "ops/case.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    int64_t n_token, n_expert;
    int n_seq;
    int32_t seq[8];
    ml_router_loss_param param;
} variant;

static const variant variants[] = {
    { 20, 6, 1, { 0, 20 }, { ML_BALANCE_NONE, ML_SCORE_SOFTMAX, 2, 1e-2f, 1e-3f } },
    { 20, 6, 2, { 0, 7, 20 }, { ML_BALANCE_SWITCH, ML_SCORE_SOFTMAX, 2, 1e-2f, 0 } },
    { 31, 4, 1, { 0, 31 }, { ML_BALANCE_SWITCH, ML_SCORE_SIGMOID, 2, 1, 0.1f } },
    { 30, 8, 3, { 0, 3, 17, 30 }, { ML_BALANCE_SEQUENCE, ML_SCORE_SOFTMAX, 2, 1, 1e-3f } },
    { 30, 8, 6, { 0, 0, 1, 17, 17, 30, 30 }, { ML_BALANCE_SEQUENCE, ML_SCORE_SIGMOID, 3, 0.5f, 0 } },
    { 9, 64, 2, { 0, 4, 9 }, { ML_BALANCE_SEQUENCE, ML_SCORE_SIGMOID, 6, 1e-3f, 1e-3f } },
    { 600, 4, 2, { 0, 520, 600 }, { ML_BALANCE_SEQUENCE, ML_SCORE_SOFTMAX, 4, 1, 1 } },
    { 600, 4, 2, { 0, 520, 600 }, { ML_BALANCE_SWITCH, ML_SCORE_SOFTMAX, 1, 1, 1 } },
    { 5, 1, 1, { 0, 5 }, { ML_BALANCE_SWITCH, ML_SCORE_SOFTMAX, 1, 1, 1 } },
    { 0, 4, 1, { 0, 0 }, { ML_BALANCE_SWITCH, ML_SCORE_SOFTMAX, 2, 1, 1 } },
    { 0, 4, 0, { 0 }, { ML_BALANCE_SEQUENCE, ML_SCORE_SIGMOID, 2, 1, 1 } },
};

static bool is_top_k(const double *logit, int64_t n, int64_t top_k, int64_t e)
{
    int64_t rank = 0;
    for (int64_t j = 0; j < n; j++) rank += logit[j] > logit[e] || (logit[j] == logit[e] && j < e);
    return rank < top_k;
}

/* Distance between the last logit among the top k and the best of the rest. */
static double boundary(const double *logit, int64_t n, int64_t top_k)
{
    double lowest = INFINITY, best = -INFINITY;
    for (int64_t e = 0; e < n; e++) {
        if (is_top_k(logit, n, top_k, e)) {
            lowest = fmin(lowest, logit[e]);
        } else {
            best = fmax(best, logit[e]);
        }
    }
    return lowest - best;
}

static void make(test_case *c, ml_rng *rng)
{
    const variant *v = &variants[c->variant];
    int64_t n = v->n_expert, top_k = v->param.top_k;
    c->param.router_loss = v->param;
    test_real(c, 0, 2, (int64_t[]){ v->n_token, n }, 1.5, rng);
    int32_t *id = calloc((size_t)(v->n_token * top_k) + 1, sizeof *id);
    for (int64_t t = 0; t < v->n_token; t++) {
        /* A probe moves one logit by 2e-3: keep the choice from changing. */
        double *logit = c->in[0].real + t * n;
        while (boundary(logit, n, top_k) < 5e-3) logit[ml_rng_below(rng, (uint64_t)n)] = (float)ml_rng_normal(rng);
        /* Accepted choices need not be those of the logits: bias and capacity came between. */
        int64_t first = (int64_t)ml_rng_below(rng, (uint64_t)n);
        for (int64_t k = 0; k < top_k; k++) id[t * top_k + k] = (t + k) % 5 == 0 ? -1 : (int32_t)((first + k) % n);
    }
    test_whole(c, 1, 2, (int64_t[]){ v->n_token, top_k }, id);
    free(id);
    test_whole(c, 2, 1, (int64_t[]){ v->n_seq + 1 }, v->seq);
    c->out_count[0] = 2;
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    out[0] = ml_router_loss(ctx, in[0], in[1], in[2], &c->param.router_loss);
}

static double softmax(const double *logit, int64_t n, int64_t e)
{
    double sum = 0;
    for (int64_t j = 0; j < n; j++) sum += exp(logit[j]);
    return exp(logit[e]) / sum;
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* Switch Transformer: E sum_e f_e p_e */
static double switch_loss(const test_case *c)
{
    int64_t n_token = c->in[0].dim[0], n = c->in[0].dim[1], n_choice = n_token * c->in[1].dim[1];
    double loss = 0;
    for (int64_t e = 0; e < n && n_token; e++) {
        double f = 0, p = 0;
        for (int64_t i = 0; i < n_choice; i++) f += c->in[1].whole[i] == e;
        for (int64_t t = 0; t < n_token; t++) p += softmax(c->in[0].real + t * n, n, e);
        loss += (double)n * (f / (double)n_choice) * (p / (double)n_token);
    }
    return loss;
}

/* DeepSeek-V3, eq. 17-20, for the tokens of one sequence. */
static double sequence_loss(const test_case *c, int64_t begin, int64_t end)
{
    const ml_router_loss_param *p = &c->param.router_loss;
    int64_t n = c->in[0].dim[1];
    double loss = 0, n_token = (double)(end - begin);
    for (int64_t e = 0; e < n; e++) {
        double f = 0, mean = 0;
        for (int64_t t = begin; t < end; t++) {
            const double *logit = c->in[0].real + t * n;
            double total = 0;
            for (int64_t j = 0; j < n; j++) total += sigmoid(logit[j]);
            mean += (p->score == ML_SCORE_SIGMOID ? sigmoid(logit[e]) / total : softmax(logit, n, e)) / n_token;
            f += is_top_k(logit, n, p->top_k, e);
        }
        loss += (double)n / ((double)p->top_k * n_token) * f * mean;
    }
    return loss;
}

static void reference(const test_case *c, double *const *out)
{
    const ml_router_loss_param *p = &c->param.router_loss;
    int64_t n_token = c->in[0].dim[0], n = c->in[0].dim[1], n_seq = c->in[2].dim[0] - 1;
    out[0][0] = out[0][1] = 0;
    if (p->balance == ML_BALANCE_SWITCH) out[0][0] = switch_loss(c);
    if (p->balance == ML_BALANCE_SEQUENCE) {
        int n_counted = 0;
        for (int64_t s = 0; s < n_seq; s++) {
            int32_t begin = c->in[2].whole[s], end = c->in[2].whole[s + 1];
            if (begin == end) continue; /* a sequence without tokens is none */
            out[0][0] += sequence_loss(c, begin, end);
            n_counted++;
        }
        if (n_counted) out[0][0] /= n_counted;
    }
    for (int64_t t = 0; t < n_token; t++) {
        double sum = 0;
        for (int64_t e = 0; e < n; e++) sum += exp(c->in[0].real[t * n + e]);
        out[0][1] += log(sum) * log(sum) / (double)n_token;
    }
}

static double own_loss(const test_case *c, double *const *out)
{
    const ml_router_loss_param *p = &c->param.router_loss;
    return (double)p->balance_coef * out[0][0] + (double)p->z_coef * out[0][1];
}

const test_op test_op_router_loss = { .n_variant = sizeof variants / sizeof *variants,
                                      .make = make,
                                      .build = build,
                                      .reference = reference,
                                      .own_loss = own_loss };
