/* Decoding over latent rows of q8_0 in integers: the scalar code against double precision, with its rounding modelled
 * and within the bounds that its header states; every instruction set against the scalar code, bit for bit. */
#include "ops/cpu/attention_kernel_q8.h"

#include "base/cpu.h"
#include "base/rng.h"
#include "support/support.h"
#include "tensor/blocks.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEADS = ML_Q8_HEADS,
    KEYS = ML_Q8_KEYS,
    BLOCK = ML_Q8_BLOCK,
    MAX_COLUMNS = 576,
    MAX_BLOCKS = MAX_COLUMNS / BLOCK
};
enum { ROW_BYTES = MAX_BLOCKS * 34 };

static ml_error err;

/* Heads, keys, and what is computed from them. */
typedef struct {
    int64_t n_row, n_key, columns, d_v;
    float q[HEADS][MAX_COLUMNS];
    float k[KEYS][MAX_COLUMNS]; /* as the stored rows have them */
    char stored[KEYS][ROW_BYTES];
    const char *row[KEYS];
    float p[HEADS][KEYS];
    float out[HEADS][MAX_COLUMNS]; /* before */
} problem;

static float half_at(const char *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return ml_f16_to_f32(half);
}

/* Keys whose blocks differ in size by up to `spread` powers of ten. */
static problem *make(int64_t n_row, int64_t n_key, int64_t columns, int64_t d_v, double spread, uint64_t stream)
{
    problem *p = calloc(1, sizeof *p);
    ml_rng rng = ml_rng_make(11, stream);
    *p = (problem){ .n_row = n_row, .n_key = n_key, .columns = columns, .d_v = d_v };
    for (int64_t h = 0; h < HEADS; h++) {
        for (int64_t c = 0; c < columns; c++) p->q[h][c] = (float)(0.1 * ml_rng_normal(&rng));
        for (int64_t i = 0; i < KEYS; i++) p->p[h][i] = (float)exp(spread * ml_rng_normal(&rng) - 5);
        for (int64_t c = 0; c < columns; c++) p->out[h][c] = (float)ml_rng_normal(&rng);
    }
    for (int64_t i = 0; i < KEYS; i++) {
        float x[MAX_COLUMNS];
        for (int64_t b = 0; b < columns / BLOCK; b++) {
            double size = pow(10, spread * (ml_rng_uniform(&rng) - 1));
            for (int j = 0; j < BLOCK; j++) x[b * BLOCK + j] = (float)(size * ml_rng_normal(&rng));
        }
        assert_ok(ml_quantize_rows(ML_Q8_0, x, 1, columns, NULL, p->stored[i], &err));
        ml_convert_to_f32(ML_Q8_0, p->stored[i], p->k[i], columns);
        p->row[i] = p->stored[i];
    }
    return p;
}

typedef struct {
    int16_t packed[MAX_COLUMNS * HEADS];
    float scale[HEADS], d[MAX_BLOCKS * KEYS];
    float s[HEADS * KEYS], out[HEADS][MAX_COLUMNS];
} result;

static result *run(const ml_q8_kernel *kernel, const problem *p)
{
    const ml_rows_ahead ahead[2] = { { p->row, p->n_key, p->columns / BLOCK * 34 }, { 0 } };
    result *r = calloc(1, sizeof *r);
    memset(r->d, 0xff, sizeof r->d);
    memcpy(r->out, p->out, sizeof r->out);
    kernel->pack(p->q[0], MAX_COLUMNS, p->n_row, p->columns, r->packed, r->scale);
    kernel->scales(p->row, p->n_key, p->columns, r->d);
    ml_q8_rows keys = { p->row, p->n_key, p->columns, r->d }, values = { p->row, p->n_key, p->d_v, r->d };
    kernel->scores(&keys, r->packed, r->scale, p->n_row, ahead, r->s);
    kernel->values(&values, p->p[0], p->n_row, r->out[0], MAX_COLUMNS);
    return r;
}

/* ---- the scalar code against double precision ---- */

static void expect_near(double found, double expected, double bound, const char *what, int64_t h, int64_t i)
{
    if (fabs(found - expected) <= bound) return;
    fail_msg("%s of head %lld, %lld: %.9g, not %.9g within %.3g", what, (long long)h, (long long)i, found, expected,
             bound);
}

static double largest_magnitude(const float *x, int64_t n)
{
    double m = 0;
    for (int64_t i = 0; i < n; i++) m = fmax(m, fabs((double)x[i]));
    return m;
}

static void check_scores(const problem *p, const result *r)
{
    for (int64_t h = 0; h < p->n_row; h++) {
        float largest = (float)largest_magnitude(p->q[h], p->columns), inverse = 32767 / largest;
        for (int64_t i = 0; i < p->n_key; i++) {
            double modelled = 0, exact = 0, terms = 0, sum = 0;
            for (int64_t c = 0; c < p->columns; c++) {
                double k = (double)p->k[i][c], q = (double)p->q[h][c];
                modelled += (double)rintf(p->q[h][c] * inverse) / 32767 * (double)largest * k;
                exact += q * k;
                terms += fabs(q * k);
                sum += fabs(k);
            }
            /* A sum of 18 fp32 terms at most, none larger than all magnitudes together. */
            double rounding = (MAX_BLOCKS + 4) * (double)FLT_EPSILON * terms;
            double found = (double)r->s[h * KEYS + i];
            expect_near(found, modelled, rounding, "score", h, i);
            expect_near(found, exact, (double)largest / 65534 * sum + rounding, "score", h, i);
        }
    }
}

static void check_values(const problem *p, const result *r)
{
    for (int64_t h = 0; h < HEADS; h++) {
        float largest = (float)largest_magnitude(p->p[h], p->n_key), inverse = 1 / largest;
        for (int64_t c = 0; c < p->columns; c++) {
            double before = (double)p->out[h][c], modelled = before, exact = before, terms = fabs(before);
            if (h >= p->n_row || c >= p->d_v) { /* somebody else's */
                assert_true(r->out[h][c] == p->out[h][c]);
                continue;
            }
            const char *block[KEYS];
            float d[KEYS];
            for (int64_t i = 0; i < p->n_key; i++) {
                block[i] = p->stored[i] + c / BLOCK * 34;
                d[i] = half_at(block[i]);
            }
            float largest_d = (float)largest_magnitude(d, p->n_key), inverse_d = largest_d > 0 ? 32767 / largest_d : 0;
            for (int64_t i = 0; i < p->n_key; i++) {
                double w = (double)rintf((p->p[h][i] * inverse) * (d[i] * inverse_d));
                modelled += w * block[i][2 + c % BLOCK] * (double)largest * (double)largest_d / 32767;
                exact += (double)p->p[h][i] * (double)p->k[i][c];
                terms += fabs((double)p->p[h][i] * (double)p->k[i][c]);
            }
            double rounding = 4 * (double)FLT_EPSILON * terms, found = (double)r->out[h][c];
            double bound = (double)p->n_key * (double)largest * (double)largest_d / 65534 * 127;
            expect_near(found, modelled, rounding + 1e-6 * bound, "value", h, c);
            expect_near(found, exact, bound * (1 + 1e-6) + rounding, "value", h, c);
        }
    }
}

static void check(problem *p)
{
    result *r = run(&ml_q8_kernel_scalar, p);
    check_scores(p, r);
    check_values(p, r);
    free(r);
    free(p);
}

static void test_scalar(void **state)
{
    (void)state;
    check(make(16, 64, 576, 512, 0, 1));
    check(make(16, 64, 576, 512, 2, 2));
    check(make(3, 37, 288, 256, 1, 3));
    check(make(1, 1, 32, 32, 0, 4));
}

/* Equal probabilities and scales, codes of 127 and -127: the largest sums that there are. */
static problem *make_largest(int code)
{
    problem *p = make(16, 64, 576, 512, 0, 5);
    for (int64_t h = 0; h < HEADS; h++) {
        for (int64_t c = 0; c < p->columns; c++) p->q[h][c] = h % 2 ? -3 : 3;
        for (int64_t i = 0; i < KEYS; i++) p->p[h][i] = 1;
    }
    for (int64_t i = 0; i < KEYS; i++) {
        memcpy(p->stored[i], p->stored[0], ROW_BYTES);
        for (int64_t c = 0; c < p->columns; c++) p->stored[i][c / BLOCK * 34 + 2 + c % BLOCK] = (char)code;
        ml_convert_to_f32(ML_Q8_0, p->stored[i], p->k[i], p->columns);
    }
    return p;
}

static void test_largest_sums(void **state)
{
    (void)state;
    check(make_largest(127));
    check(make_largest(-127));
}

/* ---- every instruction set against the scalar code ---- */

typedef struct {
    const char *name;
    const ml_q8_kernel *kernel;
} named_kernel;

/* Those that this machine has, the scalar one first. */
static int list_kernels(named_kernel *list)
{
    ml_isa best = ml_cpu_isa();
    int n = 0;
    for (int isa = ML_ISA_SCALAR; isa < ML_N_ISA; isa++) {
        ml_cpu_set_isa((ml_isa)isa);
        const ml_q8_kernel *kernel = ml_q8_kernel_get();
        bool known = false;
        for (int i = 0; i < n; i++) known = known || list[i].kernel == kernel;
        if (!known) list[n++] = (named_kernel){ ml_isa_name(ml_cpu_isa()), kernel };
    }
    ml_cpu_set_isa(best);
    assert_true(list[0].kernel == &ml_q8_kernel_scalar);
    return n;
}

static void expect_same_bits(problem *p)
{
    named_kernel list[ML_N_ISA];
    int n = list_kernels(list);
    result *expected = run(&ml_q8_kernel_scalar, p);
    for (int k = 1; k < n; k++) {
        result *found = run(list[k].kernel, p);
        assert_memory_equal(found->scale, expected->scale, sizeof found->scale);
        assert_memory_equal(found->d, expected->d, (size_t)(p->columns / BLOCK * KEYS) * sizeof *found->d);
        for (int64_t h = 0; h < p->n_row; h++) {
            if (memcmp(found->s + h * KEYS, expected->s + h * KEYS, (size_t)p->n_key * sizeof *found->s) == 0) continue;
            fail_msg("%s: head %lld of %lld has other scores", list[k].name, (long long)h, (long long)p->n_row);
        }
        for (int64_t h = 0; h < HEADS; h++) {
            if (memcmp(found->out[h], expected->out[h], sizeof found->out[h]) == 0) continue;
            fail_msg("%s: head %lld of %lld has other values", list[k].name, (long long)h, (long long)p->n_row);
        }
        free(found);
    }
    free(expected);
    free(p);
}

static void test_bits(void **state)
{
    (void)state;
    static const int64_t columns[][2] = { { 32, 32 }, { 64, 32 }, { 288, 256 }, { 576, 512 } };
    for (int64_t n_row = 1; n_row <= HEADS; n_row++) {
        expect_same_bits(make(n_row, 1 + 5 * n_row % KEYS, 288, 256, 1, 10 + (uint64_t)n_row));
    }
    for (int64_t n_key = 1; n_key <= KEYS; n_key++) {
        const int64_t *shape = columns[n_key % 4];
        expect_same_bits(make(1 + n_key % HEADS, n_key, shape[0], shape[1], 2, 100 + (uint64_t)n_key));
    }
    for (uint64_t i = 0; i < 20; i++) expect_same_bits(make(16, 64, 576, 512, (double)(i % 4), 200 + i));
    expect_same_bits(make_largest(127));
    expect_same_bits(make_largest(-127));
}

/* Zeros, what counts as zero, and what is just beyond: queries, probabilities and blocks. */
static problem *make_small(int step)
{
    static const float factor[] = { 0, 0x1p-140f, 0x1p-110f, 0x1p-95f, 0x1p60f };
    problem *p = make(7, 41, 96, 64, 1, 300 + (uint64_t)step);
    for (int64_t h = 0; h < p->n_row; h++) {
        float f = factor[(step + h) % 5];
        for (int64_t c = 0; c < p->columns; c++) p->q[h][c] *= f;
        for (int64_t i = 0; i < KEYS && f < 1; i++) p->p[h][i] *= f;
    }
    for (int64_t i = 0; i < p->n_key; i++) memset(p->stored[i] + 34, 0, 34);
    memset(p->stored[step], 0, 34);
    return p;
}

static void test_small_numbers(void **state)
{
    (void)state;
    for (int step = 0; step < 5; step++) expect_same_bits(make_small(step));
    problem *p = make_small(0);
    result *r = run(&ml_q8_kernel_scalar, p);
    for (int64_t h = 0; h < p->n_row; h += 5) { /* heads 0 and 5: queries and probabilities are zero */
        for (int64_t i = 0; i < p->n_key; i++) assert_true(r->s[h * KEYS + i] == 0);
        for (int64_t c = 0; c < p->d_v; c++) assert_true(r->out[h][c] == p->out[h][c]);
    }
    free(r);
    free(p);
}

/* A query that is not finite has scores of NaN, and no other has. */
static void test_not_finite(void **state)
{
    (void)state;
    static const float bad[] = { INFINITY, -INFINITY, NAN };
    named_kernel list[ML_N_ISA];
    int n = list_kernels(list);
    for (int k = 0; k < n; k++) {
        for (int b = 0; b < 3; b++) {
            problem *p = make(16, 20, 64, 32, 0, 7);
            p->q[3][61] = bad[b];
            p->p[5][2] = NAN; /* what its softmax gives; whatever comes of it, nobody else has it */
            result *r = run(list[k].kernel, p);
            for (int64_t h = 0; h < HEADS; h++) {
                for (int64_t i = 0; i < p->n_key; i++) assert_int_equal(isnan(r->s[h * KEYS + i]) != 0, h == 3);
                for (int64_t c = 0; c < p->d_v; c++) assert_true(h == 5 || isfinite(r->out[h][c]));
            }
            free(r);
            free(p);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scalar),        cmocka_unit_test(test_largest_sums), cmocka_unit_test(test_bits),
        cmocka_unit_test(test_small_numbers), cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests_name("decoding over q8_0 in integers", tests, NULL, NULL);
}
