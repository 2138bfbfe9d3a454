/* The memory plan against what training really takes. */
#include "base/thread.h"
#include "optim/optimizer.h"
#include "support/support.h"
#include "support/tiny_run.h"

#include <string.h>

static ml_error err;

typedef struct {
    const char *name;
    test_model which;
    int64_t hidden_size, num_hidden_layers, n_routed_experts, num_experts_per_tok, vocab_size, batch, seq;
    bool expert_relu, qk_norm;
    ml_recompute recompute;
    bool muon;
} plan_case;

static const plan_case cases[] = {
    { "dense", TEST_DENSE, 64, 4, 0, 0, 512, 8, 64, false, false, false, false },
    { "dense, recompute", TEST_DENSE, 64, 6, 0, 0, 512, 8, 64, false, true, true, true },
    { "experts", TEST_GQA_MOE, 64, 4, 8, 2, 512, 8, 64, false, false, false, true },
    { "experts, one deep, large vocabulary", TEST_GQA_MOE, 32, 1, 4, 2, 4096, 16, 64, false, false, false, false },
    { "many experts chosen", TEST_GQA_SIGMOID, 64, 3, 16, 6, 512, 8, 64, false, true, false, false },
    { "relu experts", TEST_GQA_MOE, 64, 4, 8, 2, 512, 8, 64, true, false, false, false },
    { "experts, recompute", TEST_GQA_MOE, 64, 6, 8, 2, 512, 8, 64, false, false, true, false },
    { "latent", TEST_MLA_MOE, 64, 4, 8, 2, 512, 8, 64, false, false, false, true },
    { "latent, low-rank queries, recompute", TEST_MLA_LORA, 64, 6, 8, 2, 512, 8, 64, false, false, true, false },
    { "latent, attention again", TEST_MLA_LORA, 64, 6, 8, 2, 512, 8, 64, false, false, ML_RECOMPUTE_ATTENTION, false },
    { "latent, experts again", TEST_MLA_LORA, 64, 6, 8, 2, 512, 8, 64, false, false, ML_RECOMPUTE_MLP, false },
};

static ml_config model_of(const plan_case *p)
{
    ml_config c = test_model_config(p->which);
    c.hidden_size = p->hidden_size;
    c.num_hidden_layers = p->num_hidden_layers;
    c.vocab_size = p->vocab_size;
    c.intermediate_size = 3 * p->hidden_size;
    c.moe_intermediate_size = 2 * p->hidden_size;
    c.n_routed_experts = p->n_routed_experts;
    c.num_experts_per_tok = p->num_experts_per_tok;
    c.expert_relu = p->expert_relu;
    c.qk_norm = p->qk_norm;
    if (p->which == TEST_DENSE) c.first_k_dense_replace = p->num_hidden_layers;
    if (p->expert_relu) c.n_shared_experts = 0;
    if (p->which == TEST_GQA_SIGMOID) c.balance = ML_BALANCE_SEQUENCE;
    if (p->which == TEST_GQA_MOE) c.balance = ML_BALANCE_SWITCH;
    c.balance_coef = c.balance == ML_BALANCE_NONE ? 0 : 1e-2;
    assert_ok(ml_config_check(&c, p->name, &err));
    return c;
}

/* A bound, and one that is of use: at most twice what was taken. */
static void check_bound(const char *what, const char *name, int64_t planned, int64_t taken)
{
    print_message("  %-40s %-12s planned %8.2f MB, taken %8.2f MB: %.2f\n", name, what, (double)planned / 1e6,
                  (double)taken / 1e6, (double)planned / (double)taken);
    if (taken > planned || planned > 2 * taken) {
        if (!getenv("SHOW"))
            fail_msg("%s: %s: %lld bytes planned, %lld taken", name, what, (long long)planned, (long long)taken);
    }
}

static void check_case(const plan_case *p, bool single)
{
    ml_config model = model_of(p);
    ml_train_config config = test_train_config();
    config.batch = p->batch;
    config.seq = p->seq;
    config.recompute = p->recompute;
    config.optim = ml_optim_default_config(p->muon ? ML_OPTIM_MUON : ML_OPTIM_ADAMW);
    test_run r;
    test_run_start(&r, &model, &config);
    r.self.fixed = true;
    r.self.single = single;
    test_run_step(&r);
    ml_train_plan plan = ml_train_make_plan(&model, p->batch * p->seq, p->muon, p->recompute);
    check_bound("activations", p->name, plan.activations, (int64_t)r.loop->ctx.act.peak);
    check_bound("gradients", p->name, plan.activation_gradients, (int64_t)r.loop->ctx.grad.peak);
    ml_optim_memory optim = ml_optim_plan_memory(&config.optim, r.model->param, (int64_t)r.model->n_param);
    check_bound("optimizer", p->name, plan.optimizer, optim.state_bytes + optim.scratch_bytes);
    /* Each tensor begins at a multiple of 64 bytes, which nobody plans for. */
    int64_t padding = 64 * (int64_t)r.model->n_weight;
    check_bound("weights", p->name, plan.weights, (int64_t)r.model->values.capacity - padding);
    assert_int_equal(plan.total,
                     plan.weights + plan.gradients + plan.optimizer + plan.activations + plan.activation_gradients);
    test_run_end(&r, false);
}

static void test_plan_bounds_what_is_taken(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) check_case(&cases[i], false);
}

/* Documents of one token each: what operators keep per sequence is then largest.  And scratch of two threads. */
static void test_plan_holds_for_many_sequences(void **state)
{
    (void)state;
    ml_thread_set_count(2);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (cases[i].which == TEST_GQA_SIGMOID || cases[i].which == TEST_MLA_LORA) check_case(&cases[i], true);
    }
}

static void test_plan_that_does_not_fit_says_what_to_change(void **state)
{
    (void)state;
    ml_train_plan plan = { .weights = 100,
                           .gradients = 100,
                           .optimizer = 200,
                           .activations = 500,
                           .total = 1000,
                           .activation_gradients = 100 };
    assert_ok(ml_train_check_plan(&plan, 1000, 4, false, &err));
    assert_fails(ml_train_check_plan(&plan, 999, 4, false, &err), ML_ENOMEM, "train.batch");
    assert_fails(ml_train_check_plan(&plan, 999, 1, false, &err), ML_ENOMEM, "train.recompute on");
    assert_fails(ml_train_check_plan(&plan, 999, 1, true, &err), ML_ENOMEM, "train.seq");
    assert_fails(ml_train_check_plan(&plan, 399, 4, false, &err), ML_ENOMEM, "more memory");
}

int main(void)
{
    ml_thread_set_count(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_bounds_what_is_taken),
        cmocka_unit_test(test_plan_holds_for_many_sequences),
        cmocka_unit_test(test_plan_that_does_not_fit_says_what_to_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
