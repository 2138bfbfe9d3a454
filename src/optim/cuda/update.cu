/* AdamW, Muon and the gradient norm on a device.
 *
 * Sums of squares: PARTS blocks each take a contiguous part of a parameter, then one block adds the parts in order.
 * Muon: the matrices of a parameter (a stack of equal ones) go through Newton-Schulz together, as many at a time as
 * the scratch holds, as batched products:
 *     A = X X^T (or X^T X when X is tall);  B = b A + c A A;  X <- a X + B X (or X B) */
#include "ops/cuda/gemm.cuh"

#include <cmath>
#include <new>

extern "C" {
#include "base/alloc.h"
#include "optim/device_update.h"
}

enum { THREADS = 256, PARTS = 512 };
static const float A_COEF = 3.4445f, B_COEF = -4.7750f, C_COEF = 2.0315f;
static const int64_t BATCH_FLOATS = (int64_t)256 << 20; /* of scratch for Newton-Schulz, unless one matrix needs more */

struct ml_device_update {
    ml_ctx ctx; /* of products: only its device is used */
    const ml_optim_config *config;
    const ml_param *param;
    int64_t n_param;
    double *part;               /* [PARTS] */
    double *sums;               /* [n_param] */
    double *here;               /* [n_param], this machine's */
    float *u, *x, *gram, *poly; /* [batch, rows, cols] twice, [batch, side, side] twice: within `scratch` */
    void *scratch;
    int64_t scratch_floats;
};

/* ---- sums of squares ---- */

static __global__ void __launch_bounds__(THREADS) square_parts(const float *x, int64_t n, double *part)
{
    __shared__ double shared[THREADS / WARP];
    int64_t each = (n + PARTS - 1) / PARTS, begin = blockIdx.x * each, end = begin + each < n ? begin + each : n;
    double sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += THREADS) sum += (double)x[i] * (double)x[i];
    sum = ml_block_sum(sum, shared);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(THREADS) join_parts(const double *part, double *sum, bool add)
{
    __shared__ double shared[THREADS / WARP];
    double v = 0;
    for (int i = (int)threadIdx.x; i < PARTS; i += THREADS) v += part[i];
    v = ml_block_sum(v, shared);
    if (threadIdx.x == 0) *sum = add ? *sum + v : v;
}

extern "C" ml_status ml_device_update_norm(ml_device_update *u, double *norm, ml_error *err)
{
    double total = 0;
    *norm = 0;
    for (int64_t i = 0; i < u->n_param; i++) {
        ML_LAUNCH(u->ctx.device, square_parts, PARTS, THREADS, 0, u->param[i].grad, ml_param_count(&u->param[i]),
                  u->part);
        ML_LAUNCH(u->ctx.device, join_parts, 1, THREADS, 0, u->part, u->sums + i, false);
    }
    ML_TRY(ml_device_update_sums(u, u->here, err));
    for (int64_t i = 0; i < u->n_param; i++) {
        if (!std::isfinite(u->here[i])) {
            return ml_fail(err, ML_ENUMERIC,
                           "the gradient of %s is not finite; lower the learning rate, or look for bad data in this "
                           "step",
                           u->param[i].name);
        }
        total += u->here[i];
    }
    *norm = sqrt(total);
    return ML_OK;
}

extern "C" ml_status ml_device_update_sums(ml_device_update *u, double *sums, ml_error *err)
{
    return ml_device_download(u->ctx.device, sums, u->sums, (size_t)u->n_param * sizeof *sums, err);
}

/* ---- AdamW ---- */

static __global__ void __launch_bounds__(THREADS)
    adamw(ml_adamw a, float *value, const float *grad, float *m, float *v, int64_t n, double *part)
{
    __shared__ double shared[THREADS / WARP];
    int64_t each = (n + PARTS - 1) / PARTS, begin = blockIdx.x * each, end = begin + each < n ? begin + each : n;
    double sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += THREADS) {
        float g = grad[i] * a.grad_scale;
        float m1 = a.beta1 * m[i] + (1.0f - a.beta1) * g, v1 = a.beta2 * v[i] + (1.0f - a.beta2) * (g * g);
        float update = (m1 * a.unbias) / (sqrtf(v1) * a.correction + a.eps);
        m[i] = m1;
        v[i] = v1;
        value[i] = value[i] * a.decay - a.lr * update;
        sum += (double)(update * update);
    }
    sum = ml_block_sum(sum, shared);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

extern "C" void ml_device_update_adamw(ml_device_update *u, int64_t i, const ml_adamw *rule,
                                       const ml_optim_moments *moments)
{
    const ml_param *p = &u->param[i];
    ML_LAUNCH(u->ctx.device, adamw, PARTS, THREADS, 0, *rule, p->value, p->grad, moments->m, moments->v,
              ml_param_count(p), u->part);
    ML_LAUNCH(u->ctx.device, join_parts, 1, THREADS, 0, u->part, u->sums + i, false);
}

/* ---- Muon ---- */

static __global__ void make_update(float *u, float *momentum, const float *grad, float mu, float grad_scale,
                                   bool nesterov, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    float g = grad[i] * grad_scale, m = mu * momentum[i] + g;
    momentum[i] = m;
    u[i] = nesterov ? g + mu * m : m;
}

/* Each block one matrix: u / (|u| + 1e-7), the norm in double. */
static __global__ void __launch_bounds__(THREADS) normalise(float *u, int64_t n)
{
    __shared__ double shared[THREADS / WARP];
    float *x = u + (int64_t)blockIdx.x * n;
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += (double)x[i] * (double)x[i];
    float scale = (float)(1.0 / (sqrt(ml_block_sum(sum, shared)) + 1e-7));
    for (int64_t i = threadIdx.x; i < n; i += THREADS) x[i] *= scale;
}

static __global__ void __launch_bounds__(THREADS)
    apply(float *value, const float *u, float decay, float rate, int64_t n, double *part)
{
    __shared__ double shared[THREADS / WARP];
    int64_t each = (n + PARTS - 1) / PARTS, begin = blockIdx.x * each, end = begin + each < n ? begin + each : n;
    double sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += THREADS) {
        float o = u[i];
        sum += (double)o * (double)o;
        value[i] = value[i] * decay - rate * o;
    }
    sum = ml_block_sum(sum, shared);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Floats of scratch for one matrix. */
static int64_t matrix_floats(const ml_param *p)
{
    int64_t side = smaller(p->rows, p->cols);
    return 2 * p->rows * p->cols + 2 * side * side;
}

static ml_cuda_operand stack(const float *data, int64_t rows, int64_t cols, bool transpose)
{
    ml_cuda_operand o = ml_cuda_operand_make(data, cols, transpose);
    o.product = rows * cols;
    return o;
}

static void multiply(ml_device_update *u, int64_t n_matrix, int64_t m, int64_t n, int64_t k, ml_cuda_operand a,
                     ml_cuda_operand b, float *c, float alpha, const float *d, float beta)
{
    ml_cuda_gemm g = ml_cuda_gemm_make(m, n, k);
    g.n_product = n_matrix;
    g.a = a;
    g.b = b;
    g.c = c;
    g.c_stride = n;
    g.c_product = m * n;
    g.alpha = alpha;
    g.d = d;
    g.beta = beta;
    ml_cuda_gemm_run(&u->ctx, &g);
}

/* Orthogonalise n stacked matrices in u->u. */
static void newton_schulz(ml_device_update *u, int64_t n, int64_t rows, int64_t cols)
{
    int64_t side = smaller(rows, cols), k = rows + cols - side;
    bool tall = rows > cols;
    ML_LAUNCH(u->ctx.device, normalise, (unsigned)n, THREADS, 0, u->u, rows * cols);
    for (int step = 0; step < u->config->ns_steps; step++) {
        ml_cuda_operand gram = stack(u->gram, side, side, false), poly = stack(u->poly, side, side, false);
        multiply(u, n, side, side, k, stack(u->u, rows, cols, tall), stack(u->u, rows, cols, !tall), u->gram, 1, NULL,
                 0);
        multiply(u, n, side, side, side, gram, gram, u->poly, C_COEF, u->gram, B_COEF);
        ml_cuda_operand x = stack(u->u, rows, cols, false);
        multiply(u, n, rows, cols, side, tall ? x : poly, tall ? poly : x, u->x, 1, u->u, A_COEF);
        float *swap = u->u;
        u->u = u->x;
        u->x = swap;
    }
}

extern "C" void ml_device_update_muon(ml_device_update *u, int64_t i, float grad_scale, float decay, float rate,
                                      const ml_optim_moments *moments)
{
    const ml_param *p = &u->param[i];
    int64_t size = p->rows * p->cols, side = smaller(p->rows, p->cols), most = u->scratch_floats / matrix_floats(p);
    if (most > MAX_GRID_Y) most = MAX_GRID_Y; /* products are numbered by the grid's third dimension */
    for (int64_t first = 0; first < p->n_matrix; first += most) {
        int64_t n = smaller(p->n_matrix - first, most), at = first * size;
        u->u = (float *)u->scratch;
        u->x = u->u + n * size;
        u->gram = u->x + n * size;
        u->poly = u->gram + n * side * side;
        ML_LAUNCH(u->ctx.device, make_update, (unsigned)ml_n_blocks(n * size, THREADS), THREADS, 0, u->u,
                  moments->momentum + at, p->grad + at, (float)u->config->momentum, grad_scale, u->config->nesterov,
                  n * size);
        newton_schulz(u, n, p->rows, p->cols);
        ML_LAUNCH(u->ctx.device, apply, PARTS, THREADS, 0, p->value + at, u->u, decay, rate, n * size, u->part);
        ML_LAUNCH(u->ctx.device, join_parts, 1, THREADS, 0, u->part, u->sums + i, first > 0);
    }
}

/* ---- its memory ---- */

static int64_t plan_scratch(const ml_optim_config *config, const ml_param *param, int64_t n_param)
{
    int64_t most = 0;
    for (int64_t i = 0; i < n_param; i++) {
        if (!ml_optim_is_muon(ml_optim_choose_group(config, param[i].kind))) continue;
        int64_t one = matrix_floats(&param[i]), all = one * param[i].n_matrix;
        int64_t want = all < BATCH_FLOATS ? all : one > BATCH_FLOATS ? one : BATCH_FLOATS;
        if (want > most) most = want;
    }
    return most;
}

extern "C" ml_status ml_device_update_make(ml_device *device, const ml_optim_config *config, const ml_param *param,
                                           int64_t n_param, ml_device_update **out, ml_error *err)
{
    *out = NULL;
    ml_device_update *u = (ml_device_update *)ml_calloc(1, sizeof *u);
    if (!u) return ml_fail_memory(err, sizeof *u, "the optimizer");
    u->ctx.device = device;
    u->config = config;
    u->param = param;
    u->n_param = n_param;
    u->scratch_floats = plan_scratch(config, param, n_param);
    u->here = (double *)ml_calloc((size_t)n_param, sizeof *u->here);
    size_t scratch_bytes = (size_t)u->scratch_floats * sizeof(float), n = (size_t)n_param;
    void *part = NULL, *sums = NULL;
    ml_status status = u->here ? ML_OK : ml_fail_memory(err, n * sizeof *u->here, "the optimizer's sums");
    if (status == ML_OK) status = ml_device_alloc(device, PARTS * sizeof(double), "the optimizer's sums", &part, err);
    u->part = (double *)part;
    if (status == ML_OK) status = ml_device_alloc(device, n * sizeof(double), "the optimizer's sums", &sums, err);
    u->sums = (double *)sums;
    if (status == ML_OK) status = ml_device_alloc(device, scratch_bytes, "Newton-Schulz", &u->scratch, err);
    if (status != ML_OK) {
        ml_device_update_free(u);
        return status;
    }
    *out = u;
    return ML_OK;
}

extern "C" void ml_device_update_free(ml_device_update *u)
{
    if (!u) return;
    ml_device_release(u->ctx.device, u->part);
    ml_device_release(u->ctx.device, u->sums);
    ml_device_release(u->ctx.device, u->scratch);
    ml_free(u->here);
    ml_free(u);
}
