/* Products of ops/cuda/gemm.cuh in every form that operators' tests do not reach: stacks of matrices, all four
 * transpositions, bf16 operands and results, alpha, beta and d, x x^T, stored rows of c.  The reference multiplies the
 * rounded operands in double precision on this machine, so only the fp32 sums (and the rounding of a bf16 result)
 * differ. Exit status 77 where there is no GPU. */
#include "ops/cuda/gemm.cuh"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" {
#include "base/rng.h"
}

static ml_device *device;
static ml_ctx ctx;
static int n_failed;

typedef struct {
    int64_t n_product, m, n, k;
    bool a_transpose, b_transpose, halves, c_is_half, has_d, same, accumulate, c_rows;
} form;

static void stop_on(ml_status status, const ml_error *err)
{
    if (status == ML_OK) return;
    fprintf(stderr, "test_gemm: %s\n", err->message);
    exit(1);
}

static void *upload(const void *from, size_t n_bytes)
{
    ml_error err;
    void *p;
    stop_on(ml_device_alloc(device, n_bytes, "an operand", &p, &err), &err);
    stop_on(ml_device_upload(device, p, from, n_bytes, &err), &err);
    return p;
}

/* Numbers that bf16 holds exactly, on the device in one type or the other. */
static std::vector<float> make(int64_t n, ml_rng *rng)
{
    std::vector<float> v((size_t)n);
    for (float &x : v) x = ((float)ml_rng_below(rng, 255) - 127.0f) / 64.0f;
    return v;
}

static std::vector<uint16_t> halves_of(const std::vector<float> &v)
{
    std::vector<uint16_t> h(v.size());
    ml_convert_from_f32(ML_BF16, v.data(), h.data(), (int64_t)v.size());
    return h;
}

static ml_cuda_operand place(const std::vector<float> &v, int64_t stride, int64_t product, bool transpose, bool halves)
{
    ml_cuda_operand o = ml_cuda_operand_make(NULL, stride, transpose);
    if (halves)
        o.half = (uint16_t *)upload(halves_of(v).data(), v.size() * 2);
    else
        o.data = (float *)upload(v.data(), v.size() * 4);
    o.product = product;
    return o;
}

static void release(const ml_cuda_operand *o)
{
    ml_device_release(device, (void *)(uintptr_t)(o->half ? (const void *)o->half : (const void *)o->data));
}

static void check(int number, const form *f, ml_precision precision)
{
    ml_error err;
    ml_rng rng = ml_rng_make(7, (uint64_t)number);
    int64_t a_stride = (f->a_transpose ? f->m : f->k) + 3, b_stride = (f->b_transpose ? f->k : f->n) + 3;
    int64_t a_size = (f->a_transpose ? f->k : f->m) * a_stride, b_size = (f->b_transpose ? f->n : f->k) * b_stride;
    int64_t c_stride = f->n + 1, c_size = f->m * c_stride, n_c = f->n_product * c_size;
    std::vector<float> a = make(f->n_product * a_size, &rng), b = f->same ? a : make(f->n_product * b_size, &rng);
    std::vector<float> c = make(n_c, &rng), d = make(n_c, &rng);
    ml_cuda_gemm g = ml_cuda_gemm_make(f->m, f->n, f->k);
    g.n_product = f->n_product;
    g.a = place(a, a_stride, a_size, f->a_transpose, f->halves);
    g.b = f->same ? g.a : place(b, b_stride, b_size, f->b_transpose, f->halves);
    g.b.transpose = f->b_transpose;
    ml_cuda_operand to = place(c, c_stride, c_size, false, f->c_is_half),
                    plus = place(d, c_stride, c_size, false, f->c_is_half);
    g.c = (float *)(uintptr_t)to.data;
    g.c_half = (uint16_t *)(uintptr_t)to.half;
    g.c_stride = c_stride;
    g.c_product = c_size;
    g.accumulate = f->accumulate;
    g.alpha = 0.75f;
    if (f->has_d) {
        g.beta = -0.5f;
        g.d = plus.data;
        g.d_half = plus.half;
    }
    std::vector<int32_t> row((size_t)f->m);
    for (int64_t i = 0; i < f->m; i++) row[(size_t)i] = (int32_t)(f->m - 1 - i);
    int32_t *rows = (int32_t *)upload(row.data(), row.size() * 4);
    if (f->c_rows) g.c_row = rows;
    ctx.precision = precision;
    ml_ctx_reset(&ctx);
    ml_cuda_gemm_run(&ctx, &g);
    stop_on(ml_ctx_status(&ctx, &err), &err);
    std::vector<float> found((size_t)n_c);
    std::vector<uint16_t> found_half((size_t)n_c);
    stop_on(f->c_is_half ? ml_device_download(device, found_half.data(), to.half, (size_t)n_c * 2, &err)
                         : ml_device_download(device, found.data(), to.data, (size_t)n_c * 4, &err),
            &err);
    if (f->c_is_half) ml_convert_to_f32(ML_BF16, found_half.data(), found.data(), n_c);
    /* fp32 sums of k exact products: k 2^-24 of their sizes, all below 4; a bf16 result half a unit of 2^-8 more. */
    double bound = 4.0 * (double)(f->k + 2) * (double)f->k * 0x1p-24 + 1e-6, worst = 0;
    std::vector<double> expected(c.begin(), c.end());
    for (int64_t p = 0; p < f->n_product; p++) {
        for (int64_t i = 0; i < f->m; i++) {
            for (int64_t j = 0; j < f->n; j++) {
                double sum = 0;
                for (int64_t l = 0; l < f->k; l++) {
                    int64_t x = p * a_size + (f->a_transpose ? l * a_stride + i : i * a_stride + l);
                    int64_t y = p * b_size + (f->b_transpose ? j * b_stride + l : l * b_stride + j);
                    sum += (double)a[(size_t)x] * (double)b[(size_t)y];
                }
                size_t at = (size_t)(p * c_size + (f->c_rows ? f->m - 1 - i : i) * c_stride + j);
                expected[at] = 0.75 * sum + (f->has_d ? -0.5 * (double)d[at] : 0) + (f->accumulate ? (double)c[at] : 0);
            }
        }
    }
    for (size_t i = 0; i < expected.size(); i++) { /* what lies between rows is as it was */
        double difference = fabs((double)found[i] - expected[i]) - (f->c_is_half ? fabs(expected[i]) / 256 : 0);
        if (!(difference <= worst)) worst = difference;
    }
    if (!(worst <= bound)) {
        printf("form %d in %s: off by %.3g, bound %.3g\n", number, precision == ML_PRECISION_BF16 ? "bf16" : "fp32",
               worst, bound);
        n_failed++;
    }
    release(&g.a);
    if (!f->same) release(&g.b);
    release(&to);
    release(&plus);
    ml_device_release(device, rows);
}

int main(void)
{
    static const form forms[] = {
        { 1, 70, 50, 33, false, false, false, false, false, false, false, false },
        { 3, 40, 136, 72, true, false, false, false, true, false, false, false },
        { 3, 130, 24, 40, false, true, false, false, false, false, true, false },
        { 2, 33, 17, 90, true, true, true, false, true, false, false, false },
        { 2, 45, 45, 80, false, true, false, false, false, true, false, false }, /* x x^T */
        { 2, 45, 45, 80, true, false, false, true, true, true, false, false },   /* x^T x */
        { 2, 40, 40, 40, false, false, true, true, true, true, false, false },   /* x x */
        { 1, 25, 30, 0, false, false, false, false, true, false, false, false }, /* nothing to be added */
        { 1, 60, 270, 20, false, true, true, false, false, false, true, true },  /* several tiles, stored rows */
        { 2, 270, 20, 200, false, false, true, true, false, false, false, true },
    };
    ml_error err;
    if (ml_device_open(0, &device, &err) != ML_OK) {
        printf("skipped: no GPU (%s)\n", err.message);
        return 77;
    }
    stop_on(ml_ctx_init_on(&ctx, device, (size_t)32 << 20, 0, &err), &err);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        check((int)i, &forms[i], ML_PRECISION_F32);
        check((int)i, &forms[i], ML_PRECISION_BF16);
    }
    ml_ctx_free(&ctx);
    ml_device_close(device);
    if (!n_failed) printf("passed\n");
    return n_failed > 0;
}
