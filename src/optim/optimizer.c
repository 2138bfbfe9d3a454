#include "optim/optimizer.h"

#include "base/alloc.h"
#include "optim/adamw.h"
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
    ml_muon *muon;           /* its matrices */
    double *block_squares;   /* of each block of the parameter that AdamW is working on */
    ml_device *device;       /* NULL: this machine's processor; else: */
    ml_device_update *there; /* what computes, and has the moments */
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
    float *data = opt->device ? NULL : ml_calloc(n, sizeof *data);
    if (!data && !opt->device) return ml_fail_memory(err, n * sizeof *data, p->name);
    *out = data;
    ml_optim_state *row = &opt->saved[opt->n_saved++];
    *row = (ml_optim_state){ .param = p, .data = data, .count = (int64_t)n };
    char *name = ml_alloc(name_bytes);
    if (!name) return ml_fail_memory(err, name_bytes, "a name");
    snprintf(name, name_bytes, "%s.%s", p->name, slot);
    row->name = name;
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

/* What computes: Muon's tasks and AdamW's sums here, or all of it on a device. */
static ml_status make_workers(ml_optimizer *opt, ml_ctx *ctx, const ml_optim_storage *storage, ml_error *err)
{
    if (ctx) return ml_device_update_make(ctx, &opt->config, storage, opt->param, opt->n_param, &opt->there, err);
    ML_TRY(make_block_squares(opt, err));
    return ml_muon_make(&opt->config, opt->param, opt->moments, opt->n_param, &opt->muon, err);
}

static ml_status make(ml_ctx *ctx, const ml_optim_config *config, const ml_optim_storage *storage,
                      const ml_param *param, int64_t n_param, ml_optimizer **out, ml_error *err)
{
    *out = NULL;
    ml_status status = ML_OK;
    ML_TRY(ml_optim_check_config(config, err));
    ml_optimizer *opt = ml_calloc(1, sizeof *opt);
    if (!opt) return ml_fail_memory(err, sizeof *opt, "the optimizer");
    opt->config = *config;
    opt->device = ctx ? ctx->device : NULL;
    opt->n_param = n_param;
    opt->param = ml_calloc((size_t)n_param, sizeof *opt->param);
    opt->moments = ml_calloc((size_t)n_param, sizeof *opt->moments);
    opt->saved = ml_calloc(2 * (size_t)n_param, sizeof *opt->saved);
    if (!opt->param || !opt->moments || !opt->saved) {
        status = ml_fail_memory(err, (size_t)n_param * sizeof *opt->param, "the optimizer's parameter records");
        goto done;
    }
    if (n_param > 0) memcpy(opt->param, param, (size_t)n_param * sizeof *param);
    ML_TRY_GOTO(make_state(opt, err));
    ML_TRY_GOTO(make_workers(opt, ctx, storage, err));
done:
    if (status == ML_OK)
        *out = opt;
    else
        ml_optimizer_free(opt);
    return status;
}

ml_status ml_optimizer_make(const ml_optim_config *config, const ml_param *param, int64_t n_param, ml_optimizer **out,
                            ml_error *err)
{
    return make(NULL, config, NULL, param, n_param, out, err);
}

ml_status ml_optimizer_make_on(ml_ctx *ctx, const ml_optim_config *config, const ml_optim_storage *storage,
                               const ml_param *param, int64_t n_param, ml_optimizer **out, ml_error *err)
{
    return make(ctx, config, storage, param, n_param, out, err);
}

void ml_optimizer_free(ml_optimizer *opt)
{
    if (!opt) return;
    for (int64_t i = 0; i < opt->n_saved; i++) {
        ml_free((char *)opt->saved[i].name);
        ml_free(opt->saved[i].data);
    }
    ml_device_update_free(opt->there);
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

/* Returns the sum of squares of the update. */
static double update_adamw(ml_optimizer *opt, int64_t i, double lr, double grad_scale)
{
    const ml_optim_config *c = &opt->config;
    const ml_optim_moments *moments = &opt->moments[i];
    double t = (double)opt->step;
    lr *= ml_optim_get_ratio(c, opt->param[i].kind);
    ml_adamw rule = { .beta1 = (float)c->beta1,
                      .beta2 = (float)c->beta2,
                      .eps = (float)c->eps,
                      .grad_scale = (float)grad_scale,
                      .decay = (float)(1.0 - lr * ml_optim_get_decay(c, moments->group)),
                      .correction = (float)(1.0 / sqrt(1.0 - pow(c->beta2, t))),
                      .unbias = (float)(1.0 / (1.0 - pow(c->beta1, t))),
                      .lr = (float)lr };
    return ml_adamw_update_param(&rule, &opt->param[i], moments, opt->block_squares);
}

static ml_status step_there(ml_optimizer *opt, double lr, double grad_scale, ml_optim_stats *stats, ml_error *err)
{
    const double *there;
    double squares[ML_N_OPTIM_GROUP];
    ml_device_update_queue_use(opt->there, grad_scale);
    ML_TRY(ml_device_update_queue(opt->there, lr, &there, err));
    if (!stats) return ML_OK;
    ML_TRY(ml_device_download(opt->device, squares, there, sizeof squares, err));
    *stats = ml_optimizer_get_stats(opt, squares);
    return ML_OK;
}

ml_status ml_optimizer_step(ml_optimizer *opt, double lr, double grad_scale, ml_optim_stats *stats, ml_error *err)
{
    if (!isfinite(lr) || !isfinite(grad_scale))
        return ml_fail(err, ML_EINVAL, "optimizer step %lld: learning rate %g and gradient scale %g must be finite",
                       (long long)opt->step, lr, grad_scale);
    update_sums sums = { .n = { 0 } };
    opt->step++;
    if (opt->there) return step_there(opt, lr, grad_scale, stats, err);
    ml_muon_update(opt->muon, lr, grad_scale, sums.squares);
    for (int64_t i = 0; i < opt->n_param; i++) {
        ml_optim_group group = opt->moments[i].group;
        sums.n[group] += ml_param_count(&opt->param[i]);
        if (!ml_optim_is_muon(group)) sums.squares[group] += update_adamw(opt, i, lr, grad_scale);
    }
    if (stats) fill_stats(&sums, stats);
    return ML_OK;
}

/* ---- on a device ---- */

ml_update_control *ml_optimizer_get_control(ml_optimizer *opt)
{
    return ml_device_update_get_control(opt->there);
}

const double *ml_optimizer_queue_norm(ml_optimizer *opt)
{
    return ml_device_update_queue_norm(opt->there);
}

void ml_optimizer_prefetch(ml_optimizer *opt)
{
    ml_device_update_prefetch(opt->there);
}

ml_status ml_optimizer_queue_step(ml_optimizer *opt, double lr, const double **squares, ml_error *err)
{
    return ml_device_update_queue(opt->there, lr, squares, err);
}

void ml_optimizer_take_step(ml_optimizer *opt, int64_t step)
{
    opt->step = step;
}

ml_optim_stats ml_optimizer_get_stats(const ml_optimizer *opt, const double squares[ML_N_OPTIM_GROUP])
{
    update_sums sums = { .n = { 0 } };
    ml_optim_stats stats;
    for (int64_t i = 0; i < opt->n_param; i++) sums.n[opt->moments[i].group] += ml_param_count(&opt->param[i]);
    for (int g = 0; g < ML_N_OPTIM_GROUP; g++) sums.squares[g] = squares[g];
    fill_stats(&sums, &stats);
    return stats;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

ml_optim_device_memory ml_optim_plan_device(const ml_optim_config *config, const ml_optim_storage *storage,
                                            int64_t n_muon, int64_t n_adamw, int64_t largest, bool rest_is_here)
{
    if (config->name != ML_OPTIM_MUON) {
        n_adamw += n_muon;
        n_muon = 0;
    }
    int64_t size = storage->bf16 ? 2 : 4, moments = size * (n_muon + 2 * n_adamw);
    ml_optim_device_memory n = { .state = moments };
    if (storage->here) n = (ml_optim_device_memory){ .pinned = moments };
    /* A batch of Newton-Schulz has between two and four floats of scratch for each element, and the products may make
     * bf16 copies of what they read. */
    int64_t batch = smaller(n_muon, ML_UPDATE_MUON_FLOATS / 2);
    if (batch < largest && n_muon > 0) batch = largest;
    n.scratch = smaller(4 * batch, ML_UPDATE_MUON_FLOATS > 4 * largest ? ML_UPDATE_MUON_FLOATS : 4 * largest) * 6;
    int64_t moved_muon = (storage->here ? size : 0) + (rest_is_here ? 2 : 0);
    int64_t moved_adamw = (storage->here ? 2 * size : 0) + (rest_is_here ? 2 : 0);
    int64_t slot = moved_muon * batch, other = moved_adamw * smaller(n_adamw, ML_UPDATE_ADAMW_ELEMENTS);
    n.slots = 3 * (slot > other ? slot : other);
    return n;
}

/* ---- what others read ---- */

int64_t ml_optimizer_n_row(const ml_optimizer *opt)
{
    return opt->n_param;
}

ml_optim_row ml_optimizer_get_row(const ml_optimizer *opt, int64_t i)
{
    ml_optim_group group = opt->moments[i].group;
    return (ml_optim_row){ .param = &opt->param[i],
                           .group = group,
                           .lr_factor = ml_optim_is_muon(group) ? ml_muon_get_factor(&opt->config, &opt->param[i])
                                                                : ml_optim_get_ratio(&opt->config, opt->param[i].kind),
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

/* Row i of the saved buffers: which parameter, and which of its moments. */
static int find_slot(const ml_optimizer *opt, int64_t i, int64_t *param)
{
    *param = opt->saved[i].param - opt->param;
    return i > 0 && opt->saved[i - 1].param == opt->saved[i].param;
}

ml_status ml_optimizer_read_state(ml_optimizer *opt, int64_t i, int64_t first, int64_t n, float *out, ml_error *err)
{
    int64_t param;
    int slot = find_slot(opt, i, &param);
    if (opt->there) return ml_device_update_read(opt->there, param, slot, first, n, out, err);
    memcpy(out, opt->saved[i].data + first, (size_t)n * sizeof *out);
    return ML_OK;
}

ml_status ml_optimizer_write_state(ml_optimizer *opt, int64_t i, int64_t first, int64_t n, const float *from,
                                   ml_error *err)
{
    int64_t param;
    int slot = find_slot(opt, i, &param);
    if (opt->there) return ml_device_update_write(opt->there, param, slot, first, n, from, err);
    memcpy(opt->saved[i].data + first, from, (size_t)n * sizeof *from);
    return ML_OK;
}

int64_t ml_optimizer_get_step(const ml_optimizer *opt)
{
    return opt->step;
}

void ml_optimizer_set_step(ml_optimizer *opt, int64_t step)
{
    opt->step = step;
    if (opt->there) ml_device_update_queue_count(opt->there, step);
}
