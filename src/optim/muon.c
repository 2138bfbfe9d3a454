#include "optim/muon.h"

#include "base/alloc.h"
#include "base/thread.h"
#include "optim/newton_schulz.h"

#include <math.h>
#include <stdlib.h>

enum { BLOCK = ML_OPTIM_BLOCK };

typedef struct {
    int64_t param, matrix; /* matrix `matrix` of parameter `param` */
    double cost;
} muon_task;

struct ml_muon {
    const ml_optim_config *config;
    const ml_param *param;
    const ml_optim_moments *moments;
    int64_t n_param;
    muon_task *task; /* most expensive first */
    int64_t n_task;
    int64_t n_large;        /* so many at the front get all threads each; the others one thread each */
    double *task_squares;   /* [n_task] sum of squares of each matrix's O */
    double *block_squares;  /* of each block of the matrix that all threads are working on */
    float *scratch;         /* one part per thread, or as much as the largest matrix needs */
    int64_t scratch_stride; /* floats of one part */
    int n_thread;           /* parts */
};

double ml_muon_get_factor(const ml_optim_config *c, const ml_param *p)
{
    return ml_optim_get_ratio(c, p->kind) * c->rms_scale * sqrt((double)(p->rows > p->cols ? p->rows : p->cols));
}

/* ---- plan: which matrix runs where, and how much memory that takes ---- */

static bool is_ours(const ml_optim_config *c, const ml_param *p)
{
    return ml_optim_is_muon(ml_optim_choose_group(c, p->kind));
}

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
        if (is_ours(c, &param[i])) total += (double)param[i].n_matrix * muon_cost(&param[i]);
    return total;
}

/* u and the scratch of its Newton-Schulz */
static int64_t task_scratch(const ml_param *p)
{
    return (p->rows * p->cols + 15) / 16 * 16 + ml_newton_schulz_scratch(p->rows, p->cols);
}

/* Floats of scratch in all, and in the part of one thread. */
static int64_t plan_scratch(const ml_optim_config *c, const ml_param *param, int64_t n_param, int n_thread,
                            int64_t *stride)
{
    double total_cost = sum_cost(c, param, n_param);
    int64_t most = 0;
    *stride = 0;
    for (int64_t i = 0; i < n_param; i++) {
        if (!is_ours(c, &param[i])) continue;
        int64_t need = task_scratch(&param[i]);
        if (need > most) most = need;
        if (!is_large(&param[i], total_cost, n_thread) && need > *stride) *stride = need;
    }
    return *stride * n_thread > most ? *stride * n_thread : most;
}

int64_t ml_muon_plan_scratch(const ml_optim_config *config, const ml_param *param, int64_t n_param)
{
    int64_t stride;
    return plan_scratch(config, param, n_param, ml_thread_count(), &stride);
}

/* ---- creation ---- */

static ml_status make_tasks(ml_muon *muon, ml_error *err)
{
    int64_t n = 0, most_blocks = 1;
    for (int64_t i = 0; i < muon->n_param; i++) {
        const ml_param *p = &muon->param[i];
        if (!ml_optim_is_muon(muon->moments[i].group)) continue;
        n += p->n_matrix;
        int64_t blocks = ml_optim_n_block(p->rows * p->cols);
        if (blocks > most_blocks) most_blocks = blocks;
    }
    muon->task = ml_calloc((size_t)n, sizeof *muon->task);
    muon->task_squares = ml_calloc((size_t)n, sizeof *muon->task_squares);
    muon->block_squares = ml_calloc((size_t)most_blocks, sizeof *muon->block_squares);
    if (!muon->task || !muon->task_squares || !muon->block_squares)
        return ml_fail_memory(err, (size_t)(n + most_blocks) * sizeof *muon->task, "the optimizer's list of matrices");
    for (int64_t i = 0; i < muon->n_param; i++) {
        const ml_param *p = &muon->param[i];
        if (!ml_optim_is_muon(muon->moments[i].group)) continue;
        for (int64_t m = 0; m < p->n_matrix; m++) muon->task[muon->n_task++] = (muon_task){ i, m, muon_cost(p) };
    }
    if (n > 0) qsort(muon->task, (size_t)n, sizeof *muon->task, compare_task);
    muon->n_thread = ml_thread_count();
    double total_cost = sum_cost(muon->config, muon->param, muon->n_param);
    while (muon->n_large < n && is_large(&muon->param[muon->task[muon->n_large].param], total_cost, muon->n_thread))
        muon->n_large++;
    return ML_OK;
}

static ml_status make_scratch(ml_muon *muon, ml_error *err)
{
    size_t n = (size_t)plan_scratch(muon->config, muon->param, muon->n_param, muon->n_thread, &muon->scratch_stride);
    muon->scratch = ml_alloc(n * sizeof *muon->scratch);
    return muon->scratch ? ML_OK : ml_fail_memory(err, n * sizeof *muon->scratch, "Newton-Schulz");
}

ml_status ml_muon_make(const ml_optim_config *config, const ml_param *param, const ml_optim_moments *moments,
                       int64_t n_param, ml_muon **out, ml_error *err)
{
    *out = NULL;
    ml_muon *muon = ml_calloc(1, sizeof *muon);
    if (!muon) return ml_fail_memory(err, sizeof *muon, "Muon");
    muon->config = config;
    muon->param = param;
    muon->moments = moments;
    muon->n_param = n_param;
    ml_status status = make_tasks(muon, err);
    if (status == ML_OK) status = make_scratch(muon, err);
    if (status == ML_OK)
        *out = muon;
    else
        ml_muon_free(muon);
    return status;
}

void ml_muon_free(ml_muon *muon)
{
    if (!muon) return;
    ml_free(muon->task);
    ml_free(muon->task_squares);
    ml_free(muon->block_squares);
    ml_free(muon->scratch);
    ml_free(muon);
}

/* ---- the update ---- */

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
    return ml_optim_sum(total, LANES);
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
    ml_muon *muon;
    int64_t first; /* task that range [0, ...) begins with */
    double lr, grad_scale;
} muon_batch;

static muon_work start_task(const muon_batch *batch, const muon_task *task, float *u)
{
    ml_muon *muon = batch->muon;
    const ml_param *p = &muon->param[task->param];
    const ml_optim_moments *s = &muon->moments[task->param];
    int64_t n = p->rows * p->cols, at = task->matrix * n;
    return (muon_work){ .config = muon->config,
                        .value = p->value + at,
                        .momentum = s->momentum + at,
                        .u = u,
                        .grad = p->grad + at,
                        .n = n,
                        .grad_scale = (float)batch->grad_scale,
                        .decay = (float)(1.0 - batch->lr * ml_optim_get_decay(muon->config, s->group)),
                        .rate = (float)(batch->lr * ml_muon_get_factor(muon->config, p)) };
}

/* One matrix on the calling thread; block by block as the parallel form does, for the same bits. */
static void update_small(void *arg, int64_t begin, int64_t end, int thread)
{
    const muon_batch *batch = arg;
    ml_muon *muon = batch->muon;
    for (int64_t i = begin; i < end; i++) {
        const muon_task *task = &muon->task[batch->first + i];
        const ml_param *p = &muon->param[task->param];
        float *u = muon->scratch + thread * muon->scratch_stride;
        muon_work work = start_task(batch, task, u);
        make_update_blocks(&work, 0, ml_optim_n_block(work.n), thread);
        ml_newton_schulz(u, p->rows, p->cols, muon->config->ns_steps, u + (work.n + 15) / 16 * 16, true);
        double total = 0.0;
        for (int64_t at = 0; at < work.n; at += BLOCK)
            total += apply_update(&work, at, at + BLOCK < work.n ? at + BLOCK : work.n);
        muon->task_squares[batch->first + i] = total;
    }
}

static void update_large(const muon_batch *batch, int64_t i)
{
    ml_muon *muon = batch->muon;
    const muon_task *task = &muon->task[i];
    const ml_param *p = &muon->param[task->param];
    float *u = muon->scratch;
    muon_work work = start_task(batch, task, u);
    work.squares = muon->block_squares;
    int64_t blocks = ml_optim_n_block(work.n);
    ml_parallel_for(blocks, 1, make_update_blocks, &work);
    ml_newton_schulz(u, p->rows, p->cols, muon->config->ns_steps, u + (work.n + 15) / 16 * 16, false);
    ml_parallel_for(blocks, 1, apply_update_blocks, &work);
    muon->task_squares[i] = ml_optim_sum(muon->block_squares, blocks);
}

void ml_muon_update(ml_muon *muon, double lr, double grad_scale, double squares[ML_N_OPTIM_GROUP])
{
    /* With more threads than there are parts of the scratch, every matrix takes the way of the large ones. */
    int64_t n_large = ml_thread_count() <= muon->n_thread ? muon->n_large : muon->n_task;
    muon_batch batch = { .muon = muon, .first = n_large, .lr = lr, .grad_scale = grad_scale };
    for (int64_t i = 0; i < n_large; i++) update_large(&batch, i);
    ml_parallel_for(muon->n_task - n_large, 1, update_small, &batch);
    for (int64_t i = 0; i < muon->n_task; i++) {
        int64_t p = muon->task[i].param;
        double factor = ml_muon_get_factor(muon->config, &muon->param[p]);
        squares[muon->moments[p].group] += factor * factor * muon->task_squares[i];
    }
}
