/* Training on a device: the processor's course, the same bits however the memory is used, resuming, the guard.
 * On a GPU, or in builds with the emulated one there (slowly: models and batches are tiny). */
#include "support/answers.h"
#include "support/support.h"
#include "support/tiny_run.h"

#ifdef MOONLIGHT_CUDA_EMULATED
#include "emulate.h"
#endif

#include <math.h>
#include <stdio.h>
#include <string.h>

static ml_error err;
static ml_device *device;

/* Threads and, where there are streams beside the first, their copies in another order. */
static void set_order(unsigned seed)
{
#ifdef MOONLIGHT_CUDA_EMULATED
    ml_emulate_set_order(seed);
#else
    (void)seed;
#endif
}

static ml_train_config tiny_config(ml_optim_name optim)
{
    ml_train_config c = test_train_config();
    c.batch = 2;
    c.seq = 12;
    c.optim = ml_optim_default_config(optim);
    c.guard_deviations = 6;
    return c;
}

static void expect_near(const char *what, double found, double wanted, double tolerance)
{
    if (!(fabs(found - wanted) <= tolerance * fabs(wanted))) {
        fail_msg("%s: found %.9g there, expected %.9g within %g of it", what, found, wanted, tolerance);
    }
}

/* ---- beside the processor ---- */

static void check_course(test_model which, ml_optim_name optim, ml_precision precision)
{
    enum { N_STEP = 4 };
    ml_config model = test_model_config(which);
    ml_train_config here = tiny_config(optim), there = here;
    /* fp32: sums in another order, a few rounding errors of 2^-24 each; through AdamW, whose first updates are the
     * signs of gradients, rounding of one near zero moves a weight by 2 lr and a loss by some 1e-5.  bf16: operands are
     * right to 2^-9, a mean over a batch to less; five iterations of Newton-Schulz move singular values by some of
     * that. */
    bool exact = precision == ML_PRECISION_F32;
    double near = exact ? 1e-4 : 1e-2, norm_near = exact ? 1e-3 : 5e-2;
    there.device = device;
    there.precision = precision;
    there.placing = exact ? ML_PLACE_F32 : ML_PLACE_HALF;
    here.accumulate = there.accumulate = which == TEST_GQA_SIGMOID ? 2 : 1;
    test_run a, b;
    test_run_start(&a, &model, &here);
    test_run_start(&b, &model, &there);
    for (int i = 0; i < N_STEP; i++) {
        ml_train_step x = test_run_step(&a), y = test_run_step(&b);
        expect_near("loss", y.loss, x.loss, near);
        expect_near("ce", y.ce, x.ce, near);
        expect_near("gradient norm", y.grad_norm, x.grad_norm, norm_near);
        expect_near("update", y.update_rms, x.update_rms, norm_near);
        assert_true(x.lr == y.lr && x.step == y.step && x.tokens == y.tokens && x.n_token == y.n_token);
        assert_false(y.skipped);
        expect_near("guard", b.loop->guard.mean, a.loop->guard.mean, norm_near);
    }
    double loss_here, loss_there;
    assert_ok(ml_loop_evaluate(a.loop, &loss_here, &err));
    assert_ok(ml_loop_evaluate(b.loop, &loss_there, &err));
    expect_near("evaluation", loss_there, loss_here, near);
    const ml_router_stats *s = &a.loop->stats, *t = &b.loop->stats;
    int64_t n_count = exact ? s->n_layer * s->n_expert : 0; /* a choice may tip over in bf16 */
    for (int64_t i = 0; i < n_count; i++) assert_int_equal(s->count[i], t->count[i]);
    for (int64_t i = 0; i < s->n_layer; i++)
        assert_true(fabs(s->entropy[i] - t->entropy[i]) < norm_near * (double)s->n_token);
    assert_ok(ml_model_pull(b.model, &err));
    for (size_t i = 0; exact && i < a.model->n_weight; i++) { /* the same counts move the bias by the same arithmetic */
        const ml_weight *x = &a.model->weight[i], *y = &b.model->weight[i];
        if (!x->trained) assert_memory_equal(x->data, y->data, (size_t)ml_weight_count(x) * sizeof(float));
    }
    test_run_end(&a, false);
    test_run_end(&b, false);
}

static void test_course_of_the_processor(void **state)
{
    (void)state;
    check_course(TEST_GQA_SIGMOID, ML_OPTIM_MUON, ML_PRECISION_F32);
    check_course(TEST_GQA_SIGMOID, ML_OPTIM_MUON, ML_PRECISION_BF16);
    check_course(TEST_MLA_LORA, ML_OPTIM_ADAMW, ML_PRECISION_F32);
}

/* ---- however the memory is used ---- */

typedef struct {
    ml_precision precision;
    ml_placing placing;
    ml_optim_storage moments;
    ml_recompute recompute;
    unsigned order;
} way;

static void start_way(test_run *r, test_model which, ml_optim_name optim, const way *w)
{
    ml_config model = test_model_config(which);
    ml_train_config config = tiny_config(optim);
    config.device = device;
    config.precision = w->precision;
    config.placing = w->placing;
    config.moments = w->moments;
    config.recompute = w->recompute;
    set_order(w->order);
    test_run_start(r, &model, &config);
}

static void check_ways(test_model which, ml_optim_name optim, const way *list, int n)
{
    enum { N_STEP = 3 };
    test_run first;
    ml_train_step wanted[N_STEP];
    for (int i = 0; i < n; i++) {
        test_run r;
        start_way(&r, which, optim, &list[i]);
        for (int k = 0; k < N_STEP; k++) {
            ml_train_step step = test_run_step(&r);
            if (i == 0) wanted[k] = step;
            if (step.loss != wanted[k].loss || step.grad_norm != wanted[k].grad_norm) {
                fail_msg("way %d, step %d: loss %.17g and norm %.17g, expected %.17g and %.17g", i, k + 1, step.loss,
                         step.grad_norm, wanted[k].loss, wanted[k].grad_norm);
            }
            expect_near("update", step.update_rms, wanted[k].update_rms, 1e-12); /* other batches, other sums */
        }
        if (i == 0) {
            first = r;
            first.loop->stage = &first.stage;
            continue;
        }
        test_assert_same_run(&first, &r);
        test_run_end(&r, false);
    }
    test_run_end(&first, false);
    set_order(0);
}

/* Small batches, so that each of the three slots is used several times. */
static void test_ways_give_the_same_bits(void **state)
{
    (void)state;
    const way ways[] = {
        { .precision = ML_PRECISION_BF16, .placing = ML_PLACE_HALF },
        { .precision = ML_PRECISION_BF16, .placing = ML_PLACE_SPLIT, .recompute = ML_RECOMPUTE_ATTENTION, .order = 1 },
        { .precision = ML_PRECISION_BF16,
          .placing = ML_PLACE_SPLIT_HOST,
          .moments = { .here = true, .batch = 4000 },
          .recompute = ML_RECOMPUTE_LAYERS,
          .order = 2 },
        { .precision = ML_PRECISION_BF16,
          .placing = ML_PLACE_HALF,
          .moments = { .here = true, .batch = 2000 },
          .recompute = ML_RECOMPUTE_MLP },
    };
    check_ways(TEST_MLA_MOE, ML_OPTIM_MUON, ways, 4);
}

static void test_moments_in_bf16(void **state)
{
    (void)state;
    const way ways[] = {
        { .moments = { .bf16 = true } },
        { .moments = { .bf16 = true, .here = true, .batch = 3000 }, .order = 2 },
    };
    check_ways(TEST_GQA_MOE, ML_OPTIM_ADAMW, ways, 2);
}

/* ---- over time ---- */

static void check_resume(const way *w)
{
    ml_config model = test_model_config(TEST_GQA_SIGMOID);
    test_run straight, first, second;
    start_way(&straight, TEST_GQA_SIGMOID, ML_OPTIM_MUON, w);
    for (int i = 0; i < 4; i++) test_run_step(&straight);
    start_way(&first, TEST_GQA_SIGMOID, ML_OPTIM_MUON, w);
    for (int i = 0; i < 2; i++) test_run_step(&first);
    assert_ok(ml_loop_save(first.loop, &err));
    ml_train_config config = first.config;
    test_run_end(&first, true);
    test_run_resume(&second, first.folder, &model, &config);
    assert_int_equal(ml_loop_steps_done(second.loop), 2);
    ml_train_step last = { 0 };
    for (int i = 2; i < 4; i++) last = test_run_step(&second);
    test_assert_same_run(&straight, &second);
    test_run_end(&second, true);

    /* And on the processor. */
    config.device = NULL;
    config.precision = ML_PRECISION_F32;
    test_run here;
    test_run_resume(&here, first.folder, &model, &config);
    assert_int_equal(ml_loop_steps_done(here.loop), 2);
    test_run_step(&here);
    /* bf16 products: 2^-9 of each operand, less in a mean over a batch */
    expect_near("loss after resuming here", test_run_step(&here).loss, last.loss, 1e-2);
    test_run_end(&here, false);
    test_run_end(&straight, false);
}

static void test_resume_is_bit_exact(void **state)
{
    (void)state;
    check_resume(&(way){ .precision = ML_PRECISION_F32 });
    check_resume(&(way){ .precision = ML_PRECISION_BF16,
                         .placing = ML_PLACE_SPLIT_HOST,
                         .moments = { .bf16 = true, .here = true, .batch = 4000 } });
}

/* A gradient that is not finite changes nothing; three in a row lead back to the checkpoint. */
static void test_guard_there(void **state)
{
    (void)state;
    test_run r;
    start_way(&r, TEST_GQA_MOE, ML_OPTIM_ADAMW, &(way){ .precision = ML_PRECISION_F32 });
    r.loop->config.save_every = 3;
    r.loop->config.schedule.steps = 6;
    r.self.bad_from = 4;
    r.self.bad_to = 7;
    assert_ok(ml_loop_run(r.loop, &err));
    if (!strstr(r.said, "step 4: gradient norm nan is out of line; the step is skipped") ||
        !strstr(r.said, "step 6: gradient norm nan is out of line") || !strstr(r.said, "went back to step 3")) {
        fail_msg("expected skips of steps 4 to 6 and a way back to step 3, found: %s", r.said);
    }
    assert_int_equal(ml_loop_steps_done(r.loop), 6);
    assert_int_equal(ml_optimizer_get_step(ml_loop_optimizer(r.loop)), 6);
    double loss;
    assert_ok(ml_loop_evaluate(r.loop, &loss, &err));
    assert_true(isfinite(loss));
    test_run_end(&r, false);
}

static void test_skipped_step_changes_nothing(void **state)
{
    (void)state;
    test_run a, b;
    way w = { .moments = { .here = true, .batch = 3000 }, .order = 2 };
    start_way(&a, TEST_GQA_SIGMOID, ML_OPTIM_MUON, &w);
    start_way(&b, TEST_GQA_SIGMOID, ML_OPTIM_MUON, &w);
    test_run_step(&a);
    test_run_step(&b);
    b.self.bad_from = 2;
    b.self.bad_to = 3;
    ml_train_step step = test_run_step(&b);
    assert_true(step.skipped && isnan(step.grad_norm) && step.update_rms == 0);
    ml_batch unused;
    assert_ok(ml_batch_init(&unused, 64, 64, &err));
    assert_ok(b.stage.next(&b.self, &unused, &err)); /* puts the weight right again */
    assert_ok(ml_model_pull(a.model, &err));
    assert_ok(ml_model_pull(b.model, &err));
    for (size_t i = 0; i < a.model->n_weight; i++) {
        const ml_weight *x = &a.model->weight[i], *y = &b.model->weight[i];
        if (memcmp(x->data, y->data, (size_t)ml_weight_count(x) * sizeof(float))) fail_msg("%s moved", x->name);
    }
    assert_int_equal(ml_optimizer_get_step(a.loop->optimizer), ml_optimizer_get_step(b.loop->optimizer));
    for (int64_t i = 0; i < ml_optimizer_n_state(a.loop->optimizer); i++) {
        float x[64], y[64];
        int64_t n = ml_optimizer_get_state(a.loop->optimizer, i).count;
        if (n > 64) n = 64;
        assert_ok(ml_optimizer_read_state(a.loop->optimizer, i, 0, n, x, &err));
        assert_ok(ml_optimizer_read_state(b.loop->optimizer, i, 0, n, y, &err));
        assert_memory_equal(x, y, (size_t)n * sizeof *x);
    }
    ml_batch_free(&unused);
    test_run_end(&a, false);
    test_run_end(&b, false);
    set_order(0);
}

/* ---- samples ---- */

/* The embedding as bf16 has it, which is what split weights otherwise differ in from those of a file in bf16. */
static void round_embedding(test_run *r)
{
    assert_ok(ml_model_pull(r->model, &err));
    for (size_t i = 0; i < r->model->n_weight; i++) {
        const ml_weight *w = &r->model->weight[i];
        uint16_t half;
        for (int64_t k = 0; k < ml_weight_count(w) && w->kind == ML_PARAM_EMBEDDING; k++) {
            ml_convert_from_f32(ML_BF16, (float *)w->data + k, &half, 1);
            ml_convert_to_f32(ML_BF16, &half, (float *)w->data + k, 1);
        }
    }
    assert_ok(ml_model_push(r->model, &err));
}

/* What a model says where it is trained is what its weights say when they are uploaded, and training goes on as if
 * nobody had asked. */
static void check_samples(test_model which, const way *w)
{
    test_run asked, straight;
    float there[2][TEST_VOCAB], wanted[2][TEST_VOCAB];
    start_way(&asked, which, ML_OPTIM_ADAMW, w);
    start_way(&straight, which, ML_OPTIM_ADAMW, w);
    test_run_step(&asked);
    test_run_step(&straight);
    round_embedding(&asked);
    round_embedding(&straight);
    int32_t id[TEST_SAID];
    for (int i = 0; i < TEST_SAID; i++) id[i] = (7 * i + 3) % TEST_VOCAB;
    test_converse(asked.model, NULL, id, TEST_PROMPT, there);
    ml_model *copy;
    assert_ok(ml_model_make(&asked.model->config, ML_F32, false, &copy, &err));
    assert_ok(ml_model_pull(asked.model, &err));
    for (size_t i = 0; i < copy->n_weight; i++) {
        size_t n_bytes = (size_t)ml_weight_count(&copy->weight[i]) * sizeof(float);
        memcpy(copy->weight[i].data, asked.model->weight[i].data, n_bytes);
    }
    bool split = w->placing == ML_PLACE_SPLIT || w->placing == ML_PLACE_SPLIT_HOST;
    if (split) copy = test_model_round_to_bf16(copy);
    assert_ok(ml_model_upload(copy, device, 0, &err));
    test_converse(copy, NULL, id, TEST_PROMPT, wanted);
    for (int i = 0; i < 2 * TEST_VOCAB; i++) {
        double x = (double)there[i / TEST_VOCAB][i % TEST_VOCAB], y = (double)wanted[i / TEST_VOCAB][i % TEST_VOCAB];
        if (x != y) fail_msg("way %d, logit %d: %g in training, %g uploaded", (int)w->placing, i, x, y);
    }
    ml_model_free(copy);
    test_run_step(&asked);
    test_run_step(&straight);
    test_assert_same_run(&asked, &straight);
    test_run_end(&asked, false);
    test_run_end(&straight, false);
}

static void test_samples_there(void **state)
{
    (void)state;
    check_samples(TEST_GQA_SIGMOID, &(way){ .precision = ML_PRECISION_F32 });
    check_samples(TEST_MLA_MOE, &(way){ .precision = ML_PRECISION_BF16, .placing = ML_PLACE_HALF });
    check_samples(
        TEST_MLA_LORA,
        &(way){ .precision = ML_PRECISION_BF16, .placing = ML_PLACE_SPLIT_HOST, .moments = { .here = true } });
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_course_of_the_processor),
        cmocka_unit_test(test_ways_give_the_same_bits),
        cmocka_unit_test(test_moments_in_bf16),
        cmocka_unit_test(test_resume_is_bit_exact),
        cmocka_unit_test(test_guard_there),
        cmocka_unit_test(test_skipped_step_changes_nothing),
        cmocka_unit_test(test_samples_there),
    };
    if (!test_open_device(&device)) return TEST_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_device_close(device);
    return n_failed;
}
