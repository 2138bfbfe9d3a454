/* The library's trainer as another program uses it, through moonlight.h alone. */
#include "base/alloc.h"
#include "support/support.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static ml_error err;
static char work[ML_PATH_MAX], recipe[ML_PATH_MAX], run[ML_PATH_MAX], data_dir[ML_PATH_MAX + 16];

static void write_text(const char *path, const char *text)
{
    assert_ok(ml_file_replace(path, text, strlen(text), &err));
}

static int set_up(void **state)
{
    (void)state;
    strcpy(work, test_make_folder());
    assert_ok(ml_path_join(recipe, work, "tiny.ini", &err));
    assert_ok(ml_path_join(run, work, "run", &err));
    snprintf(data_dir, sizeof data_dir, "data.dir=%.4000s/data", work);
    write_text(recipe, "[model]\npreset = nano-moe\nhidden_size = 32\nnum_hidden_layers = 2\n"
                       "num_attention_heads = 4\nnum_key_value_heads = 2\nhead_dim = 8\nrotary_dim = 8\n"
                       "moe_intermediate_size = 32\nmax_position_embeddings = 64\n"
                       "[data]\nbytes = 60k\nvocab_size = 300\nval_fraction = 0.1\n"
                       "[train]\nsteps = 12\nbatch = 2\naccumulate = 3\nseq = 32\n"
                       "[optim]\nwarmup = 4\nlr = 1e-2\n[eval]\nevery = 4\nwindows = 4\n"
                       "[checkpoint]\nevery = 0\nkeep = 0\n");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    test_remove_folder(work);
    return 0;
}

/* ---- what a program hears ---- */

typedef struct {
    ml_trainer *trainer;
    int64_t n_step, stop_at; /* steps heard of; the one after which to stop, 0: none */
    double loss[64];         /* [n_step] */
    ml_trainer_step last;
    int64_t n_evaluation;
    double evaluated[16]; /* [n_evaluation] */
    int64_t evaluated_at[16];
    char tasks[256];     /* that began and ended */
    double first, total; /* of the task "train" */
    char said[8192];
} listener;

static void hear_step(void *arg, const ml_trainer_step *s)
{
    listener *l = arg;
    l->loss[l->n_step++] = s->loss;
    l->last = *s;
    if (s->step == l->stop_at) ml_trainer_stop(l->trainer);
}

static void hear_evaluation(void *arg, int64_t step, double loss)
{
    listener *l = arg;
    l->evaluated_at[l->n_evaluation] = step;
    l->evaluated[l->n_evaluation++] = loss;
}

static void hear_progress(void *arg, const ml_trainer_progress *p)
{
    listener *l = arg;
    size_t n = strlen(l->tasks);
    if (p->phase == ML_PROGRESS_BEGIN) {
        snprintf(l->tasks + n, sizeof l->tasks - n, "%s(", p->task);
        l->first = -1;
        l->total = p->total;
    } else if (p->phase == ML_PROGRESS_END) {
        snprintf(l->tasks + n, sizeof l->tasks - n, ")%s ", p->unit);
    } else if (l->first < 0) {
        l->first = p->done;
    }
}

static void hear_message(void *arg, bool is_warning, const char *text)
{
    listener *l = arg;
    size_t n = strlen(l->said);
    snprintf(l->said + n, sizeof l->said - n, "%s%s\n", is_warning ? "warning: " : "", text);
}

enum { MAX_SET = 8 };

static ml_status open_trainer(listener *l, const char *folder, bool resume, const char *const *set, size_t n_set)
{
    const char *all[MAX_SET] = { data_dir };
    for (size_t i = 0; i < n_set; i++) all[i + 1] = set[i];
    ml_trainer_config config = { .recipe = recipe,
                                 .set = all,
                                 .n_set = n_set + 1,
                                 .run_folder = folder,
                                 .resume = resume,
                                 .arg = l,
                                 .on_step = hear_step,
                                 .on_evaluation = hear_evaluation,
                                 .on_progress = hear_progress,
                                 .on_message = hear_message };
    memset(l, 0, sizeof *l);
    ml_status status = ml_trainer_open(&config, &l->trainer, &err);
    memset(all, 0xaa, sizeof all); /* what was given may go away */
    memset(&config, 0xaa, sizeof config);
    return status;
}

/* ---- tests ---- */

static void test_recipe_to_model(void **state)
{
    (void)state;
    listener l;
    assert_ok(open_trainer(&l, run, false, NULL, 0));
    ml_trainer_plan plan = ml_trainer_get_plan(l.trainer);
    assert_int_equal(plan.n_step, 12);
    assert_int_equal(plan.tokens_per_step, 2 * 3 * 32);
    assert_int_equal(plan.weights_bytes, 4 * plan.n_params);
    assert_int_equal(plan.total_bytes, plan.weights_bytes + plan.gradients_bytes + plan.optimizer_bytes +
                                           plan.activations_bytes + plan.activation_gradients_bytes);
    assert_true(plan.available_bytes > plan.total_bytes);
    assert_non_null(strstr(l.said, "memory: weights"));
    ml_trainer_result r = ml_trainer_get_result(l.trainer);
    assert_true(r.step == 0 && r.n_step == 12 && isnan(r.best_loss) && !r.best && !r.latest);
    assert_false(ml_path_exists(run)); /* opening writes nothing */

    assert_ok(ml_trainer_run(l.trainer, &err));
    assert_string_equal(l.tasks, "text()MB tokenizer()tokens data()MB train()steps ");
    assert_int_equal(l.n_step, 12);
    assert_true(l.last.step == 12 && l.last.n_step == 12 && !l.last.skipped);
    assert_true(l.last.loss < l.loss[0] && l.last.grad_norm > 0 && l.last.seconds > 0);
    assert_true(l.last.tokens_per_second > 0 && l.last.tokens <= 12 * plan.tokens_per_step);
    assert_true(l.last.lr >= 0 && l.last.lr < 1e-2);
    assert_int_equal(l.n_evaluation, 3);
    for (int i = 0; i < 3; i++) assert_int_equal(l.evaluated_at[i], 4 * (i + 1));

    r = ml_trainer_get_result(l.trainer);
    assert_int_equal(r.finish, ML_OK);
    assert_true(r.step == 12 && r.tokens == l.last.tokens);
    assert_true(r.best_loss == fmin(l.evaluated[0], fmin(l.evaluated[1], l.evaluated[2])));
    assert_non_null(strstr(r.latest, "step_000012"));
    char expected[32];
    for (int i = 0; i < 3; i++) {
        if (l.evaluated[i] == r.best_loss) snprintf(expected, sizeof expected, "step_%06d", 4 * (i + 1));
    }
    assert_non_null(strstr(r.best, expected));

    ml_model *model;
    ml_tokenizer *tokenizer;
    assert_ok(ml_model_open(r.best, &model, &err));
    assert_ok(ml_tokenizer_open(r.best, &tokenizer, &err));
    ml_model_info info = ml_model_get_info(model);
    assert_string_equal(info.class_name, plan.class_name);
    assert_int_equal(info.n_params, plan.n_params); /* data.vocab_size was reached */
    assert_int_equal(info.n_params_active, plan.n_params_active);
    assert_int_equal(info.n_vocab, ml_tokenizer_vocab_size(tokenizer));
    ml_tokenizer_free(tokenizer);
    ml_model_free(model);

    assert_ok(ml_trainer_run(l.trainer, &err)); /* it is done */
    assert_int_equal(l.n_step, 12);
    ml_trainer_free(l.trainer);
    assert_fails(open_trainer(&l, run, false, NULL, 0), ML_EINVAL, "already holds a run");
}

/* Every step of b is the step of a with its number, to the bit. */
static void assert_same_steps(const listener *a, const listener *b, int64_t from)
{
    for (int64_t i = 0; i < b->n_step; i++) assert_true(a->loss[from + i] == b->loss[i]);
}

static void test_stop_go_on_resume(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX];
    listener whole, l;
    assert_ok(ml_path_join(folder, work, "whole", &err));
    assert_ok(open_trainer(&whole, folder, false, NULL, 0));
    assert_ok(ml_trainer_run(whole.trainer, &err));
    double best = ml_trainer_get_result(whole.trainer).best_loss;
    ml_trainer_free(whole.trainer);

    assert_ok(ml_path_join(folder, work, "parts", &err));
    assert_ok(open_trainer(&l, folder, false, NULL, 0));
    l.stop_at = 4; /* an evaluation is due there: it comes when the run goes on */
    assert_fails(ml_trainer_run(l.trainer, &err), ML_ECANCEL, "stopped after step 4");
    ml_trainer_result r = ml_trainer_get_result(l.trainer);
    assert_true(r.finish == ML_ECANCEL && r.step == 4 && isnan(r.best_loss));
    assert_non_null(strstr(r.latest, "step_000004"));
    assert_string_equal(r.latest, r.best);
    l.stop_at = 7;
    assert_fails(ml_trainer_run(l.trainer, &err), ML_ECANCEL, "stopped after step 7");
    assert_int_equal(l.n_step, 7);
    assert_true(l.n_evaluation == 1 && l.evaluated_at[0] == 4 && l.evaluated[0] == whole.evaluated[0]);
    assert_same_steps(&whole, &l, 0);
    ml_trainer_free(l.trainer);

    static const char *const other[] = { "train.batch=3" }, *const faster[] = { "checkpoint.keep=1" };
    assert_fails(open_trainer(&l, folder, true, other, 1), ML_EINVAL, "train.batch decides the model");
    assert_ok(open_trainer(&l, folder, true, faster, 1));
    assert_non_null(strstr(l.said, "checkpoint.keep: was 0, now 1\n"));
    assert_ok(ml_trainer_run(l.trainer, &err));
    assert_non_null(strstr(l.said, "RESUMING"));
    assert_true(l.first == 7 && l.total == 12);
    assert_int_equal(l.n_step, 5);
    assert_same_steps(&whole, &l, 7);
    assert_true(ml_trainer_get_result(l.trainer).best_loss == best);
    ml_trainer_free(l.trainer);
}

static void *stop_soon(void *arg)
{
    struct timespec moment = { .tv_nsec = 1000000 };
    nanosleep(&moment, NULL);
    ml_trainer_stop(((listener *)arg)->trainer);
    return NULL;
}

/* Stopped from another thread, wherever it happens to be (most likely while text is generated): the next call goes on.
 */
static void test_stop_from_another_thread(void **state)
{
    (void)state;
    static const char *const set[] = { "data.bytes=3m", "train.steps=1000000", "checkpoint.keep=1" };
    char dir[ML_PATH_MAX + 16], folder[ML_PATH_MAX];
    listener l;
    pthread_t thread;
    snprintf(dir, sizeof dir, "data.dir=%.4000s/slow", work);
    const char *all[] = { set[0], set[1], set[2], dir };
    assert_ok(ml_path_join(folder, work, "threaded", &err));
    assert_ok(open_trainer(&l, folder, false, all, 4));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&thread, NULL, stop_soon, &l), 0);
        assert_int_equal(ml_trainer_run(l.trainer, &err), ML_ECANCEL);
        pthread_join(thread, NULL);
    }
    ml_trainer_stop(l.trainer); /* before it runs: one step */
    int64_t before = l.n_step;
    ml_status status = ml_trainer_run(l.trainer, &err);
    assert_int_equal(status, ML_ECANCEL);
    assert_true(l.n_step <= before + 1);
    ml_trainer_free(l.trainer);
}

static ml_trainer *in_handler;

static void on_signal(int number)
{
    (void)number;
    ml_trainer_stop(in_handler);
}

static void raise_at_three(void *arg, const ml_trainer_step *s)
{
    (void)arg;
    if (s->step == 3) raise(SIGUSR1);
}

static void test_stop_from_a_signal(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX];
    const char *set[] = { data_dir };
    assert_ok(ml_path_join(folder, work, "signal", &err));
    ml_trainer_config config = {
        .stage = "pretrain", .recipe = recipe, .set = set, .n_set = 1, .run_folder = folder, .on_step = raise_at_three
    };
    assert_ok(ml_trainer_open(&config, &in_handler, &err)); /* nobody listens but for steps */
    signal(SIGUSR1, on_signal);
    assert_fails(ml_trainer_run(in_handler, &err), ML_ECANCEL, "step 3");
    signal(SIGUSR1, SIG_DFL);
    ml_trainer_free(in_handler);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *set, *part;
    } bad[] = {
        { "train.steps=0", "train.steps: expected an integer" },
        { "train.stepz=3", "did you mean --train.steps?" },
        { "threads=2", "expected section.key=value" },
        { "model.num_key_value_heads=3", "does not divide" },
        { "model.hiden_size=32", "did you mean model.hidden_size?" },
        { "model.vocab_size=299", "model.vocab_size 299 is smaller than" },
        { "data.bytes=61k", "data.bytes: " },
        { "sweep.run=a: optim.lr=1", "sweep" },
    };
    char folder[ML_PATH_MAX];
    listener l;
    assert_ok(ml_path_join(folder, work, "refused", &err));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_fails(open_trainer(&l, folder, false, &bad[i].set, 1), ML_EINVAL, bad[i].part);
        assert_null(l.trainer);
    }
    assert_fails(open_trainer(&l, folder, true, NULL, 0), ML_EINVAL, "there is no such run");
    ml_trainer_config config = { .recipe = "quickstrat", .run_folder = folder };
    assert_fails(ml_trainer_open(&config, &l.trainer, &err), ML_EINVAL, "did you mean quickstart?");
    config.recipe = "absent/quickstart.ini";
    assert_fails(ml_trainer_open(&config, &l.trainer, &err), ML_EIO, "absent/quickstart.ini");
    config = (ml_trainer_config){ .recipe = recipe, .run_folder = folder, .stage = "pretrane" };
    assert_fails(ml_trainer_open(&config, &l.trainer, &err), ML_EINVAL, "expected one of: pretrain");
    config.recipe = NULL;
    assert_fails(ml_trainer_open(&config, &l.trainer, &err), ML_EINVAL, "no recipe");
    config = (ml_trainer_config){ .recipe = recipe };
    assert_fails(ml_trainer_open(&config, &l.trainer, &err), ML_EINVAL, "no run folder");
    char longest[ML_PATH_MAX + 2];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    config.run_folder = longest;
    assert_fails(ml_trainer_open(&config, &l.trainer, &err), ML_EINVAL, "run folder: expected a path");
    ml_trainer_free(NULL);
    assert_false(ml_path_exists(folder));

    /* What does not fit is told by the plan, and refused before anything is made. */
    static const char *const large[] = { "train.batch=1000000", "train.seq=64" };
    assert_ok(open_trainer(&l, folder, false, large, 2));
    ml_trainer_plan plan = ml_trainer_get_plan(l.trainer);
    assert_true(plan.total_bytes > plan.available_bytes);
    assert_fails(ml_trainer_run(l.trainer, &err), ML_ENOMEM, "smaller train.batch");
    assert_int_equal(ml_trainer_get_result(l.trainer).finish, ML_ENOMEM);
    assert_false(ml_path_exists(folder));
    ml_trainer_free(l.trainer);
}

/* Training that fails is not gone on with in the same trainer. */
static void test_divergence(void **state)
{
    (void)state;
    static const char *const set[] = { "optim.lr=1",         "optim.name=adamw", "optim.eps=0",   "optim.beta2=0",
                                       "guard.deviations=0", "guard.patience=1", "optim.warmup=0" };
    char folder[ML_PATH_MAX];
    listener l;
    assert_ok(ml_path_join(folder, work, "diverged", &err));
    assert_ok(open_trainer(&l, folder, false, set, 7));
    ml_status status = ml_trainer_run(l.trainer, &err);
    if (status == ML_ENUMERIC) {
        assert_fails(ml_trainer_run(l.trainer, &err), ML_EINVAL, "this run has failed");
        assert_int_equal(ml_trainer_get_result(l.trainer).finish, ML_ENUMERIC);
    } else {
        fail_msg("expected divergence, found status %d after loss %g", status, l.last.loss);
    }
    ml_trainer_free(l.trainer);
}

/* Memory that runs out anywhere while a trainer is opened or run is an error, and the run can be had once there is
 * enough: also data half made are gone on with. */
static void test_out_of_memory(void **state)
{
    (void)state;
    char dir[ML_PATH_MAX + 16], folder[ML_PATH_MAX];
    const char *set[] = { dir, "train.steps=1", "optim.warmup=0", "eval.windows=0", "data.bytes=20k" };
    listener l;
    snprintf(dir, sizeof dir, "data.dir=%.4000s/scarce", work);
    assert_ok(ml_path_join(folder, work, "out-of-memory", &err));
    int64_t live = ml_alloc_get_stats().n_live;
    for (int64_t n = 0;; n++) {
        ml_alloc_fail_after(n);
        ml_status status = open_trainer(&l, folder, false, set, 5);
        ml_alloc_fail_after(-1);
        ml_trainer_free(l.trainer);
        if (status == ML_OK) break;
        assert_int_equal(status, ML_ENOMEM);
    }
    assert_ok(open_trainer(&l, folder, false, set, 5));
    for (int64_t n = 0;; n = n * 5 / 4 + 1) {
        ml_alloc_fail_after(n);
        ml_status status = ml_trainer_run(l.trainer, &err);
        ml_alloc_fail_after(-1);
        if (status == ML_OK) break;
        if (status == ML_ENOMEM) continue;
        if (!strstr(err.message, "this run has failed")) fail_msg("after %lld: %s", (long long)n, err.message);
        bool saved = ml_trainer_get_result(l.trainer).latest != NULL;
        ml_trainer_free(l.trainer);
        assert_ok(open_trainer(&l, folder, saved, set, 5));
    }
    assert_int_equal(ml_trainer_get_result(l.trainer).step, 1);
    ml_trainer_free(l.trainer);
    assert_int_equal(ml_alloc_get_stats().n_live, live);
}

int main(void)
{
    ml_thread_set_count(1); /* as fast for such models, also on a busy machine */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recipe_to_model),
        cmocka_unit_test(test_stop_go_on_resume),
        cmocka_unit_test(test_stop_from_another_thread),
        cmocka_unit_test(test_stop_from_a_signal),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_divergence),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
