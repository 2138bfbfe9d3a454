/* In fast mode a token's routing, expert output and log-probability have the same bits alone and in any batch; and
 * bad ids, which come from data, are errors. */
#include "support/support.h"

#include "base/rng.h"
#include "ops/ops.h"

#include <string.h>

enum { TOKENS = 130, D = 48, F = 150, EXPERTS = 8, TOP_K = 3, VOCAB = 700 };

static ml_error err;

typedef struct {
    float x[TOKENS * D], router[EXPERTS * D];
    float bias[EXPERTS], head_bias[VOCAB];
    uint16_t gate_up[EXPERTS * 2 * F * D], down[EXPERTS * D * F], head[VOCAB * D]; /* bf16 */
    int32_t target[TOKENS];
} data;

typedef struct {
    float prob[TOKENS * TOP_K], y[TOKENS * D], logp[TOKENS];
    int32_t id[TOKENS * TOP_K];
} result;

static data d;

static void fill(float *x, size_t n, double std, ml_rng *rng)
{
    for (size_t i = 0; i < n; i++) x[i] = (float)(std * ml_rng_normal(rng));
}

static void fill_bf16(uint16_t *x, size_t n, double std, ml_rng *rng)
{
    for (size_t i = 0; i < n; i++) x[i] = ml_f32_to_bf16((float)(std * ml_rng_normal(rng)));
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

static int setup(void **state)
{
    (void)state;
    ml_rng rng = ml_rng_make(3, 0);
    fill(d.x, COUNT(d.x), 1, &rng);
    fill(d.router, COUNT(d.router), 0.2, &rng);
    fill(d.bias, COUNT(d.bias), 0.1, &rng);
    fill(d.head_bias, COUNT(d.head_bias), 1, &rng);
    fill_bf16(d.gate_up, COUNT(d.gate_up), 0.2, &rng);
    fill_bf16(d.down, COUNT(d.down), 0.2, &rng);
    fill_bf16(d.head, COUNT(d.head), 0.2, &rng);
    for (int t = 0; t < TOKENS; t++) d.target[t] = (int32_t)ml_rng_below(&rng, VOCAB);
    return 0;
}

/* Tokens first .. first + n of the data, through router, experts and log-probability. */
static void run(int first, int n, result *r)
{
    ml_ctx ctx;
    assert_ok(ml_ctx_init(&ctx, (size_t)64 << 20, 0, &err));
    ctx.mode = ML_MODE_FAST;
    ml_tensor x = ml_tensor_describe(ML_F32, 2, (int64_t[]){ n, D }, d.x + first * D);
    ml_tensor router = ml_tensor_describe(ML_F32, 2, (int64_t[]){ EXPERTS, D }, d.router);
    ml_tensor bias = ml_tensor_describe(ML_F32, 1, (int64_t[]){ EXPERTS }, d.bias);
    ml_tensor gate = ml_tensor_describe(ML_BF16, 3, (int64_t[]){ EXPERTS, F, D }, d.gate_up), up = gate;
    ml_tensor down = ml_tensor_describe(ML_BF16, 3, (int64_t[]){ EXPERTS, D, F }, d.down);
    ml_tensor head = ml_tensor_describe(ML_BF16, 2, (int64_t[]){ VOCAB, D }, d.head);
    ml_tensor head_bias = ml_tensor_describe(ML_F32, 1, (int64_t[]){ VOCAB }, d.head_bias);
    ml_tensor target = ml_tensor_describe(ML_I32, 1, (int64_t[]){ n }, d.target + first);
    up.data = d.gate_up + F * D;
    gate.stride = up.stride = 2 * F * D;
    ml_router_param param = { EXPERTS, TOP_K, ML_SCORE_SIGMOID, true, 2.446f, 1, 1, 0, false };
    ml_routing routing;
    ml_router(&ctx, &x, &router, &bias, &param, &routing);
    ml_experts_param silu = { ML_ACT_SILU };
    ml_tensor *y = ml_experts(&ctx, &x, routing.id, routing.prob, &gate, &up, &down, &silu);
    ml_tensor *logp = ml_logprob(&ctx, y, &head, &head_bias, &target);
    assert_ok(ml_ctx_status(&ctx, &err));
    memcpy(r->prob + first * TOP_K, routing.prob->data, (size_t)(n * TOP_K) * sizeof(float));
    memcpy(r->id + first * TOP_K, routing.id->data, (size_t)(n * TOP_K) * sizeof(int32_t));
    memcpy(r->y + first * D, y->data, (size_t)(n * D) * sizeof(float));
    memcpy(r->logp + first, logp->data, (size_t)n * sizeof(float));
    ml_ctx_free(&ctx);
}

static void test_batch_does_not_matter(void **state)
{
    (void)state;
    static result whole, alone, parts;
    run(0, TOKENS, &whole);
    for (int t = 0; t < TOKENS; t++) run(t, 1, &alone);
    for (int t = 0; t < TOKENS; t += 37) run(t, TOKENS - t < 37 ? TOKENS - t : 37, &parts);
    assert_memory_equal(&whole, &alone, sizeof whole);
    assert_memory_equal(&whole, &parts, sizeof whole);
}

/* One token sent to the given experts with the given target. */
static ml_status run_ids(int32_t first, int32_t second, int32_t target_id)
{
    ml_ctx ctx;
    assert_ok(ml_ctx_init(&ctx, (size_t)64 << 20, 0, &err));
    int32_t id[2] = { first, second };
    float prob[2] = { 0.5f, 0.5f };
    ml_tensor x = ml_tensor_describe(ML_F32, 2, (int64_t[]){ 1, D }, d.x);
    ml_tensor ids = ml_tensor_describe(ML_I32, 2, (int64_t[]){ 1, 2 }, id);
    ml_tensor probs = ml_tensor_describe(ML_F32, 2, (int64_t[]){ 1, 2 }, prob);
    ml_tensor gate = ml_tensor_describe(ML_BF16, 3, (int64_t[]){ EXPERTS, F, D }, d.gate_up);
    ml_tensor down = ml_tensor_describe(ML_BF16, 3, (int64_t[]){ EXPERTS, D, F }, d.down);
    ml_tensor head = ml_tensor_describe(ML_BF16, 2, (int64_t[]){ VOCAB, D }, d.head);
    ml_tensor target = ml_tensor_describe(ML_I32, 1, (int64_t[]){ 1 }, &target_id);
    ml_experts_param relu = { ML_ACT_RELU };
    ml_tensor *y = ml_experts(&ctx, &x, &ids, &probs, &gate, NULL, &down, &relu);
    ml_logprob(&ctx, y, &head, NULL, &target);
    ml_status status = ml_ctx_status(&ctx, &err);
    ml_ctx_free(&ctx);
    return status;
}

static void test_bad_ids(void **state)
{
    (void)state;
    assert_int_equal(run_ids(1, 2, 3), ML_OK);
    assert_fails(run_ids(1, EXPERTS, 3), ML_EINVAL, "chooses expert 8 of 8");
    assert_fails(run_ids(-2, 1, 3), ML_EINVAL, "chooses expert -2 of 8");
    assert_fails(run_ids(4, 4, 3), ML_EINVAL, "twice");
    assert_int_equal(run_ids(-1, -1, 3), ML_OK);
    assert_fails(run_ids(1, 2, VOCAB), ML_EINVAL, "target 700 of token 0");
    assert_fails(run_ids(1, 2, -2), ML_EINVAL, "target -2");
}

static void test_impossible_groups(void **state)
{
    (void)state;
    ml_ctx ctx;
    assert_ok(ml_ctx_init(&ctx, (size_t)64 << 20, 0, &err));
    ml_tensor x = ml_tensor_describe(ML_F32, 2, (int64_t[]){ TOKENS, D }, d.x);
    ml_tensor router = ml_tensor_describe(ML_F32, 2, (int64_t[]){ EXPERTS, D }, d.router);
    ml_router_param param = { EXPERTS, TOP_K, ML_SCORE_SIGMOID, true, 1, 4, 1, 0, false };
    ml_routing routing;
    assert_false(ml_router(&ctx, &x, &router, NULL, &param, &routing));
    assert_fails(ml_ctx_status(&ctx, &err), ML_EINVAL, "the best 1 groups hold 2 experts, fewer than the 3");
    ml_ctx_free(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_does_not_matter),
        cmocka_unit_test(test_bad_ids),
        cmocka_unit_test(test_impossible_groups),
    };
    return cmocka_run_group_tests_name("moe_fast", tests, setup, NULL);
}
