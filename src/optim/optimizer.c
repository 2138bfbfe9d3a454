#include "optim/optimizer.h"

#include "base/alloc.h"
#include "optim/adamw.h"
#include "optim/clip.h"
#include "optim/device_update.h"
#include "optim/muon.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct ml_optimizer {
    ml_optim_config config;
    ml_param *param;
    ml_optim_moments *moments; /* [n_param] */
    int64_t n_param, step;
    ml_optim_state *saved; /* one row for each moment buffer */
    int64_t n_saved;
    ml_muon *muon;         /* its matrices */
    double *block_squares; /* of each block of the parameter that AdamW is working on */
    ml_device *device;     /* NULL: the rest is not used */
    ml_device_update *update;
    void **moment; /* [n_saved] the buffers of `saved` on the device */
    double *sums;  /* [n_param] */
};

ml_optim_memory ml_optim_plan_memory(const ml_optim_config *config, const ml_param *param, int64_t n_param)
{
    int64_t n_state = 0;
    for (int64_t i = 0; i < n_param; i++)
        n_state += ml_param_count(&param[i]) * (ml_optim_is_muon(ml_optim_choose_group(config, param[i].kind)) ? 1 : 2);
    return (ml_optim_memory){ .state_bytes = n_state * (int64_t)sizeof(float),
                              .scratch_bytes = ml_muon_plan_scratch(config, param, n_param) * (int64_t)sizeof(float) };
}

/* ---- creation ---- */

static ml_status make_buffer(ml_optimizer *opt, const ml_param *p, const char *slot, float **out, ml_error *err)
{
    size_t n = (size_t)ml_param_count(p), name_bytes = strlen(p->name) + strlen(slot) + 2;
    float *data = ml_calloc(n, sizeof *data);
    if (!data) return ml_fail_memory(err, n * sizeof *data, p->name);
    *out = data;
    ml_optim_state *row = &opt->saved[opt->n_saved++];
    *row = (ml_optim_state){ .param = p, .data = data, .count = (int64_t)n };
    char *name = ml_alloc(name_bytes);
    if (!name) return ml_fail_memory(err, name_bytes, "a name");
    snprintf(name, name_bytes, "%s.%s", p->name, slot);
    row->name = name;
    if (!opt->device) return ML_OK;
    void **there = &opt->moment[opt->n_saved - 1];
    ML_TRY(ml_device_alloc(opt->device, n * sizeof *data, name, there, err));
    ml_device_zero(opt->device, *there, n * sizeof *data);
    *out = *there;
    return ML_OK;
}

static ml_status make_state(ml_optimizer *opt, ml_error *err)
{
    for (int64_t i = 0; i < opt->n_param; i++) {
        const ml_param *p = &opt->param[i];
        ml_optim_moments *s = &opt->moments[i];
        s->group = ml_optim_choose_group(&opt->config, p->kind);
        if (ml_optim_is_muon(s->group)) {
            ML_TRY(make_buffer(opt, p, "momentum", &s->momentum, err));
        } else {
            ML_TRY(make_buffer(opt, p, "exp_avg", &s->m, err));
            ML_TRY(make_buffer(opt, p, "exp_avg_sq", &s->v, err));
        }
    }
    return ML_OK;
}

static ml_status make_block_squares(ml_optimizer *opt, ml_error *err)
{
    int64_t n = 1;
    for (int64_t i = 0; i < opt->n_param; i++) {
        int64_t blocks = ml_optim_n_block(ml_param_count(&opt->param[i]));
        if (!ml_optim_is_muon(opt->moments[i].group) && blocks > n) n = blocks;
    }
    opt->block_squares = ml_calloc((size_t)n, sizeof *opt->block_squares);
    return opt->block_squares ? ML_OK : ml_fail_memory(err, (size_t)n * sizeof(double), "the optimizer's sums");
}

/* What computes: on this machine Muon's tasks, on a device its scratch. */
static ml_status make_workers(ml_optimizer *opt, ml_error *err)
{
    if (!opt->device) {
        ML_TRY(make_block_squares(opt, err));
        return ml_muon_make(&opt->config, opt->param, opt->moments, opt->n_param, &opt->muon, err);
    }
    opt->sums = ml_calloc((size_t)opt->n_param, sizeof *opt->sums);
    if (!opt->sums) return ml_fail_memory(err, (size_t)opt->n_param * sizeof *opt->sums, "the optimizer's sums");
    return ml_device_update_make(opt->device, &opt->config, opt->param, opt->n_param, &opt->update, err);
}

ml_status ml_optimizer_make(const ml_optim_config *config, const ml_param *param, int64_t n_param, ml_optimizer **out,
                            ml_error *err)
{
    return ml_optimizer_make_on(NULL, config, param, n_param, out, err);
}

ml_status ml_optimizer_make_on(ml_device *device, const ml_optim_config *config, const ml_param *param, int64_t n_param,
                               ml_optimizer **out, ml_error *err)
{
    *out = NULL;
    ml_status status = ML_OK;
    ML_TRY(ml_optim_check_config(config, err));
    ml_optimizer *opt = ml_calloc(1, sizeof *opt);
    if (!opt) return ml_fail_memory(err, sizeof *opt, "the optimizer");
    opt->config = *config;
    opt->device = device;
    opt->n_param = n_param;
    opt->param = ml_calloc((size_t)n_param, sizeof *opt->param);
    opt->moments = ml_calloc((size_t)n_param, sizeof *opt->moments);
    opt->saved = ml_calloc(2 * (size_t)n_param, sizeof *opt->saved);
    opt->moment = device ? ml_calloc(2 * (size_t)n_param, sizeof *opt->moment) : NULL;
    if (!opt->param || !opt->moments || !opt->saved || (device && !opt->moment)) {
        status = ml_fail_memory(err, (size_t)n_param * sizeof *opt->param, "the optimizer's parameter records");
        goto done;
    }
    if (n_param > 0) memcpy(opt->param, param, (size_t)n_param * sizeof *param);
    ML_TRY_GOTO(make_state(opt, err));
    ML_TRY_GOTO(make_workers(opt, err));
done:
    if (status == ML_OK)
        *out = opt;
    else
        ml_optimizer_free(opt);
    return status;
}

void ml_optimizer_free(ml_optimizer *opt)
{
    if (!opt) return;
    for (int64_t i = 0; i < opt->n_saved; i++) {
        ml_free((char *)opt->saved[i].name);
        ml_free(opt->saved[i].data);
    }
    for (int64_t i = 0; opt->moment && i < 2 * opt->n_param; i++) ml_device_release(opt->device, opt->moment[i]);
    ml_device_update_free(opt->update);
    ml_free(opt->moment);
    ml_free(opt->sums);
    ml_muon_free(opt->muon);
    ml_free(opt->block_squares);
    ml_free(opt->saved);
    ml_free(opt->moments);
    ml_free(opt->param);
    ml_free(opt);
}

/* ---- the step ---- */

typedef struct {
    double squares[ML_N_OPTIM_GROUP];
    int64_t n[ML_N_OPTIM_GROUP];
} update_sums;

static void fill_stats(const update_sums *sums, ml_optim_stats *stats)
{
    double all = 0.0;
    *stats = (ml_optim_stats){ .n_all = 0 };
    for (int g = 0; g < ML_N_OPTIM_GROUP; g++) {
        stats->n[g] = sums->n[g];
        stats->n_all += sums->n[g];
        all += sums->squares[g];
        if (sums->n[g] > 0) stats->rms[g] = sqrt(sums->squares[g] / (double)sums->n[g]);
    }
    if (stats->n_all > 0) stats->rms_all = sqrt(all / (double)stats->n_all);
}

static ml_adamw make_rule(const ml_optimizer *opt, int64_t i, double lr, double grad_scale)
{
    const ml_optim_config *c = &opt->config;
    const ml_optim_moments *moments = &opt->moments[i];
    double t = (double)opt->step;
    return (ml_adamw){ .beta1 = (float)c->beta1,
                       .beta2 = (float)c->beta2,
                       .eps = (float)c->eps,
                       .grad_scale = (float)grad_scale,
                       .decay = (float)(1.0 - lr * ml_optim_get_decay(c, moments->group)),
                       .correction = (float)(1.0 / sqrt(1.0 - pow(c->beta2, t))),
                       .unbias = (float)(1.0 / (1.0 - pow(c->beta1, t))),
                       .lr = (float)lr };
}

/* Returns the sum of squares of the update. */
static double update_adamw(ml_optimizer *opt, int64_t i, double lr, double grad_scale)
{
    ml_adamw rule = make_rule(opt, i, lr, grad_scale);
    return ml_adamw_update_param(&rule, &opt->param[i], &opt->moments[i], opt->block_squares);
}

static ml_status update_on_device(ml_optimizer *opt, double lr, double grad_scale, update_sums *sums, ml_error *err)
{
    for (int64_t i = 0; i < opt->n_param; i++) {
        const ml_optim_moments *moments = &opt->moments[i];
        if (ml_optim_is_muon(moments->group)) {
            double decay = 1.0 - lr * ml_optim_get_decay(&opt->config, moments->group);
            double rate = lr * ml_muon_get_factor(&opt->config, &opt->param[i]);
            ml_device_update_muon(opt->update, i, (float)grad_scale, (float)decay, (float)rate, moments);
        } else {
            ml_adamw rule = make_rule(opt, i, lr, grad_scale);
            ml_device_update_adamw(opt->update, i, &rule, moments);
        }
    }
    ML_TRY(ml_device_update_sums(opt->update, opt->sums, err));
    for (int64_t i = 0; i < opt->n_param; i++) {
        ml_optim_group group = opt->moments[i].group;
        double factor = ml_optim_is_muon(group) ? ml_muon_get_factor(&opt->config, &opt->param[i]) : 1;
        sums->n[group] += ml_param_count(&opt->param[i]);
        sums->squares[group] += factor * factor * opt->sums[i];
    }
    return ML_OK;
}

ml_status ml_optimizer_step(ml_optimizer *opt, double lr, double grad_scale, ml_optim_stats *stats, ml_error *err)
{
    if (!isfinite(lr) || !isfinite(grad_scale))
        return ml_fail(err, ML_EINVAL, "optimizer step %lld: learning rate %g and gradient scale %g must be finite",
                       (long long)opt->step, lr, grad_scale);
    update_sums sums = { .n = { 0 } };
    opt->step++;
    if (opt->device) {
        ML_TRY(update_on_device(opt, lr, grad_scale, &sums, err));
        if (stats) fill_stats(&sums, stats);
        return ML_OK;
    }
    ml_muon_update(opt->muon, lr, grad_scale, sums.squares);
    for (int64_t i = 0; i < opt->n_param; i++) {
        ml_optim_group group = opt->moments[i].group;
        sums.n[group] += ml_param_count(&opt->param[i]);
        if (!ml_optim_is_muon(group)) sums.squares[group] += update_adamw(opt, i, lr, grad_scale);
    }
    if (stats) fill_stats(&sums, stats);
    return ML_OK;
}

ml_status ml_optimizer_compute_norm(ml_optimizer *opt, double *norm, ml_error *err)
{
    if (opt->device) return ml_device_update_norm(opt->update, norm, err);
    return ml_clip_compute_norm(opt->param, opt->n_param, norm, err);
}

/* ---- what others read ---- */

ml_status ml_optimizer_pull(ml_optimizer *opt, ml_error *err)
{
    for (int64_t i = 0; opt->device && i < opt->n_saved; i++) {
        const ml_optim_state *s = &opt->saved[i];
        ML_TRY(ml_device_download(opt->device, s->data, opt->moment[i], (size_t)s->count * sizeof *s->data, err));
    }
    return ML_OK;
}

ml_status ml_optimizer_push(ml_optimizer *opt, ml_error *err)
{
    for (int64_t i = 0; opt->device && i < opt->n_saved; i++) {
        const ml_optim_state *s = &opt->saved[i];
        ML_TRY(ml_device_upload(opt->device, opt->moment[i], s->data, (size_t)s->count * sizeof *s->data, err));
    }
    return ML_OK;
}

int64_t ml_optimizer_n_row(const ml_optimizer *opt)
{
    return opt->n_param;
}

ml_optim_row ml_optimizer_get_row(const ml_optimizer *opt, int64_t i)
{
    ml_optim_group group = opt->moments[i].group;
    return (ml_optim_row){ .param = &opt->param[i],
                           .group = group,
                           .lr_factor =
                               ml_optim_is_muon(group) ? ml_muon_get_factor(&opt->config, &opt->param[i]) : 1.0,
                           .weight_decay = ml_optim_get_decay(&opt->config, group) };
}

int64_t ml_optimizer_n_state(const ml_optimizer *opt)
{
    return opt->n_saved;
}

ml_optim_state ml_optimizer_get_state(const ml_optimizer *opt, int64_t i)
{
    return opt->saved[i];
}

int64_t ml_optimizer_get_step(const ml_optimizer *opt)
{
    return opt->step;
}

void ml_optimizer_set_step(ml_optimizer *opt, int64_t step)
{
    opt->step = step;
}
