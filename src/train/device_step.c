#include "train/device_step.h"

#include "model/cuda/routing.h"

#include <string.h>

enum { MAX_AHEAD = 2 };

/* One step that is under way. */
typedef struct {
    ml_device_event *event;
    char *pinned; /* report | control | squares | statistics of routing */
    ml_train_step result;
    double weight;
    int64_t n_token, n_pass; /* of the statistics */
} pending;

struct ml_device_steps {
    ml_device *device;
    ml_step_report *report; /* in device memory */
    pending step[MAX_AHEAD];
    int first, n; /* step[first], ... are under way, oldest first */
};

/* Offsets in `pinned`. */
enum {
    AT_CONTROL = (sizeof(ml_step_report) + 63) / 64 * 64,
    AT_SQUARES = AT_CONTROL + (sizeof(ml_update_control) + 63) / 64 * 64,
    AT_STATS = AT_SQUARES + (ML_N_OPTIM_GROUP * sizeof(double) + 63) / 64 * 64
};

static ml_status make_pending(ml_loop *t, pending *p, ml_error *err)
{
    void *pinned;
    ml_device *device = t->config.device;
    ML_TRY(ml_device_event_make(device, &p->event, err));
    ML_TRY(
        ml_device_alloc_pinned(device, AT_STATS + ml_router_stats_bytes(&t->stats), "a step's report", &pinned, err));
    p->pinned = pinned;
    return ML_OK;
}

ml_status ml_device_step_make(ml_loop *t, ml_error *err)
{
    ml_device_steps *s = ml_calloc(1, sizeof *s);
    void *report;
    if (!s) return ml_fail_memory(err, sizeof *s, "steps on a device");
    t->there = s;
    s->device = t->config.device;
    ML_TRY(ml_device_alloc(s->device, sizeof *s->report, "a step's report", &report, err));
    s->report = report;
    ml_device_zero(s->device, s->report, sizeof *s->report);
    for (int i = 0; i < MAX_AHEAD; i++) ML_TRY(make_pending(t, &s->step[i], err));
    return ml_device_step_push_guard(t, err);
}

void ml_device_step_free(ml_device_steps *s)
{
    if (!s) return;
    ml_error ignored; /* a lost device frees as well */
    (void)ml_device_wait(s->device, &ignored);
    for (int i = 0; i < MAX_AHEAD; i++) {
        ml_device_event_free(s->step[i].event);
        ml_device_release_pinned(s->device, s->step[i].pinned);
    }
    ml_device_release(s->device, s->report);
    ml_free(s);
}

ml_step_report *ml_device_step_report(ml_loop *t)
{
    return t->there->report;
}

ml_status ml_device_step_push_guard(ml_loop *t, ml_error *err)
{
    ml_device_steps *s = t->there;
    return ml_device_upload(s->device, &s->report->guard, &t->guard, sizeof t->guard, err);
}

void ml_device_step_begin(ml_loop *t)
{
    ml_device_zero(t->there->device, &t->there->report->step, sizeof t->there->report->step);
    ml_optimizer_prefetch(t->optimizer);
}

ml_status ml_device_step_end(ml_loop *t, const ml_train_step *result, double host_sum, double weight, ml_error *err)
{
    ml_device_steps *s = t->there;
    pending *p = &s->step[(s->first + s->n) % MAX_AHEAD];
    ml_update_control *control = ml_optimizer_get_control(t->optimizer);
    const ml_optim_config *c = &t->config.optim;
    ml_judge_rule rule = { .clip = t->config.clip, .beta1 = c->beta1, .beta2 = c->beta2 };
    const double *squares;
    *p = (pending){ .event = p->event,
                    .pinned = p->pinned,
                    .result = *result,
                    .weight = weight,
                    .n_token = t->stats.n_token,
                    .n_pass = t->stats.n_pass };
    if (host_sum != 0) { /* the guard looks at the loss too */
        ML_TRY(ml_device_upload(s->device, &s->report->step.loss, &host_sum, sizeof host_sum, err));
    }
    ml_ctx_reset(&t->ctx); /* the optimizer's scratch */
    ml_cuda_judge(s->device, ml_optimizer_queue_norm(t->optimizer), t->stats.there, &rule, s->report, control);
    ML_TRY(ml_optimizer_queue_step(t->optimizer, result->lr, &squares, err));
    if (t->config.adapter) (void)ml_adapter_queue_norms(&t->ctx, t->config.adapter); /* a failure is the context's */
    ML_TRY(ml_ctx_status(&t->ctx, err));
    double rate = t->config.adapter ? 0 : t->model->config.bias_update_rate; /* beside an adapter the model stays */
    if (rate > 0 && ml_schedule_moves_bias(&t->config.schedule, result->step - 1)) {
        ml_cuda_update_router_bias(t->model, &t->stats, rate, &control->use);
    }
    ml_device_queue_read(s->device, p->pinned, s->report, sizeof *s->report);
    ml_device_queue_read(s->device, p->pinned + AT_CONTROL, control, sizeof *control);
    ml_device_queue_read(s->device, p->pinned + AT_SQUARES, squares, ML_N_OPTIM_GROUP * sizeof *squares);
    ml_device_queue_read(s->device, p->pinned + AT_STATS, t->stats.there, ml_router_stats_bytes(&t->stats));
    ml_device_event_record(p->event);
    s->n++;
    return ML_OK;
}

int ml_device_step_count(const ml_loop *t)
{
    return t->there ? t->there->n : 0;
}

ml_status ml_device_step_take(ml_loop *t, ml_train_step *result, ml_guard_verdict *verdict, ml_error *err)
{
    ml_device_steps *s = t->there;
    pending *p = &s->step[s->first];
    ml_step_report report;
    ml_update_control control;
    double squares[ML_N_OPTIM_GROUP];
    s->first = (s->first + 1) % MAX_AHEAD;
    s->n--;
    ML_TRY(ml_device_event_wait(p->event, err));
    memcpy(&report, p->pinned, sizeof report);
    memcpy(&control, p->pinned + AT_CONTROL, sizeof control);
    memcpy(squares, p->pinned + AT_SQUARES, sizeof squares);
    ml_router_stats_take(&t->stats, p->pinned + AT_STATS);
    t->stats.n_token = p->n_token;
    t->stats.n_pass = p->n_pass;
    t->guard = report.guard;
    ml_optimizer_take_step(t->optimizer, control.step);
    *result = p->result;
    *verdict = (ml_guard_verdict)report.verdict;
    result->ce = report.step.loss * p->weight;
    if (t->stage->there) result->n_figure = t->stage->figures(t->stage->self, &report.step, result->figure);
    ml_loop_add_losses(t, result);
    result->grad_norm = report.norm;
    result->skipped = *verdict != ML_GUARD_USE;
    if (!result->skipped) result->update_rms = ml_optimizer_get_stats(t->optimizer, squares).rms_all;
    return ML_OK;
}

ml_status ml_device_step_drop(ml_loop *t, ml_error *err)
{
    if (!t->there) return ML_OK;
    t->there->n = 0;
    return ml_device_wait(t->there->device, err);
}

ml_status ml_device_step_read_evaluation(ml_loop *t, ml_stage_sums *sums, ml_error *err)
{
    ml_device_steps *s = t->there;
    return ml_device_download(s->device, sums, &s->report->eval, sizeof *sums, err);
}
