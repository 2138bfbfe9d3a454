/* Normal numbers by the million: their distribution, and that any part can be made alone. */
#include "base/alloc.h"
#include "base/rng.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 1 << 20 };

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Kolmogorov-Smirnov: sqrt(n) times the largest distance from the normal distribution stays below 1.95 with
 * probability 0.999; the numbers are fixed, so this either holds or not. */
static void test_distribution(void **state)
{
    (void)state;
    float *x = ml_alloc(N * sizeof *x);
    for (uint64_t stream = 0; stream < 4; stream++) {
        double worst = 0, lagged = 0;
        ml_rng_fill_normal(7, stream, 0, N, x);
        for (int i = 1; i < N; i++) lagged += (double)x[i] * (double)x[i - 1];
        assert_true(fabs(lagged) / sqrt(N) < 3.3);
        qsort(x, N, sizeof *x, compare);
        for (int i = 0; i < N; i++) {
            double p = 0.5 * erfc(-(double)x[i] / sqrt(2));
            worst = fmax(worst, fmax(p - (double)i / N, (double)(i + 1) / N - p));
        }
        assert_true(worst * sqrt(N) < 1.95);
        assert_true(x[N - 1] > 4.2f && x[N - 1] < 6.7f); /* 2^20 numbers reach 4.9 on average */
        assert_true(x[0] < -4.2f && x[0] > -6.7f);
    }
    ml_free(x);
}

/* The two of a pair, and streams and seeds, have nothing to do with one another. */
static void test_independence(void **state)
{
    (void)state;
    float *x = ml_alloc(N * sizeof *x), *y = ml_alloc(N * sizeof *y);
    const struct {
        uint64_t seed, stream, first;
    } other[] = { { 7, 1, 0 }, { 8, 0, 0 }, { 7, 0, 128 }, { 7, 0, 1 }, { 7, 0, 256 } };
    ml_rng_fill_normal(7, 0, 0, N, x);
    for (size_t k = 0; k < sizeof other / sizeof *other; k++) {
        double product = 0, squares = 0;
        ml_rng_fill_normal(other[k].seed, other[k].stream, other[k].first, N, y);
        for (int i = 0; i < N; i++) {
            product += (double)x[i] * (double)y[i];
            squares += ((double)x[i] * (double)x[i] - 1) * ((double)y[i] * (double)y[i] - 1) / 2;
        }
        assert_true(fabs(product) / sqrt(N) < 3.3);
        assert_true(fabs(squares) / sqrt(N) < 3.3);
    }
    ml_free(x);
    ml_free(y);
}

static void test_any_part(void **state)
{
    (void)state;
    float whole[1000], part[1000];
    ml_rng_fill_normal(3, 5, 0, 1000, whole);
    for (uint64_t first = 0; first < 1000; first += 61) {
        for (uint64_t n = 0; first + n <= 1000; n += 97) {
            ml_rng_fill_normal(3, 5, first, n, part);
            assert_memory_equal(part, whole + first, n * sizeof *part);
        }
    }
    /* Made in double precision, by the same formula, in another language. */
    const double expected[8] = { -0.7320242763708518, -0.5600839300805669,  -1.1487548308398345, 0.8088774885876062,
                                 -0.6418476516257844, -0.03330288249228247, -2.185291495921024,  -0.365976135224938 };
    for (int i = 0; i < 8; i++) {
        assert_true(fabs((double)whole[i < 4 ? i : 124 + i] - expected[i]) < 1e-6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_independence),
        cmocka_unit_test(test_any_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
