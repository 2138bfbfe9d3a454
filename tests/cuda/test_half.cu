/* fp32 to bf16, where a number lies between two: the halves of tensor/half.h (ties away from zero; what products read
 * of weights that are trained, and moments), and the rounding of operands (ties to even, ops/cuda/mma.cuh).  A table of
 * bits by the two rules, then random bits: on this machine, and on the device the same.  Exit status 77 where there is
 * no GPU. */
#include "ops/cuda/common.cuh"
#include "ops/cuda/mma.cuh"
#include "tensor/half.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" {
#include "base/rng.h"
}

/* Bits of a number, of its half by ml_half_split, and of bf16 with ties to even. */
static const struct {
    uint32_t bits;
    uint16_t away, even;
} table[] = {
    { 0x00000000, 0x0000, 0x0000 },                                 /* 0 */
    { 0x80000000, 0x8000, 0x8000 },                                 /* -0 */
    { 0x3f800000, 0x3f80, 0x3f80 },                                 /* 1 */
    { 0x3f807fff, 0x3f80, 0x3f80 },                                 /* just below a tie */
    { 0x3f808000, 0x3f81, 0x3f80 },                                 /* a tie above an even half */
    { 0xbf808000, 0xbf81, 0xbf80 }, { 0x3f808001, 0x3f81, 0x3f81 }, /* just above it */
    { 0x3f818000, 0x3f82, 0x3f82 },                                 /* a tie above an odd half */
    { 0x3f817fff, 0x3f81, 0x3f81 }, { 0x3fff8000, 0x4000, 0x4000 }, /* a tie that carries into the exponent */
    { 0x00008000, 0x0001, 0x0000 },                                 /* subnormal ties */
    { 0x80018000, 0x8002, 0x8002 }, { 0x007f8000, 0x0080, 0x0080 }, /* the last subnormal tie, up to the first normal
                                                                       number */
    { 0x7f7f7fff, 0x7f7f, 0x7f7f }, { 0x7f7f8000, 0x7f80, 0x7f80 }, /* beyond the largest half: infinity */
    { 0x7f7fffff, 0x7f80, 0x7f80 }, { 0xff7fffff, 0xff80, 0xff80 }, { 0x7f800000, 0x7f80, 0x7f80 }, /* infinity */
    { 0xff800000, 0xff80, 0xff80 },
};
enum { N_TABLE = sizeof table / sizeof *table };
/* A NaN becomes some NaN: quiet, signalling, and what a GPU's arithmetic gives. */
static const uint32_t nans[] = { 0x7fc00000, 0x7f800001, 0x7f80ffff, 0xffc01234, 0x7fffffff, 0xffffffff };
enum { N_NAN = sizeof nans / sizeof *nans, N_RANDOM = 20000, N = N_TABLE + N_NAN + N_RANDOM };

typedef struct {
    uint16_t half, rest, rounded, even;
    float again;
} result;

static int n_failed;

static float number_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static bool is_nan(uint16_t half)
{
    return (half & 0x7fff) > 0x7f80;
}

static void expect(bool right, const char *what, const char *where, uint32_t bits)
{
    if (right) return;
    if (n_failed++ < 20) printf("%s on %s: wrong for the number with bits %08x\n", what, where, bits);
}

static __global__ void convert(const float *x, int n, result *r)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    r[i].half = ml_half_split(x[i], &r[i].rest);
    r[i].rounded = ml_half_round(x[i]);
    r[i].again = ml_half_join(r[i].half, r[i].rest);
    /* In either place of a pair. */
    r[i].even = (uint16_t)(i % 2 ? ml_pack_bf16(0.0f, x[i]) >> 16 : ml_pack_bf16(x[i], 0.0f) & 0xffff);
}

static void check(const std::vector<uint32_t> &bits, const std::vector<result> &r, const char *where)
{
    for (int i = 0; i < N; i++) {
        uint32_t again;
        memcpy(&again, &r[(size_t)i].again, sizeof again);
        uint32_t b = bits[(size_t)i];
        const result *f = &r[(size_t)i];
        expect(f->rounded == f->half, "ml_half_round", where, b);
        if ((b & 0x7fffffff) > 0x7f800000) {
            expect(is_nan(f->half), "a NaN's half", where, b);
            expect((again & 0x7fffffff) > 0x7f800000, "a NaN joined", where, b);
            expect(is_nan(f->even), "a NaN rounded", where, b);
            continue;
        }
        expect(again == b, "ml_half_join", where, b);
        if (i >= N_TABLE) continue;
        expect(f->half == table[i].away, "ml_half_split", where, b);
        expect(f->even == table[i].even, "rounding to even", where, b);
    }
}

static void stop_on(ml_status status, const ml_error *err)
{
    if (status == ML_OK) return;
    fprintf(stderr, "test_cuda_half: %s\n", err->message);
    exit(1);
}

static std::vector<result> convert_there(ml_device *device, const std::vector<float> &x)
{
    ml_error err;
    void *from, *to;
    std::vector<result> r(x.size());
    stop_on(ml_device_alloc(device, x.size() * sizeof(float), "numbers", &from, &err), &err);
    stop_on(ml_device_alloc(device, r.size() * sizeof(result), "halves", &to, &err), &err);
    stop_on(ml_device_upload(device, from, x.data(), x.size() * sizeof(float), &err), &err);
    ML_LAUNCH(device, convert, (unsigned)ml_n_blocks(N, 256), 256, 0, (const float *)from, (int)N, (result *)to);
    stop_on(ml_device_download(device, r.data(), to, r.size() * sizeof(result), &err), &err);
    ml_device_release(device, from);
    ml_device_release(device, to);
    return r;
}

int main(void)
{
    ml_rng rng = ml_rng_make(3, 1);
    std::vector<uint32_t> bits;
    for (int i = 0; i < N_TABLE; i++) bits.push_back(table[i].bits);
    for (int i = 0; i < N_NAN; i++) bits.push_back(nans[i]);
    for (int i = 0; i < N_RANDOM; i++) { /* every second one a tie */
        uint32_t b = (uint32_t)ml_rng_below(&rng, (uint64_t)1 << 32);
        bits.push_back(i % 2 ? b : (b & 0xffff0000u) | 0x8000u);
    }
    std::vector<float> x;
    std::vector<result> here((size_t)N);
    for (size_t i = 0; i < (size_t)N; i++) {
        x.push_back(number_of(bits[i]));
        here[i].half = ml_half_split(x[i], &here[i].rest);
        here[i].rounded = ml_half_round(x[i]);
        here[i].again = ml_half_join(here[i].half, here[i].rest);
        here[i].even = ml_f32_to_bf16(x[i]);
    }
    check(bits, here, "this machine");
    ml_error err;
    ml_device *device;
    if (ml_device_open(0, &device, &err) != ML_OK) {
        printf("%s (%s)\n", n_failed ? "failed on this machine" : "skipped: no GPU", err.message);
        return n_failed ? 1 : 77;
    }
    std::vector<result> there = convert_there(device, x);
    check(bits, there, "the device");
    for (size_t i = 0; i < (size_t)N; i++) {
        bool same = here[i].half == there[i].half && here[i].rest == there[i].rest;
        bool same_even = here[i].even == there[i].even || is_nan(here[i].even);
        expect(same && same_even, "a conversion other than this machine's", "the device", bits[i]);
    }
    ml_device_close(device);
    if (!n_failed) printf("passed\n");
    return n_failed > 0;
}
