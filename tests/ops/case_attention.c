/* Layouts: q, k and v as column views of one projection (GQA, MHA), k and v interleaved per head in one tensor (MLA's
 * kv_b output) with a rotary key that all heads share, and plain separate tensors.  Sequences: none, empty, of one
 * token, shorter and longer than a block of 64. */
#include "ops/case.h"

#include <math.h>
#include <stdlib.h>

typedef enum { SEPARATE, ONE_PROJECTION, MLA } layout;

static const struct {
    layout layout;
    int64_t n_head, n_kv_head, d_qk, d_shared, d_v;
    int n_seq, length[6];
    double std; /* of q and k: larger ones make softmax sharp */
} variants[] = {
    { SEPARATE, 1, 1, 5, 0, 3, 1, { 7 }, 1 },
    { ONE_PROJECTION, 8, 2, 24, 0, 24, 3, { 70, 1, 20 }, 1 },
    { ONE_PROJECTION, 2, 2, 17, 0, 17, 6, { 0, 3, 0, 65, 64, 0 }, 1 },
    { MLA, 3, 3, 12, 4, 6, 2, { 66, 5 }, 1 },
    { MLA, 2, 2, 48, 16, 32, 1, { 40 }, 1 },
    { SEPARATE, 4, 1, 20, 4, 33, 2, { 30, 9 }, 1 }, /* several key heads' worth of queries, shared columns, d_v > d_qk
                                                     */
    { SEPARATE, 1, 1, 64, 0, 64, 1, { 150 }, 3 },
    { SEPARATE, 2, 1, 8, 0, 8, 1, { 0 }, 1 },
    { SEPARATE, 2, 1, 8, 0, 8, 0, { 0 }, 1 },
    /* Each size of the tiles of ML_PRECISION_BF16 (64 keys, 64 or 128 queries), lengths on both sides of their edges,
     * long sequences among short ones, several sequences in a tile, a sequence that starts inside one. */
    { MLA, 1, 1, 192, 64, 128, 5, { 63, 1, 0, 64, 65 }, 1 },
    { ONE_PROJECTION, 2, 1, 128, 0, 128, 3, { 33, 2, 66 }, 1 },
    { ONE_PROJECTION, 2, 1, 32, 0, 32, 4, { 1, 1, 0, 137 }, 1 },
    { SEPARATE, 1, 1, 256, 0, 256, 3, { 0, 70, 1 }, 1 },
    { MLA, 2, 2, 64, 16, 64, 2, { 127, 2 }, 1 },
};

/* Input slots: 0 q (or the whole projection), 1 k (or kv), 2 v, 3 k_shared, 4 seq. */
static void make(test_case *c, ml_rng *rng)
{
    ml_attention_param *p = &c->param.attention;
    int v = c->variant;
    int64_t d_own = variants[v].d_qk - variants[v].d_shared;
    *p = (ml_attention_param){ .n_head = variants[v].n_head,
                               .n_kv_head = variants[v].n_kv_head,
                               .d_qk = variants[v].d_qk,
                               .d_shared = variants[v].d_shared,
                               .d_v = variants[v].d_v,
                               .k_step = d_own,
                               .v_step = variants[v].d_v,
                               .scale = (float)(1 / sqrt((double)variants[v].d_qk)) };
    int32_t seq[7] = { 0 };
    for (int s = 0; s < variants[v].n_seq; s++) seq[s + 1] = seq[s] + variants[v].length[s];
    int64_t n = seq[variants[v].n_seq], n_offset = variants[v].n_seq + 1;
    int64_t q_columns = p->n_head * p->d_qk, k_columns = p->n_kv_head * d_own, v_columns = p->n_kv_head * p->d_v;
    double std = variants[v].std;
    switch (variants[v].layout) {
    case SEPARATE:
        test_real(c, 0, 2, (int64_t[]){ n, q_columns }, std, rng);
        test_real(c, 1, 2, (int64_t[]){ n, k_columns }, std, rng);
        test_real(c, 2, 2, (int64_t[]){ n, v_columns }, 1, rng);
        break;
    case ONE_PROJECTION: test_real(c, 0, 2, (int64_t[]){ n, q_columns + k_columns + v_columns }, std, rng); break;
    case MLA:
        p->k_step = p->v_step = d_own + p->d_v;
        test_real(c, 0, 2, (int64_t[]){ n, q_columns }, std, rng);
        test_real(c, 1, 2, (int64_t[]){ n, k_columns + v_columns }, std, rng);
        break;
    }
    if (p->d_shared) test_real(c, 3, 2, (int64_t[]){ n, p->d_shared }, std, rng);
    test_whole(c, 4, 1, &n_offset, seq);
    c->out_count[0] = n * p->n_head * p->d_v;
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    const ml_attention_param *p = &c->param.attention;
    int64_t d_own = p->d_qk - p->d_shared;
    int64_t q_columns = p->n_head * p->d_qk, k_columns = p->n_kv_head * d_own, v_columns = p->n_kv_head * p->d_v;
    ml_tensor *q = in[0], *k = in[1], *v = in[2];
    switch (variants[c->variant].layout) {
    case SEPARATE: break;
    case ONE_PROJECTION:
        q = ml_tensor_cols(ctx, in[0], 0, q_columns);
        k = ml_tensor_cols(ctx, in[0], q_columns, k_columns);
        v = ml_tensor_cols(ctx, in[0], q_columns + k_columns, v_columns);
        break;
    case MLA:
        k = ml_tensor_cols(ctx, in[1], 0, in[1]->dim[1]);
        v = ml_tensor_cols(ctx, in[1], d_own, in[1]->dim[1] - d_own);
        break;
    }
    out[0] = ml_attention(ctx, q, k, v, in[3], in[4], p);
}

/* Where the reference finds q, k and v: first element and elements from row to row. */
typedef struct {
    const double *q, *k, *v;
    int64_t q_row, k_row, v_row;
} operands;

static operands find_operands(const test_case *c)
{
    const ml_attention_param *p = &c->param.attention;
    int64_t d_own = p->d_qk - p->d_shared, width0 = c->in[0].dim[1], width1 = c->in[1].dim[1];
    const double *a = c->in[0].real, *b = c->in[1].real;
    switch (variants[c->variant].layout) {
    case SEPARATE: return (operands){ a, b, c->in[2].real, width0, width1, c->in[2].dim[1] };
    case ONE_PROJECTION: {
        const double *k = a + p->n_head * p->d_qk;
        return (operands){ a, k, k + p->n_kv_head * d_own, width0, width0, width0 };
    }
    case MLA: return (operands){ a, b, b + d_own, width0, width1, width1 };
    }
    abort();
}

static void reference_token(const test_case *c, const operands *x, int64_t begin, int64_t t, int64_t h, double *y)
{
    const ml_attention_param *p = &c->param.attention;
    int64_t d_own = p->d_qk - p->d_shared, g = h * p->n_kv_head / p->n_head;
    double score[160], largest = -INFINITY, sum = 0;
    for (int64_t u = begin; u <= t; u++) {
        double s = 0;
        for (int64_t i = 0; i < p->d_qk; i++) {
            double key =
                i < d_own ? x->k[u * x->k_row + g * p->k_step + i] : c->in[3].real[u * p->d_shared + i - d_own];
            s += x->q[t * x->q_row + h * p->d_qk + i] * key;
        }
        score[u - begin] = s * (double)p->scale;
        largest = fmax(largest, score[u - begin]);
    }
    for (int64_t u = begin; u <= t; u++) sum += exp(score[u - begin] - largest);
    for (int64_t i = 0; i < p->d_v; i++) y[i] = 0;
    for (int64_t u = begin; u <= t; u++) {
        double weight = exp(score[u - begin] - largest) / sum;
        for (int64_t i = 0; i < p->d_v; i++) y[i] += weight * x->v[u * x->v_row + g * p->v_step + i];
    }
}

static void reference(const test_case *c, double *const *out)
{
    const ml_attention_param *p = &c->param.attention;
    operands x = find_operands(c);
    for (int64_t s = 0; s + 1 < c->in[4].dim[0]; s++) {
        for (int64_t t = c->in[4].whole[s]; t < c->in[4].whole[s + 1]; t++) {
            for (int64_t h = 0; h < p->n_head; h++) {
                reference_token(c, &x, c->in[4].whole[s], t, h, out[0] + (t * p->n_head + h) * p->d_v);
            }
        }
    }
}

/* Weights and values are rounded by up to 2^-9 of each: 2^-8 together.  q and k too, which moves a score by some 2^-9.5
 * std^2, the unluckiest of a few hundred by three times that, and a weight by that share of it. */
static double bf16_tolerance(const test_case *c)
{
    double std = variants[c->variant].std;
    return (1 + std * std) / 256;
}

const test_op test_op_attention = { .n_variant = sizeof variants / sizeof variants[0],
                                    .make = make,
                                    .build = build,
                                    .reference = reference,
                                    .bf16_tolerance = bf16_tolerance };
