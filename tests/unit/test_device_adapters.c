/* Adapters trained on a device: the processor's course over frozen weights of several types, nothing waited for within
 * a step, resuming there and here, steps that are skipped, samples.  On a GPU, or in builds with the emulated one
 * there. */
#include "support/answers.h"
#include "support/support.h"

#ifdef MOONLIGHT_CUDA_EMULATED
#include "emulate.h"
#endif

#include <math.h>
#include <stdio.h>
#include <string.h>

static ml_error err;
static ml_device *device;

typedef struct {
    test_model model;
    bool dora, half; /* half: the model's matrices are bf16 */
    bool there;
    ml_precision precision;
    ml_recompute recompute;
} way;

typedef struct {
    char folder[ML_PATH_MAX];
    ml_model *model;
    ml_adapter *adapter;
    test_stage self;
    ml_stage stage;
    ml_train_config config;
    ml_loop *loop;
} run;

static void begin(run *r, const char *folder, bool resume, const way *w)
{
    static const char *const everything[] = { "*" };
    ml_config c = test_model_config(w->model);
    memset(r, 0, sizeof *r);
    snprintf(r->folder, sizeof r->folder, "%s", folder);
    assert_ok(ml_model_make(&c, ML_F32, false, &r->model, &err));
    ml_model_init(r->model, 7);
    if (w->half) r->model = test_model_round_to_bf16(r->model);
    ml_adapter_config a = {
        .target = everything, .n_target = 1, .rank = 3, .alpha = 6, .dropout = 0.1, .dora = w->dora
    };
    assert_ok(ml_adapter_make(&a, r->model, resume ? 99 : 5, &r->adapter, &err));
    r->config = test_train_config();
    r->config.batch = 2;
    r->config.seq = 12;
    r->config.accumulate = 2;
    r->config.recompute = w->recompute;
    r->config.optim.lora_b_ratio = 4;
    r->config.schedule.lr = 1e-3; /* at more, tiny models go wild and no two computations stay together */
    r->config.adapter = r->adapter;
    if (w->there) r->config.device = device;
    r->config.precision = w->precision;
    r->self = (test_stage){ .seed = 3, .batch = 2, .seq = 12, .n_eval = 2 };
    r->stage = test_stage_make(&r->self);
    assert_ok(ml_loop_make(&r->config, r->folder, resume, r->model, &r->stage, NULL, NULL, &r->loop, &err));
}

static void end(run *r, bool keep)
{
    ml_loop_free(r->loop);
    ml_adapter_free(r->adapter);
    ml_model_free(r->model);
    if (!keep) test_remove_folder(r->folder);
}

/* On a device: all of it is queued, and nobody waits. */
static ml_train_step step_of(run *r)
{
    ml_train_step step;
    bool rolled_back;
    if (!r->config.device) {
        assert_ok(ml_loop_step(r->loop, &step, &err));
        return step;
    }
#ifdef MOONLIGHT_CUDA_EMULATED
    unsigned long long before = ml_emulate_count_waits();
#endif
    assert_ok(ml_loop_queue_step(r->loop, &err));
#ifdef MOONLIGHT_CUDA_EMULATED
    assert_true(ml_emulate_count_waits() == before);
#endif
    assert_ok(ml_loop_take_step(r->loop, &step, &rolled_back, &err));
    return step;
}

static void expect_near(const char *what, double found, double wanted, double tolerance)
{
    if (!(fabs(found - wanted) <= tolerance * fabs(wanted))) {
        fail_msg("%s: found %.9g there, expected %.9g within %g of it", what, found, wanted, tolerance);
    }
}

/* ---- beside the processor ---- */

/* fp32: sums in another order; AdamW's first updates are the signs of gradients, so that rounding of one near zero
 * moves a number by 2 lr.  bf16: operands are right to 2^-9, a mean over a batch to less. */
static void check_course(way w, int n_step)
{
    bool exact = w.precision == ML_PRECISION_F32;
    double near = exact ? 1e-4 : 1e-2, norm_near = exact ? 1e-3 : 5e-2, loss[2];
    run here, there;
    begin(&here, test_make_folder(), false, &w);
    w.there = true;
    begin(&there, test_make_folder(), false, &w);
    for (int i = 0; i < n_step; i++) {
        ml_train_step x = step_of(&here), y = step_of(&there);
        expect_near("loss", y.loss, x.loss, near);
        expect_near("gradient norm", y.grad_norm, x.grad_norm, norm_near);
        expect_near("update", y.update_rms, x.update_rms, norm_near);
        assert_true(!y.skipped && x.n_token == y.n_token);
    }
    assert_ok(ml_loop_evaluate(here.loop, &loss[0], &err));
    assert_ok(ml_loop_evaluate(there.loop, &loss[1], &err));
    if (n_step > 1) expect_near("evaluation", loss[1], loss[0], near);
    /* The norms that were made there belong to the numbers that were made there. */
    assert_ok(ml_adapter_pull(there.adapter, &err));
    ml_adapter_use_place(there.adapter, false);
    for (size_t i = 0; w.dora && i < there.adapter->n_term; i++) {
        const ml_tensor *norm = &there.adapter->term[i].norm;
        float found[4096];
        int64_t n = ml_tensor_count(norm);
        assert_true(n <= 4096);
        memcpy(found, norm->data, (size_t)n * sizeof *found);
        if (i == 0) assert_ok(ml_adapter_update_norms(there.adapter, &err)); /* of all of them */
        if (i == 0) continue;
        for (int64_t j = 0; j < n; j++) expect_near("norm", (double)found[j], (double)ml_f32(norm)[j], 1e-6);
    }
    ml_adapter_use_place(there.adapter, true);
    end(&here, false);
    end(&there, false);
}

static void test_course_of_the_processor(void **state)
{
    (void)state;
    check_course((way){ .model = TEST_MLA_LORA }, 3);
    check_course((way){ .model = TEST_MLA_LORA, .dora = true, .half = true }, 3);
    check_course((way){ .model = TEST_GQA_MOE, .dora = true, .recompute = ML_RECOMPUTE_LAYERS }, 3);
    check_course((way){ .model = TEST_GQA_MOE, .half = true, .precision = ML_PRECISION_BF16 }, 3);
    /* After a step a router's choice may tip over. */
    check_course((way){ .model = TEST_MLA_MOE, .dora = true, .precision = ML_PRECISION_BF16 }, 1);
}

/* ---- over time ---- */

static void assert_same(run *a, run *b)
{
    assert_ok(ml_adapter_pull(a->adapter, &err));
    assert_ok(ml_adapter_pull(b->adapter, &err));
    size_t n_bytes = a->adapter->values.capacity;
    assert_int_equal(n_bytes, b->adapter->values.capacity);
    if (memcmp(a->adapter->values.base, b->adapter->values.base, n_bytes)) fail_msg("the numbers or norms differ");
    const ml_optimizer *x = a->loop->optimizer, *y = b->loop->optimizer;
    assert_int_equal(ml_optimizer_get_step(x), ml_optimizer_get_step(y));
}

static void check_resume(way w)
{
    run straight, first, second, here;
    char folder[ML_PATH_MAX];
    double last = 0;
    w.there = true;
    begin(&straight, test_make_folder(), false, &w);
    for (int i = 0; i < 4; i++) last = step_of(&straight).loss;
    begin(&first, test_make_folder(), false, &w);
    for (int i = 0; i < 2; i++) step_of(&first);
    assert_ok(ml_loop_save(first.loop, &err));
    snprintf(folder, sizeof folder, "%s", first.folder);
    end(&first, true);
    begin(&second, folder, true, &w);
    for (int i = 2; i < 4; i++) {
        double loss = step_of(&second).loss;
        if (i == 3) assert_true(loss == last);
    }
    assert_same(&straight, &second);
    end(&second, true);
    w.there = false; /* the same files */
    w.precision = ML_PRECISION_F32;
    begin(&here, folder, true, &w);
    assert_int_equal(ml_loop_steps_done(here.loop), 2);
    step_of(&here);
    expect_near("loss after resuming here", step_of(&here).loss, last, 1e-2); /* bf16 products there */
    end(&here, false);
    end(&straight, false);
}

static void test_resume_is_bit_exact(void **state)
{
    (void)state;
    check_resume((way){ .model = TEST_MLA_LORA, .dora = true, .precision = ML_PRECISION_BF16 });
    check_resume((way){ .model = TEST_GQA_SIGMOID });
}

/* A gradient that is out of line changes nothing, norms included; the router's bias never moves. */
static void test_skipped_step_changes_nothing(void **state)
{
    (void)state;
    run a, b;
    way w = { .model = TEST_GQA_SIGMOID, .dora = true, .there = true };
    begin(&a, test_make_folder(), false, &w);
    begin(&b, test_make_folder(), false, &w);
    step_of(&a);
    step_of(&b);
    b.loop->guard.n_seen = 1000;
    b.loop->guard.deviations = 1;
    b.loop->guard.mean = -100;
    b.loop->guard.variance = 1e-6;
    ml_guard strict = b.loop->guard;
    assert_ok(ml_loop_save(b.loop, &err));
    assert_ok(ml_loop_restore(b.loop, true, &err)); /* takes the guard there */
    assert_true(b.loop->guard.mean == strict.mean);
    ml_train_step step = step_of(&b);
    assert_true(step.skipped && step.update_rms == 0 && isfinite(step.grad_norm));
    assert_same(&a, &b);
    end(&a, false);
    end(&b, false);
}

/* What a model says beside an adapter in training, as samples have it: the processor's logits. */
static void check_samples(way w)
{
    run here, there;
    float x[2][TEST_VOCAB], y[2][TEST_VOCAB], before[2][TEST_VOCAB];
    begin(&here, test_make_folder(), false, &w);
    w.there = true;
    begin(&there, test_make_folder(), false, &w);
    int32_t id[TEST_SAID];
    for (int i = 0; i < TEST_SAID; i++) id[i] = (7 * i + 3) % TEST_VOCAB;
    test_converse(here.model, here.adapter, id, TEST_PROMPT, before);
    for (int i = 0; i < 2; i++) {
        step_of(&here);
        step_of(&there);
    }
    test_converse(here.model, here.adapter, id, TEST_PROMPT, x);
    test_converse(there.model, there.adapter, id, TEST_PROMPT, y);
    assert_true(memcmp(before, x, sizeof x) != 0); /* the adapter says something */
    for (int i = 0; i < 2 * TEST_VOCAB; i++) {
        double d = fabs((double)x[i / TEST_VOCAB][i % TEST_VOCAB] - (double)y[i / TEST_VOCAB][i % TEST_VOCAB]);
        /* fp32 throughout, but for a cache of halves, which may round the other way */
        if (!(d < 5e-3)) fail_msg("logit %d differs by %g", i, d);
    }
    end(&here, false);
    end(&there, false);
}

static void test_samples_there(void **state)
{
    (void)state;
    check_samples((way){ .model = TEST_MLA_LORA, .dora = true });
    check_samples((way){ .model = TEST_GQA_MOE });
}

/* What cannot be is refused. */
static void test_needs_an_uploaded_model(void **state)
{
    (void)state;
    ml_config c = test_model_config(TEST_DENSE);
    ml_model *m;
    ml_adapter *a;
    assert_ok(ml_model_make(&c, ML_F32, false, &m, &err));
    ml_model_init(m, 1);
    assert_ok(ml_adapter_make(&(ml_adapter_config){ .rank = 2, .alpha = 2 }, m, 1, &a, &err));
    assert_fails(ml_adapter_place(a, device, &err), ML_EINVAL, "beside a model there");
    assert_ok(ml_model_upload(m, device, 0, &err));
    assert_ok(ml_adapter_place(a, device, &err));
    assert_fails(ml_adapter_place(a, device, &err), ML_EINVAL, "beside a model there");
    ml_adapter_free(a);
    ml_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_course_of_the_processor),      cmocka_unit_test(test_resume_is_bit_exact),
        cmocka_unit_test(test_skipped_step_changes_nothing), cmocka_unit_test(test_samples_there),
        cmocka_unit_test(test_needs_an_uploaded_model),
    };
    if (!test_open_device(&device)) return TEST_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_device_close(device);
    return n_failed;
}
