/* One optimizer step, and evaluation: the computing part of the loop. */
#include "train/loop_internal.h"

#include "base/clock.h"
#include "optim/clip.h"
#include "train/device_step.h"

#include <math.h>
#include <string.h>

typedef struct {
    ml_model_input input;
    ml_tensor *target;
    ml_adapter_use use;
} prepared;

/* Once `p` is where it stays. */
static void attach(ml_loop *t, prepared *p, bool training)
{
    if (!t->config.adapter) return;
    p->use.training = training;
    p->input.adapters = &p->use;
}

/* Describe a batch's arrays as tensors. */
static prepared prepare(ml_loop *t, const ml_batch *b)
{
    ml_ctx *ctx = &t->ctx;
    int64_t n = b->n_token, n_offset = b->n_seq + 1;
    prepared p = { .input = { .recompute = t->config.recompute } };
    p.use = (ml_adapter_use){ .group = &t->group, .n_group = 1 };
    p.input.id = ml_tensor_wrap(ctx, ML_I32, 1, &n, b->id);
    p.input.pos = ml_tensor_wrap(ctx, ML_I32, 1, &n, b->pos);
    p.input.seq = ml_tensor_wrap(ctx, ML_I32, 1, &n_offset, b->seq);
    p.target = ml_tensor_wrap(ctx, ML_I32, 1, &n, b->target);
    return p;
}

void ml_loss_cross_entropy(void *self, const ml_batch *batch, const float *logp, double weight, float *seed,
                           double *sum)
{
    (void)self;
    for (int64_t i = 0; i < batch->n_token; i++) {
        if (batch->target[i] < 0) continue;
        *sum -= (double)logp[i];
        if (seed) seed[i] = (float)-weight;
    }
}

/* What the stage's loss makes of the log-probabilities, added to *sum; going on to train, its gradient becomes the seed
 * of the way back.  On a device it is made there and added to *there, if the stage can; else here, which waits. */
static ml_status take_loss(ml_loop *t, const ml_batch *b, const prepared *p, ml_tensor *logp, double weight,
                           bool training, ml_stage_sums *there, double *sum, ml_error *err)
{
    ml_ctx *ctx = &t->ctx;
    const ml_stage *s = t->stage;
    float *grad = logp && training ? ml_tape_grad(ctx, logp) : NULL;
    ML_TRY(ml_ctx_status(ctx, err));
    if (ctx->device && s->loss == ml_loss_cross_entropy) {
        ml_cuda_cross_entropy(ctx, ml_f32(logp), ml_i32(p->target), b->n_token, weight, grad, &there->loss);
        return ml_ctx_status(ctx, err);
    }
    if (ctx->device && s->there) {
        return s->there->loss(s->self, ctx, b, &p->input, p->target, ml_f32(logp), weight, grad, there, err);
    }
    const float *found = ml_tensor_read(ctx, logp);
    float *seed = grad;
    if (ctx->device && grad) {
        seed = ml_ctx_scratch(ctx, (size_t)b->n_token * sizeof *seed);
        if (seed) memset(seed, 0, (size_t)b->n_token * sizeof *seed);
    }
    ML_TRY(ml_ctx_status(ctx, err));
    t->stage->loss(t->stage->self, b, found, weight, seed, sum);
    if (grad) ml_ctx_write(ctx, grad, seed, b->n_token);
    return ml_ctx_status(ctx, err);
}

static ml_status prepare_loss(ml_loop *t, const ml_batch *b, const prepared *p, bool training, ml_error *err)
{
    const ml_stage *s = t->stage;
    if (!t->there || !s->there || !s->there->prepare) return ML_OK;
    return s->there->prepare(s->self, &t->ctx, b, &p->input, p->target, training, err);
}

/* Forward and backward of one micro-batch of n_micro; adds its loss to *sum, or to the step's report. */
static ml_status micro_step(ml_loop *t, const ml_batch *b, int64_t n_micro, double weight, double *sum, ml_error *err)
{
    ml_ctx *ctx = &t->ctx;
    ml_ctx_reset(ctx);
    ctx->mode = ML_MODE_EXACT;
    prepared p = prepare(t, b);
    attach(t, &p, true);
    p.input.training = true;
    p.input.aux_scale = 1.0f / (float)n_micro;
    p.input.stats = &t->stats;
    ML_TRY(prepare_loss(t, b, &p, true, err));
    ctx->recording = true;
    ml_tensor *hidden = ml_model_forward(ctx, t->model, &p.input);
    ml_tensor *logp = ml_model_logprob(ctx, t->model, hidden, p.target); // [tokens]
    ml_stage_sums *there = t->there ? &ml_device_step_report(t)->step : NULL;
    ML_TRY(take_loss(t, b, &p, logp, weight, true, there, sum, err));
    return ml_tape_backward(ctx, err);
}

/* What the loss of a batch is divided by. */
static int64_t count(const ml_loop *t, const ml_batch *b)
{
    return t->stage->count ? t->stage->count(t->stage->self, b) : b->n_target;
}

/* sums: NULL, or what was summed on the device. */
static size_t get_figures(const ml_loop *t, const ml_stage_sums *sums, ml_stage_figure figure[ML_STAGE_MAX_FIGURES])
{
    return t->stage->figures ? t->stage->figures(t->stage->self, sums, figure) : 0;
}

/* A function of seed, step and micro-step, so that a resumed run drops what it would have dropped. */
static void choose_dropout(ml_loop *t, int64_t i)
{
    if (!t->config.adapter) return;
    t->config.adapter->dropout_seed =
        ml_rng_mix(ml_rng_mix(t->config.seed + 1) + (uint64_t)t->step) + (uint64_t)i * 0x9e3779b97f4a7c15u;
}

void ml_loop_add_losses(const ml_loop *t, ml_train_step *result)
{
    const ml_config *c = &t->model->config;
    double n_moe = (double)(c->num_hidden_layers - c->first_k_dense_replace);
    double per_layer = c->aux_mean && n_moe > 0 ? 1 / n_moe : 1;
    result->aux = t->stats.balance * per_layer / (double)result->n_micro;
    result->z = t->stats.z * per_layer / (double)result->n_micro;
    result->loss = result->ce + c->balance_coef * result->aux + c->z_coef * result->z;
}

/* The micro-steps of one step.  The loss is *sum times *weight; on a device *sum is what was added up here. */
static ml_status forward_backward(ml_loop *t, ml_train_step *result, double *sum, double *weight, ml_error *err)
{
    int64_t n = 0, n_micro = t->config.accumulate * ml_schedule_get_factor(&t->config.schedule, t->step);
    result->n_micro = n_micro;
    for (int64_t i = 0; i < n_micro; i++) {
        ML_TRY(t->stage->next(t->stage->self, &t->batch[i], err));
        n += count(t, &t->batch[i]);
        result->n_token += t->batch[i].n_token;
    }
    t->tokens += result->n_token;
    if (t->config.adapter)
        ml_adapter_zero_grads(t->config.adapter);
    else
        ml_model_zero_grads(t->model);
    ml_router_stats_clear(&t->stats);
    *weight = n ? 1.0 / (double)n : 0;
    *sum = 0;
    for (int64_t i = 0; i < n_micro; i++) {
        choose_dropout(t, i);
        ML_TRY(micro_step(t, &t->batch[i], n_micro, *weight, sum, err));
    }
    if (!t->there || !t->stage->there) result->n_figure = get_figures(t, NULL, result->figure);
    return ML_OK;
}

/* Apply the gradients unless the guard objects. */
static ml_status update(ml_loop *t, ml_train_step *result, ml_guard_verdict *verdict, ml_error *err)
{
    ml_error not_finite = { 0 };
    if (ml_clip_compute_norm(t->param, t->n_param, &result->grad_norm, &not_finite) != ML_OK) {
        result->grad_norm = NAN;
    }
    if (!isfinite(result->loss)) result->grad_norm = NAN;
    *verdict = ml_guard_judge(&t->guard, result->grad_norm);
    result->skipped = *verdict != ML_GUARD_USE;
    result->lr = ml_schedule_get_lr(&t->config.schedule, t->step);
    if (result->skipped) return ML_OK;
    ml_optim_stats optim;
    double factor = ml_clip_get_factor(result->grad_norm, t->config.clip);
    ML_TRY(ml_optimizer_step(t->optimizer, result->lr, factor, &optim, err));
    result->update_rms = optim.rms_all;
    if (t->config.adapter) return ml_adapter_update_norms(t->config.adapter, err); /* and the model stays as it is */
    if (t->model->config.bias_update_rate > 0 && ml_schedule_moves_bias(&t->config.schedule, t->step)) {
        ml_model_update_router_bias(t->model, &t->stats, t->model->config.bias_update_rate);
    }
    return ML_OK;
}

/* After a step whose result is known: a skipped one is told, and a diverging run goes back. */
static ml_status conclude(ml_loop *t, ml_train_step *result, ml_guard_verdict verdict, ml_error *err)
{
    if (result->skipped) {
        ml_loop_say(t, "step %lld: gradient norm %.4g is out of line; the step is skipped", (long long)result->step,
                    result->grad_norm);
    }
    if (verdict != ML_GUARD_ROLL_BACK) return ML_OK;
    if (t->saved_step < 0 || t->n_roll_back++ >= 2) {
        return ml_fail(err, ML_ENUMERIC,
                       "step %lld: training diverges (gradient norm %.4g) and %s: lower optim.lr, "
                       "lengthen optim.warmup, or look at the data",
                       (long long)result->step, result->grad_norm,
                       t->saved_step < 0 ? "there is no checkpoint to go back to" : "going back did not help");
    }
    ML_TRY(ml_device_step_drop(t, err));
    ML_TRY(ml_loop_restore(t, true, err));
    ml_loop_say(t, "went back to step %lld; going on with the data that follows", (long long)t->step);
    result->step = t->step;
    result->tokens = t->tokens;
    return ML_OK;
}

/* On the processor. */
static ml_status step_here(ml_loop *t, ml_train_step *result, ml_error *err)
{
    double start = ml_clock_seconds(), sum, weight;
    *result = (ml_train_step){ .step = t->step + 1 };
    ml_guard_verdict verdict = ML_GUARD_USE;
    ml_alloc_forbid(true);
    ml_status status = forward_backward(t, result, &sum, &weight, err);
    if (status == ML_OK) {
        result->ce = sum * weight;
        ml_loop_add_losses(t, result);
        status = update(t, result, &verdict, err);
    }
    ml_alloc_forbid(false);
    ML_TRY(status);
    result->tokens = t->tokens;
    if (verdict != ML_GUARD_ROLL_BACK) t->step++;
    ML_TRY(conclude(t, result, verdict, err));
    result->seconds = ml_clock_seconds() - start;
    return ML_OK;
}

ml_status ml_loop_queue_step(ml_loop *t, ml_error *err)
{
    double sum, weight;
    ml_train_step result = { .step = t->step + 1, .lr = ml_schedule_get_lr(&t->config.schedule, t->step) };
    if (ml_device_step_count(t) == 0) t->last_seconds = ml_clock_seconds();
    ml_alloc_forbid(true);
    ml_device_step_begin(t);
    ml_status status = forward_backward(t, &result, &sum, &weight, err);
    result.tokens = t->tokens;
    if (status == ML_OK) status = ml_device_step_end(t, &result, sum, weight, err);
    ml_alloc_forbid(false);
    if (status == ML_OK) t->step++;
    return status;
}

ml_status ml_loop_take_step(ml_loop *t, ml_train_step *result, bool *rolled_back, ml_error *err)
{
    ml_guard_verdict verdict;
    ML_TRY(ml_device_step_take(t, result, &verdict, err));
    double now = ml_clock_seconds();
    result->seconds = now - t->last_seconds;
    t->last_seconds = now;
    *rolled_back = verdict == ML_GUARD_ROLL_BACK;
    return conclude(t, result, verdict, err);
}

ml_status ml_loop_step(ml_loop *t, ml_train_step *result, ml_error *err)
{
    bool rolled_back;
    if (!t->there) return step_here(t, result, err);
    ML_TRY(ml_loop_queue_step(t, err));
    return ml_loop_take_step(t, result, &rolled_back, err);
}

ml_status ml_loop_evaluate(ml_loop *t, double *loss, ml_error *err)
{
    double sum = 0;
    ml_stage_sums sums = { 0 }, *there = t->there ? &ml_device_step_report(t)->eval : NULL;
    int64_t n = 0;
    if (there) ml_device_zero(t->config.device, there, sizeof *there);
    for (int64_t i = 0; i < t->stage->n_eval; i++) {
        ml_batch *b = &t->eval_batch;
        ML_TRY(t->stage->eval(t->stage->self, i, b, err));
        ml_ctx_reset(&t->ctx);
        t->ctx.mode = ML_MODE_EXACT;
        prepared p = prepare(t, b);
        attach(t, &p, false);
        ML_TRY(prepare_loss(t, b, &p, false, err));
        ml_tensor *hidden = ml_model_forward(&t->ctx, t->model, &p.input);
        ml_tensor *logp = ml_model_logprob(&t->ctx, t->model, hidden, p.target); // [tokens]
        ML_TRY(take_loss(t, b, &p, logp, 0, false, there, &sum, err));
        n += count(t, b);
    }
    if (there) ML_TRY(ml_device_step_read_evaluation(t, &sums, err));
    sum += sums.loss;
    t->n_eval_figure = get_figures(t, there && t->stage->there ? &sums : NULL, t->eval_figure);
    *loss = n ? sum / (double)n : NAN;
    return ML_OK;
}
