#include "support/tiny_run.h"

#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;

ml_config test_model_config(test_model which)
{
    ml_config c;
    bool mla = which == TEST_MLA_MOE || which == TEST_MLA_LORA;
    assert_ok(ml_config_preset(mla ? "moonlight-tiny" : "nano-moe", &c, &err));
    c.vocab_size = TEST_VOCAB;
    c.hidden_size = 32;
    c.num_hidden_layers = 2;
    c.max_position_embeddings = 128;
    c.intermediate_size = 48;
    c.moe_intermediate_size = 24;
    c.bos_token_id = c.eos_token_id = c.pad_token_id = -1;
    c.balance = ML_BALANCE_NONE;
    c.balance_coef = c.z_coef = 0;
    c.init = ML_INIT_HE;
    c.n_routed_experts = 4;
    c.num_experts_per_tok = 2;
    c.n_shared_experts = 1;
    if (mla) {
        c.q_lora_rank = which == TEST_MLA_LORA ? 16 : 0;
    } else {
        c.num_attention_heads = 4;
        c.num_key_value_heads = 2;
        c.head_dim = c.rotary_dim = 8;
    }
    if (which == TEST_DENSE) {
        c.n_routed_experts = c.num_experts_per_tok = c.n_shared_experts = 0;
        c.first_k_dense_replace = 2;
    }
    if (which == TEST_GQA_SIGMOID) {
        c.scoring = ML_SCORE_SIGMOID;
        c.correction_bias = 1;
        c.bias_update_rate = 1e-3;
    }
    assert_ok(ml_config_check(&c, "test", &err));
    return c;
}

void test_model_enlarge(ml_model *m, ml_rng *rng)
{
    for (size_t i = 0; i < m->n_weight; i++) {
        ml_weight *w = &m->weight[i];
        float *data = w->data;
        for (int64_t k = 0; k < ml_weight_count(w); k++) {
            if (!w->trained) data[k] = (float)(0.1 * (ml_rng_uniform(rng) - 0.5)); /* the router's bias */
            if (w->kind == ML_PARAM_NORM) data[k] = (float)(0.5 + ml_rng_uniform(rng));
            if (w->kind == ML_PARAM_MATRIX) data[k] *= 1.5f;
            if (w->kind == ML_PARAM_EMBEDDING) data[k] *= 5;
        }
    }
}

ml_model *test_model_round_to_bf16(ml_model *from)
{
    ml_model *m;
    int n_bf16 = 0;
    assert_ok(ml_model_make(&from->config, ML_BF16, false, &m, &err));
    assert_int_equal(m->n_weight, from->n_weight);
    for (size_t i = 0; i < m->n_weight; i++) {
        ml_weight *w = &m->weight[i];
        ml_convert_from_f32(w->dtype, from->weight[i].data, w->data, ml_weight_count(w));
        n_bf16 += w->dtype == ML_BF16;
    }
    assert_true(n_bf16 > 0);
    ml_model_free(from);
    return m;
}

ml_model *test_model_widen(const ml_model *from)
{
    ml_model *m;
    assert_ok(ml_model_make(&from->config, ML_F32, false, &m, &err));
    for (size_t i = 0; i < m->n_weight; i++) {
        const ml_weight *w = &from->weight[i];
        ml_convert_to_f32(w->dtype, w->data, m->weight[i].data, ml_weight_count(w));
    }
    return m;
}

/* ---- the stage ---- */

static ml_status add_sequence(const test_stage *s, uint64_t stream, int64_t index, ml_batch *out, ml_error *error)
{
    int32_t id[256], target[256];
    ml_rng rng = ml_rng_make(s->seed + 1000 * stream, (uint64_t)index);
    int64_t n = s->single ? 1 : s->fixed ? s->seq : 2 + (int64_t)ml_rng_below(&rng, (uint64_t)(s->seq - 1));
    int32_t next = (int32_t)ml_rng_below(&rng, TEST_VOCAB);
    for (int64_t i = 0; i < n; i++) {
        id[i] = next;
        next = (5 * next + 3 + (int32_t)ml_rng_below(&rng, 3)) % TEST_VOCAB;
        target[i] = !s->fixed && ml_rng_below(&rng, 4) == 0 ? -1 : next;
    }
    return ml_batch_add(out, id, target, n, error);
}

static ml_status add_batch(const test_stage *s, uint64_t stream, int64_t first, ml_batch *out, ml_error *error)
{
    ml_batch_clear(out);
    int64_t n = s->single ? s->batch * s->seq : s->batch;
    for (int64_t b = 0; b < n; b++) ML_TRY(add_sequence(s, stream, first + b, out, error));
    return ML_OK;
}

/* The first weight, wherever it lies. */
static float read_first(const ml_model *m)
{
    float value;
    if (m->device)
        assert_ok(ml_device_download(m->device, &value, m->param[0].value, sizeof value, &err));
    else
        value = *m->param[0].value;
    return value;
}

static void write_first(const ml_model *m, float value)
{
    if (m->device)
        assert_ok(ml_device_upload(m->device, m->param[0].value, &value, sizeof value, &err));
    else
        *m->param[0].value = value;
}

static ml_status next(void *self, ml_batch *out, ml_error *error)
{
    test_stage *s = self;
    s->n_call++;
    if (s->spoilt) write_first(s->model, s->saved);
    s->spoilt = s->n_call >= s->bad_from && s->n_call < s->bad_to;
    if (s->spoilt) s->saved = read_first(s->model);
    if (s->spoilt) write_first(s->model, NAN);
    ML_TRY(add_batch(s, 0, s->index, out, error));
    s->index += s->batch;
    return ML_OK;
}

static ml_status eval(void *self, int64_t i, ml_batch *out, ml_error *error)
{
    const test_stage *s = self;
    return add_batch(s, 1, i * s->batch, out, error);
}

static json_t *position(void *self)
{
    return json_pack("{s:I}", "index", (json_int_t)((test_stage *)self)->index);
}

static ml_status restore(void *self, const json_t *j, const char *where, ml_error *error)
{
    return ml_json_int(j, "index", where, &((test_stage *)self)->index, error);
}

ml_stage test_stage_make(test_stage *self)
{
    return (ml_stage){ .name = "test",
                       .self = self,
                       .next = next,
                       .loss = ml_loss_cross_entropy,
                       .eval = eval,
                       .n_eval = self->n_eval,
                       .position = position,
                       .restore = restore };
}

/* ---- runs ---- */

ml_train_config test_train_config(void)
{
    return (ml_train_config){
        .batch = 4,
        .accumulate = 1,
        .seq = 24,
        .clip = 1,
        .seed = 1,
        .guard_patience = 3,
        .save_dtype = ML_F32,
        .schedule = { .kind = ML_SCHEDULE_COSINE, .lr = 1e-2, .warmup = 3, .steps = 20 },
        .optim = ml_optim_default_config(ML_OPTIM_ADAMW),
    };
}

static void remember_line(void *arg, const char *text)
{
    test_run *r = arg;
    size_t n = strlen(r->said);
    snprintf(r->said + n, sizeof r->said - n, "%s\n", text);
}

static void begin(test_run *r, const char *folder, bool resume, const ml_config *model, const ml_train_config *config)
{
    *r = (test_run){ .config = *config };
    snprintf(r->folder, sizeof r->folder, "%s", folder);
    assert_ok(ml_model_make(model, ML_F32, true, &r->model, &err));
    ml_model_init(r->model, 7);
    for (size_t i = 0; resume && i < r->model->n_weight; i++) {
        float *data = r->model->weight[i].data;
        for (int64_t k = 0; k < ml_weight_count(&r->model->weight[i]); k++) data[k] = NAN;
    }
    r->self = (test_stage){ .seed = 3, .batch = config->batch, .seq = config->seq, .n_eval = 2, .model = r->model };
    r->stage = test_stage_make(&r->self);
    ml_train_hooks hooks = { .arg = r, .line = remember_line };
    assert_ok(ml_loop_make(&r->config, r->folder, resume, r->model, &r->stage, NULL, &hooks, &r->loop, &err));
}

void test_run_start(test_run *r, const ml_config *model, const ml_train_config *config)
{
    begin(r, test_make_folder(), false, model, config);
}

void test_run_resume(test_run *r, const char *folder, const ml_config *model, const ml_train_config *config)
{
    char path[ML_PATH_MAX];
    snprintf(path, sizeof path, "%s", folder);
    begin(r, path, true, model, config);
}

void test_run_end(test_run *r, bool keep)
{
    ml_loop_free(r->loop);
    ml_model_free(r->model);
    if (!keep) test_remove_folder(r->folder);
}

ml_train_step test_run_step(test_run *r)
{
    ml_train_step step;
    assert_ok(ml_loop_step(r->loop, &step, &err));
    return step;
}

static void assert_same_moments(const test_run *a, const test_run *b)
{
    ml_optimizer *p = a->loop->optimizer, *q = b->loop->optimizer;
    assert_int_equal(ml_optimizer_n_state(p), ml_optimizer_n_state(q));
    assert_int_equal(ml_optimizer_get_step(p), ml_optimizer_get_step(q));
    for (int64_t i = 0; i < ml_optimizer_n_state(p); i++) {
        ml_optim_state s = ml_optimizer_get_state(p, i);
        size_t n_bytes = (size_t)s.count * sizeof(float);
        float *x = malloc(n_bytes), *y = malloc(n_bytes);
        assert_ok(ml_optimizer_read_state(p, i, 0, s.count, x, &err));
        assert_ok(ml_optimizer_read_state(q, i, 0, s.count, y, &err));
        if (memcmp(x, y, n_bytes)) fail_msg("%s differs", s.name);
        free(x);
        free(y);
    }
}

void test_assert_same_run(const test_run *a, const test_run *b)
{
    assert_ok(ml_model_pull(a->model, &err));
    assert_ok(ml_model_pull(b->model, &err));
    for (size_t i = 0; i < a->model->n_weight; i++) {
        const ml_weight *x = &a->model->weight[i], *y = &b->model->weight[i];
        assert_string_equal(x->name, y->name);
        if (memcmp(x->data, y->data, (size_t)ml_weight_count(x) * sizeof(float))) fail_msg("%s differs", x->name);
    }
    assert_same_moments(a, b);
    const ml_guard *g = &a->loop->guard, *h = &b->loop->guard;
    assert_true(g->mean == h->mean && g->variance == h->variance);
    assert_int_equal(g->n_seen, h->n_seen);
    assert_int_equal(g->n_skipped_in_row, h->n_skipped_in_row);
    assert_int_equal(a->self.index, b->self.index);
    assert_int_equal(a->loop->step, b->loop->step);
    assert_int_equal(a->loop->tokens, b->loop->tokens);
}
