/* AdamW and Muon against their rules in double precision; groups, state, clipping. */
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "optim/clip.h"
#include "optim/newton_schulz.h"
#include "optim/optimizer.h"
#include "support/support.h"

#include <math.h>
#include <string.h>

static ml_error err;

enum { N_PARAM = 7, MAX_FLOATS = 1 << 17 };

typedef struct {
    ml_param param[N_PARAM];
    float value[MAX_FLOATS], grad[MAX_FLOATS];
    int64_t n;
} model;

static void add_param(model *m, int i, const char *name, ml_param_kind kind, int64_t n_matrix, int64_t rows,
                      int64_t cols)
{
    m->param[i] = (ml_param){ .name = name,
                              .kind = kind,
                              .value = m->value + m->n,
                              .grad = m->grad + m->n,
                              .n_matrix = n_matrix,
                              .rows = rows,
                              .cols = cols };
    m->n += ml_param_count(&m->param[i]);
}

static void fill_gradient(model *m, uint64_t step)
{
    ml_rng rng = ml_rng_make(step, 1);
    for (int64_t i = 0; i < m->n; i++) m->grad[i] = (float)ml_rng_normal(&rng) * 0.01f;
}

static model *make_model(void)
{
    model *m = ml_calloc(1, sizeof *m);
    assert_non_null(m);
    add_param(m, 0, "embedding", ML_PARAM_EMBEDDING, 1, 1100, 60); /* more than one block of work */
    add_param(m, 1, "norm", ML_PARAM_NORM, 1, 1, 37);              /* not a whole number of vectors */
    add_param(m, 2, "bias", ML_PARAM_BIAS, 1, 1, 5);
    add_param(m, 3, "router", ML_PARAM_ROUTER, 1, 4, 60);
    add_param(m, 4, "square", ML_PARAM_MATRIX, 1, 60, 60);
    add_param(m, 5, "experts", ML_PARAM_EXPERT, 8, 30, 60);
    add_param(m, 6, "tall", ML_PARAM_MATRIX, 1, 200, 60);
    assert_true(m->n <= MAX_FLOATS);
    ml_rng rng = ml_rng_make(5, 0);
    for (int64_t i = 0; i < m->n; i++) m->value[i] = (float)ml_rng_normal(&rng);
    return m;
}

static ml_optimizer *make_optimizer(const ml_optim_config *config, const model *m)
{
    ml_optimizer *opt = NULL;
    assert_ok(ml_optimizer_make(config, m->param, N_PARAM, &opt, &err));
    return opt;
}

/* Ten steps in double precision, element by element. */
static void test_adamw_follows_its_rule(void **state)
{
    (void)state;
    const double lr = 3e-3, wd = 0.1, b1 = 0.9, b2 = 0.95, eps = 1e-8, scale = 0.5;
    model *m = make_model();
    double *ref = ml_calloc((size_t)m->n * 3, sizeof *ref), *mom = ref + m->n, *var = mom + m->n;
    assert_non_null(ref);
    for (int64_t i = 0; i < m->n; i++) ref[i] = (double)m->value[i];
    ml_optim_config config = ml_optim_default_config(ML_OPTIM_ADAMW);
    config.no_decay = ML_KIND_BIT(ML_PARAM_NORM) | ML_KIND_BIT(ML_PARAM_BIAS);
    ml_optimizer *opt = make_optimizer(&config, m);
    double last_squares = 0.0;
    ml_optim_stats stats;
    for (int t = 1; t <= 10; t++) {
        fill_gradient(m, (uint64_t)t);
        assert_ok(ml_optimizer_step(opt, lr, scale, &stats, &err));
        last_squares = 0.0;
        for (int p = 0; p < N_PARAM; p++) {
            double decay = m->param[p].kind == ML_PARAM_NORM || m->param[p].kind == ML_PARAM_BIAS ? 0.0 : wd;
            int64_t at = m->param[p].value - m->value;
            for (int64_t i = at; i < at + ml_param_count(&m->param[p]); i++) {
                double g = scale * (double)m->grad[i];
                mom[i] = b1 * mom[i] + (1.0 - b1) * g;
                var[i] = b2 * var[i] + (1.0 - b2) * g * g;
                double update = mom[i] / (1.0 - pow(b1, t)) / (sqrt(var[i] / (1.0 - pow(b2, t))) + eps);
                ref[i] -= lr * decay * ref[i] + lr * update;
                last_squares += update * update;
            }
        }
    }
    /* ten roundings of a value of size up to 5 (6e-7 each at most), and updates of size lr with relative error 1e-6 */
    for (int64_t i = 0; i < m->n; i++)
        if (fabs((double)m->value[i] - ref[i]) > 3e-6)
            fail_msg("element %lld: %.9g, not %.9g", (long long)i, (double)m->value[i], ref[i]);
    double rms = sqrt(last_squares / (double)m->n);
    assert_true(fabs(stats.rms_all - rms) < 1e-5 * rms);
    assert_int_equal(stats.n_all, m->n);
    assert_int_equal(stats.n[ML_GROUP_ADAMW_NO_DECAY], 42);
    assert_int_equal(ml_optimizer_get_step(opt), 10);
    ml_optimizer_free(opt);
    ml_free(ref);
    ml_free(m);
}

/* One matrix of one parameter, by the formula, with the Newton-Schulz that its own test holds against doubles. */
static void muon_reference(float *w, float *mom, const float *grad, int64_t rows, int64_t cols, double lr, double wd,
                           bool nesterov)
{
    int64_t n = rows * cols;
    float *u = ml_alloc((size_t)n * sizeof *u);
    float *scratch = ml_alloc((size_t)ml_newton_schulz_scratch(rows, cols) * sizeof *scratch);
    assert_true(u && scratch);
    for (int64_t i = 0; i < n; i++) {
        mom[i] = 0.95f * mom[i] + grad[i];
        u[i] = nesterov ? grad[i] + 0.95f * mom[i] : mom[i];
    }
    ml_newton_schulz(u, rows, cols, 5, scratch, true);
    double rate = lr * 0.2 * sqrt((double)(rows > cols ? rows : cols));
    for (int64_t i = 0; i < n; i++) w[i] = (float)((double)w[i] - lr * wd * (double)w[i] - rate * (double)u[i]);
    ml_free(u);
    ml_free(scratch);
}

/* Every expert by itself: a stack in one parameter ends where its matrices one at a time end. */
static void test_muon_follows_its_rule(void **state)
{
    (void)state;
    for (int nesterov = 0; nesterov < 2; nesterov++) {
        const double lr = 2e-3, wd = 0.1;
        model *m = make_model();
        float *ref = ml_calloc((size_t)m->n * 2, sizeof *ref), *mom = ref + m->n;
        assert_non_null(ref);
        memcpy(ref, m->value, (size_t)m->n * sizeof *ref);
        ml_optim_config config = ml_optim_default_config(ML_OPTIM_MUON);
        config.nesterov = nesterov;
        ml_optimizer *opt = make_optimizer(&config, m);
        ml_optim_stats stats;
        for (int t = 1; t <= 3; t++) {
            fill_gradient(m, (uint64_t)t);
            assert_ok(ml_optimizer_step(opt, lr, 1.0, &stats, &err));
            for (int p = 3; p < N_PARAM; p++) {
                const ml_param *x = &m->param[p];
                for (int64_t e = 0; e < x->n_matrix; e++) {
                    int64_t at = x->value - m->value + e * x->rows * x->cols;
                    muon_reference(ref + at, mom + at, m->grad + at, x->rows, x->cols, lr, wd, nesterov);
                }
            }
        }
        /* values up to 5 rounded three times */
        for (int64_t i = m->param[3].value - m->value; i < m->n; i++)
            if (fabs((double)m->value[i] - (double)ref[i]) > 2e-6)
                fail_msg("element %lld: %.9g, not %.9g", (long long)i, (double)m->value[i], (double)ref[i]);
        /* RMS singular value after five steps on random matrices: 0.93, give or take the spectrum's shape.  Of all
         * elements only r of max(A, B) directions exist: [A, B] has RMS 0.2 * 0.93 whatever its shape. */
        assert_true(stats.rms[ML_GROUP_MUON] > 0.2 * 0.85 && stats.rms[ML_GROUP_MUON] < 0.2 * 1.0);
        assert_int_equal(stats.n[ML_GROUP_MUON], 240 + 3600 + 8 * 1800 + 12000);
        assert_int_equal(stats.n[ML_GROUP_ADAMW], 66000 + 37 + 5);
        ml_optimizer_free(opt);
        ml_free(ref);
        ml_free(m);
    }
}

static void run_steps(model *m, const ml_optim_config *config, int n_step, ml_optim_stats *stats)
{
    ml_optimizer *opt = make_optimizer(config, m);
    for (int t = 0; t < n_step; t++) {
        fill_gradient(m, (uint64_t)t);
        assert_ok(ml_optimizer_step(opt, 1e-3, 0.7, stats, &err));
    }
    ml_optimizer_free(opt);
}

/* Threads (the number decides which matrices run alone and which on all threads) and instruction sets. */
static void test_same_bits_everywhere(void **state)
{
    (void)state;
    for (int name = ML_OPTIM_ADAMW; name <= ML_OPTIM_MUON; name++) {
        ml_optim_config config = ml_optim_default_config((ml_optim_name)name);
        model *first = make_model();
        ml_optim_stats first_stats, stats;
        ml_thread_set_count(1);
        run_steps(first, &config, 2, &first_stats);
        for (int way = 0; way < 5; way++) {
            model *m = make_model();
            ml_isa isa = ml_cpu_isa();
            ml_thread_set_count(way + 2);
            if (way > 2) ml_cpu_set_isa(way == 3 ? ML_ISA_SCALAR : ML_ISA_AVX2);
            run_steps(m, &config, 2, &stats);
            ml_cpu_set_isa(isa);
            assert_memory_equal(m->value, first->value, sizeof m->value);
            assert_memory_equal(&stats, &first_stats, sizeof stats);
            ml_free(m);
        }
        ml_thread_set_count(0);
        ml_free(first);
    }
}

/* More threads in the step than when its memory was planned. */
static void test_thread_count_may_grow(void **state)
{
    (void)state;
    ml_optim_config config = ml_optim_default_config(ML_OPTIM_MUON);
    model *a = make_model(), *b = make_model();
    ml_thread_set_count(1);
    ml_optimizer *one = make_optimizer(&config, a), *many = make_optimizer(&config, b);
    fill_gradient(a, 1);
    fill_gradient(b, 1);
    assert_ok(ml_optimizer_step(one, 1e-3, 1.0, NULL, &err));
    ml_thread_set_count(4);
    assert_ok(ml_optimizer_step(many, 1e-3, 1.0, NULL, &err));
    ml_thread_set_count(0);
    assert_memory_equal(a->value, b->value, sizeof a->value);
    ml_optimizer_free(one);
    ml_optimizer_free(many);
    ml_free(a);
    ml_free(b);
}

/* Copy the state buffers and step count into a fresh optimizer: it goes on bit for bit. */
static void test_state_resumes_exactly(void **state)
{
    (void)state;
    ml_optim_config config = ml_optim_default_config(ML_OPTIM_MUON);
    model *a = make_model(), *b = make_model();
    ml_optimizer *old = make_optimizer(&config, a), *new = make_optimizer(&config, b);
    for (uint64_t t = 0; t < 4; t++) {
        if (t == 2) {
            memcpy(b->value, a->value, sizeof a->value);
            assert_int_equal(ml_optimizer_n_state(new), 4 + 2 * 3);
            for (int64_t i = 0; i < ml_optimizer_n_state(new); i++) {
                ml_optim_state from = ml_optimizer_get_state(old, i), to = ml_optimizer_get_state(new, i);
                assert_string_equal(from.name, to.name);
                assert_int_equal(to.count, ml_param_count(to.param));
                memcpy(to.data, from.data, (size_t)from.count * sizeof(float));
            }
            ml_optimizer_set_step(new, ml_optimizer_get_step(old));
        }
        fill_gradient(a, t);
        fill_gradient(b, t);
        assert_ok(ml_optimizer_step(old, 1e-3, 1.0, NULL, &err));
        if (t >= 2) assert_ok(ml_optimizer_step(new, 1e-3, 1.0, NULL, &err));
    }
    assert_memory_equal(a->value, b->value, sizeof a->value);
    assert_string_equal(ml_optimizer_get_state(old, 0).name, "embedding.exp_avg");
    assert_string_equal(ml_optimizer_get_state(old, 6).name, "router.momentum");
    ml_optimizer_free(old);
    ml_optimizer_free(new);
    ml_free(a);
    ml_free(b);
}

static void test_groups_follow_the_recipe(void **state)
{
    (void)state;
    model *m = make_model();
    ml_optim_config config = ml_optim_default_config(ML_OPTIM_MUON);
    assert_ok(ml_optim_parse_kinds("bias,  norm router", &config.no_decay, &err));
    assert_ok(ml_optim_parse_kinds("expert, router", &config.muon, &err));
    ml_optimizer *opt = make_optimizer(&config, m);
    static const ml_optim_group wanted[N_PARAM] = { ML_GROUP_ADAMW,          ML_GROUP_ADAMW_NO_DECAY,
                                                    ML_GROUP_ADAMW_NO_DECAY, ML_GROUP_MUON_NO_DECAY,
                                                    ML_GROUP_ADAMW,          ML_GROUP_MUON,
                                                    ML_GROUP_ADAMW };
    assert_int_equal(ml_optimizer_n_row(opt), N_PARAM);
    for (int i = 0; i < N_PARAM; i++) {
        ml_optim_row row = ml_optimizer_get_row(opt, i);
        assert_string_equal(row.param->name, m->param[i].name);
        assert_int_equal(row.group, wanted[i]);
        assert_true((row.weight_decay > 0.0) == (wanted[i] == ML_GROUP_ADAMW || wanted[i] == ML_GROUP_MUON));
    }
    assert_true(fabs(ml_optimizer_get_row(opt, 5).lr_factor - 0.2 * sqrt(60.0)) < 1e-12);
    assert_true(ml_optimizer_get_row(opt, 0).lr_factor == 1.0);
    ml_optimizer_free(opt);
    ml_free(m);
    ml_param_kinds kinds = 77;
    assert_fails(ml_optim_parse_kinds("norm, biases", &kinds, &err), ML_EINVAL, "\"biases\" is no kind of parameter");
    assert_int_equal(kinds, 77);
    assert_ok(ml_optim_parse_kinds("none", &kinds, &err));
    assert_int_equal(kinds, 0);
    assert_string_equal(ml_param_kind_name(ML_PARAM_ROUTER), "router");
    assert_string_equal(ml_optim_group_name(ML_GROUP_MUON_NO_DECAY), "muon, no decay");
}

static void test_bad_configuration_and_rate(void **state)
{
    (void)state;
    model *m = make_model();
    ml_optimizer *opt;
    ml_optim_config config = ml_optim_default_config(ML_OPTIM_MUON);
    config.momentum = 1.0;
    assert_fails(ml_optimizer_make(&config, m->param, N_PARAM, &opt, &err), ML_EINVAL, "momentum is 1");
    config = ml_optim_default_config(ML_OPTIM_ADAMW);
    config.eps = (double)NAN;
    assert_fails(ml_optimizer_make(&config, m->param, N_PARAM, &opt, &err), ML_EINVAL, "eps is");
    config = ml_optim_default_config(ML_OPTIM_ADAMW);
    opt = make_optimizer(&config, m);
    float before = m->value[0];
    assert_fails(ml_optimizer_step(opt, (double)INFINITY, 1.0, NULL, &err), ML_EINVAL, "must be finite");
    assert_true(m->value[0] == before);
    assert_int_equal(ml_optimizer_get_step(opt), 0);
    ml_optimizer_free(opt);
    ml_free(m);
}

static void test_memory(void **state)
{
    (void)state;
    model *m = make_model();
    ml_optim_config config = ml_optim_default_config(ML_OPTIM_MUON);
    int64_t live = ml_alloc_get_stats().n_live, before = ml_alloc_get_stats().live_bytes;
    ml_optimizer *opt = make_optimizer(&config, m);
    ml_optim_memory plan = ml_optim_plan_memory(&config, m->param, N_PARAM);
    assert_int_equal(plan.state_bytes, 4 * (m->n + 66042));
    int64_t used = ml_alloc_get_stats().live_bytes - before;
    /* beside the plan: records, names, list of matrices */
    assert_in_range(used - plan.state_bytes - plan.scratch_bytes, 0, 8192);
    int64_t total = ml_alloc_get_stats().n_total;
    fill_gradient(m, 0);
    assert_ok(ml_optimizer_step(opt, 1e-3, 1.0, NULL, &err));
    assert_int_equal(ml_alloc_get_stats().n_total, total);
    ml_optimizer_free(opt);
    ml_optimizer_free(NULL);
    for (int64_t n = 0;; n++) {
        ml_alloc_fail_after(n);
        ml_status status = ml_optimizer_make(&config, m->param, N_PARAM, &opt, &err);
        ml_alloc_fail_after(-1);
        if (status == ML_OK) break;
        assert_int_equal(status, ML_ENOMEM);
        assert_int_equal(ml_alloc_get_stats().n_live, live);
    }
    ml_optimizer_free(opt);
    assert_int_equal(ml_alloc_get_stats().n_live, live);
    ml_free(m);
}

static void test_clipping(void **state)
{
    (void)state;
    model *m = make_model();
    fill_gradient(m, 3);
    long double squares = 0.0L;
    for (int64_t i = 0; i < m->n; i++) squares += (long double)m->grad[i] * (long double)m->grad[i];
    double first = 0.0;
    for (int n_thread = 1; n_thread <= 5; n_thread++) {
        double norm;
        ml_thread_set_count(n_thread);
        assert_ok(ml_clip_compute_norm(m->param, N_PARAM, &norm, &err));
        /* 1e5 additions in double, each rounding to 1e-16 */
        assert_true(fabs(norm / (double)sqrtl(squares) - 1.0) < 1e-12);
        if (n_thread == 1) first = norm;
        assert_true(norm == first);
    }
    ml_thread_set_count(0);
    assert_true(ml_clip_get_factor(2.0, 1.0) == 0.5);
    assert_true(ml_clip_get_factor(0.5, 1.0) == 1.0);
    assert_true(ml_clip_get_factor(5.0, 0.0) == 1.0);
    m->param[4].grad[17] = (float)INFINITY;
    assert_fails(ml_clip_compute_norm(m->param, N_PARAM, &first, &err), ML_ENUMERIC,
                 "gradient of square is not finite");
    m->param[1].grad[36] = (float)NAN;
    assert_fails(ml_clip_compute_norm(m->param, N_PARAM, &first, &err), ML_ENUMERIC, "gradient of norm is not finite");
    ml_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw_follows_its_rule),
        cmocka_unit_test(test_muon_follows_its_rule),
        cmocka_unit_test(test_same_bits_everywhere),
        cmocka_unit_test(test_thread_count_may_grow),
        cmocka_unit_test(test_state_resumes_exactly),
        cmocka_unit_test(test_groups_follow_the_recipe),
        cmocka_unit_test(test_bad_configuration_and_rate),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_clipping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
