/* sft and dpo against PyTorch: loss, rewards and every gradient of one step of the training loop. */
#include "data/rows_write.h"
#include "format/safetensors.h"
#include "support/byte_tokenizer.h"
#include "support/formula.h"
#include "support/support.h"
#include "train/dpo.h"
#include "train/loop_internal.h"
#include "train/sft.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef MOONLIGHT_CUDA_EMULATED
#include "emulate.h"
#endif

static ml_error err;
static ml_device *device; /* NULL: the processor */
static char folder[ML_PATH_MAX], singles[ML_PATH_MAX], pairs[ML_PATH_MAX];
static ml_safetensors *file;
static ml_config config;
static int64_t n_pair;
static double beta;

static double *read_real(const char *name, int64_t *n)
{
    const ml_st_tensor *t = ml_safetensors_find(file, name);
    if (!t) fail_msg("the golden file lacks %s", name);
    double *values = calloc((size_t)t->n_element + 1, sizeof *values);
    float *f = calloc((size_t)t->n_element + 1, sizeof *f);
    if (t->dtype == ML_ST_F64) {
        memcpy(values, t->data, t->n_bytes);
    } else {
        assert_ok(ml_st_read_all_f32(t, f, &err));
        for (int64_t i = 0; i < t->n_element; i++) values[i] = f[i];
    }
    free(f);
    *n = t->n_element;
    return values;
}

static int64_t *read_whole(const char *name, int64_t *n)
{
    const ml_st_tensor *t = ml_safetensors_find(file, name);
    if (!t) fail_msg("the golden file lacks %s", name);
    int64_t *values = calloc((size_t)t->n_element + 1, sizeof *values);
    assert_ok(ml_st_read_all_i64(t, values, &err));
    *n = t->n_element;
    return values;
}

/* ---- the data, through the folders of rows ---- */

static void add_row(ml_rows_writer *w, const int64_t *id, int64_t p, int64_t c, int64_t r)
{
    ml_row row = { 0 };
    for (int64_t i = 0; i < p + c + r; i++) {
        int32_t v = (int32_t)id[i];
        assert_ok(ml_ids_append(&row.ids, &v, 1, &err));
    }
    assert_ok(ml_row_add_span(&row, (size_t)p, (size_t)(p + c), &err));
    if (r) assert_ok(ml_row_add_span(&row, (size_t)(p + c), (size_t)(p + c + r), &err));
    assert_ok(ml_rows_writer_add(w, ML_SPLIT_TRAIN, &row, &err));
    assert_ok(ml_rows_writer_add(w, ML_SPLIT_VAL, &row, &err));
    ml_row_free(&row);
}

static void write_rows(const char *path, bool is_pair, const ml_tokenizer *t)
{
    int64_t n;
    int64_t *id = read_whole("ids", &n), *part = read_whole("pairs", &n), *at = id;
    ml_rows_writer *w;
    n_pair = n / 3;
    assert_ok(ml_rows_writer_make(path, "golden", is_pair ? ML_ROWS_PAIR : ML_ROWS_SINGLE, t, &w, &err));
    for (int64_t i = 0; i < n_pair; i++) {
        const int64_t *p = part + 3 * i;
        add_row(w, at, p[0], p[1], is_pair ? p[2] : 0);
        at += p[0] + p[1] + p[2];
    }
    assert_ok(ml_rows_writer_finish(w, NULL, &err));
    ml_rows_writer_free(w);
    free(id);
    free(part);
}

static int setup(void **state)
{
    (void)state;
    static const char *const same[][2] = {
        { "vocab_size", "258" },      { "hidden_size", "48" },
        { "num_hidden_layers", "2" }, { "num_attention_heads", "4" },
        { "head_dim", "12" },         { "num_key_value_heads", "2" },
        { "rotary_dim", "12" },       { "moe_intermediate_size", "64" },
    };
    char path[ML_PATH_MAX];
    const char *moved = getenv("MOONLIGHT_TEST_SOURCE"); /* built elsewhere: scripts/gpu-check --packed */
    snprintf(path, sizeof path, "%s/tests/golden/tuning.safetensors", moved ? moved : MOONLIGHT_SOURCE_DIR);
    assert_ok(ml_safetensors_open(&file, path, &err));
    beta = atof(ml_safetensors_metadata(file, "beta"));
    assert_ok(ml_config_preset("nano-moe", &config, &err));
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        assert_ok(ml_config_set(&config, same[i][0], same[i][1], "test", &err));
    }
    snprintf(folder, sizeof folder, "%s", test_make_folder());
    ml_tokenizer *t = test_byte_tokenizer(folder, true, 0);
    assert_ok(ml_path_join(singles, folder, "singles", &err));
    assert_ok(ml_path_join(pairs, folder, "pairs", &err));
    write_rows(singles, false, t);
    write_rows(pairs, true, t);
    ml_tokenizer_free(t);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ml_safetensors_close(file);
    test_remove_folder(folder);
    return 0;
}

/* ---- one step ---- */

/* Times that this machine has waited for the device, where that can be told. */
static unsigned long long count_waits(void)
{
#ifdef MOONLIGHT_CUDA_EMULATED
    return ml_emulate_count_waits();
#else
    return 0;
#endif
}

/* A step at rate 0: the loop's loss and gradients, weights as before. */
static ml_train_step run_step(const ml_stage *stage, ml_model *m, int64_t batch, int64_t accumulate, double *val_loss)
{
    ml_train_config c = { .batch = batch,
                          .accumulate = accumulate,
                          .seq = 20,
                          .guard_patience = 1,
                          .schedule = { .kind = ML_SCHEDULE_CONSTANT, .steps = 1 },
                          .optim = ml_optim_default_config(ML_OPTIM_ADAMW),
                          .device = device };
    char run[ML_PATH_MAX];
    ml_loop *loop;
    ml_train_step step;
    assert_ok(ml_path_join(run, folder, "run", &err));
    assert_ok(ml_loop_make(&c, run, false, m, stage, NULL, NULL, &loop, &err));
    if (device) {
        bool rolled_back;
        unsigned long long before = count_waits();
        assert_ok(ml_loop_queue_step(loop, &err));
        assert_true(count_waits() == before); /* all of it is queued, and nobody waits */
        assert_ok(ml_loop_take_step(loop, &step, &rolled_back, &err));
    } else {
        assert_ok(ml_loop_step(loop, &step, &err));
    }
    if (val_loss) assert_ok(ml_loop_evaluate(loop, val_loss, &err));
    assert_ok(ml_model_pull_grads(m, &err));
    ml_loop_free(loop);
    return step;
}

static ml_model *make_model(const char *prefix)
{
    ml_model *m;
    assert_ok(ml_model_make(&config, ML_F32, true, &m, &err));
    test_fill_by_formula(m, prefix);
    return m;
}

/* One that is only read, where it is trained. */
static ml_model *make_reference(const char *prefix)
{
    ml_model *m;
    assert_ok(ml_model_make(&config, ML_F32, false, &m, &err));
    test_fill_by_formula(m, prefix);
    return m;
}

static void expect_near(const char *what, double found, double wanted, double tolerance)
{
    if (!(fabs(found - wanted) <= tolerance)) {
        fail_msg("%s: found %.9g, expected %.9g (difference %.3g, tolerance %.3g)", what, found, wanted,
                 fabs(found - wanted), tolerance);
    }
}

/* The gradient of a tensor, or of all experts' one after another for a name with "experts.*". */
static double *gather_grad(const ml_model *m, const char *name, int64_t *n)
{
    const char *star = strchr(name, '*');
    int64_t n_stack = star ? m->config.n_routed_experts : 1;
    double *all = NULL;
    *n = 0;
    for (int64_t e = 0; e < n_stack; e++) {
        char single[256];
        snprintf(single, sizeof single, "%s", name);
        if (star) snprintf(single, sizeof single, "%.*s%lld%s", (int)(star - name), name, (long long)e, star + 1);
        const ml_weight *w = ml_model_find_weight(m, single);
        if (!w) fail_msg("the model has no %s", single);
        const float *grad = (const float *)(m->grads.base + ((const char *)w->data - m->values.base));
        int64_t count = ml_weight_count(w);
        all = realloc(all, (size_t)(*n + count) * sizeof *all);
        for (int64_t i = 0; i < count; i++) all[*n + i] = grad[i];
        *n += count;
    }
    return all;
}

/* Samples of every tensor's gradient, within 1e-4 of its largest element (fp32 rounding is some 1e-6 of it), and its
 * norm. */
static void compare_gradients(const ml_model *m, const char *label)
{
    int n_compared = 0;
    char prefix[64];
    size_t n_prefix = (size_t)snprintf(prefix, sizeof prefix, "%s.grad_", label);
    for (size_t i = 0; i < ml_safetensors_count(file); i++) {
        const char *key = ml_safetensors_at(file, i)->name;
        if (strncmp(key, prefix, n_prefix)) continue;
        bool norm = !strncmp(key + n_prefix, "norm.", 5);
        int64_t n, n_wanted;
        double *found = gather_grad(m, strchr(key + n_prefix, '.') + 1, &n), *wanted = read_real(key, &n_wanted);
        double largest = 1e-12;
        for (int64_t k = 0; k < n; k++) largest = fmax(largest, fabs(found[k]));
        for (int64_t k = 0; k < n_wanted; k++) {
            double sum = 0;
            int64_t each = n / n_wanted;
            for (int64_t j = k * each; norm && j < (k + 1) * each; j++) sum += found[j] * found[j];
            double x = norm ? sqrt(sum) : found[n <= n_wanted ? k : k * n / n_wanted];
            expect_near(key, x, wanted[k], 1e-4 * (norm ? fmax(wanted[k], largest) : largest));
        }
        free(found);
        free(wanted);
        n_compared++;
    }
    assert_true(n_compared > 40);
}

static double golden_loss(const char *label)
{
    char key[64];
    int64_t n;
    snprintf(key, sizeof key, "%s.loss", label);
    double *v = read_real(key, &n), loss = v[0];
    free(v);
    return loss;
}

/* ---- sft ---- */

static void test_sft(void **state)
{
    (void)state;
    ml_rows *rows;
    double packed = 0;
    assert_ok(ml_rows_open(singles, &rows, &err));
    for (int64_t batch = n_pair; batch >= 1; batch -= n_pair - 1) { /* all at once, and one by one */
        ml_sft *s;
        ml_row_feed_config c = { .batch = batch, .seq = 20, .seed = 1, .eval_rows = 100 };
        double val_loss;
        assert_ok(ml_sft_make(rows, &c, &s, &err));
        ml_model *m = make_model("");
        ml_train_step step = run_step(ml_sft_stage(s), m, batch, n_pair / batch, &val_loss);
        /* the token-weighted mean, however it is cut */
        expect_near("sft loss", step.ce, golden_loss("sft"), 1e-6 * golden_loss("sft"));
        expect_near("sft validation loss", val_loss, golden_loss("sft"), 1e-6 * golden_loss("sft"));
        if (batch > 1) packed = step.ce;
        expect_near("packed against one by one", step.ce, packed, 1e-6); /* nothing crosses from row to row */
        if (batch > 1) compare_gradients(m, "sft"); /* the auxiliary losses are of the whole batch */
        ml_model_free(m);
        ml_sft_free(s);
    }
    ml_dpo *d;
    assert_fails(ml_dpo_make(rows, &(ml_dpo_config){ .beta = 1 }, &d, &err), ML_EINVAL, "expected pairs");
    ml_rows_free(rows);
}

/* ---- dpo ---- */

static double figure(const ml_train_step *step, const char *name)
{
    for (size_t i = 0; i < step->n_figure; i++) {
        if (!strcmp(step->figure[i].name, name)) return step->figure[i].value;
    }
    fail_msg("the step has no figure %s", name);
    return 0;
}

static ml_dpo *make_dpo(const ml_rows *rows, int64_t batch, ml_dpo_loss loss, ml_model *reference, bool live)
{
    ml_dpo *d;
    ml_dpo_config c = { .feed = { .batch = batch, .seq = 20, .seed = 1, .eval_rows = 100 },
                        .beta = beta,
                        .loss = loss };
    assert_ok(ml_dpo_make(rows, &c, &d, &err));
    assert_ok(ml_dpo_identify(d, reference, &err));
    if (device && !reference->device) assert_ok(ml_model_upload(reference, device, 0, &err));
    if (live)
        assert_ok(ml_dpo_use_live_reference(d, reference, &err));
    else
        assert_ok(ml_dpo_compute_reference(d, reference, NULL, &err));
    return d;
}

static void test_dpo(void **state)
{
    (void)state;
    ml_rows *rows;
    int64_t n;
    double *margin = read_real("margin", &n), mean = 0, right = 0;
    for (int64_t i = 0; i < n; i++) {
        mean += margin[i] / (double)n;
        right += (margin[i] > 0) / (double)n;
    }
    assert_ok(ml_rows_open(pairs, &rows, &err));
    ml_model *reference = make_reference("ref.");
    for (int loss = 0; loss < 2; loss++) {
        const char *label = loss == ML_DPO_SIGMOID ? "sigmoid" : "ipo";
        double wanted = golden_loss(label);
        for (int way = 0; way < 3; way++) { /* cached, live, cached and one pair at a time */
            int64_t batch = way == 2 ? 1 : n_pair;
            double val_loss;
            ml_dpo *d = make_dpo(rows, batch, (ml_dpo_loss)loss, reference, way == 1);
            ml_model *m = make_model("");
            ml_train_step step = run_step(ml_dpo_stage(d), m, 2 * batch, n_pair / batch, &val_loss);
            /* sums of some 10 log-probabilities of 6, each right to 1e-6, times beta; ipo squares margins of 10 */
            double tolerance = loss == ML_DPO_SIGMOID ? 1e-6 : 2e-4;
            expect_near(label, step.ce, wanted, tolerance);
            expect_near(label, val_loss, wanted, tolerance);
            expect_near("margin", figure(&step, "reward_margin"), mean, 2e-6);
            expect_near("accuracy", figure(&step, "reward_accuracy"), right, 1e-12);
            expect_near("rewards", figure(&step, "reward_chosen") - figure(&step, "reward_rejected"), mean, 2e-6);
            if (way < 2) compare_gradients(m, label);
            ml_model_free(m);
            ml_dpo_free(d);
        }
    }
    free(margin);
    ml_model_free(reference);
    ml_sft *s;
    assert_fails(ml_sft_make(rows, &(ml_row_feed_config){ .batch = 1, .seq = 20 }, &s, &err), ML_EINVAL,
                 "expected rows");
    ml_rows_free(rows);
}

static void test_dpo_begins_at_log_2(void **state)
{
    (void)state;
    ml_rows *rows;
    assert_ok(ml_rows_open(pairs, &rows, &err));
    for (int way = 0; way < 3; way++) {
        int64_t batch = way == 2 ? 1 : n_pair;
        ml_model *m = make_model(""), *reference = make_reference("");
        ml_dpo *d = make_dpo(rows, batch, ML_DPO_SIGMOID, reference, way == 1);
        double val_loss;
        ml_train_step step = run_step(ml_dpo_stage(d), m, 2 * batch, n_pair / batch, &val_loss);
        expect_near("first loss", step.ce, log(2), 1e-6);
        expect_near("first validation loss", val_loss, log(2), 1e-6);
        expect_near("first margin", figure(&step, "reward_margin"), 0, 1e-6);
        ml_dpo_free(d);
        ml_model_free(m);
        ml_model_free(reference);
    }
    ml_rows_free(rows);
}

/* What the reference said, from the disk; not that of another one, nor for other pairs. */
static void test_reference_is_cached(void **state)
{
    (void)state;
    char path[ML_PATH_MAX];
    ml_rows *rows;
    bool found;
    assert_ok(ml_path_join(path, folder, "reference.json", &err));
    assert_ok(ml_rows_open(pairs, &rows, &err));
    ml_model *reference = make_model("ref."), *other = make_model("");
    ml_dpo *a = make_dpo(rows, n_pair, ML_DPO_SIGMOID, reference, false), *b;
    ml_dpo_config c = { .feed = { .batch = n_pair, .seq = 20, .seed = 1, .eval_rows = 100 }, .beta = beta };
    assert_ok(ml_dpo_save_reference(a, path, &err));
    assert_ok(ml_dpo_make(rows, &c, &b, &err));
    assert_ok(ml_dpo_identify(b, other, &err));
    assert_ok(ml_dpo_load_reference(b, path, &found, &err));
    assert_false(found);
    json_t *position = ml_dpo_stage(a)->position(a);
    assert_fails(ml_dpo_stage(b)->restore(b, position, "trainer.json", &err), ML_EINVAL, "init.from");
    assert_ok(ml_dpo_identify(b, reference, &err));
    assert_string_equal(ml_dpo_reference_name(a), ml_dpo_reference_name(b));
    assert_ok(ml_dpo_load_reference(b, path, &found, &err));
    assert_true(found);
    assert_ok(ml_dpo_stage(b)->restore(b, position, "trainer.json", &err));
    json_decref(position);
    ml_model *m = make_model(""), *same = make_model("");
    ml_train_step x = run_step(ml_dpo_stage(a), m, 2 * n_pair, 1, NULL),
                  y = run_step(ml_dpo_stage(b), same, 2 * n_pair, 1, NULL);
    assert_true(x.ce == y.ce && x.grad_norm == y.grad_norm); /* every digit came back */
    ml_dpo_free(a);
    ml_dpo_free(b);
    ml_model_free(m);
    ml_model_free(same);
    ml_model_free(reference);
    ml_model_free(other);
    ml_rows_free(rows);
}

/* The loss of a batch for log-probabilities of our making. */
static double loss_of(const ml_stage *stage, const ml_batch *b, const float *logp, float *seed)
{
    double sum = 0;
    stage->loss(stage->self, b, logp, 0.5, seed, &sum);
    return sum;
}

/* The term of the chosen answer: its value by hand, and every slope by finite differences. */
static void test_dpo_keeps_the_chosen_answer(void **state)
{
    (void)state;
    enum { MOST = 1024 };
    static float logp[MOST], seed[MOST];
    ml_rows *rows;
    ml_dpo *d, *plain;
    ml_batch b;
    ml_model *reference = make_model("ref.");
    assert_ok(ml_rows_open(pairs, &rows, &err));
    ml_dpo_config c = { .feed = { .batch = n_pair, .seq = 20, .seed = 1 }, .beta = beta };
    assert_ok(ml_dpo_make(rows, &c, &plain, &err));
    c.chosen = 0.7;
    assert_ok(ml_dpo_make(rows, &c, &d, &err));
    assert_ok(ml_dpo_use_live_reference(plain, reference, &err));
    assert_ok(ml_dpo_use_live_reference(d, reference, &err));
    const ml_stage *stage = ml_dpo_stage(d);
    assert_ok(ml_batch_init(&b, 2 * n_pair * 20, 2 * n_pair, &err));
    assert_ok(ml_dpo_stage(plain)->next(plain, &b, &err));
    assert_ok(stage->next(d, &b, &err)); /* the same pairs */
    assert_true(b.n_token <= MOST);
    for (int64_t i = 0; i < b.n_token; i++) logp[i] = -0.25f * (float)(1 + i % 7);
    double wanted = loss_of(ml_dpo_stage(plain), &b, logp, seed);
    for (int64_t s = 0; s < b.n_seq; s += 2) {
        double sum = 0, n = 0;
        for (int32_t i = b.seq[s]; i < b.seq[s + 1]; i++) {
            if (b.target[i] < 0) continue;
            sum += (double)logp[i];
            n++;
        }
        wanted -= 0.7 * sum / n;
    }
    memset(seed, 0, sizeof seed);
    assert_true(fabs(loss_of(stage, &b, logp, seed) - wanted) < 1e-12 * fabs(wanted));
    for (int64_t i = 0; i < b.n_token; i++) {
        static float scratch[MOST];
        float at = logp[i], h = 0x1p-7f; /* exact, and the error of the difference h^2 */
        logp[i] = at + h;
        double above = loss_of(stage, &b, logp, scratch);
        logp[i] = at - h;
        double slope = (above - loss_of(stage, &b, logp, scratch)) / (2 * (double)h);
        logp[i] = at;
        assert_true(fabs(0.5 * slope - (double)seed[i]) < 1e-4);
        if (b.target[i] < 0) assert_true(seed[i] == 0);
    }
    ml_batch_free(&b);
    ml_dpo_free(d);
    ml_dpo_free(plain);
    ml_model_free(reference);
    ml_rows_free(rows);
}

/* The same term on the device: the processor's loss and figures. */
static void test_dpo_keeps_the_chosen_answer_there(void **state)
{
    (void)state;
    ml_rows *rows;
    ml_device *on = device;
    ml_train_step step[2];
    assert_ok(ml_rows_open(pairs, &rows, &err));
    for (int there = 0; there < 2; there++) {
        ml_dpo *d;
        ml_dpo_config c = { .feed = { .batch = n_pair, .seq = 20, .seed = 1 }, .beta = beta, .chosen = 0.7 };
        ml_model *m = make_model(""), *reference = make_reference("ref.");
        device = there ? on : NULL;
        assert_ok(ml_dpo_make(rows, &c, &d, &err));
        if (device) assert_ok(ml_model_upload(reference, device, 0, &err));
        assert_ok(ml_dpo_use_live_reference(d, reference, &err));
        step[there] = run_step(ml_dpo_stage(d), m, 2 * n_pair, 1, NULL);
        ml_dpo_free(d);
        ml_model_free(m);
        ml_model_free(reference);
    }
    expect_near("loss", step[1].ce, step[0].ce, 1e-5 * step[0].ce); /* fp32 sums in another order */
    expect_near("gradient norm", step[1].grad_norm, step[0].grad_norm, 1e-4 * step[0].grad_norm);
    assert_int_equal(step[0].n_figure, step[1].n_figure);
    for (size_t i = 0; i < step[0].n_figure; i++) {
        assert_string_equal(step[0].figure[i].name, step[1].figure[i].name);
        expect_near(step[0].figure[i].name, step[1].figure[i].value, step[0].figure[i].value, 1e-5);
    }
    ml_rows_free(rows);
}

/* Far out the loss neither overflows nor loses its slope. */
static void test_extreme_margins(void **state)
{
    (void)state;
    double slope;
    assert_true(fabs(ml_dpo_pair_loss(ML_DPO_SIGMOID, 1, -2000, 0, &slope) - 2000) < 1e-9);
    assert_true(fabs(slope + 1) < 1e-12);
    double far = ml_dpo_pair_loss(ML_DPO_SIGMOID, 1, 2000, 0, &slope);
    assert_true(far >= 0 && far < 1e-300 && slope <= 0 && slope > -1e-300);
    assert_true(fabs(ml_dpo_pair_loss(ML_DPO_SIGMOID, 0.5, 3, 1, &slope) - 0.31326168751822286) < 1e-15);
    assert_true(ml_dpo_pair_loss(ML_DPO_IPO, 0.5, 3, 2, &slope) == 0 && slope == 0);
}

/* test_tuning [cuda] */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sft),
        cmocka_unit_test(test_dpo),
        cmocka_unit_test(test_dpo_begins_at_log_2),
        cmocka_unit_test(test_reference_is_cached),
        cmocka_unit_test(test_dpo_keeps_the_chosen_answer),
        cmocka_unit_test(test_extreme_margins),
    };
    const struct CMUnitTest there[] = { cmocka_unit_test(test_sft), cmocka_unit_test(test_dpo),
                                        cmocka_unit_test(test_dpo_begins_at_log_2),
                                        cmocka_unit_test(test_dpo_keeps_the_chosen_answer_there) };
    if (argc < 2 || strcmp(argv[1], "cuda")) return cmocka_run_group_tests(tests, setup, teardown);
    if (!test_open_device(&device)) return TEST_SKIPPED;
    int n_failed = cmocka_run_group_tests_name("on a device", there, setup, teardown);
    ml_device_close(device);
    return n_failed;
}
