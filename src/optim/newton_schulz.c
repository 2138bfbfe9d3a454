#include "optim/newton_schulz.h"

#include "ops/cpu/gemm.h"

#include <math.h>
#include <string.h>

/* Iterations are made in segments.  Within a segment X itself stands still: since every S of the segment is a
 * polynomial of the first one, and these commute,
 *     S = X X^T;   for each iteration:  P = a I + b S + c S S;   Q <- P Q;   S <- P S P;      X <- Q X at its end
 * works on matrices of the small side alone.  With A the small side and B the large one, an iteration by itself
 * takes 3 A^2 B + A^3 multiply-adds (symmetric products cost half), a segment of k takes 3 A^2 B + (4 k - 3) A^3.
 * S holds squares of singular values, and in fp32 a long segment would lose the small ones: after three iterations,
 * which lift a singular value of 0.002 to 0.08, X X^T is made anew.  Error against double precision as measured by
 * the tests, worst case: 2e-6 by single iterations, 3e-6 by three and two, 5e-5 by all five at once. */
enum { SEGMENT = 3 };

static const double A_COEF = 3.4445, B_COEF = -4.7750, C_COEF = 2.0315;

typedef struct {
    int64_t rows, cols, side; /* side: the smaller of the two */
    bool serial;
    float *s, *t, *p, *q; /* [side, side] */
} iteration;

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static void multiply(const iteration *it, const ml_gemm *g)
{
    if (it->serial)
        ml_gemm_run_serial(g);
    else
        ml_gemm_run(g);
}

/* c [n, n] = a b, known to be symmetric: only blocks on and below the diagonal are computed, then mirrored. */
static void multiply_symmetric(const iteration *it, int64_t k, ml_gemm_operand a, ml_gemm_operand b, float *c)
{
    int64_t n = it->side;
    int64_t block = round_up((n + 3) / 4, 48);
    for (int64_t i = 0; i < n; i += block) {
        int64_t end = smaller(i + block, n);
        ml_gemm_operand rows = a;
        rows.data = a.transpose ? a.data + i : a.data + i * a.stride;
        multiply(it, &(ml_gemm){ .m = end - i, .n = end, .k = k, .a = rows, .b = b, .c = c + i * n, .c_stride = n });
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i + 1; j < n; j++) c[i * n + j] = c[j * n + i];
}

static ml_gemm_operand square_operand(const float *data, int64_t n)
{
    return (ml_gemm_operand){ .data = data, .stride = n };
}

/* s = X X^T, or X^T X when X is tall */
static void make_gram(const iteration *it, const float *x)
{
    bool tall = it->rows > it->cols;
    ml_gemm_operand left = { .data = x, .stride = it->cols, .transpose = tall };
    ml_gemm_operand right = { .data = x, .stride = it->cols, .transpose = !tall };
    multiply_symmetric(it, tall ? it->rows : it->cols, left, right, it->s);
}

/* p = a I + b s + c s s */
static void make_polynomial(const iteration *it)
{
    int64_t n = it->side;
    multiply_symmetric(it, n, square_operand(it->s, n), square_operand(it->s, n), it->t);
    for (int64_t i = 0; i < n * n; i++) it->p[i] = (float)B_COEF * it->s[i] + (float)C_COEF * it->t[i];
    for (int64_t i = 0; i < n; i++) it->p[i * n + i] += (float)A_COEF;
}

static void swap(float **a, float **b)
{
    float *t = *a;
    *a = *b;
    *b = t;
}

/* y = (polynomial of X X^T after n_step iterations) X */
static void run_segment(iteration *it, const float *x, float *y, int n_step)
{
    int64_t n = it->side;
    make_gram(it, x);
    for (int i = 0; i < n_step; i++) {
        make_polynomial(it);
        if (i + 1 < n_step) {
            multiply_symmetric(it, n, square_operand(it->p, n), square_operand(it->s, n), it->t);
            multiply_symmetric(it, n, square_operand(it->t, n), square_operand(it->p, n), it->s);
        }
        if (i == 0) {
            swap(&it->p, &it->q);
        } else {
            multiply_symmetric(it, n, square_operand(it->p, n), square_operand(it->q, n), it->t);
            swap(&it->t, &it->q);
        }
    }
    ml_gemm_operand q = square_operand(it->q, n), whole = { .data = x, .stride = it->cols };
    bool tall = it->rows > it->cols;
    multiply(it, &(ml_gemm){ .m = it->rows,
                             .n = it->cols,
                             .k = n,
                             .a = tall ? whole : q,
                             .b = tall ? q : whole,
                             .c = y,
                             .c_stride = it->cols });
}

/* u / (|u| + 1e-7), the norm summed in double by rows */
static void normalise(float *u, int64_t rows, int64_t cols)
{
    double total = 0.0;
    for (int64_t i = 0; i < rows; i++) {
        double sum[8] = { 0.0 };
        const float *row = u + i * cols;
        int64_t j = 0;
        for (; j + 8 <= cols; j += 8)
            for (int l = 0; l < 8; l++) sum[l] += (double)row[j + l] * (double)row[j + l];
        for (; j < cols; j++) sum[0] += (double)row[j] * (double)row[j];
        for (int l = 0; l < 8; l++) total += sum[l];
    }
    float scale = (float)(1.0 / (sqrt(total) + 1e-7));
    for (int64_t i = 0; i < rows * cols; i++) u[i] *= scale;
}

int64_t ml_newton_schulz_scratch(int64_t rows, int64_t cols)
{
    int64_t side = smaller(rows, cols);
    return 4 * round_up(side * side, 16) + round_up(rows * cols, 16);
}

void ml_newton_schulz(float *u, int64_t rows, int64_t cols, int n_step, float *scratch, bool serial)
{
    int64_t side = smaller(rows, cols), square = round_up(side * side, 16);
    iteration it = { .rows = rows,
                     .cols = cols,
                     .side = side,
                     .serial = serial,
                     .s = scratch,
                     .t = scratch + square,
                     .p = scratch + 2 * square,
                     .q = scratch + 3 * square };
    float *x = u, *y = scratch + 4 * square;
    normalise(u, rows, cols);
    for (int done = 0; done < n_step;) {
        int n = n_step - done < SEGMENT ? n_step - done : SEGMENT;
        run_segment(&it, x, y, n);
        swap(&x, &y);
        done += n;
    }
    if (x != u) memcpy(u, x, (size_t)(rows * cols) * sizeof *u);
}
