/* The computing half of the training loop: what a step is, whatever the micro-batches, threads and recompute. */
#include "base/thread.h"
#include "support/support.h"
#include "support/tiny_run.h"

#include <math.h>
#include <string.h>

static ml_error err;

/* ---- a step does not depend on how it is cut ---- */

/* Largest |a - b| over the gradients, relative to the largest |a|. */
static double gradient_distance(const ml_model *a, const ml_model *b)
{
    double distance = 0, largest = 0;
    for (size_t i = 0; i < a->n_param; i++) {
        for (int64_t k = 0; k < ml_param_count(&a->param[i]); k++) {
            double x = (double)a->param[i].grad[k], y = (double)b->param[i].grad[k];
            largest = fmax(largest, fabs(x));
            distance = fmax(distance, fabs(x - y));
        }
    }
    assert_true(largest > 1e-3);
    return distance / largest;
}

static void test_accumulating_is_a_larger_batch(void **state)
{
    (void)state;
    for (int which = 0; which < TEST_N_MODEL; which++) {
        ml_config model = test_model_config((test_model)which);
        ml_train_config whole = test_train_config(), cut = whole;
        cut.batch = 1;
        cut.accumulate = 4;
        test_run a, b;
        test_run_start(&a, &model, &whole);
        test_run_start(&b, &model, &cut);
        ml_train_step x = test_run_step(&a), y = test_run_step(&b);
        /* Sums of the same fp32 terms in another order: some rounding errors of 2^-24 each. */
        assert_true(fabs(x.ce - y.ce) < 1e-6 * x.ce);
        assert_true(fabs(x.grad_norm - y.grad_norm) < 1e-5 * x.grad_norm);
        double distance = gradient_distance(a.model, b.model);
        if (!(distance < 1e-5)) fail_msg("model %d: gradients differ by %g", which, distance);
        assert_int_equal(x.tokens, y.tokens);
        assert_int_equal(a.self.index, b.self.index);
        /* Once more after an update.  AdamW's first update is lr * g / (|g| + eps): rounding of a gradient near
         * zero may turn the sign of a whole update, so the loss agrees less closely than the gradients did. */
        x = test_run_step(&a);
        y = test_run_step(&b);
        assert_true(fabs(x.ce - y.ce) < 1e-3 * x.ce);
        test_run_end(&a, false);
        test_run_end(&b, false);
    }
}

/* -log p of the targets of a batch by the definition, in double, from the logits. */
static double reference_loss(ml_model *m, const ml_batch *b, int64_t *n_target)
{
    ml_ctx ctx;
    assert_ok(ml_ctx_init(&ctx, (size_t)64 << 20, 0, &err));
    int64_t n = b->n_token, n_offset = b->n_seq + 1;
    ml_model_input in = { .id = ml_tensor_wrap(&ctx, ML_I32, 1, &n, b->id),
                          .pos = ml_tensor_wrap(&ctx, ML_I32, 1, &n, b->pos),
                          .seq = ml_tensor_wrap(&ctx, ML_I32, 1, &n_offset, b->seq) };
    ml_tensor *logits = ml_model_logits(&ctx, m, ml_model_forward(&ctx, m, &in));
    assert_ok(ml_ctx_status(&ctx, &err));
    double nll = 0;
    *n_target = 0;
    for (int64_t t = 0; t < n; t++) {
        if (b->target[t] < 0) continue;
        const float *z = ml_f32(logits) + t * TEST_VOCAB;
        double sum = 0;
        for (int i = 0; i < TEST_VOCAB; i++) sum += exp((double)z[i]);
        nll += log(sum) - (double)z[b->target[t]];
        ++*n_target;
    }
    ml_ctx_free(&ctx);
    return nll;
}

static void test_loss_is_a_mean_over_target_tokens(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_GQA_MOE);
    ml_train_config config = test_train_config();
    config.batch = 1;
    config.accumulate = 6;
    test_run r;
    test_run_start(&r, &model, &config);
    double nll = 0, mean_of_means = 0;
    int64_t n_target = 0;
    ml_batch b;
    test_stage same = r.self;
    ml_stage stage = test_stage_make(&same);
    assert_ok(ml_batch_init(&b, 24, 1, &err));
    for (int i = 0; i < 6; i++) {
        int64_t n;
        assert_ok(stage.next(&same, &b, &err));
        double sum = reference_loss(r.model, &b, &n);
        nll += sum;
        n_target += n;
        mean_of_means += n ? sum / (double)n / 6 : 0;
    }
    ml_batch_free(&b);
    ml_train_step step = test_run_step(&r);
    /* fp32 logits of O(10): each -log p is right to about 1e-6 */
    assert_true(fabs(step.ce - nll / (double)n_target) < 1e-5);
    assert_true(fabs(step.ce - mean_of_means) > 1e-3); /* the two can be told apart */
    assert_true(step.loss == step.ce);                 /* no auxiliary losses here */
    test_run_end(&r, false);
}

static void test_auxiliary_losses_are_averaged_over_micro_steps(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_GQA_MOE);
    model.balance = ML_BALANCE_SWITCH;
    model.balance_coef = 0.5;
    model.z_coef = 0.25;
    model.aux_mean = 1;
    ml_train_config config = test_train_config();
    test_run whole, cut;
    double balance = 0, z = 0;
    config.schedule.lr = config.schedule.lr_min = 0; /* the same weights in every step */
    test_run_start(&whole, &model, &config);
    for (int i = 0; i < 3; i++) {
        ml_train_step step = test_run_step(&whole);
        assert_true(fabs(step.loss - step.ce - 0.5 * step.aux - 0.25 * step.z) < 1e-9);
        assert_true(step.aux >= 0.9 && step.aux < 4); /* 1 when even, n_expert at worst */
        balance += step.aux / 3;
        z += step.z / 3;
    }
    test_run_end(&whole, false);
    config.accumulate = 3;
    test_run_start(&cut, &model, &config);
    ml_train_step step = test_run_step(&cut);
    assert_true(fabs(step.aux - balance) < 1e-6);
    assert_true(fabs(step.z - z) < 1e-6 * z);
    test_run_end(&cut, false);
}

/* ---- the same bits ---- */

static void run_both(const ml_config *model, const ml_train_config *config_a, int threads_a,
                     const ml_train_config *config_b, int threads_b)
{
    test_run a, b;
    double first = 0, last = 0;
    test_run_start(&a, model, config_a);
    test_run_start(&b, model, config_b);
    for (int i = 0; i < 5; i++) {
        ml_thread_set_count(threads_a);
        ml_train_step x = test_run_step(&a);
        ml_thread_set_count(threads_b);
        ml_train_step y = test_run_step(&b);
        assert_true(x.ce == y.ce && x.loss == y.loss && x.grad_norm == y.grad_norm);
        assert_true(x.aux == y.aux && x.z == y.z && x.update_rms == y.update_rms);
        if (i == 0) first = x.ce;
        last = x.ce;
    }
    assert_true(first != last);
    test_assert_same_run(&a, &b);
    test_run_end(&a, false);
    test_run_end(&b, false);
    ml_thread_set_count(1);
}

static ml_config with_losses(test_model which)
{
    ml_config model = test_model_config(which);
    if (which == TEST_DENSE) return model;
    model.balance = which == TEST_GQA_MOE ? ML_BALANCE_SWITCH : ML_BALANCE_SEQUENCE;
    model.balance_coef = 1e-2;
    model.z_coef = 1e-3;
    return model;
}

static void test_recompute_changes_no_bit(void **state)
{
    (void)state;
    for (int which = 0; which < TEST_N_MODEL; which++) {
        ml_config model = with_losses((test_model)which);
        ml_train_config keep = test_train_config(), again = keep;
        for (int what = ML_RECOMPUTE_LAYERS; what <= ML_RECOMPUTE_MLP; what++) {
            again.recompute = (ml_recompute)what;
            run_both(&model, &keep, 1, &again, 1);
        }
    }
}

static void test_threads_change_no_bit(void **state)
{
    (void)state;
    for (int which = 0; which < TEST_N_MODEL; which++) {
        ml_config model = with_losses((test_model)which);
        ml_train_config config = test_train_config();
        config.batch = 32; /* enough rows for several tasks */
        config.optim = ml_optim_default_config(which % 2 ? ML_OPTIM_MUON : ML_OPTIM_ADAMW);
        run_both(&model, &config, 1, &config, 2);
    }
}

static void test_evaluation_changes_nothing(void **state)
{
    (void)state;
    ml_config model = with_losses(TEST_GQA_SIGMOID);
    ml_train_config config = test_train_config();
    test_run a, b;
    test_run_start(&a, &model, &config);
    test_run_start(&b, &model, &config);
    for (int i = 0; i < 4; i++) {
        ml_train_step x = test_run_step(&a), y = test_run_step(&b);
        assert_true(x.ce == y.ce && x.grad_norm == y.grad_norm && x.aux == y.aux);
        double loss, again;
        assert_ok(ml_loop_evaluate(b.loop, &loss, &err));
        assert_ok(ml_loop_evaluate(b.loop, &again, &err));
        assert_true(loss == again);
    }
    test_assert_same_run(&a, &b);

    /* And it is the mean over the targets of the whole set. */
    double nll = 0, loss;
    int64_t n_target = 0, n;
    ml_batch batch;
    assert_ok(ml_batch_init(&batch, 96, 4, &err));
    for (int64_t i = 0; i < 2; i++) {
        assert_ok(b.stage.eval(&b.self, i, &batch, &err));
        nll += reference_loss(b.model, &batch, &n);
        n_target += n;
    }
    ml_batch_free(&batch);
    assert_ok(ml_loop_evaluate(b.loop, &loss, &err));
    assert_true(fabs(loss - nll / (double)n_target) < 1e-5);
    test_run_end(&a, false);
    test_run_end(&b, false);
}

static void twice_cross_entropy(void *self, const ml_batch *batch, const float *logp, double weight, float *seed,
                                double *sum)
{
    double half = 0;
    ml_loss_cross_entropy(self, batch, logp, 2 * weight, seed, &half);
    *sum += 2 * half;
}

/* The loss is the stage's: twice the loss is twice the gradient, to the bit since doubling is exact. */
static void test_the_stage_makes_the_loss(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_GQA_MOE);
    ml_train_config config = test_train_config();
    config.accumulate = 2;
    test_run a, b;
    double loss_a, loss_b;
    test_run_start(&a, &model, &config);
    test_run_start(&b, &model, &config);
    b.stage.loss = twice_cross_entropy;
    assert_ok(ml_loop_evaluate(a.loop, &loss_a, &err));
    assert_ok(ml_loop_evaluate(b.loop, &loss_b, &err));
    assert_true(loss_a > 1 && loss_b == 2 * loss_a);
    ml_train_step x = test_run_step(&a), y = test_run_step(&b);
    assert_true(x.grad_norm > 0 && y.ce == 2 * x.ce && y.grad_norm == 2 * x.grad_norm);
    test_run_end(&a, false);
    test_run_end(&b, false);
}

/* Whatever is needed is there before the first step. */
static void test_a_step_allocates_nothing(void **state)
{
    (void)state;
    for (int which = 0; which < TEST_N_MODEL; which++) {
        ml_config model = with_losses((test_model)which);
        ml_train_config config = test_train_config();
        config.optim = ml_optim_default_config(ML_OPTIM_MUON);
        config.accumulate = 2;
        config.recompute = which % 2;
        test_run r;
        test_run_start(&r, &model, &config);
        int64_t before = ml_alloc_get_stats().n_total;
        for (int i = 0; i < 3; i++) test_run_step(&r);
        assert_int_equal(ml_alloc_get_stats().n_total, before);
        test_run_end(&r, false);
    }
}

/* A step after the batch has grown is a step of a run that has been so large all along, bit for bit. */
static void test_batch_grows_at_its_step(void **state)
{
    (void)state;
    ml_config model = with_losses(TEST_GQA_SIGMOID);
    ml_train_config config = test_train_config(), large = config;
    config.accumulate = 2;
    config.schedule.n_ramp = 2;
    config.schedule.ramp[0] = (ml_batch_ramp){ 0, 2 };
    config.schedule.ramp[1] = (ml_batch_ramp){ 3, 3 };
    large.accumulate = 4;
    test_run a, b;
    test_run_start(&a, &model, &config);
    test_run_start(&b, &model, &large);
    for (int i = 0; i < 3; i++) {
        ml_train_step x = test_run_step(&a), y = test_run_step(&b);
        assert_int_equal(x.n_micro, 4);
        assert_true(x.ce == y.ce && x.aux == y.aux && x.grad_norm == y.grad_norm && x.tokens == y.tokens);
    }
    test_assert_same_run(&a, &b);
    int64_t tokens = 0, index = a.self.index;
    test_stage same = a.self;
    ml_stage stage = test_stage_make(&same);
    ml_batch batch;
    assert_ok(ml_batch_init(&batch, 96, 4, &err));
    for (int i = 0; i < 6; i++) {
        assert_ok(stage.next(&same, &batch, &err));
        tokens += batch.n_token;
    }
    ml_batch_free(&batch);
    int64_t tokens_before = a.loop->tokens, before = ml_alloc_get_stats().n_total;
    ml_train_step x = test_run_step(&a);
    assert_int_equal(ml_alloc_get_stats().n_total, before); /* the memory of the largest step is there from the start */
    assert_int_equal(x.n_micro, 6);
    assert_int_equal(a.self.index, index + 6 * 4);
    assert_int_equal(x.tokens, tokens_before + tokens);
    test_run_end(&a, false);
    test_run_end(&b, false);
}

/* ---- the router's bias ---- */

static void test_bias_moves_by_the_equation(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_GQA_SIGMOID);
    ml_train_config config = test_train_config();
    config.accumulate = 3;
    test_run r;
    float before[2][4];
    test_run_start(&r, &model, &config);
    bool moved = false;
    for (int step = 0; step < 4; step++) {
        for (int i = 0; i < 2; i++) memcpy(before[i], r.model->layer[i].router_bias.data, sizeof before[i]);
        test_run_step(&r);
        const ml_router_stats *s = &r.loop->stats;
        for (int i = 0; i < 2; i++) {
            const int64_t *count = s->count + i * 4;
            int64_t total = count[0] + count[1] + count[2] + count[3];
            assert_int_equal(total, 2 * s->n_token); /* dropless: two choices of every token of the three micro-steps */
            double sign[4], mean = 0;
            for (int e = 0; e < 4; e++) {
                double error = (double)total / 4 - (double)count[e];
                sign[e] = error > 0 ? 1 : error < 0 ? -1 : 0;
                mean += sign[e] / 4;
            }
            const float *bias = ml_f32(&r.model->layer[i].router_bias);
            for (int e = 0; e < 4; e++) {
                double expected = (double)before[i][e] + 1e-3 * (sign[e] - mean);
                assert_true(fabs((double)bias[e] - expected) < 1e-9); /* one fp32 rounding of a number below 0.02 */
                moved = moved || bias[e] != before[i][e];
            }
        }
    }
    assert_true(moved);
    test_run_end(&r, false);
}

static void test_bias_rests_in_the_last_steps(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_GQA_SIGMOID);
    ml_train_config config = test_train_config(), moving = config;
    config.schedule.bias_rest = config.schedule.steps - 3;
    test_run a, b;
    test_run_start(&a, &model, &config);
    test_run_start(&b, &model, &moving);
    for (int step = 0; step < 6; step++) {
        float before[4];
        const float *bias = ml_f32(&a.model->layer[0].router_bias);
        memcpy(before, bias, sizeof before);
        test_run_step(&a);
        test_run_step(&b);
        assert_true((memcmp(before, bias, sizeof before) != 0) == (step < 3));
        if (step == 2) test_assert_same_run(&a, &b);
    }
    assert_true(memcmp(ml_f32(&a.model->layer[0].router_bias), ml_f32(&b.model->layer[0].router_bias), 16) != 0);
    test_run_end(&a, false);
    test_run_end(&b, false);
}

/* ---- refusals ---- */

static void test_refuses_what_cannot_train(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_DENSE);
    ml_train_config config = test_train_config();
    ml_loop *t;
    ml_model *m;
    test_stage self = { .batch = 4, .seq = 24 };
    ml_stage stage = test_stage_make(&self);
    assert_ok(ml_model_make(&model, ML_F32, true, &m, &err));
    config.seq = 129;
    assert_fails(ml_loop_make(&config, "/nowhere/run", false, m, &stage, NULL, NULL, &t, &err), ML_EINVAL, "129");
    config.seq = 24;
    config.accumulate = 0;
    assert_fails(ml_loop_make(&config, "/nowhere/run", false, m, &stage, NULL, NULL, &t, &err), ML_EINVAL,
                 "train.accumulate");
    config.accumulate = 1000;
    config.schedule.n_ramp = 1;
    config.schedule.ramp[0] = (ml_batch_ramp){ 5, 1001 };
    assert_fails(ml_loop_make(&config, "/nowhere/run", false, m, &stage, NULL, NULL, &t, &err), ML_EINVAL,
                 "1001 times as many by train.ramp");
    assert_null(t);
    ml_model_free(m);
}

/* Training learns: the chain's entropy is log 3 = 1.10 where the next token is not masked. */
static void test_loss_falls(void **state)
{
    (void)state;
    for (int muon = 0; muon < 2; muon++) {
        ml_config model = with_losses(TEST_MLA_MOE);
        ml_train_config config = test_train_config();
        config.batch = 16;
        config.optim = ml_optim_default_config(muon ? ML_OPTIM_MUON : ML_OPTIM_ADAMW);
        config.schedule.steps = 150;
        test_run r;
        double last = 0;
        test_run_start(&r, &model, &config);
        for (int i = 0; i < 150; i++) last = test_run_step(&r).ce;
        if (last > 2.0) fail_msg("the loss is still %g after 150 steps (log 64 = 4.16 at the start)", last);
        test_run_end(&r, false);
    }
}

int main(void)
{
    ml_thread_set_count(1); /* as fast for such models, also on a busy machine */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accumulating_is_a_larger_batch),
        cmocka_unit_test(test_loss_is_a_mean_over_target_tokens),
        cmocka_unit_test(test_auxiliary_losses_are_averaged_over_micro_steps),
        cmocka_unit_test(test_recompute_changes_no_bit),
        cmocka_unit_test(test_threads_change_no_bit),
        cmocka_unit_test(test_evaluation_changes_nothing),
        cmocka_unit_test(test_the_stage_makes_the_loss),
        cmocka_unit_test(test_a_step_allocates_nothing),
        cmocka_unit_test(test_batch_grows_at_its_step),
        cmocka_unit_test(test_bias_moves_by_the_equation),
        cmocka_unit_test(test_bias_rests_in_the_last_steps),
        cmocka_unit_test(test_refuses_what_cannot_train),
        cmocka_unit_test(test_loss_falls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
