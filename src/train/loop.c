/* When things happen: the loop around steps, and the set-up before it. */
#include "train/loop_internal.h"

#include "base/clock.h"
#include "base/memory.h"
#include "format/checkpoint.h"
#include "ops/cpu/gemm.h"
#include "train/device_step.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void ml_loop_say(const ml_loop *t, const char *format, ...)
{
    if (!t->hooks.line) return;
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    t->hooks.line(t->hooks.arg, text);
}

/* ---- set-up ---- */

enum { MAX_ACCUMULATE = 1000000 };

/* This machine's rate of fp32 matrix products, flop/s: what mfu is a share of. */
static double measure_peak(void)
{
    enum { N = 512, REPEAT = 4 };
    float *memory = ml_calloc(3 * N * N, sizeof *memory);
    if (!memory) return 0;
    ml_gemm g = { .m = N,
                  .n = N,
                  .k = N,
                  .a = { .data = memory, .stride = N },
                  .b = { .data = memory + N * N, .stride = N },
                  .c = memory + 2 * N * N,
                  .c_stride = N };
    double best = INFINITY, begin = ml_clock_seconds();
    for (int i = 0; i < REPEAT && (i < 2 || ml_clock_seconds() - begin < 0.1); i++) {
        double start = ml_clock_seconds();
        ml_gemm_run(&g);
        best = fmin(best, ml_clock_seconds() - start);
    }
    ml_free(memory);
    return 2.0 * N * N * N / best;
}

/* How many times train.accumulate the largest step has micro-steps. */
static int64_t largest_factor(const ml_train_config *c)
{
    int64_t most = ml_schedule_get_factor(&c->schedule, 0);
    for (int i = 0; i < c->schedule.n_ramp; i++) {
        const ml_batch_ramp *ramp = &c->schedule.ramp[i];
        if (ramp->step < c->schedule.steps && ramp->factor > most) most = ramp->factor;
    }
    return most;
}

static ml_train_plan plan_device(const ml_loop *t)
{
    const ml_train_config *c = &t->config;
    ml_device_plan_choice choice = { .precision = c->precision, .placing = c->placing, .moments = c->moments };
    int64_t tokens = c->batch * c->seq;
    if (!c->adapter) {
        return ml_train_make_device_plan(&t->model->config, tokens, &c->optim, c->recompute, &choice);
    }
    ml_adapter_facts facts = ml_train_get_adapter_facts(c->adapter);
    return ml_train_make_adapter_device_plan(&t->model->config, tokens, &c->optim, c->recompute, &choice, &facts);
}

/* What is trained goes to the device, and a model beside it. */
static ml_status place(ml_loop *t, ml_error *err)
{
    const ml_train_config *c = &t->config;
    if (!c->adapter) return ml_model_place(t->model, c->device, c->placing, err);
    if (!t->model->device) ML_TRY(ml_model_upload(t->model, c->device, 0, err));
    return ml_adapter_place(c->adapter, c->device, err);
}

/* On a device memory is taken at once: what the plan says, and up to twice that where there is room. */
static ml_status make_device_memory(ml_loop *t, ml_error *err)
{
    const int64_t least_left = (int64_t)256 << 20;
    const ml_train_config *c = &t->config;
    ml_train_plan plan = plan_device(t);
    ML_TRY(place(t, err));
    t->ctx.device = c->device; /* the optimizer takes its share before the rest goes to ctx */
    ML_TRY(ml_optimizer_make_on(&t->ctx, &c->optim, &c->moments, t->param, t->n_param, &t->optimizer, err));
    int64_t left = ml_device_get_info(c->device).free_bytes - plan.activation_gradients - least_left;
    if (t->tokenizer) left -= ml_train_plan_samples(c, &t->model->config);
    int64_t act = plan.activations;
    if (left > act) act = left < 2 * act ? left : 2 * act;
    return ml_ctx_init_on(&t->ctx, c->device, (size_t)act, (size_t)plan.activation_gradients, err);
}

static ml_status make_processor_memory(ml_loop *t, ml_error *err)
{
    const ml_train_config *c = &t->config;
    int64_t tokens = c->batch * c->seq;
    ml_train_plan plan = ml_train_make_plan(&t->model->config, tokens, c->optim.name == ML_OPTIM_MUON, c->recompute);
    if (c->adapter)
        ml_train_plan_adapter(&plan, &t->model->config, ml_adapter_count(c->adapter), 0, c->adapter->dora, tokens,
                              c->recompute);
    /* Address space only: twice the bound leaves room for descriptions and scratch without costing memory. */
    ML_TRY(ml_ctx_init(&t->ctx, (size_t)(2 * plan.activations) + ((size_t)1 << 28),
                       (size_t)(2 * plan.activation_gradients) + ((size_t)1 << 26), err));
    return ml_optimizer_make(&c->optim, t->param, t->n_param, &t->optimizer, err);
}

static ml_status make_memory(ml_loop *t, ml_error *err)
{
    const ml_train_config *c = &t->config;
    int64_t tokens = c->batch * c->seq;
    ML_TRY(c->device ? make_device_memory(t, err) : make_processor_memory(t, err));
    t->ctx.precision = c->precision;
    ML_TRY(ml_router_stats_make(c->device, &t->model->config, &t->stats, err));
    if (c->device) ML_TRY(ml_device_step_make(t, err));
    t->n_batch = c->accumulate * largest_factor(c);
    t->batch = ml_calloc((size_t)t->n_batch, sizeof *t->batch);
    if (!t->batch) return ml_fail_memory(err, (size_t)t->n_batch * sizeof *t->batch, "batches");
    for (int64_t i = 0; i < t->n_batch; i++) ML_TRY(ml_batch_init(&t->batch[i], tokens, tokens, err));
    return ml_batch_init(&t->eval_batch, tokens, tokens, err);
}

ml_status ml_loop_check_config(const ml_train_config *c, const ml_config *model, ml_error *err)
{
    if (c->batch < 1 || c->accumulate < 1 || c->seq < 1) {
        return ml_fail(err, ML_EINVAL, "train.batch, train.accumulate and train.seq must be at least 1");
    }
    if (c->seq > model->max_position_embeddings) {
        return ml_fail(err, ML_EINVAL, "train.seq %lld is longer than the model's max_position_embeddings %lld",
                       (long long)c->seq, (long long)model->max_position_embeddings);
    }
    ML_TRY(ml_schedule_check(&c->schedule, err));
    if (c->accumulate <= MAX_ACCUMULATE / largest_factor(c)) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "train.accumulate %lld, and %lld times as many by train.ramp: expected at most %d micro-steps in a "
                   "step; use a larger train.batch",
                   (long long)c->accumulate, (long long)largest_factor(c), MAX_ACCUMULATE);
}

/* A damaged checkpoint counts: a new run must not begin over it. */
static ml_status check_unused(const char *folder, ml_error *err)
{
    char latest[ML_PATH_MAX];
    int64_t *steps;
    size_t n_step;
    ML_TRY(ml_path_join(latest, folder, "latest", err));
    ML_TRY(ml_run_list(folder, &steps, &n_step, err));
    ml_free(steps);
    if (n_step == 0 && !ml_path_exists(latest)) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s already holds a run: give --resume to continue it, or another --run", folder);
}

ml_status ml_loop_check_folder(const char *folder, bool resume, ml_error *err)
{
    char path[ML_PATH_MAX];
    bool exists = ml_path_exists(folder);
    if (!resume) return exists ? check_unused(folder, err) : ML_OK;
    if (!exists) return ml_fail(err, ML_EINVAL, "%s: there is no such run: start it without --resume", folder);
    ml_status status = ml_run_find(folder, ML_RUN_LATEST, path, NULL, err);
    if (status != ML_EINVAL) return status;
    return ml_fail(err, ML_EINVAL, "%s holds no complete checkpoint to resume from: start it without --resume", folder);
}

static ml_status open_run(ml_loop *t, const char *folder, bool resume, ml_error *err)
{
    ML_TRY(ml_run_open(&t->run, folder, err));
    ML_TRY(ml_loop_check_folder(folder, resume, err));
    if (resume) {
        ML_TRY(ml_loop_restore(t, false, err));
        ml_loop_say(t, "RESUMING %s from step %lld", folder, (long long)t->step);
    }
    return ml_metrics_open(&t->metrics, folder, t->step, err);
}

ml_status ml_loop_make(const ml_train_config *config, const char *run_folder, bool resume, ml_model *model,
                       const ml_stage *stage, const ml_tokenizer *tokenizer, const ml_train_hooks *hooks, ml_loop **out,
                       ml_error *err)
{
    *out = NULL;
    ML_TRY(ml_loop_check_config(config, &model->config, err));
    ml_loop *t = ml_calloc(1, sizeof *t);
    if (!t) return ml_fail_memory(err, sizeof *t, "a training loop");
    t->config = *config;
    t->model = model;
    t->param = config->adapter ? config->adapter->param : model->param;
    t->n_param = (int64_t)(config->adapter ? config->adapter->n_param : model->n_param);
    t->group.adapter = config->adapter;
    t->stage = stage;
    t->tokenizer = tokenizer;
    if (hooks) t->hooks = *hooks;
    t->best_loss = INFINITY;
    t->saved_step = -1;
    t->guard = (ml_guard){ .deviations = config->guard_deviations, .patience = config->guard_patience };
    ml_status status = make_memory(t, err);
    if (status == ML_OK) status = open_run(t, run_folder, resume, err);
    if (status != ML_OK) {
        ml_loop_free(t);
        return status;
    }
    *out = t;
    return ML_OK;
}

void ml_loop_free(ml_loop *t)
{
    if (!t) return;
    ml_metrics_close(t->metrics);
    ml_run_close(t->run);
    ml_device_step_free(t->there);
    ml_optimizer_free(t->optimizer);
    ml_model_leave_place(t->model);
    if (t->config.adapter) ml_adapter_leave_place(t->config.adapter);
    ml_ctx_free(&t->ctx);
    ml_router_stats_free(&t->stats);
    for (int64_t i = 0; t->batch && i < t->n_batch; i++) ml_batch_free(&t->batch[i]);
    ml_free(t->batch);
    ml_batch_free(&t->eval_batch);
    ml_free(t);
}

void ml_loop_set_progress(ml_loop *t, ml_progress *progress)
{
    t->progress = progress;
    ml_progress_update(progress, (double)t->step, NULL);
}

/* ---- the log ---- */

enum { MAX_LOGGED_LAYER = 512 };

/* Load of the busiest expert over the mean, and mean entropy, per expert layer. */
static int summarise_routing(const ml_loop *t, float *max_load, float *entropy)
{
    const ml_router_stats *s = &t->stats;
    int n = 0;
    for (int64_t i = 0; i < s->n_layer && n < MAX_LOGGED_LAYER; i++) {
        if (!ml_config_layer_is_moe(&t->model->config, i)) continue;
        const int64_t *count = s->count + i * s->n_expert;
        int64_t total = 0, largest = 0;
        for (int64_t e = 0; e < s->n_expert; e++) {
            total += count[e];
            if (count[e] > largest) largest = count[e];
        }
        max_load[n] = total ? (float)((double)largest * (double)s->n_expert / (double)total) : 0;
        entropy[n] = s->n_token ? (float)(s->entropy[i] / (double)s->n_token) : 0;
        n++;
    }
    return n;
}

/* The stage's numbers as the log takes them. */
static size_t to_extra(const ml_stage_figure *figure, size_t n, ml_metrics_extra *extra)
{
    for (size_t i = 0; i < n; i++) extra[i] = (ml_metrics_extra){ figure[i].name, figure[i].value };
    return n;
}

static ml_status log_step(ml_loop *t, const ml_train_step *r, ml_error *err)
{
    float max_load[MAX_LOGGED_LAYER], entropy[MAX_LOGGED_LAYER];
    int n_moe = summarise_routing(t, max_load, entropy);
    double tps = (double)r->n_token / r->seconds;
    double flops = 6.0 * (double)ml_model_count(&t->model->config).active * tps;
    ml_metrics_extra extra[ML_STAGE_MAX_FIGURES + 1];
    size_t n_extra = to_extra(r->figure, r->n_figure, extra);
    if (r->skipped) extra[n_extra++] = (ml_metrics_extra){ "skipped", 1 };
    ml_metrics_step s = { .step = r->step,
                          .tokens = r->tokens,
                          .loss = r->loss,
                          .ce = r->ce,
                          .aux = r->aux,
                          .z = r->z,
                          .lr = r->lr,
                          .grad_norm = r->grad_norm,
                          .update_rms = r->update_rms,
                          .n_moe_layer = n_moe,
                          .max_load = max_load,
                          .router_entropy = entropy,
                          .tps = tps,
                          .mfu = t->peak_flops > 0 ? flops / t->peak_flops : 0,
                          .mem_mb = (double)ml_memory_resident() / 1e6,
                          .seconds = r->seconds,
                          .extra = extra,
                          .n_extra = n_extra };
    ML_TRY(ml_metrics_write_step(t->metrics, &s, err));
    char note[96];
    snprintf(note, sizeof note, "loss %.4f  %.0f tokens/s", r->ce, tps);
    if (t->hooks.step) t->hooks.step(t->hooks.arg, r, tps);
    ml_progress_update(t->progress, (double)t->step, note);
    return ML_OK;
}

/* ---- the loop ---- */

static bool is_due(int64_t every, int64_t step)
{
    return every > 0 && step % every == 0;
}

static void say_evaluation(const ml_loop *t, double loss)
{
    char figures[256] = "";
    for (size_t i = 0, n = 0; i < t->n_eval_figure && n < sizeof figures; i++, n = strlen(figures)) {
        snprintf(figures + n, sizeof figures - n, ", %s %.4f", t->eval_figure[i].name, t->eval_figure[i].value);
    }
    ml_loop_say(t, "step %lld: validation loss %.4f%s%s", (long long)t->step, loss, figures,
                loss < t->best_loss ? " (best so far)" : "");
}

static ml_status evaluate_and_rank(ml_loop *t, bool log, ml_error *err)
{
    double loss;
    ml_metrics_extra extra[ML_STAGE_MAX_FIGURES];
    ML_TRY(ml_loop_evaluate(t, &loss, err));
    if (log) {
        size_t n_extra = to_extra(t->eval_figure, t->n_eval_figure, extra);
        ML_TRY(ml_metrics_write_eval(t->metrics, t->step, loss, extra, n_extra, err));
        say_evaluation(t, loss);
        if (t->hooks.eval) t->hooks.eval(t->hooks.arg, t->step, loss);
    }
    t->n_not_better++;
    if (!(loss < t->best_loss)) return ML_OK;
    t->best_loss = loss;
    t->n_not_better = 0;
    return ml_run_set(t->run, ML_RUN_BEST, t->step, err);
}

/* Save before evaluating: a checkpoint exists whatever happens in the evaluation. */
static ml_status after_step(ml_loop *t, bool stopping, ml_error *err)
{
    bool last = t->step >= t->config.schedule.steps;
    bool evaluate = t->stage->n_eval > 0 && (is_due(t->config.eval_every, t->step) || last);
    if (stopping || last || evaluate || is_due(t->config.save_every, t->step)) ML_TRY(ml_loop_save(t, err));
    if (evaluate && !stopping) ML_TRY(evaluate_and_rank(t, true, err));
    if (is_due(t->config.sample_every, t->step) && !stopping) ML_TRY(ml_loop_write_samples(t, err));
    return ML_OK;
}

/* The steps that are abandoned leave the log, as they do when a run is resumed. */
static ml_status reopen_log(ml_loop *t, ml_error *err)
{
    ml_metrics_close(t->metrics);
    t->metrics = NULL;
    return ml_metrics_open(&t->metrics, ml_run_folder(t->run), t->step, err);
}

/* The checkpoint that a run goes on from was written before the evaluation that belongs to it: that of a multiple of
 * eval.every, or of what was or is the last step. */
static ml_status evaluate_resumed(ml_loop *t, ml_error *err)
{
    bool is_logged = ml_metrics_has_eval(t->metrics);
    bool last = t->step >= t->config.schedule.steps;
    if (t->step == 0 || t->stage->n_eval == 0) return ML_OK;
    if (!is_logged && !last && !is_due(t->config.eval_every, t->step)) return ML_OK;
    return evaluate_and_rank(t, !is_logged, err);
}

/* What a tuning run begins with.  No checkpoint of it exists, so it cannot be the best one. */
static ml_status evaluate_start(ml_loop *t, ml_error *err)
{
    double loss;
    ml_metrics_extra extra[ML_STAGE_MAX_FIGURES];
    if (!t->stage->is_tuning || t->step > 0 || t->stage->n_eval == 0 || t->config.eval_every == 0) return ML_OK;
    ML_TRY(ml_loop_evaluate(t, &loss, err));
    size_t n_extra = to_extra(t->eval_figure, t->n_eval_figure, extra);
    ML_TRY(ml_metrics_write_eval(t->metrics, 0, loss, extra, n_extra, err));
    ml_loop_say(t, "before the first step: validation loss %.4f", loss);
    return ML_OK;
}

/* Early stopping. */
static bool is_out_of_patience(const ml_loop *t)
{
    if (t->config.eval_patience == 0 || t->n_not_better < t->config.eval_patience) return false;
    ml_loop_say(t, "step %lld: %lld evaluations in a row were no better than %.4f: this is the end", (long long)t->step,
                (long long)t->n_not_better, t->best_loss);
    return true;
}

/* Will after_step do anything after the step that comes to an end now? */
static bool is_anything_due(const ml_loop *t)
{
    const ml_train_config *c = &t->config;
    return t->step >= c->schedule.steps || is_due(c->save_every, t->step) || is_due(c->sample_every, t->step) ||
           (t->stage->n_eval > 0 && is_due(c->eval_every, t->step));
}

/* Log the steps that a device has done, but for the newest `ahead`. */
static ml_status settle(ml_loop *t, int ahead, bool *rolled_back, ml_error *err)
{
    *rolled_back = false;
    while (ml_device_step_count(t) > ahead) {
        ml_train_step r;
        ML_TRY(ml_loop_take_step(t, &r, rolled_back, err));
        if (*rolled_back) return reopen_log(t, err);
        ML_TRY(log_step(t, &r, err));
    }
    return ML_OK;
}

/* One step more, logged at once or, on a device, when the next one is queued. */
static ml_status advance(ml_loop *t, bool *rolled_back, ml_error *err)
{
    if (t->there) {
        ML_TRY(ml_loop_queue_step(t, err));
        return settle(t, is_anything_due(t) ? 0 : 1, rolled_back, err);
    }
    ml_train_step r;
    int64_t before = t->step;
    ML_TRY(ml_loop_step(t, &r, err));
    *rolled_back = t->step <= before;
    return *rolled_back ? reopen_log(t, err) : log_step(t, &r, err);
}

ml_status ml_loop_run(ml_loop *t, ml_error *err)
{
    t->peak_flops = t->config.device ? 0 : measure_peak(); /* of the processor's products only */
    ML_TRY(evaluate_start(t, err));
    ML_TRY(evaluate_resumed(t, err));
    while (t->step < t->config.schedule.steps && !is_out_of_patience(t)) {
        bool rolled_back;
        ML_TRY(advance(t, &rolled_back, err));
        if (rolled_back) continue;
        bool stopping = ml_progress_stopped(t->progress) && t->step < t->config.schedule.steps;
        if (stopping) ML_TRY(settle(t, 0, &rolled_back, err));
        if (rolled_back) continue;
        ML_TRY(after_step(t, stopping, err));
        if (stopping) return ml_fail(err, ML_ECANCEL, "stopped after step %lld", (long long)t->step);
    }
    return ML_OK;
}

int64_t ml_loop_steps_done(const ml_loop *t)
{
    return t->step;
}

int64_t ml_loop_tokens_done(const ml_loop *t)
{
    return t->tokens;
}

double ml_loop_best_loss(const ml_loop *t)
{
    return t->best_loss;
}

const ml_optimizer *ml_loop_optimizer(const ml_loop *t)
{
    return t->optimizer;
}
