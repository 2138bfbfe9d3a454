/* The training loop over time: resuming bit for bit, the guard, going back, and what the log says of it. */
#include "base/json.h"
#include "base/thread.h"
#include "support/support.h"
#include "support/tiny_run.h"

#include <math.h>
#include <string.h>

static ml_error err;

/* ---- resuming ---- */

static void check_resume(test_model which, ml_optim_name optim, ml_dtype dtype)
{
    ml_config model = test_model_config(which);
    ml_train_config config = test_train_config();
    config.optim = ml_optim_default_config(optim);
    config.save_dtype = dtype;
    config.guard_deviations = 6;
    config.accumulate = 2;
    /* The batch grows before and after the place where the run is cut, and the router's bias comes to rest. */
    config.schedule.n_ramp = 2;
    config.schedule.ramp[0] = (ml_batch_ramp){ 4, 2 };
    config.schedule.ramp[1] = (ml_batch_ramp){ 7, 3 };
    config.schedule.bias_rest = config.schedule.steps - 6;
    test_run straight, first, second;
    ml_train_step expected[10];
    test_run_start(&straight, &model, &config);
    for (int i = 0; i < 10; i++) expected[i] = test_run_step(&straight);
    test_run_start(&first, &model, &config);
    for (int i = 0; i < 5; i++) test_run_step(&first);
    assert_ok(ml_loop_save(first.loop, &err));
    test_run_end(&first, true);

    test_run_resume(&second, first.folder, &model, &config);
    assert_int_equal(ml_loop_steps_done(second.loop), 5);
    for (int i = 5; i < 10; i++) {
        ml_train_step step = test_run_step(&second);
        assert_true(step.step == expected[i].step && step.tokens == expected[i].tokens);
        assert_true(step.ce == expected[i].ce && step.loss == expected[i].loss);
        assert_true(step.grad_norm == expected[i].grad_norm && step.lr == expected[i].lr);
        assert_true(step.update_rms == expected[i].update_rms);
    }
    test_assert_same_run(&straight, &second);
    test_run_end(&straight, false);
    test_run_end(&second, false);
}

static void test_resume_is_bit_exact(void **state)
{
    (void)state;
    static const ml_dtype dtypes[] = { ML_F32, ML_BF16, ML_F16 };
    for (size_t i = 0; i < 3; i++) {
        check_resume(TEST_GQA_SIGMOID, ML_OPTIM_ADAMW, dtypes[i]);
        check_resume(TEST_GQA_SIGMOID, ML_OPTIM_MUON, dtypes[i]);
        check_resume(TEST_MLA_LORA, ML_OPTIM_MUON, dtypes[i]);
    }
    check_resume(TEST_DENSE, ML_OPTIM_ADAMW, ML_BF16);
}

static void test_resume_refuses_another_run(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_GQA_MOE), other = model;
    ml_train_config config = test_train_config();
    test_run r;
    ml_loop *t;
    test_run_start(&r, &model, &config);
    assert_fails(ml_loop_make(&config, r.folder, false, r.model, &r.stage, NULL, NULL, &t, &err), ML_EINVAL,
                 "in use by process");
    test_run_step(&r);
    assert_ok(ml_loop_save(r.loop, &err));
    ml_loop_free(r.loop);

    assert_fails(ml_loop_make(&config, r.folder, false, r.model, &r.stage, NULL, NULL, &t, &err), ML_EINVAL,
                 "--resume");
    ml_stage tuning = r.stage;
    tuning.name = "tuning";
    assert_fails(ml_loop_make(&config, r.folder, true, r.model, &tuning, NULL, NULL, &t, &err), ML_EINVAL,
                 "\"tuning\"");
    ml_train_config muon = config;
    muon.optim = ml_optim_default_config(ML_OPTIM_MUON);
    assert_fails(ml_loop_make(&muon, r.folder, true, r.model, &r.stage, NULL, NULL, &t, &err), ML_EFORMAT,
                 "optimizer.safetensors");
    ml_model *wider;
    other.moe_intermediate_size = 32;
    assert_ok(ml_model_make(&other, ML_F32, true, &wider, &err));
    assert_fails(ml_loop_make(&config, r.folder, true, wider, &r.stage, NULL, NULL, &t, &err), ML_EINVAL,
                 "moe_intermediate_size");
    ml_model_free(wider);
    const char *empty = test_make_folder();
    assert_fails(ml_loop_make(&config, empty, true, r.model, &r.stage, NULL, NULL, &t, &err), ML_EINVAL,
                 "no complete checkpoint");
    test_remove_folder(empty);
    r.loop = NULL;
    test_run_end(&r, false);
}

/* A byte that changed on the disk is found, in whichever file it is, before any of it is used. */
static void test_resume_finds_damage(void **state)
{
    (void)state;
    static const char *const files[] = { "model.safetensors", "state/optimizer.safetensors", "state/master.safetensors",
                                         "state/trainer.json" };
    ml_config model = test_model_config(TEST_GQA_SIGMOID);
    ml_train_config config = test_train_config();
    config.save_dtype = ML_BF16;
    test_run r;
    ml_loop *t;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    test_run_start(&r, &model, &config);
    test_run_step(&r);
    assert_ok(ml_loop_save(r.loop, &err));
    ml_loop_free(r.loop);
    r.loop = NULL;
    assert_ok(ml_run_step_path(r.folder, 1, folder, &err));
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char *bytes;
        size_t n;
        assert_ok(ml_path_join(path, folder, files[i], &err));
        assert_ok(ml_file_read(path, &bytes, &n, &err));
        bytes[n - 9] ^= 1;
        assert_ok(ml_file_replace(path, bytes, n, &err));
        assert_fails(ml_loop_make(&config, r.folder, true, r.model, &r.stage, NULL, NULL, &t, &err), ML_EFORMAT,
                     files[i]);
        bytes[n - 9] ^= 1;
        assert_ok(ml_file_replace(path, bytes, n - 1, &err));
        assert_fails(ml_loop_make(&config, r.folder, true, r.model, &r.stage, NULL, NULL, &t, &err), ML_EFORMAT,
                     files[i]);
        assert_fails(ml_loop_make(&config, r.folder, false, r.model, &r.stage, NULL, NULL, &t, &err), ML_EINVAL,
                     "already holds a run");
        assert_ok(ml_file_replace(path, bytes, n, &err));
        ml_free(bytes);
    }
    assert_ok(ml_loop_make(&config, r.folder, true, r.model, &r.stage, NULL, NULL, &r.loop, &err));
    test_run_end(&r, false);
}

/* ---- the guard ---- */

static void test_guard_judges_norms(void **state)
{
    (void)state;
    ml_guard g = { .deviations = 4, .patience = 3 };
    /* While it knows little, only what is not finite is refused. */
    assert_int_equal(ml_guard_judge(&g, 1e9), ML_GUARD_USE);
    assert_int_equal(ml_guard_judge(&g, INFINITY), ML_GUARD_SKIP);
    g = (ml_guard){ .deviations = 4, .patience = 3 };
    for (int i = 0; i < 200; i++) assert_int_equal(ml_guard_judge(&g, i % 2 ? 1.1 : 0.9), ML_GUARD_USE);
    /* log norm is +-0.1: mean about 0, standard deviation about 0.1. */
    assert_true(fabs(g.mean) < 0.05 && fabs(sqrt(g.variance) - 0.1) < 0.02);
    assert_int_equal(ml_guard_judge(&g, 1.6), ML_GUARD_USE); /* 4.7 deviations, but not twice the typical norm */
    ml_guard before = g;
    assert_int_equal(ml_guard_judge(&g, 3.0), ML_GUARD_SKIP);
    assert_true(g.mean == before.mean && g.variance == before.variance); /* outliers teach nothing */
    assert_int_equal(ml_guard_judge(&g, (double)NAN), ML_GUARD_SKIP);
    assert_int_equal(ml_guard_judge(&g, 3.0), ML_GUARD_ROLL_BACK);
    assert_int_equal(ml_guard_judge(&g, 3.0), ML_GUARD_SKIP); /* counting anew */
    assert_int_equal(ml_guard_judge(&g, 1.0), ML_GUARD_USE);
    assert_int_equal(g.n_skipped_in_row, 0);
    assert_int_equal(ml_guard_judge(&g, 1e-6), ML_GUARD_USE); /* small is not divergence */

    ml_guard off = before, back = { .deviations = 4, .patience = 3 };
    off.deviations = 0;
    assert_int_equal(ml_guard_judge(&off, 1e6), ML_GUARD_USE);
    json_t *j = ml_guard_to_json(&before);
    char *text = json_dumps(j, 0);
    json_t *again = json_loads(text, 0, NULL);
    assert_ok(ml_guard_from_json(&back, again, "test", &err));
    assert_true(!memcmp(&back, &before, sizeof back));
    json_decref(j);
    json_decref(again);
    free(text);
}

static void copy_weights(const test_run *r, float **copy)
{
    for (size_t i = 0; i < r->model->n_weight; i++) {
        size_t n_bytes = (size_t)ml_weight_count(&r->model->weight[i]) * sizeof(float);
        copy[i] = ml_alloc(n_bytes);
        memcpy(copy[i], r->model->weight[i].data, n_bytes);
    }
}

/* Every weight as in `copy`, but for the one the stage spoilt; frees the copy. */
static void assert_weights(const test_run *r, float **copy)
{
    float *spoilt = r->model->param[0].value;
    if (r->self.spoilt) *spoilt = r->self.saved;
    for (size_t i = 0; i < r->model->n_weight; i++) {
        const ml_weight *w = &r->model->weight[i];
        if (memcmp(copy[i], w->data, (size_t)ml_weight_count(w) * sizeof(float))) fail_msg("%s differs", w->name);
        ml_free(copy[i]);
    }
    if (r->self.spoilt) *spoilt = NAN;
}

static void test_poisoned_step_is_skipped(void **state)
{
    (void)state;
    for (int recompute = 0; recompute < 2; recompute++) {
        ml_config model = test_model_config(TEST_GQA_SIGMOID);
        ml_train_config config = test_train_config();
        config.recompute = recompute;
        test_run r;
        float *copy[256];
        test_run_start(&r, &model, &config);
        assert_true(r.model->n_weight <= 256);
        r.self.bad_from = 3;
        r.self.bad_to = 5;
        for (int i = 0; i < 2; i++) assert_false(test_run_step(&r).skipped);
        copy_weights(&r, copy);
        for (int i = 0; i < 2; i++) {
            ml_train_step step = test_run_step(&r);
            assert_true(step.skipped && !isfinite(step.grad_norm) && step.update_rms == 0);
        }
        assert_weights(&r, copy);
        assert_int_equal(ml_optimizer_get_step(r.loop->optimizer), 2);
        assert_int_equal(ml_loop_steps_done(r.loop), 4); /* the schedule and the data went on */
        assert_int_equal(r.self.index, 16);
        assert_non_null(strstr(r.said, "step 4: gradient norm nan is out of line; the step is skipped"));
        ml_train_step step = test_run_step(&r);
        assert_true(!step.skipped && isfinite(step.ce) && step.update_rms > 0);
        test_run_end(&r, false);
    }
}

static void test_patience_ends_in_going_back(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_GQA_SIGMOID);
    ml_train_config config = test_train_config();
    config.save_dtype = ML_BF16;
    test_run r;
    float *copy[256];
    test_run_start(&r, &model, &config);
    for (int i = 0; i < 4; i++) test_run_step(&r);
    assert_ok(ml_loop_save(r.loop, &err));
    copy_weights(&r, copy);
    test_run_step(&r);
    r.self.bad_from = 6;
    r.self.bad_to = 9;
    for (int i = 0; i < 2; i++) assert_true(test_run_step(&r).skipped);
    ml_train_step step = test_run_step(&r); /* the third in a row */
    assert_true(step.skipped && step.step == 4);
    assert_int_equal(ml_loop_steps_done(r.loop), 4);
    assert_int_equal(ml_optimizer_get_step(r.loop->optimizer), 4);
    r.self.spoilt = false; /* what was spoilt has been loaded again */
    assert_weights(&r, copy);
    assert_int_equal(r.self.index, 32); /* the data went on */
    assert_non_null(strstr(r.said, "went back to step 4"));
    assert_false(test_run_step(&r).skipped);
    assert_int_equal(ml_loop_steps_done(r.loop), 5);
    test_run_end(&r, false);
}

static void test_divergence_that_returns_is_an_error(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_DENSE);
    ml_train_config config = test_train_config();
    config.save_every = 2;
    test_run r;
    /* No checkpoint yet: nothing to go back to. */
    test_run_start(&r, &model, &config);
    r.self.bad_from = 1;
    r.self.bad_to = 1000;
    assert_fails(ml_loop_run(r.loop, &err), ML_ENUMERIC, "diverges");
    test_run_end(&r, false);
    /* With checkpoints, also of skipped steps, it ends all the same. */
    test_run_start(&r, &model, &config);
    r.self.bad_from = 6;
    r.self.bad_to = 1000;
    assert_fails(ml_loop_run(r.loop, &err), ML_ENUMERIC, "going back did not help");
    assert_true(r.self.n_call < 100);
    test_run_end(&r, false);
}

/* ---- the log ---- */

/* Steps of log.jsonl that have a loss are 1, 2, ..., n, and those with a validation loss every, 2 every, ... */
static void assert_log_has_steps(const char *folder, int64_t n, int64_t every)
{
    char path[ML_PATH_MAX], *text;
    assert_ok(ml_path_join(path, folder, "log.jsonl", &err));
    assert_ok(ml_file_read(path, &text, NULL, &err));
    int64_t expected = 1, expected_eval = every;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        json_t *j = json_loadb(line, (size_t)(end - line), 0, NULL);
        assert_non_null(j);
        if (json_object_get(j, "ce")) {
            assert_int_equal(json_integer_value(json_object_get(j, "step")), expected);
            expected++;
        }
        if (json_object_get(j, "val_loss")) {
            assert_int_equal(json_integer_value(json_object_get(j, "step")), expected_eval);
            assert_int_equal(expected, expected_eval + 1); /* behind its step */
            expected_eval += every;
        }
        json_decref(j);
    }
    assert_int_equal(expected_eval, n + every);
    assert_int_equal(expected, n + 1);
    ml_free(text);
}

static void test_log_has_every_step_once(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_GQA_MOE);
    ml_train_config config = test_train_config();
    config.save_every = 4;
    config.eval_every = 4;
    config.schedule.steps = 12;
    test_run r;
    test_run_start(&r, &model, &config);
    r.self.bad_from = 6; /* steps 6, 7, 8; then back to 4 */
    r.self.bad_to = 9;
    assert_ok(ml_loop_run(r.loop, &err));
    assert_non_null(strstr(r.said, "went back to step 4"));
    assert_log_has_steps(r.folder, 12, 4);
    test_run_end(&r, false);
}

/* A stop asked for between steps saves; the run then goes on, and its best model is the one an uninterrupted run has.
 */
static void test_stop_and_resume(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_GQA_MOE);
    ml_train_config config = test_train_config();
    config.schedule.steps = 9;
    config.eval_every = 3;
    test_run straight, r;
    test_run_start(&straight, &model, &config);
    assert_ok(ml_loop_run(straight.loop, &err));
    test_run_start(&r, &model, &config);
    ml_stop_set(true);
    assert_fails(ml_loop_run(r.loop, &err), ML_ECANCEL, "step 1");
    for (int64_t step = 2; step < 9; step++) {
        test_run_end(&r, true);
        test_run_resume(&r, r.folder, &model, &config);
        assert_int_equal(ml_loop_steps_done(r.loop), step - 1);
        assert_fails(ml_loop_run(r.loop, &err), ML_ECANCEL, "stopped");
    }
    ml_stop_set(false);
    test_run_end(&r, true);
    test_run_resume(&r, r.folder, &model, &config);
    assert_ok(ml_loop_run(r.loop, &err));
    test_assert_same_run(&straight, &r);
    assert_true(ml_loop_best_loss(r.loop) == ml_loop_best_loss(straight.loop));
    char a[ML_PATH_MAX], b[ML_PATH_MAX];
    int64_t best_a, best_b;
    assert_ok(ml_run_find(straight.folder, ML_RUN_BEST, a, &best_a, &err));
    assert_ok(ml_run_find(r.folder, ML_RUN_BEST, b, &best_b, &err));
    assert_int_equal(best_a, best_b);
    assert_log_has_steps(r.folder, 9, 3);
    test_run_end(&straight, false);
    test_run_end(&r, false);
}

/* ---- the last evaluation ---- */

static ml_status fail_to_evaluate(void *self, int64_t i, ml_batch *out, ml_error *error)
{
    (void)self, (void)i, (void)out;
    return ml_fail(error, ML_EIO, "as if killed here");
}

static int64_t best_step(const test_run *r)
{
    char path[ML_PATH_MAX];
    int64_t step;
    assert_ok(ml_run_find(r->folder, ML_RUN_BEST, path, &step, &err));
    return step;
}

/* Killed between the last checkpoint and its evaluation: resuming makes up for it, also where eval.every is 0. */
static void test_last_evaluation_is_made_up_for(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_GQA_MOE);
    ml_train_config config = test_train_config();
    config.schedule.steps = 4;
    test_run straight, r;
    test_run_start(&straight, &model, &config);
    assert_ok(ml_loop_run(straight.loop, &err));
    assert_log_has_steps(straight.folder, 4, 4);
    test_run_start(&r, &model, &config);
    r.stage.eval = fail_to_evaluate;
    assert_fails(ml_loop_run(r.loop, &err), ML_EIO, "as if killed here");
    for (int i = 0; i < 2; i++) { /* once more changes nothing */
        test_run_end(&r, true);
        test_run_resume(&r, r.folder, &model, &config);
        assert_ok(ml_loop_run(r.loop, &err));
        assert_log_has_steps(r.folder, 4, 4);
        assert_true(ml_loop_best_loss(r.loop) == ml_loop_best_loss(straight.loop));
        assert_int_equal(best_step(&r), 4);
    }
    test_run_end(&straight, false);
    test_run_end(&r, false);
}

/* A finished run that is given more steps still knows how good it was: worse steps do not become the best. */
static void test_best_survives_more_steps(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_GQA_MOE);
    ml_train_config config = test_train_config();
    config.schedule.steps = 8;
    test_run r;
    test_run_start(&r, &model, &config);
    assert_ok(ml_loop_run(r.loop, &err));
    double best = ml_loop_best_loss(r.loop);
    test_run_end(&r, true);
    config.schedule.steps = 10;
    config.schedule.lr = 1; /* ruins it */
    test_run_resume(&r, r.folder, &model, &config);
    assert_ok(ml_loop_run(r.loop, &err));
    assert_true(ml_loop_best_loss(r.loop) == best);
    assert_int_equal(best_step(&r), 8);
    test_run_end(&r, false);
}

/* Early stopping: at rate 0 the first evaluation is the best; two more of every second step, and it ends, also when it
 * is stopped after each step on the way. */
static void test_patience_of_evaluations(void **state)
{
    (void)state;
    ml_config model = test_model_config(TEST_GQA_MOE);
    ml_train_config config = test_train_config();
    config.schedule.lr = config.schedule.lr_min = 0;
    config.eval_every = 2;
    config.eval_patience = 2;
    test_run r;
    test_run_start(&r, &model, &config);
    assert_ok(ml_loop_run(r.loop, &err));
    assert_int_equal(ml_loop_steps_done(r.loop), 6);
    assert_int_equal(best_step(&r), 2);
    assert_non_null(strstr(r.said, "2 evaluations in a row"));
    test_run_end(&r, true);
    test_run_resume(&r, r.folder, &model, &config); /* an end is an end ... */
    assert_ok(ml_loop_run(r.loop, &err));
    assert_int_equal(ml_loop_steps_done(r.loop), 6);
    test_run_end(&r, true);
    config.eval_patience = 3; /* ... until there is more patience */
    test_run_resume(&r, r.folder, &model, &config);
    assert_ok(ml_loop_run(r.loop, &err));
    assert_int_equal(ml_loop_steps_done(r.loop), 8);
    test_run_end(&r, false);

    config.eval_patience = 2;
    test_run_start(&r, &model, &config);
    ml_stop_set(true);
    for (int i = 0; i < 6 && ml_loop_steps_done(r.loop) < 6; i++) {
        assert_fails(ml_loop_run(r.loop, &err), ML_ECANCEL, "stopped");
        test_run_end(&r, true);
        test_run_resume(&r, r.folder, &model, &config);
    }
    ml_stop_set(false);
    assert_ok(ml_loop_run(r.loop, &err));
    assert_int_equal(ml_loop_steps_done(r.loop), 6);
    test_run_end(&r, false);
}

int main(void)
{
    ml_thread_set_count(1); /* as fast for such models, also on a busy machine */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resume_is_bit_exact),
        cmocka_unit_test(test_resume_refuses_another_run),
        cmocka_unit_test(test_resume_finds_damage),
        cmocka_unit_test(test_guard_judges_norms),
        cmocka_unit_test(test_poisoned_step_is_skipped),
        cmocka_unit_test(test_patience_ends_in_going_back),
        cmocka_unit_test(test_divergence_that_returns_is_an_error),
        cmocka_unit_test(test_log_has_every_step_once),
        cmocka_unit_test(test_stop_and_resume),
        cmocka_unit_test(test_last_evaluation_is_made_up_for),
        cmocka_unit_test(test_best_survives_more_steps),
        cmocka_unit_test(test_patience_of_evaluations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
