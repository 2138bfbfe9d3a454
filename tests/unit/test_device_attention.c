/* Attention in tiles on a device: nothing leaks from later tokens, or from other sequences, bit for bit.  Tolerances of
 * the operator's own test cannot see one key too many among a hundred; here such a key is another number. On a GPU, or
 * in builds with the emulated one there. */
#include "base/rng.h"
#include "ops/ops.h"
#include "support/support.h"

#ifdef MOONLIGHT_CUDA_EMULATED
#include "emulate.h"
#endif

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;
static ml_device *device;

/* The last sequence, from token FIRST on, is looked at: its tiles of keys begin two behind those of queries, and it has
 * the second tile of queries to itself, which then masks only where it must. */
enum { N_SEQ = 4, FIRST = 2, N_TOKEN = 139 };
static const int32_t offsets[N_SEQ + 1] = { 0, 1, 2, 2, N_TOKEN };

typedef struct {
    int64_t n_head, n_kv_head, d_qk, d_shared, d_v;
} heads;

enum { Q, K, V, SHARED, DY, N_OPERAND };

/* What goes in, and what comes out: y and the gradients of q, k, v and the shared key. */
typedef struct {
    int64_t width[N_OPERAND];
    float *in[N_OPERAND];
    float *y, *grad[DY];
} batch;

static batch make_batch(const heads *h)
{
    batch b = { .width = { h->n_head * h->d_qk, h->n_kv_head * (h->d_qk - h->d_shared), h->n_kv_head * h->d_v,
                           h->d_shared, h->n_head * h->d_v } };
    ml_rng rng = ml_rng_make(7, 1);
    for (int i = 0; i < N_OPERAND; i++) {
        b.in[i] = calloc((size_t)(N_TOKEN * b.width[i] + 1), sizeof(float));
        for (int64_t j = 0; j < N_TOKEN * b.width[i]; j++) b.in[i][j] = (float)ml_rng_normal(&rng);
    }
    return b;
}

static void free_results(batch *b)
{
    free(b->y);
    for (int i = 0; i < DY; i++) free(b->grad[i]);
}

static float *bring(const float *there, int64_t n)
{
    float *here = malloc((size_t)n * sizeof *here + 1);
    assert_ok(ml_device_download(device, here, there, (size_t)n * sizeof *here, &err));
    return here;
}

static void compute(const heads *h, batch *b)
{
    ml_ctx ctx;
    assert_ok(ml_ctx_init_on(&ctx, device, (size_t)16 << 20, (size_t)8 << 20, &err));
    ctx.precision = ML_PRECISION_BF16;
    ctx.recording = true;
    ml_tensor *in[DY] = { 0 };
    for (int i = 0; i < DY; i++) {
        if (b->width[i] == 0) continue;
        in[i] = ml_tensor_new_2d(&ctx, ML_F32, N_TOKEN, b->width[i]);
        assert_non_null(in[i]);
        ml_ctx_write(&ctx, ml_f32(in[i]), b->in[i], N_TOKEN * b->width[i]);
        in[i]->needs_grad = true;
    }
    int64_t n_offset = N_SEQ + 1;
    ml_tensor *seq = ml_tensor_wrap(&ctx, ML_I32, 1, &n_offset, (void *)(uintptr_t)offsets);
    ml_attention_param p = { .n_head = h->n_head,
                             .n_kv_head = h->n_kv_head,
                             .d_qk = h->d_qk,
                             .d_shared = h->d_shared,
                             .d_v = h->d_v,
                             .k_step = h->d_qk - h->d_shared,
                             .v_step = h->d_v,
                             .scale = (float)(1 / sqrt((double)h->d_qk)) };
    ml_tensor *y = ml_attention(&ctx, in[Q], in[K], in[V], in[SHARED], seq, &p);
    assert_ok(ml_ctx_status(&ctx, &err));
    b->y = bring(ml_f32(y), N_TOKEN * b->width[DY]);
    ml_ctx_write(&ctx, ml_tape_grad(&ctx, y), b->in[DY], N_TOKEN * b->width[DY]);
    assert_ok(ml_tape_backward(&ctx, &err));
    for (int i = 0; i < DY; i++) {
        b->grad[i] = in[i] ? bring(ml_tape_grad(&ctx, in[i]), N_TOKEN * b->width[i]) : NULL;
    }
    ml_ctx_free(&ctx);
}

/* Rows begin .. end - 1 of an operand become others. */
static void alter(batch *b, int operand, int64_t begin, int64_t end)
{
    for (int64_t j = begin * b->width[operand]; j < end * b->width[operand]; j++) {
        b->in[operand][j] = 2 - b->in[operand][j];
    }
}

static void expect_same_rows(const char *what, const float *a, const float *b, int64_t begin, int64_t end,
                             int64_t width)
{
    if (memcmp(a + begin * width, b + begin * width, (size_t)((end - begin) * width) * sizeof *a) == 0) return;
    for (int64_t j = begin * width; j < end * width; j++) {
        if (a[j] == b[j]) continue;
        fail_msg("%s: element %lld of token %lld changed from %.9g to %.9g", what, (long long)(j % width),
                 (long long)(j / width), (double)a[j], (double)b[j]);
    }
}

/* Tokens of the sequence before `cut` know nothing of those from there on, nor of other sequences; and the gradients of
 * keys and values from there on come from queries from there on. */
static void check_cut(const heads *h, const batch *base, int64_t cut)
{
    batch later = make_batch(h), earlier = make_batch(h);
    for (int i = 0; i < N_OPERAND; i++) {
        alter(&later, i, 0, FIRST);
        alter(&later, i, cut, N_TOKEN);
    }
    compute(h, &later);
    expect_same_rows("y, others later", base->y, later.y, FIRST, cut, base->width[DY]);
    expect_same_rows("dq, others later", base->grad[Q], later.grad[Q], FIRST, cut, base->width[Q]);
    alter(&earlier, Q, 0, cut);
    alter(&earlier, DY, 0, cut);
    compute(h, &earlier);
    expect_same_rows("y, other queries before", base->y, earlier.y, cut, N_TOKEN, base->width[DY]);
    for (int i = K; i < DY; i++) {
        if (!base->grad[i]) continue;
        expect_same_rows("gradient, other queries before", base->grad[i], earlier.grad[i], cut, N_TOKEN,
                         base->width[i]);
    }
    for (int i = 0; i < N_OPERAND; i++) {
        free(later.in[i]);
        free(earlier.in[i]);
    }
    free_results(&later);
    free_results(&earlier);
}

static void check_heads(const heads *h, const int64_t *cuts, size_t n_cut)
{
    batch base = make_batch(h);
    compute(h, &base);
    for (size_t i = 0; i < n_cut; i++) check_cut(h, &base, cuts[i]);
    for (int i = 0; i < N_OPERAND; i++) free(base.in[i]);
    free_results(&base);
}

static void test_grouped_queries(void **state)
{
    (void)state;
    const int64_t cuts[] = { FIRST + 1, 64, 65, 66, 127, 128, 129, 130, N_TOKEN };
    check_heads(&(heads){ 2, 1, 24, 0, 24 }, cuts, sizeof cuts / sizeof *cuts);
}

/* Heads that also a kernel by wgmma has: tiles of 128 keys, which begin at FIRST for the second tile of queries. */
static void test_heads_of_64(void **state)
{
    (void)state;
    const int64_t cuts[] = { 66, 127, 128, 129, 130, 131 };
    check_heads(&(heads){ 2, 1, 64, 0, 64 }, cuts, sizeof cuts / sizeof *cuts);
}

static void test_shared_key(void **state)
{
    (void)state;
    const int64_t cuts[] = { 66, 129, 130 };
    check_heads(&(heads){ 1, 1, 192, 64, 128 }, cuts, sizeof cuts / sizeof *cuts);
}

/* ---- a sequence of many tiles: buffers in shared memory are filled several times ---- */

enum { N_LONG = 600, D_LONG = 64 };

static float *forward_long(const float *q, const float *k, const float *v)
{
    ml_ctx ctx;
    const int32_t ends[2] = { 0, N_LONG };
    const int64_t n_end = 2;
    assert_ok(ml_ctx_init_on(&ctx, device, (size_t)4 << 20, 0, &err));
    ctx.precision = ML_PRECISION_BF16;
    ml_tensor *in[3];
    const float *from[3] = { q, k, v };
    for (int i = 0; i < 3; i++) {
        in[i] = ml_tensor_wrap(&ctx, ML_F32, 2, (int64_t[]){ N_LONG, D_LONG }, (void *)(uintptr_t)from[i]);
    }
    const ml_attention_param p = {
        .n_head = 1, .n_kv_head = 1, .d_qk = D_LONG, .d_v = D_LONG, .k_step = D_LONG, .v_step = D_LONG, .scale = 0.125f
    };
    ml_tensor *seq = ml_tensor_wrap(&ctx, ML_I32, 1, &n_end, (void *)(uintptr_t)ends);
    ml_tensor *y = ml_attention(&ctx, in[0], in[1], in[2], NULL, seq, &p);
    assert_ok(ml_ctx_status(&ctx, &err));
    float *out = bring(ml_f32(y), N_LONG * D_LONG);
    ml_ctx_free(&ctx);
    return out;
}

static void expect_long(const float *q, const float *k, const float *v, const float *y)
{
    double weight[N_LONG];
    for (int64_t t = 0; t < N_LONG; t++) {
        double sum = 0;
        for (int64_t u = 0; u <= t; u++) {
            double score = 0;
            for (int64_t i = 0; i < D_LONG; i++) score += (double)q[t * D_LONG + i] * (double)k[u * D_LONG + i];
            sum += weight[u] = exp(score / 8);
        }
        for (int64_t i = 0; i < D_LONG; i++) {
            double expected = 0, found = (double)y[t * D_LONG + i];
            for (int64_t u = 0; u <= t; u++) expected += weight[u] / sum * (double)v[u * D_LONG + i];
            /* Values of order 1, weights and values rounded by 2^-9 of each, scores by as much:
             * tests/ops/case_attention.c
             */
            if (fabs(found - expected) <= 4 * 2.0 / 256) continue;
            fail_msg("element %lld of token %lld is %.9g, expected %.9g", (long long)i, (long long)t, found, expected);
        }
    }
}

static void test_long_sequence(void **state)
{
    (void)state;
    float *in[3];
    ml_rng rng = ml_rng_make(8, 1);
    for (int i = 0; i < 3; i++) {
        in[i] = malloc((size_t)(N_LONG * D_LONG) * sizeof(float));
        for (int64_t j = 0; j < N_LONG * D_LONG; j++) in[i][j] = (float)ml_rng_normal(&rng);
    }
    float *y = forward_long(in[0], in[1], in[2]);
    expect_long(in[0], in[1], in[2], y);
    for (unsigned order = 1; order < 4; order++) {
#ifdef MOONLIGHT_CUDA_EMULATED
        ml_emulate_set_order(order);
#endif
        float *again = forward_long(in[0], in[1], in[2]);
        expect_same_rows("threads in another order", y, again, 0, N_LONG, D_LONG);
        free(again);
    }
#ifdef MOONLIGHT_CUDA_EMULATED
    ml_emulate_set_order(0);
#endif
    free(y);
    for (int i = 0; i < 3; i++) free(in[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grouped_queries),
        cmocka_unit_test(test_heads_of_64),
        cmocka_unit_test(test_shared_key),
        cmocka_unit_test(test_long_sequence),
    };
    if (!test_open_device(&device)) return TEST_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_device_close(device);
    return n_failed;
}
