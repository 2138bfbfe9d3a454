#include "optim/optimizer.h"

#include "base/alloc.h"
#include "base/thread.h"
#include "optim/adamw.h"
#include "optim/newton_schulz.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1 << 15 }; /* elements of one task where work is elementwise */

static const char *const KIND_NAME[ML_N_PARAM_KIND] = {
    [ML_PARAM_EMBEDDING] = "embedding", [ML_PARAM_HEAD] = "head",     [ML_PARAM_NORM] = "norm",
    [ML_PARAM_BIAS] = "bias",           [ML_PARAM_ROUTER] = "router", [ML_PARAM_MATRIX] = "matrix",
    [ML_PARAM_EXPERT] = "expert",
};

static const char *const GROUP_NAME[ML_N_OPTIM_GROUP] = {
    [ML_GROUP_MUON] = "muon",
    [ML_GROUP_MUON_NO_DECAY] = "muon, no decay",
    [ML_GROUP_ADAMW] = "adamw",
    [ML_GROUP_ADAMW_NO_DECAY] = "adamw, no decay",
};

typedef struct {
    ml_optim_group group;
    float *momentum; /* Muon; or */
    float *m, *v;    /* AdamW */
} param_state;

typedef struct {
    int64_t param, matrix; /* matrix `matrix` of parameter `param` */
    double cost;
} muon_task;

struct ml_optimizer {
    ml_optim_config config;
    ml_param *param;
    param_state *state;
    int64_t n_param, step;
    ml_optim_state *saved; /* one row for each moment buffer */
    int64_t n_saved;
    muon_task *task; /* Muon's matrices, most expensive first */
    int64_t n_task;
    int64_t n_large;        /* so many at the front get all threads each; the others one thread each */
    double *task_squares;   /* [n_task] sum of squares of each matrix's update */
    double *block_squares;  /* of each block of the parameter or matrix that all threads are working on */
    float *scratch;         /* one part per thread, or as much as the largest matrix needs */
    int64_t scratch_stride; /* floats of one part */
    int n_thread;           /* parts */
};

/* ---- configuration ---- */

ml_optim_config ml_optim_default_config(ml_optim_name name)
{
    return (ml_optim_config){
        .name = name,
        .beta1 = 0.9,
        .beta2 = 0.95,
        .eps = 1e-8,
        .weight_decay = 0.1,
        .momentum = 0.95,
        .nesterov = true,
        .ns_steps = 5,
        .rms_scale = 0.2,
        .muon = ML_KIND_BIT(ML_PARAM_MATRIX) | ML_KIND_BIT(ML_PARAM_EXPERT) | ML_KIND_BIT(ML_PARAM_ROUTER),
    };
}

const char *ml_param_kind_name(ml_param_kind kind)
{
    return KIND_NAME[kind];
}

const char *ml_optim_group_name(ml_optim_group group)
{
    return GROUP_NAME[group];
}

static ml_status parse_kind(const char *word, size_t n, ml_param_kinds *kinds, ml_error *err)
{
    if (n == 4 && memcmp(word, "none", n) == 0) return ML_OK;
    for (int kind = 0; kind < ML_N_PARAM_KIND; kind++) {
        if (strlen(KIND_NAME[kind]) != n || memcmp(KIND_NAME[kind], word, n) != 0) continue;
        *kinds |= ML_KIND_BIT(kind);
        return ML_OK;
    }
    return ml_fail(err, ML_EINVAL,
                   "\"%.*s\" is no kind of parameter; expected a list of embedding, head, norm, bias, router, matrix, "
                   "expert, or none",
                   (int)(n < 40 ? n : 40), word);
}

ml_status ml_optim_parse_kinds(const char *list, ml_param_kinds *kinds, ml_error *err)
{
    ml_param_kinds found = 0;
    for (const char *at = list; *at;) {
        size_t n = strcspn(at, ", \t");
        if (n > 0) ML_TRY(parse_kind(at, n, &found, err));
        at += n;
        at += strspn(at, ", \t");
    }
    *kinds = found;
    return ML_OK;
}

static ml_status check_range(const char *key, double value, double low, double high, ml_error *err)
{
    if (value >= low && value <= high) return ML_OK;
    return ml_fail(err, ML_EINVAL, "optimizer: %s is %g, expected a number from %g to %g", key, value, low, high);
}

static ml_status check_config(const ml_optim_config *c, ml_error *err)
{
    const double below_one = 1.0 - 1e-9;
    ML_TRY(check_range("beta1", c->beta1, 0.0, below_one, err));
    ML_TRY(check_range("beta2", c->beta2, 0.0, below_one, err));
    ML_TRY(check_range("eps", c->eps, 0.0, 1.0, err));
    ML_TRY(check_range("weight_decay", c->weight_decay, 0.0, 1e3, err));
    ML_TRY(check_range("momentum", c->momentum, 0.0, below_one, err));
    ML_TRY(check_range("ns_steps", c->ns_steps, 1, 100, err));
    return check_range("rms_scale", c->rms_scale, 0.0, 1e3, err);
}

static ml_optim_group choose_group(const ml_optim_config *c, ml_param_kind kind)
{
    bool decay = !(c->no_decay & ML_KIND_BIT(kind));
    if (c->name == ML_OPTIM_MUON && (c->muon & ML_KIND_BIT(kind)))
        return decay ? ML_GROUP_MUON : ML_GROUP_MUON_NO_DECAY;
    return decay ? ML_GROUP_ADAMW : ML_GROUP_ADAMW_NO_DECAY;
}

static bool is_muon(ml_optim_group group)
{
    return group == ML_GROUP_MUON || group == ML_GROUP_MUON_NO_DECAY;
}

static double group_decay(const ml_optimizer *opt, ml_optim_group group)
{
    return group == ML_GROUP_MUON || group == ML_GROUP_ADAMW ? opt->config.weight_decay : 0.0;
}

static double muon_factor(const ml_optim_config *c, const ml_param *p)
{
    return c->rms_scale * sqrt((double)(p->rows > p->cols ? p->rows : p->cols));
}

/* ---- plan: which matrix runs where, and how much memory that takes ---- */

static double muon_cost(const ml_param *p)
{
    double low = (double)(p->rows < p->cols ? p->rows : p->cols),
           high = (double)(p->rows < p->cols ? p->cols : p->rows);
    return low * low * (6.0 * high + 14.0 * low);
}

static int compare_task(const void *a, const void *b)
{
    const muon_task *x = a, *y = b;
    if (x->cost != y->cost) return x->cost > y->cost ? -1 : 1;
    if (x->param != y->param) return x->param < y->param ? -1 : 1;
    return x->matrix < y->matrix ? -1 : x->matrix > y->matrix;
}

/* Worth more than a thread's fair share of everything: then all threads work on it together. */
static bool is_large(const ml_param *p, double total_cost, int n_thread)
{
    return n_thread > 1 && muon_cost(p) * n_thread > total_cost;
}

static double sum_cost(const ml_optim_config *c, const ml_param *param, int64_t n_param)
{
    double total = 0.0;
    for (int64_t i = 0; i < n_param; i++)
        if (is_muon(choose_group(c, param[i].kind))) total += (double)param[i].n_matrix * muon_cost(&param[i]);
    return total;
}

/* u and the scratch of its Newton-Schulz */
static int64_t task_scratch(const ml_param *p)
{
    return (p->rows * p->cols + 15) / 16 * 16 + ml_newton_schulz_scratch(p->rows, p->cols);
}

static int64_t n_block(int64_t n)
{
    return (n + BLOCK - 1) / BLOCK;
}

/* Floats of scratch in all, and in the part of one thread. */
static int64_t plan_scratch(const ml_optim_config *c, const ml_param *param, int64_t n_param, int n_thread,
                            int64_t *stride)
{
    double total_cost = sum_cost(c, param, n_param);
    int64_t most = 0;
    *stride = 0;
    for (int64_t i = 0; i < n_param; i++) {
        if (!is_muon(choose_group(c, param[i].kind))) continue;
        int64_t need = task_scratch(&param[i]);
        if (need > most) most = need;
        if (!is_large(&param[i], total_cost, n_thread) && need > *stride) *stride = need;
    }
    return *stride * n_thread > most ? *stride * n_thread : most;
}

ml_optim_memory ml_optim_plan_memory(const ml_optim_config *config, const ml_param *param, int64_t n_param)
{
    int64_t stride, n_state = 0;
    for (int64_t i = 0; i < n_param; i++)
        n_state += ml_param_count(&param[i]) * (is_muon(choose_group(config, param[i].kind)) ? 1 : 2);
    int64_t n_scratch = plan_scratch(config, param, n_param, ml_thread_count(), &stride);
    return (ml_optim_memory){ .state_bytes = n_state * (int64_t)sizeof(float),
                              .scratch_bytes = n_scratch * (int64_t)sizeof(float) };
}

static ml_status make_tasks(ml_optimizer *opt, ml_error *err)
{
    int64_t n = 0, most_blocks = 1;
    for (int64_t i = 0; i < opt->n_param; i++) {
        bool muon = is_muon(opt->state[i].group);
        const ml_param *p = &opt->param[i];
        if (muon) n += p->n_matrix;
        int64_t blocks = n_block(muon ? p->rows * p->cols : ml_param_count(p));
        if (blocks > most_blocks) most_blocks = blocks;
    }
    opt->task = ml_calloc((size_t)n, sizeof *opt->task);
    opt->task_squares = ml_calloc((size_t)n, sizeof *opt->task_squares);
    opt->block_squares = ml_calloc((size_t)most_blocks, sizeof *opt->block_squares);
    if (!opt->task || !opt->task_squares || !opt->block_squares)
        return ml_fail_memory(err, (size_t)(n + most_blocks) * sizeof *opt->task, "the optimizer's list of matrices");
    for (int64_t i = 0; i < opt->n_param; i++) {
        const ml_param *p = &opt->param[i];
        if (!is_muon(opt->state[i].group)) continue;
        for (int64_t m = 0; m < p->n_matrix; m++) opt->task[opt->n_task++] = (muon_task){ i, m, muon_cost(p) };
    }
    if (n > 0) qsort(opt->task, (size_t)n, sizeof *opt->task, compare_task);
    opt->n_thread = ml_thread_count();
    double total_cost = sum_cost(&opt->config, opt->param, opt->n_param);
    while (opt->n_large < n && is_large(&opt->param[opt->task[opt->n_large].param], total_cost, opt->n_thread))
        opt->n_large++;
    return ML_OK;
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
    return ML_OK;
}

static ml_status make_state(ml_optimizer *opt, ml_error *err)
{
    for (int64_t i = 0; i < opt->n_param; i++) {
        const ml_param *p = &opt->param[i];
        param_state *s = &opt->state[i];
        s->group = choose_group(&opt->config, p->kind);
        if (is_muon(s->group)) {
            ML_TRY(make_buffer(opt, p, "momentum", &s->momentum, err));
        } else {
            ML_TRY(make_buffer(opt, p, "exp_avg", &s->m, err));
            ML_TRY(make_buffer(opt, p, "exp_avg_sq", &s->v, err));
        }
    }
    return ML_OK;
}

ml_status ml_optimizer_make(const ml_optim_config *config, const ml_param *param, int64_t n_param, ml_optimizer **out,
                            ml_error *err)
{
    *out = NULL;
    ml_status status = ML_OK;
    ML_TRY(check_config(config, err));
    ml_optimizer *opt = ml_calloc(1, sizeof *opt);
    if (!opt) return ml_fail_memory(err, sizeof *opt, "the optimizer");
    opt->config = *config;
    opt->n_param = n_param;
    opt->param = ml_calloc((size_t)n_param, sizeof *opt->param);
    opt->state = ml_calloc((size_t)n_param, sizeof *opt->state);
    opt->saved = ml_calloc(2 * (size_t)n_param, sizeof *opt->saved);
    if (!opt->param || !opt->state || !opt->saved) {
        status = ml_fail_memory(err, (size_t)n_param * sizeof *opt->param, "the optimizer's parameter records");
        goto done;
    }
    if (n_param > 0) memcpy(opt->param, param, (size_t)n_param * sizeof *param);
    ML_TRY_GOTO(make_state(opt, err));
    ML_TRY_GOTO(make_tasks(opt, err));
    size_t scratch = (size_t)plan_scratch(config, opt->param, n_param, opt->n_thread, &opt->scratch_stride);
    scratch *= sizeof *opt->scratch;
    opt->scratch = ml_alloc(scratch);
    if (!opt->scratch) status = ml_fail_memory(err, scratch, "Newton-Schulz");
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
    ml_free(opt->saved);
    ml_free(opt->state);
    ml_free(opt->param);
    ml_free(opt->task);
    ml_free(opt->task_squares);
    ml_free(opt->block_squares);
    ml_free(opt->scratch);
    ml_free(opt);
}

/* ---- AdamW ---- */

typedef struct {
    ml_adamw rule;
    const ml_param *param;
    const param_state *state;
    double *squares; /* [blocks] */
} adamw_work;

static void update_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const adamw_work *w = arg;
    int64_t count = ml_param_count(w->param);
    for (int64_t b = begin; b < end; b++) {
        int64_t at = b * BLOCK, n = count - at < BLOCK ? count - at : BLOCK;
        w->squares[b] =
            ml_adamw_update(&w->rule, w->param->value + at, w->param->grad + at, w->state->m + at, w->state->v + at, n);
    }
}

static double sum(const double *x, int64_t n)
{
    double total = 0.0;
    for (int64_t i = 0; i < n; i++) total += x[i];
    return total;
}

/* Returns the sum of squares of the update. */
static double update_adamw(ml_optimizer *opt, int64_t i, double lr, double grad_scale)
{
    const ml_optim_config *c = &opt->config;
    const ml_param *p = &opt->param[i];
    double t = (double)opt->step;
    adamw_work work = {
        .rule = { .beta1 = (float)c->beta1,
                  .beta2 = (float)c->beta2,
                  .eps = (float)c->eps,
                  .grad_scale = (float)grad_scale,
                  .decay = (float)(1.0 - lr * group_decay(opt, opt->state[i].group)),
                  .correction = (float)(1.0 / sqrt(1.0 - pow(c->beta2, t))),
                  .unbias = (float)(1.0 / (1.0 - pow(c->beta1, t))),
                  .lr = (float)lr },
        .param = p,
        .state = &opt->state[i],
        .squares = opt->block_squares,
    };
    int64_t blocks = n_block(ml_param_count(p));
    if (blocks == 1)
        update_blocks(&work, 0, 1, 0);
    else
        ml_parallel_for(blocks, 1, update_blocks, &work);
    return sum(opt->block_squares, blocks);
}

/* ---- Muon ---- */

/* One matrix being updated. */
typedef struct {
    const ml_optim_config *config;
    float *value, *momentum, *u;
    const float *grad;
    int64_t n;
    float grad_scale, decay, rate; /* rate: lr * rms_scale * sqrt(max(A, B)) */
    double *squares;               /* [blocks] of O */
} muon_work;

static void make_update_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const muon_work *w = arg;
    const float mu = (float)w->config->momentum;
    int64_t last = end * BLOCK < w->n ? end * BLOCK : w->n;
    for (int64_t i = begin * BLOCK; i < last; i++) {
        float g = w->grad[i] * w->grad_scale;
        float m = mu * w->momentum[i] + g;
        w->momentum[i] = m;
        w->u[i] = w->config->nesterov ? g + mu * m : m;
    }
}

static double apply_update(const muon_work *w, int64_t begin, int64_t end)
{
    enum { LANES = 8 };
    double total[LANES] = { 0.0 };
    int64_t i = begin;
    for (; i + LANES <= end; i += LANES) {
        for (int64_t j = 0; j < LANES; j++) {
            float o = w->u[i + j];
            total[j] += (double)o * (double)o;
            w->value[i + j] = w->value[i + j] * w->decay - w->rate * o;
        }
    }
    for (; i < end; i++) {
        total[0] += (double)w->u[i] * (double)w->u[i];
        w->value[i] = w->value[i] * w->decay - w->rate * w->u[i];
    }
    return sum(total, LANES);
}

static void apply_update_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const muon_work *w = arg;
    for (int64_t b = begin; b < end; b++) {
        int64_t last = (b + 1) * BLOCK < w->n ? (b + 1) * BLOCK : w->n;
        w->squares[b] = apply_update(w, b * BLOCK, last);
    }
}

typedef struct {
    ml_optimizer *opt;
    int64_t first; /* task that range [0, ...) begins with */
    double lr, grad_scale;
} muon_batch;

static muon_work start_task(const muon_batch *batch, const muon_task *task, float *u)
{
    ml_optimizer *opt = batch->opt;
    const ml_param *p = &opt->param[task->param];
    const param_state *s = &opt->state[task->param];
    int64_t n = p->rows * p->cols, at = task->matrix * n;
    return (muon_work){ .config = &opt->config,
                        .value = p->value + at,
                        .momentum = s->momentum + at,
                        .u = u,
                        .grad = p->grad + at,
                        .n = n,
                        .grad_scale = (float)batch->grad_scale,
                        .decay = (float)(1.0 - batch->lr * group_decay(opt, s->group)),
                        .rate = (float)(batch->lr * muon_factor(&opt->config, p)) };
}

/* One matrix on the calling thread; block by block as the parallel form does, for the same bits. */
static void update_small(void *arg, int64_t begin, int64_t end, int thread)
{
    const muon_batch *batch = arg;
    ml_optimizer *opt = batch->opt;
    for (int64_t i = begin; i < end; i++) {
        const muon_task *task = &opt->task[batch->first + i];
        const ml_param *p = &opt->param[task->param];
        float *u = opt->scratch + thread * opt->scratch_stride;
        muon_work work = start_task(batch, task, u);
        make_update_blocks(&work, 0, n_block(work.n), thread);
        ml_newton_schulz(u, p->rows, p->cols, opt->config.ns_steps, u + (work.n + 15) / 16 * 16, true);
        double total = 0.0;
        for (int64_t at = 0; at < work.n; at += BLOCK)
            total += apply_update(&work, at, at + BLOCK < work.n ? at + BLOCK : work.n);
        opt->task_squares[batch->first + i] = total;
    }
}

static void update_large(const muon_batch *batch, int64_t i)
{
    ml_optimizer *opt = batch->opt;
    const muon_task *task = &opt->task[i];
    const ml_param *p = &opt->param[task->param];
    float *u = opt->scratch;
    muon_work work = start_task(batch, task, u);
    work.squares = opt->block_squares;
    int64_t blocks = n_block(work.n);
    ml_parallel_for(blocks, 1, make_update_blocks, &work);
    ml_newton_schulz(u, p->rows, p->cols, opt->config.ns_steps, u + (work.n + 15) / 16 * 16, false);
    ml_parallel_for(blocks, 1, apply_update_blocks, &work);
    opt->task_squares[i] = sum(opt->block_squares, blocks);
}

static void update_muon(ml_optimizer *opt, double lr, double grad_scale)
{
    /* With more threads than there are parts of the scratch, every matrix takes the way of the large ones. */
    int64_t n_large = ml_thread_count() <= opt->n_thread ? opt->n_large : opt->n_task;
    muon_batch batch = { .opt = opt, .first = n_large, .lr = lr, .grad_scale = grad_scale };
    for (int64_t i = 0; i < n_large; i++) update_large(&batch, i);
    ml_parallel_for(opt->n_task - n_large, 1, update_small, &batch);
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

ml_status ml_optimizer_step(ml_optimizer *opt, double lr, double grad_scale, ml_optim_stats *stats, ml_error *err)
{
    if (!isfinite(lr) || !isfinite(grad_scale))
        return ml_fail(err, ML_EINVAL, "optimizer step %lld: learning rate %g and gradient scale %g must be finite",
                       (long long)opt->step, lr, grad_scale);
    update_sums sums = { .n = { 0 } };
    opt->step++;
    update_muon(opt, lr, grad_scale);
    for (int64_t i = 0; i < opt->n_task; i++) {
        const ml_param *p = &opt->param[opt->task[i].param];
        double factor = muon_factor(&opt->config, p);
        sums.squares[opt->state[opt->task[i].param].group] += factor * factor * opt->task_squares[i];
    }
    for (int64_t i = 0; i < opt->n_param; i++) {
        ml_optim_group group = opt->state[i].group;
        sums.n[group] += ml_param_count(&opt->param[i]);
        if (!is_muon(group)) sums.squares[group] += update_adamw(opt, i, lr, grad_scale);
    }
    if (stats) fill_stats(&sums, stats);
    return ML_OK;
}

/* ---- what others read ---- */

int64_t ml_optimizer_n_row(const ml_optimizer *opt)
{
    return opt->n_param;
}

ml_optim_row ml_optimizer_get_row(const ml_optimizer *opt, int64_t i)
{
    ml_optim_group group = opt->state[i].group;
    return (ml_optim_row){ .param = &opt->param[i],
                           .group = group,
                           .lr_factor = is_muon(group) ? muon_factor(&opt->config, &opt->param[i]) : 1.0,
                           .weight_decay = group_decay(opt, group) };
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
