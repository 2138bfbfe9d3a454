/* One optimizer step, and evaluation: the computing part of the loop. */
#include "train/loop_internal.h"

#include "base/clock.h"
#include "optim/clip.h"

#include <math.h>
#include <string.h>

typedef struct {
    ml_model_input input;
    ml_tensor *target;
} prepared;

/* Describe a batch's arrays as tensors. */
static prepared prepare(ml_loop *t, const ml_batch *b)
{
    ml_ctx *ctx = &t->ctx;
    int64_t n = b->n_token, n_offset = b->n_seq + 1;
    prepared p = { .input = { .recompute = t->config.recompute } };
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

/* What the stage's loss makes of the log-probabilities; in training its gradient becomes the seed of the way back. */
static ml_status take_loss(ml_loop *t, const ml_batch *b, ml_tensor *logp, double weight, bool training, double *sum,
                           ml_error *err)
{
    ml_ctx *ctx = &t->ctx;
    const float *found = ml_tensor_read(ctx, logp);
    float *grad = found && training ? ml_tape_grad(ctx, logp) : NULL, *seed = grad;
    if (ctx->device && grad) {
        seed = ml_ctx_scratch(ctx, (size_t)b->n_token * sizeof *seed);
        if (seed) memset(seed, 0, (size_t)b->n_token * sizeof *seed);
    }
    ML_TRY(ml_ctx_status(ctx, err));
    t->stage->loss(t->stage->self, b, found, weight, seed, sum);
    if (grad) ml_ctx_write(ctx, grad, seed, b->n_token);
    return ml_ctx_status(ctx, err);
}

/* Forward and backward of one micro-batch of n_micro; adds its loss to *sum. */
static ml_status micro_step(ml_loop *t, const ml_batch *b, int64_t n_micro, double weight, double *sum, ml_error *err)
{
    ml_ctx *ctx = &t->ctx;
    ml_ctx_reset(ctx);
    ctx->mode = ML_MODE_EXACT;
    prepared p = prepare(t, b);
    p.input.training = true;
    p.input.aux_scale = 1.0f / (float)n_micro;
    p.input.stats = &t->stats;
    ctx->recording = true;
    ml_tensor *hidden = ml_model_forward(ctx, t->model, &p.input);
    ml_tensor *logp = ml_model_logprob(ctx, t->model, hidden, p.target); // [tokens]
    ML_TRY(take_loss(t, b, logp, weight, true, sum, err));
    return ml_tape_backward(ctx, err);
}

/* What the loss of a batch is divided by. */
static int64_t count(const ml_loop *t, const ml_batch *b)
{
    return t->stage->count ? t->stage->count(t->stage->self, b) : b->n_target;
}

static size_t get_figures(const ml_loop *t, ml_stage_figure figure[ML_STAGE_MAX_FIGURES])
{
    return t->stage->figures ? t->stage->figures(t->stage->self, figure) : 0;
}

static ml_status forward_backward(ml_loop *t, ml_train_step *result, ml_error *err)
{
    int64_t n = 0, n_micro = t->config.accumulate * ml_schedule_get_factor(&t->config.schedule, t->step);
    result->n_micro = n_micro;
    for (int64_t i = 0; i < n_micro; i++) {
        ML_TRY(t->stage->next(t->stage->self, &t->batch[i], err));
        n += count(t, &t->batch[i]);
        t->tokens += t->batch[i].n_token;
    }
    ml_model_zero_grads(t->model);
    ml_router_stats_clear(&t->stats);
    double weight = n ? 1.0 / (double)n : 0, sum = 0;
    for (int64_t i = 0; i < n_micro; i++) ML_TRY(micro_step(t, &t->batch[i], n_micro, weight, &sum, err));
    result->n_figure = get_figures(t, result->figure);

    const ml_config *c = &t->model->config;
    double n_moe = (double)(c->num_hidden_layers - c->first_k_dense_replace);
    double per_layer = c->aux_mean && n_moe > 0 ? 1 / n_moe : 1;
    result->ce = sum * weight;
    result->aux = t->stats.balance * per_layer / (double)n_micro;
    result->z = t->stats.z * per_layer / (double)n_micro;
    result->loss = result->ce + c->balance_coef * result->aux + c->z_coef * result->z;
    return ML_OK;
}

/* Apply the gradients unless the guard objects. */
static ml_status update(ml_loop *t, ml_train_step *result, ml_guard_verdict *verdict, ml_error *err)
{
    ml_error not_finite = { 0 };
    ml_status status = ml_optimizer_compute_norm(t->optimizer, &result->grad_norm, &not_finite);
    if (status != ML_OK && status != ML_ENUMERIC) {
        *err = not_finite;
        return status;
    }
    if (status != ML_OK) result->grad_norm = NAN;
    if (!isfinite(result->loss)) result->grad_norm = NAN;
    *verdict = ml_guard_judge(&t->guard, result->grad_norm);
    result->skipped = *verdict != ML_GUARD_USE;
    result->lr = ml_schedule_get_lr(&t->config.schedule, t->step);
    if (result->skipped) return ML_OK;
    ml_optim_stats optim;
    double factor = ml_clip_get_factor(result->grad_norm, t->config.clip);
    ML_TRY(ml_optimizer_step(t->optimizer, result->lr, factor, &optim, err));
    result->update_rms = optim.rms_all;
    if (t->model->config.bias_update_rate > 0 && ml_schedule_moves_bias(&t->config.schedule, t->step)) {
        return ml_model_update_router_bias(t->model, &t->stats, t->model->config.bias_update_rate, err);
    }
    return ML_OK;
}

ml_status ml_loop_step(ml_loop *t, ml_train_step *result, ml_error *err)
{
    double start = ml_clock_seconds();
    *result = (ml_train_step){ 0 };
    ml_guard_verdict verdict = ML_GUARD_USE;
    ml_alloc_forbid(true);
    ml_status status = forward_backward(t, result, err);
    if (status == ML_OK) status = update(t, result, &verdict, err);
    ml_alloc_forbid(false);
    ML_TRY(status);
    if (result->skipped) {
        ml_loop_say(t, "step %lld: gradient norm %.4g is out of line; the step is skipped", (long long)t->step + 1,
                    result->grad_norm);
    }
    if (verdict == ML_GUARD_ROLL_BACK) {
        if (t->saved_step < 0 || t->n_roll_back++ >= 2) {
            return ml_fail(err, ML_ENUMERIC,
                           "step %lld: training diverges (gradient norm %.4g) and %s: lower optim.lr, "
                           "lengthen optim.warmup, or look at the data",
                           (long long)t->step + 1, result->grad_norm,
                           t->saved_step < 0 ? "there is no checkpoint to go back to" : "going back did not help");
        }
        ML_TRY(ml_loop_restore(t, true, err));
        ml_loop_say(t, "went back to step %lld; going on with the data that follows", (long long)t->step);
        result->step = t->step;
        result->tokens = t->tokens;
        result->seconds = ml_clock_seconds() - start;
        return ML_OK;
    }
    t->step++;
    result->step = t->step;
    result->tokens = t->tokens;
    result->seconds = ml_clock_seconds() - start;
    return ML_OK;
}

ml_status ml_loop_evaluate(ml_loop *t, double *loss, ml_error *err)
{
    double sum = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < t->stage->n_eval; i++) {
        ml_batch *b = &t->eval_batch;
        ML_TRY(t->stage->eval(t->stage->self, i, b, err));
        ml_ctx_reset(&t->ctx);
        t->ctx.mode = ML_MODE_EXACT;
        prepared p = prepare(t, b);
        ml_tensor *hidden = ml_model_forward(&t->ctx, t->model, &p.input);
        ml_tensor *logp = ml_model_logprob(&t->ctx, t->model, hidden, p.target); // [tokens]
        ML_TRY(take_loss(t, b, logp, 0, false, &sum, err));
        n += count(t, b);
    }
    t->n_eval_figure = get_figures(t, t->eval_figure);
    *loss = n ? sum / (double)n : NAN;
    return ML_OK;
}
