/* AdamW, Muon and the gradient norm on a device.
 *
 * A thread block has one entry (AdamW) or a part of one matrix (Muon); its sum of squares goes to `part`, and one block
 * adds the parts of a batch in order.  Newton-Schulz takes all matrices of a batch together, as batched products:
 *     A = X X^T (or X^T X when X is tall);  B = b A + c A A;  X <- a X + B X (or X B) */
#include "optim/cuda/update.cuh"

#include "optim/cuda/control.cuh"
#include "tensor/half.h"

#include <cmath>

enum { THREADS = 256, PART = THREADS * 64 /* elements of a matrix that a block has */ };
static const float A_COEF = 3.4445f, B_COEF = -4.7750f, C_COEF = 2.0315f;

/* ---- numbers as they are stored ---- */

/* fp32, whole or split; with a copy in bf16 when there is a place for one. */
static __device__ __forceinline__ float load_value(const ml_update_entry *e, int64_t i)
{
    return e->rest ? ml_half_join(e->half[i], e->rest[i]) : e->value[i];
}

static __device__ __forceinline__ void store_value(const ml_update_entry *e, int64_t i, float x)
{
    uint16_t rest, half = ml_half_split(x, &rest);
    if (e->half) e->half[i] = half;
    if (e->rest)
        e->rest[i] = rest;
    else
        e->value[i] = x;
}

static __device__ __forceinline__ float load_moment(const float *m, int64_t i)
{
    return m[i];
}

static __device__ __forceinline__ float load_moment(const uint16_t *m, int64_t i)
{
    return __uint_as_float((unsigned)m[i] << 16);
}

/* -> x as it was before it was rounded: what this step's update uses */
static __device__ __forceinline__ float store_moment(float *m, int64_t i, float x)
{
    m[i] = x;
    return x;
}

static __device__ __forceinline__ float store_moment(uint16_t *m, int64_t i, float x)
{
    m[i] = ml_half_round(x);
    return x;
}

/* ---- what a step obeys ---- */

static __global__ void use_gradients(ml_update_control *c, float grad_scale, double beta1, double beta2)
{
    ml_control_use(c, grad_scale, beta1, beta2);
}

static __global__ void set_count(ml_update_control *c, int64_t step)
{
    c->step = step;
}

extern "C" ml_update_control *ml_device_update_get_control(ml_device_update *u)
{
    return u->control;
}

extern "C" void ml_device_update_queue_use(ml_device_update *u, double grad_scale)
{
    ML_LAUNCH(u->device, use_gradients, 1, 1, 0, u->control, (float)grad_scale, u->config->beta1, u->config->beta2);
}

extern "C" void ml_device_update_queue_count(ml_device_update *u, int64_t step)
{
    ML_LAUNCH(u->device, set_count, 1, 1, 0, u->control, step);
}

/* ---- sums ---- */

static __global__ void __launch_bounds__(THREADS) square_pieces(const ml_update_entry *piece, double *part)
{
    __shared__ double shared[THREADS / WARP];
    const ml_update_entry *e = &piece[blockIdx.x];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < e->n; i += THREADS) sum += (double)e->grad[i] * (double)e->grad[i];
    sum = ml_block_sum(sum, shared);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

/* *sum (+)= factor * the sum of part[0 .. n), where *use says so. */
static __global__ void __launch_bounds__(THREADS)
    join_parts(const double *part, int64_t n, double factor, bool add, const int32_t *use, double *sum)
{
    __shared__ double shared[THREADS / WARP];
    if (use && !*use) return;
    double v = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) v += part[i];
    v = ml_block_sum(v, shared);
    if (threadIdx.x == 0) *sum = (add ? *sum : 0.0) + factor * v;
}

extern "C" const double *ml_device_update_queue_norm(ml_device_update *u)
{
    ML_LAUNCH(u->device, square_pieces, (unsigned)u->n_piece, THREADS, 0, u->piece, u->part);
    ML_LAUNCH(u->device, join_parts, 1, THREADS, 0, u->part, u->n_piece, 1.0, false, (const int32_t *)NULL, u->norm);
    return u->norm;
}

/* ---- AdamW ---- */

struct adamw_rule {
    float beta1, beta2, eps;
    double lr, decay;
};

template <typename M>
static __global__ void __launch_bounds__(THREADS)
    adamw(const ml_update_entry *entry, adamw_rule a, const ml_update_control *control, double *part)
{
    __shared__ double shared[THREADS / WARP];
    if (!control->use) return;
    const ml_update_entry e = entry[blockIdx.x];
    M *first = (M *)e.m, *second = (M *)e.v;
    float scale = control->grad_scale, unbias = control->unbias, correction = control->correction;
    float lr = (float)(a.lr * (double)e.ratio), decay = (float)(1.0 - a.lr * (double)e.ratio * a.decay);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < e.n; i += THREADS) {
        float g = e.grad[i] * scale;
        float m = store_moment(first, i, a.beta1 * load_moment(first, i) + (1.0f - a.beta1) * g);
        float v = store_moment(second, i, a.beta2 * load_moment(second, i) + (1.0f - a.beta2) * (g * g));
        float update = (m * unbias) / (sqrtf(v) * correction + a.eps);
        store_value(&e, i, load_value(&e, i) * decay - lr * update);
        sum += (double)(update * update);
    }
    sum = ml_block_sum(sum, shared);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

static void queue_adamw(ml_device_update *u, const ml_update_batch *b, double lr)
{
    const ml_optim_config *c = u->config;
    adamw_rule rule = { (float)c->beta1, (float)c->beta2, (float)c->eps, lr, ml_optim_get_decay(c, b->group) };
    const ml_update_entry *entry = u->entry + b->first;
    if (u->storage.bf16)
        ML_LAUNCH(u->device, adamw<uint16_t>, (unsigned)b->n, THREADS, 0, entry, rule, u->control, u->part);
    else
        ML_LAUNCH(u->device, adamw<float>, (unsigned)b->n, THREADS, 0, entry, rule, u->control, u->part);
    ML_LAUNCH(u->device, join_parts, 1, THREADS, 0, u->part, b->n, 1.0, true, &u->control->use, u->squares + b->group);
}

/* ---- Muon ---- */

/* What is orthogonalised is bf16 (U = uint16_t) where products are, else fp32.
 *
 * Part blockIdx.x of matrix blockIdx.y: the momentum goes on, and what is to be orthogonalised goes to u.  A step that
 * is not used leaves the momentum alone; what comes of u is then used by nobody. */
template <typename M, typename U>
static __global__ void __launch_bounds__(THREADS) make_update(const ml_update_entry *entry, float mu, bool nesterov,
                                                              const ml_update_control *control, U *u, double *part)
{
    __shared__ double shared[THREADS / WARP];
    const ml_update_entry e = entry[blockIdx.y];
    M *momentum = (M *)e.m;
    U *to = u + (int64_t)blockIdx.y * e.n;
    int64_t begin = (int64_t)blockIdx.x * PART, end = begin + PART < e.n ? begin + PART : e.n;
    double sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end && control->use; i += THREADS) {
        float g = e.grad[i] * control->grad_scale;
        float m = store_moment(momentum, i, mu * load_moment(momentum, i) + g);
        float x = store_moment(to, i, nesterov ? g + mu * m : m);
        sum += (double)x * (double)x;
    }
    sum = ml_block_sum(sum, shared);
    if (threadIdx.x == 0) part[(int64_t)blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

/* u / (|u| + 1e-7); every block adds the parts of its matrix in the same order. */
template <typename U>
static __global__ void __launch_bounds__(THREADS)
    normalise(U *u, int64_t n, const double *part, const ml_update_control *control)
{
    if (!control->use) return;
    U *x = u + (int64_t)blockIdx.y * n;
    int64_t begin = (int64_t)blockIdx.x * PART, end = begin + PART < n ? begin + PART : n;
    double total = 0;
    for (unsigned i = 0; i < gridDim.x; i++) total += part[(int64_t)blockIdx.y * gridDim.x + i];
    float scale = (float)(1.0 / (sqrt(total) + 1e-7));
    for (int64_t i = begin + threadIdx.x; i < end; i += THREADS) store_moment(x, i, load_moment(x, i) * scale);
}

template <typename U>
static __global__ void __launch_bounds__(THREADS)
    apply_update(const ml_update_entry *entry, const U *u, float decay, float rate, const ml_update_control *control,
                 double *part)
{
    __shared__ double shared[THREADS / WARP];
    if (!control->use) return;
    const ml_update_entry e = entry[blockIdx.y];
    const U *from = u + (int64_t)blockIdx.y * e.n;
    int64_t begin = (int64_t)blockIdx.x * PART, end = begin + PART < e.n ? begin + PART : e.n;
    double sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += THREADS) {
        float o = load_moment(from, i);
        sum += (double)o * (double)o;
        store_value(&e, i, load_value(&e, i) * decay - rate * o);
    }
    sum = ml_block_sum(sum, shared);
    if (threadIdx.x == 0) part[(int64_t)blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

/* Stacked matrices as products take them, of either type. */
static ml_cuda_operand stack(const float *data, int64_t rows, int64_t cols, bool transpose)
{
    ml_cuda_operand o = ml_cuda_operand_make(data, cols, transpose);
    o.product = rows * cols;
    return o;
}

static ml_cuda_operand stack(const uint16_t *data, int64_t rows, int64_t cols, bool transpose)
{
    ml_cuda_operand o = ml_cuda_operand_half(data, cols, transpose);
    o.product = rows * cols;
    return o;
}

static void set_result(ml_cuda_gemm *g, float *c, const float *d)
{
    g->c = c;
    g->d = d;
}

static void set_result(ml_cuda_gemm *g, uint16_t *c, const uint16_t *d)
{
    g->c_half = c;
    g->d_half = d;
}

/* c [m, n] = alpha a b + beta d, of n_matrix products */
template <typename U>
static void multiply(ml_ctx *ctx, int64_t n_matrix, int64_t m, int64_t n, int64_t k, ml_cuda_operand a,
                     ml_cuda_operand b, U *c, float alpha, const U *d, float beta)
{
    ml_cuda_gemm g = ml_cuda_gemm_make(m, n, k);
    g.n_product = n_matrix;
    g.a = a;
    g.b = b;
    set_result(&g, c, d);
    g.c_stride = n;
    g.c_product = m * n;
    g.alpha = alpha;
    g.beta = beta;
    ml_cuda_gemm_run(ctx, &g);
}

/* Orthogonalise n stacked matrices x of norm 1; y is as large, gram and poly [n, side, side].  -> where the result is
 */
template <typename U>
static U *newton_schulz(ml_ctx *ctx, const ml_optim_config *config, int64_t n, int64_t rows, int64_t cols, U *x, U *y,
                        U *gram, U *poly)
{
    int64_t side = rows < cols ? rows : cols, k = rows + cols - side;
    bool tall = rows > cols;
    for (int step = 0; step < config->ns_steps; step++) {
        ml_cuda_operand a = stack(gram, side, side, false), b = stack(poly, side, side, false);
        ml_cuda_operand whole = stack(x, rows, cols, false);
        multiply(ctx, n, side, side, k, stack(x, rows, cols, tall), stack(x, rows, cols, !tall), gram, 1, (U *)NULL, 0);
        multiply(ctx, n, side, side, side, a, a, poly, C_COEF, gram, B_COEF);
        multiply(ctx, n, rows, cols, side, tall ? whole : b, tall ? b : whole, y, 1, x, A_COEF);
        U *swap = x;
        x = y;
        y = swap;
    }
    return x;
}

static int64_t count_parts(const ml_update_batch *b)
{
    return b->n * ml_n_blocks(b->most, PART);
}

template <typename U> static bool queue_muon(ml_device_update *u, const ml_update_batch *b, double lr)
{
    ml_ctx *ctx = u->ctx;
    const ml_optim_config *c = u->config;
    int64_t size = b->rows * b->cols, side = b->rows < b->cols ? b->rows : b->cols;
    U *x = (U *)ml_ctx_scratch_data(ctx, (size_t)(b->n * size) * sizeof *x);
    U *y = (U *)ml_ctx_scratch_data(ctx, (size_t)(b->n * size) * sizeof *y);
    U *gram = (U *)ml_ctx_scratch_data(ctx, (size_t)(b->n * side * side) * sizeof *gram);
    U *poly = (U *)ml_ctx_scratch_data(ctx, (size_t)(b->n * side * side) * sizeof *poly);
    if (!x || !y || !gram || !poly) return false;
    dim3 grid((unsigned)ml_n_blocks(size, PART), (unsigned)b->n);
    const ml_update_entry *entry = u->entry + b->first;
    float mu = (float)c->momentum;
    if (u->storage.bf16)
        ML_LAUNCH(u->device, (make_update<uint16_t, U>), grid, THREADS, 0, entry, mu, c->nesterov, u->control, x,
                  u->part);
    else
        ML_LAUNCH(u->device, (make_update<float, U>), grid, THREADS, 0, entry, mu, c->nesterov, u->control, x, u->part);
    ML_LAUNCH(u->device, normalise<U>, grid, THREADS, 0, x, size, u->part, u->control);
    x = newton_schulz(ctx, c, b->n, b->rows, b->cols, x, y, gram, poly);
    double factor = c->rms_scale * sqrt((double)(b->rows > b->cols ? b->rows : b->cols));
    float decay = (float)(1.0 - lr * ml_optim_get_decay(c, b->group)), rate = (float)(lr * factor);
    ML_LAUNCH(u->device, apply_update<U>, grid, THREADS, 0, entry, x, decay, rate, u->control, u->part);
    ML_LAUNCH(u->device, join_parts, 1, THREADS, 0, u->part, count_parts(b), factor * factor, true, &u->control->use,
              u->squares + b->group);
    return true;
}

/* ---- a step ---- */

extern "C" void ml_device_update_prefetch(ml_device_update *u)
{
    ml_update_ask(u, ML_UPDATE_SLOTS - 2);
}

extern "C" ml_status ml_device_update_queue(ml_device_update *u, double lr, const double **squares, ml_error *err)
{
    *squares = u->squares;
    ml_device_zero(u->device, u->squares, ML_N_OPTIM_GROUP * sizeof *u->squares);
    bool fits = true;
    for (int64_t i = 0; i < u->n_batch && fits; i++) {
        const ml_update_batch *b = &u->batch[i];
        ml_update_ask(u, i + 1);
        ml_update_await(u, i);
        ml_ctx_mark mark = ml_ctx_get_mark(u->ctx);
        if (ml_optim_is_muon(b->group))
            fits =
                u->ctx->precision == ML_PRECISION_BF16 ? queue_muon<uint16_t>(u, b, lr) : queue_muon<float>(u, b, lr);
        else
            queue_adamw(u, b, lr);
        ml_ctx_release(u->ctx, mark);
        ml_update_return(u, i);
    }
    ml_update_end(u);
    return ml_ctx_status(u->ctx, err);
}

/* ---- moments as others see them ---- */

extern "C" ml_status ml_device_update_read(ml_device_update *u, int64_t i, int slot, int64_t first, int64_t n,
                                           float *out, ml_error *err)
{
    size_t size = ml_update_moment_size(u);
    char *at = u->moments[i].slot[slot] + (size_t)first * size;
    ML_TRY(ml_device_wait(u->device, err)); /* for copies back, too */
    /* Numbers of 16 bits come into the latter half of `out` and are widened from its beginning on. */
    char *to = (char *)out + (size_t)n * (sizeof *out - size);
    if (u->storage.here)
        memcpy(to, at, (size_t)n * size);
    else
        ML_TRY(ml_device_download(u->device, to, at, (size_t)n * size, err));
    if (!u->storage.bf16) return ML_OK;
    for (int64_t k = 0; k < n; k++) {
        uint16_t half;
        memcpy(&half, to + (size_t)k * size, sizeof half);
        out[k] = ml_half_join(half, 0);
    }
    return ML_OK;
}

extern "C" ml_status ml_device_update_write(ml_device_update *u, int64_t i, int slot, int64_t first, int64_t n,
                                            const float *from, ml_error *err)
{
    size_t size = ml_update_moment_size(u);
    char *at = u->moments[i].slot[slot] + (size_t)first * size;
    ML_TRY(ml_device_wait(u->device, err)); /* for copies back, too */
    if (!u->storage.bf16) {
        if (!u->storage.here) return ml_device_upload(u->device, at, from, (size_t)n * size, err);
        memcpy(at, from, (size_t)n * size);
        return ML_OK;
    }
    uint16_t *half = (uint16_t *)ml_alloc((size_t)n * sizeof *half);
    if (!half) return ml_fail_memory(err, (size_t)n * sizeof *half, "the optimizer's state");
    for (int64_t k = 0; k < n; k++) half[k] = ml_half_round(from[k]);
    ml_status status = ML_OK;
    if (u->storage.here)
        memcpy(at, half, (size_t)n * size);
    else
        status = ml_device_upload(u->device, at, half, (size_t)n * size, err);
    ml_free(half);
    return status;
}

/* ---- its memory ---- */

static ml_status make_moments(ml_device_update *u, ml_error *err)
{
    size_t size = ml_update_moment_size(u), total = 0;
    for (int pass = 0; pass < 2; pass++) {
        total = 0;
        for (int64_t i = 0; i < u->n_param; i++) {
            size_t n_bytes = ((size_t)ml_param_count(&u->param[i]) * size + 255) & ~(size_t)255;
            for (int slot = 0; slot < ml_update_n_moment(u->config, &u->param[i]); slot++, total += n_bytes)
                if (pass == 1) u->moments[i].slot[slot] = u->memory + total;
        }
        if (pass == 1) break;
        void *memory = NULL;
        ML_TRY(u->storage.here ? ml_device_alloc_pinned(u->device, total, "the optimizer's moments", &memory, err)
                               : ml_device_alloc(u->device, total, "the optimizer's moments", &memory, err));
        u->memory = (char *)memory;
    }
    if (u->storage.here)
        memset(u->memory, 0, total);
    else
        ml_device_zero(u->device, u->memory, total);
    return ML_OK;
}

/* control | squares | norm | part, in one piece of device memory */
static ml_status make_sums(ml_device_update *u, ml_error *err)
{
    int64_t n_part = u->n_piece;
    for (int64_t i = 0; i < u->n_batch; i++) {
        const ml_update_batch *b = &u->batch[i];
        int64_t n = ml_optim_is_muon(b->group) ? count_parts(b) : b->n;
        if (n > n_part) n_part = n;
    }
    size_t control_bytes = (sizeof *u->control + 63) & ~(size_t)63;
    size_t n_bytes = control_bytes + (size_t)(ML_N_OPTIM_GROUP + 1 + n_part) * sizeof(double);
    void *memory = NULL;
    ML_TRY(ml_device_alloc(u->device, n_bytes, "the optimizer's sums", &memory, err));
    u->control = (ml_update_control *)memory;
    u->squares = (double *)(void *)((char *)memory + control_bytes);
    u->norm = u->squares + ML_N_OPTIM_GROUP;
    u->part = u->norm + 1;
    ml_device_zero(u->device, memory, n_bytes);
    return ML_OK;
}

extern "C" ml_status ml_device_update_make(ml_ctx *ctx, const ml_optim_config *config, const ml_optim_storage *storage,
                                           const ml_param *param, int64_t n_param, ml_device_update **out,
                                           ml_error *err)
{
    *out = NULL;
    ml_device_update *u = (ml_device_update *)ml_calloc(1, sizeof *u);
    if (!u) return ml_fail_memory(err, sizeof *u, "the optimizer");
    u->ctx = ctx;
    u->device = ctx->device;
    u->config = config;
    u->storage = *storage;
    u->param = param;
    u->n_param = n_param;
    u->moments = (ml_update_moments *)ml_calloc((size_t)n_param, sizeof *u->moments);
    ml_status status =
        u->moments ? make_moments(u, err) : ml_fail_memory(err, (size_t)n_param * sizeof *u->moments, "the optimizer");
    if (status == ML_OK) status = ml_update_make_batches(u, err);
    if (status == ML_OK) status = ml_update_make_stream(u, err);
    if (status == ML_OK) status = make_sums(u, err);
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
    ml_error ignored; /* a lost device frees as well */
    (void)ml_device_wait(u->device, &ignored);
    ml_update_free_stream(u);
    if (u->storage.here)
        ml_device_release_pinned(u->device, u->memory);
    else
        ml_device_release(u->device, u->memory);
    ml_device_release(u->device, u->entry);
    ml_device_release(u->device, u->piece);
    ml_device_release(u->device, u->slot);
    ml_device_release(u->device, u->control);
    ml_free(u->moments);
    ml_free(u->batch);
    ml_free(u->copy);
    ml_free(u);
}
