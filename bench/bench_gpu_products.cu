/* Matrix products on the GPU at moonlight-16b's shapes, beside what its matrix unit does at best here.
 *
 *   bench_gpu_products [--small]     --small: tiny shapes, to see that it runs; no figures
 *
 * Medians of N_REPEAT timings by the device's events, random operands; the last line is JSON.
 *   matrix rate   cuBLASLt, 8192 x 8192 x 8192, bf16 in and out: what shares are of
 *   own           the same by our kernels
 *   linear        8192 tokens through a weight with a bf16 copy, activations fp32 (rounded on the way)
 *   grouped       products of 64 experts, 6 of them a token, rows unevenly spread: with gathered rows, with their
 *                 results, and of their inner dimension (a weight's gradient, added in fp32)
 *   experts       the whole operator, forward and backward (6 d f operations a row forward, twice that backward)
 *   newton        the products of Newton-Schulz, over all matrices of the model */
#include "ops/cuda/gemm_lt.cuh"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" {
#include "ops/ops.h"
}

enum { N_REPEAT = 11, N_WARM = 3, NS_STEPS = 5 };

static ml_device *device;
static ml_ctx ctx;
static double matrix_rate; /* operations a second */
static bool small;
static char json[8192];

static void stop_on(ml_status status, const ml_error *err)
{
    if (status == ML_OK) return;
    fprintf(stderr, "bench_gpu_products: %s\n", err->message);
    exit(1);
}

/* ---- operands ---- */

static __device__ float random_at(uint64_t seed, uint64_t i)
{
    uint64_t z = (seed * 0x9e3779b97f4a7c15u + i) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (float)((double)(z >> 40) / 8388608.0 - 1.0);
}

static __global__ void fill(float *data, uint16_t *half, int64_t n, uint64_t seed)
{
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= n) return;
    float v = random_at(seed, (uint64_t)i);
    if (data) data[i] = v;
    if (half) half[i] = (uint16_t)ml_pack_bf16(v, 0);
}

static void *allocate(int64_t n_bytes)
{
    ml_error err;
    void *p;
    stop_on(ml_device_alloc(device, (size_t)n_bytes, "an operand", &p, &err), &err);
    return p;
}

static uint64_t next_seed;

static uint16_t *make_half(int64_t n)
{
    uint16_t *p = (uint16_t *)allocate(n * 2);
    ML_LAUNCH(device, fill, (unsigned)ml_n_blocks(n, 256), 256, 0, (float *)NULL, p, n, ++next_seed);
    return p;
}

static float *make_float(int64_t n)
{
    float *p = (float *)allocate(n * 4);
    ML_LAUNCH(device, fill, (unsigned)ml_n_blocks(n, 256), 256, 0, p, (uint16_t *)NULL, n, ++next_seed);
    return p;
}

/* A weight that is trained: values, their bf16 copy, its gradient. */
static ml_tensor make_weight(int n_dim, const int64_t *dims)
{
    ml_tensor t = ml_tensor_describe(ML_F32, n_dim, dims, NULL);
    int64_t n = ml_tensor_count(&t);
    t.data = allocate(n * 4);
    t.half = (uint16_t *)allocate(n * 2);
    t.grad = make_float(n);
    t.device = device;
    t.needs_grad = true;
    ML_LAUNCH(device, fill, (unsigned)ml_n_blocks(n, 256), 256, 0, (float *)t.data, t.half, n, ++next_seed);
    return t;
}

static void free_weight(const ml_tensor *t)
{
    ml_device_release(device, t->data);
    ml_device_release(device, t->half);
    ml_device_release(device, t->grad);
}

/* ---- timing ---- */

typedef void work_fn(const void *arg);

/* Median seconds of one call. */
static double time_of(work_fn *work, const void *arg)
{
    ml_error err;
    std::vector<double> seconds;
    for (int i = 0; i < (small ? 1 : N_REPEAT + N_WARM); i++) {
        ml_device_timer *timer;
        double one;
        stop_on(ml_device_timer_start(device, &timer, &err), &err);
        work(arg);
        stop_on(ml_device_timer_stop(timer, &one, &err), &err);
        stop_on(ml_ctx_status(&ctx, &err), &err);
        if (small || i >= N_WARM) seconds.push_back(one);
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
}

static void report(const char *name, double seconds, double operations)
{
    double rate = operations / (seconds > 0 ? seconds : 1e-9);
    size_t at = strlen(json);
    if (small) {
        printf("%s: ran\n", name);
        return;
    }
    printf("%-40s %10.3f ms %8.1f TFLOP/s %6.1f %% of the matrix rate\n", name, seconds * 1e3, rate / 1e12,
           matrix_rate > 0 ? 100 * rate / matrix_rate : 100.0);
    fflush(stdout);
    snprintf(json + at, sizeof json - at, "%s{\"product\": \"%s\", \"ms\": %.4f, \"tflops\": %.1f, \"share\": %.4f}",
             at ? ", " : "", name, seconds * 1e3, rate / 1e12, matrix_rate > 0 ? rate / matrix_rate : 1.0);
}

/* ---- dense products ---- */

static void run_gemm(const void *arg)
{
    ml_cuda_gemm_run(&ctx, (const ml_cuda_gemm *)arg);
}

static void run_own(const void *arg)
{
    ml_product g = *(const ml_product *)arg;
    ml_product_run(&ctx, &g);
}

static void bench_rate(void)
{
    int64_t n = small ? 128 : 8192;
    double operations = 2.0 * (double)n * (double)n * (double)n;
    uint16_t *a = make_half(n * n), *b = make_half(n * n), *c = (uint16_t *)allocate(n * n * 2);
    ml_cuda_gemm g = ml_cuda_gemm_make(n, n, n);
    g.a = ml_cuda_operand_half(a, n, false);
    g.b = ml_cuda_operand_half(b, n, true);
    g.c_half = c;
    g.c_stride = n;
    double seconds = time_of(run_gemm, &g);
    matrix_rate = operations / (seconds > 0 ? seconds : 1e-9);
    report("matrix rate (cuBLASLt, 8192^3)", seconds, operations);
    ml_product own = ml_product_make(n, n, n);
    own.a = ml_half_operand_of(&g.a);
    own.b = ml_half_operand_of(&g.b);
    own.b_transpose = true;
    own.c_half = c;
    own.c_stride = n;
    own.c_pairs = true;
    report("own kernel, 8192^3", time_of(run_own, &own), operations);
    ml_device_release(device, a);
    ml_device_release(device, b);
    ml_device_release(device, c);
}

typedef struct {
    ml_tensor *x, *w;
    float *dy;
} linear_work;

static void run_linear(const void *arg)
{
    const linear_work *w = (const linear_work *)arg;
    ml_error err;
    ml_ctx_reset(&ctx);
    ctx.recording = true;
    w->x->grad = NULL;
    ml_tensor *y = ml_linear(&ctx, w->x, w->w, NULL);
    if (!y) return;
    y->grad = w->dy;
    stop_on(ml_tape_backward(&ctx, &err), &err);
}

static void bench_linear(const char *name, int64_t n_token, int64_t n, int64_t k)
{
    int64_t dims[2] = { n, k }, x_dims[2] = { n_token, k };
    ml_tensor w = make_weight(2, dims), x = ml_tensor_describe(ML_F32, 2, x_dims, make_float(n_token * k));
    x.device = device;
    x.needs_grad = true;
    linear_work work = { &x, &w, make_float(n_token * n) };
    report(name, time_of(run_linear, &work), 6.0 * (double)n_token * (double)n * (double)k);
    free_weight(&w);
    ml_device_release(device, x.data);
    ml_device_release(device, work.dy);
}

/* ---- experts ---- */

typedef struct {
    int64_t n_token, top_k, n_expert, d, f;
    std::vector<int32_t> id, offset, token;
} layer;

/* Distinct experts for each token, the first quarter of them twice as likely as the others. */
static void choose(layer *l)
{
    uint64_t state = 12345;
    std::vector<int32_t> count((size_t)l->n_expert, 0);
    for (int64_t t = 0; t < l->n_token; t++) {
        for (int64_t k = 0; k < l->top_k; k++) {
            int32_t e;
            bool again;
            do {
                state = state * 6364136223846793005u + 1442695040888963407u;
                uint64_t of = (uint64_t)(l->n_expert + l->n_expert / 4);
                e = (int32_t)((state >> 33) % of % (uint64_t)l->n_expert);
                again = false;
                for (int64_t j = 0; j < k; j++) again = again || l->id[(size_t)(t * l->top_k + j)] == e;
            } while (again);
            l->id.push_back(e);
            count[(size_t)e]++;
        }
    }
    l->offset.push_back(0);
    for (int64_t e = 0; e < l->n_expert; e++) l->offset.push_back(l->offset.back() + count[(size_t)e]);
    std::vector<int32_t> at(l->offset);
    l->token.resize(l->id.size());
    for (size_t i = 0; i < l->id.size(); i++) {
        l->token[(size_t)at[(size_t)l->id[i]]++] = (int32_t)((int64_t)i / l->top_k);
    }
}

static int32_t *upload(const std::vector<int32_t> &v)
{
    ml_error err;
    int32_t *p = (int32_t *)allocate((int64_t)v.size() * 4);
    stop_on(ml_device_upload(device, p, v.data(), v.size() * 4, &err), &err);
    return p;
}

static void bench_grouped(const layer *l)
{
    int64_t n_row = l->n_token * l->top_k, d = l->d, f = l->f, e = l->n_expert;
    double operations = 2.0 * (double)n_row * (double)d * (double)f;
    int32_t *offset = upload(l->offset), *token = upload(l->token);
    uint16_t *x = make_half(l->n_token * d), *w = make_half(e * 2 * f * d), *a = make_half(n_row * f);
    uint16_t *out = (uint16_t *)allocate(n_row * std::max(2 * f, d) * 2);
    float *dw = make_float(e * d * f);
    ml_cuda_gemm g = ml_cuda_gemm_make(n_row, 2 * f, d);
    g.n_product = e;
    g.grouping = ML_GROUP_ROWS;
    g.offset = offset;
    g.a = ml_cuda_operand_half(x, d, false);
    g.a.row = token;
    g.b = ml_cuda_operand_half(w, d, true);
    g.b.product = 2 * f * d;
    g.c_half = out;
    g.c_stride = 2 * f;
    report("grouped: gathered x, gate and up", time_of(run_gemm, &g), 2 * operations);
    ml_cuda_gemm down = g;
    down.n = d;
    down.k = f;
    down.a = ml_cuda_operand_half(a, f, false);
    down.b = ml_cuda_operand_half(w, f, true);
    down.b.product = d * f;
    down.c_stride = d;
    report("grouped: down", time_of(run_gemm, &down), operations);
    ml_cuda_gemm inner = ml_cuda_gemm_make(d, f, n_row);
    inner.n_product = e;
    inner.grouping = ML_GROUP_INNER;
    inner.offset = offset;
    inner.a = ml_cuda_operand_half(x, d, true);
    inner.a.row = token;
    inner.b = ml_cuda_operand_half(a, f, false);
    inner.c = dw;
    inner.c_stride = f;
    inner.c_product = d * f;
    inner.accumulate = true;
    report("grouped: gradient of down", time_of(run_gemm, &inner), operations);
    void *all[] = { offset, token, x, w, a, out, dw };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ml_device_release(device, all[i]);
}

typedef struct {
    ml_tensor x, id, prob, both, down;
    float *dy;
    bool backward;
} experts_work;

static ml_tensor half_of(ml_tensor *both, bool second)
{
    ml_tensor half = *both;
    half.dim[1] /= 2;
    int64_t at = second ? half.dim[1] * half.dim[2] : 0;
    half.data = (float *)both->data + at;
    half.half = both->half + at;
    half.grad = both->grad + at;
    return half;
}

static void run_experts(const void *arg)
{
    experts_work w = *(const experts_work *)arg;
    ml_error err;
    ml_experts_param param = { ML_ACT_SILU };
    ml_ctx_reset(&ctx);
    ctx.recording = true;
    ml_tensor gate = half_of(&w.both, false), up = half_of(&w.both, true);
    ml_tensor *y = ml_experts(&ctx, &w.x, &w.id, &w.prob, &gate, &up, &w.down, &param);
    if (!y || !w.backward) return;
    y->grad = w.dy;
    stop_on(ml_tape_backward(&ctx, &err), &err);
}

static void bench_experts(const layer *l)
{
    int64_t x_dims[2] = { l->n_token, l->d }, id_dims[2] = { l->n_token, l->top_k };
    int64_t both_dims[3] = { l->n_expert, 2 * l->f, l->d }, down_dims[3] = { l->n_expert, l->d, l->f };
    double operations = 6.0 * (double)(l->n_token * l->top_k) * (double)l->d * (double)l->f;
    experts_work w;
    w.x = ml_tensor_describe(ML_F32, 2, x_dims, make_float(l->n_token * l->d));
    w.id = ml_tensor_describe(ML_I32, 2, id_dims, upload(l->id));
    w.prob = ml_tensor_describe(ML_F32, 2, id_dims, make_float(l->n_token * l->top_k));
    w.both = make_weight(3, both_dims);
    w.down = make_weight(3, down_dims);
    w.dy = make_float(l->n_token * l->d);
    w.x.device = w.id.device = w.prob.device = device;
    w.x.needs_grad = w.prob.needs_grad = true;
    w.backward = false;
    double forward = time_of(run_experts, &w);
    report("experts forward", forward, operations);
    w.backward = true;
    double both = time_of(run_experts, &w);
    report("experts backward", both - forward, 2 * operations);
    report("experts forward and backward", both, 3 * operations);
    free_weight(&w.both);
    free_weight(&w.down);
    void *all[] = { w.x.data, w.id.data, w.prob.data, w.dy };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ml_device_release(device, all[i]);
}

/* ---- Newton-Schulz ---- */

typedef struct {
    int64_t n, rows, cols;
    uint16_t *x, *y, *gram, *poly;
} newton_work;

static void multiply(int64_t n, int64_t m, int64_t n_col, int64_t k, ml_cuda_operand a, ml_cuda_operand b, uint16_t *c,
                     const uint16_t *d)
{
    ml_cuda_gemm g = ml_cuda_gemm_make(m, n_col, k);
    g.n_product = n;
    g.a = a;
    g.b = b;
    g.c_half = c;
    g.c_stride = n_col;
    g.c_product = m * n_col;
    g.alpha = 0.5f;
    g.d_half = d;
    g.beta = d ? 0.5f : 0.0f;
    ml_cuda_gemm_run(&ctx, &g);
}

static ml_cuda_operand stack(const uint16_t *data, int64_t rows, int64_t cols, bool transpose)
{
    ml_cuda_operand o = ml_cuda_operand_half(data, cols, transpose);
    o.product = rows * cols;
    return o;
}

static void run_newton(const void *arg)
{
    newton_work w = *(const newton_work *)arg;
    for (int step = 0; step < NS_STEPS; step++) {
        multiply(w.n, w.rows, w.rows, w.cols, stack(w.x, w.rows, w.cols, false), stack(w.x, w.rows, w.cols, true),
                 w.gram, NULL);
        multiply(w.n, w.rows, w.rows, w.rows, stack(w.gram, w.rows, w.rows, false),
                 stack(w.gram, w.rows, w.rows, false), w.poly, w.gram);
        multiply(w.n, w.rows, w.cols, w.rows, stack(w.poly, w.rows, w.rows, false), stack(w.x, w.rows, w.cols, false),
                 w.y, w.x);
        std::swap(w.x, w.y);
    }
}

/* Matrices of moonlight-16b that Muon moves, the shorter side first. */
static void bench_newton(void)
{
    static const struct {
        const char *name;
        int64_t rows, cols, n;
    } kinds[] = {
        { "newton: experts 1408 x 2048", 1408, 2048, 26 * 64 * 3 },
        { "newton: shared 2048 x 2816", 2048, 2816, 26 * 3 },
        { "newton: dense 2048 x 11264", 2048, 11264, 3 },
        { "newton: q 2048 x 3072", 2048, 3072, 27 },
        { "newton: kv_a 576 x 2048", 576, 2048, 27 },
        { "newton: kv_b 512 x 4096", 512, 4096, 27 },
        { "newton: o 2048 x 2048", 2048, 2048, 27 },
    };
    double seconds = 0, operations = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int64_t rows = small ? 24 : kinds[i].rows, cols = small ? 40 : kinds[i].cols, batch = small ? 2 : 64;
        if (batch > kinds[i].n) batch = kinds[i].n;
        newton_work w = { batch,
                          rows,
                          cols,
                          make_half(batch * rows * cols),
                          make_half(batch * rows * cols),
                          make_half(batch * rows * rows),
                          make_half(batch * rows * rows) };
        double m = (double)rows, n = (double)cols, each = NS_STEPS * (4 * m * m * n + 2 * m * m * m);
        double one = time_of(run_newton, &w);
        report(kinds[i].name, one, each * (double)batch);
        seconds += one * (double)kinds[i].n / (double)batch;
        operations += each * (double)kinds[i].n;
        ml_device_release(device, w.x);
        ml_device_release(device, w.y);
        ml_device_release(device, w.gram);
        ml_device_release(device, w.poly);
        if (small) break;
    }
    report("newton: all matrices of a step", seconds, operations);
}

int main(int argc, char **argv)
{
    ml_error err;
    small = argc > 1 && !strcmp(argv[1], "--small");
    if (ml_device_open(0, &device, &err) != ML_OK) {
        printf("skipped: no GPU (%s)\n", err.message);
        return 77;
    }
    size_t act = (size_t)(small ? 64 : 4096) << 20, grad = (size_t)(small ? 16 : 1024) << 20;
    stop_on(ml_ctx_init_on(&ctx, device, act, grad, &err), &err);
    ctx.precision = ML_PRECISION_BF16;
    bench_rate();
    if (small) {
        bench_linear("linear", 40, 24, 16);
    } else {
        bench_linear("linear: q, forward and backward", 8192, 3072, 2048);
        bench_linear("linear: dense gate and up", 8192, 22528, 2048);
    }
    layer l = { 8192, 6, 64, 2048, 1408, {}, {}, {} };
    if (small) l = { 30, 2, 4, 24, 16, {}, {}, {} };
    choose(&l);
    bench_grouped(&l);
    bench_experts(&l);
    bench_newton();
    if (!small) printf("{\"products\": [%s]}\n", json);
    ml_ctx_free(&ctx);
    ml_device_close(device);
    return 0;
}
