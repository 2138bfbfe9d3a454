/* Products with block types by the kernels of the machine this runs on, against the scalar ones, bit for bit: those are
 * the specification, and tests/unit/test_qmatmul.c holds them to sums in double precision. */
#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "ops/cpu/qmatmul.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { RANDOM, LARGEST, SMALLEST, N_CONTENT } content;

typedef struct {
    ml_dtype dtype;
    int64_t n_token, n, k;
    uint8_t *rows;
    float *x;
} problem;

static void *allocate(size_t n)
{
    void *p = aligned_alloc(64, (n + 63) / 64 * 64 + 64);
    if (!p) exit(2);
    return p;
}

static problem make(ml_dtype dtype, int64_t n_token, int64_t n, int64_t k, content c)
{
    problem p = { dtype, n_token, n, k, NULL, NULL };
    size_t n_bytes = (size_t)n * ml_dtype_row_bytes(dtype, k);
    ml_rng rng = ml_rng_make(11, (uint64_t)dtype);
    p.rows = allocate(n_bytes + 8);
    p.x = allocate((size_t)(n_token * k) * sizeof *p.x);
    /* Codes and scales; the halves that lie anywhere among them must not become infinite: no exponent of ones. */
    const uint64_t word[N_CONTENT] = { 0, 0x3bff3bff3bff3bffu, 0 };
    for (size_t i = 0; i < n_bytes; i += 8) {
        uint64_t w = c == RANDOM ? ml_rng_u64(&rng) & 0xbbffbbffbbffbbffu : word[c];
        memcpy(p.rows + i, &w, 8);
    }
    for (int64_t i = 0; i < n_token * k; i++) {
        p.x[i] = c == RANDOM ? (float)ml_rng_normal(&rng) : c == LARGEST ? 1.0f : i % 2 ? -1.0f : 1.0f;
    }
    return p;
}

static float *run(const problem *p, ml_isa isa, ml_layout layout, int64_t n_token)
{
    ml_cpu_set_isa(isa);
    float *y = allocate((size_t)(n_token * p->n) * sizeof *y);
    void *memory = allocate(ml_qx_bytes(p->dtype, n_token, p->k)),
         *panels = allocate(ml_qpack_bytes(p->dtype, p->n, p->k));
    ml_qx x = ml_qx_make(p->dtype, p->x, p->k, n_token, p->k, memory);
    ml_qpack(p->dtype, p->rows, p->n, p->k, panels);
    ml_qmatmul q = { .n_token = n_token,
                     .n = p->n,
                     .k = p->k,
                     .x = &x,
                     .w_dtype = p->dtype,
                     .w_layout = layout,
                     .w = layout == ML_LAYOUT_ROWS ? p->rows : panels,
                     .y = y,
                     .y_stride = p->n };
    ml_qmatmul_run(&q);
    free(memory);
    free(panels);
    return y;
}

static int check(ml_dtype dtype, int64_t n_token, int64_t n, int64_t k, content c, ml_isa best)
{
    int n_bad = 0;
    problem p = make(dtype, n_token, n, k, c);
    for (int layout = 0; layout < 2; layout++) {
        float *want = run(&p, ML_ISA_SCALAR, (ml_layout)layout, n_token);
        float *got = run(&p, best, (ml_layout)layout, n_token);
        for (int64_t i = 0; i < n_token * n; i++) {
            if (!memcmp(&want[i], &got[i], sizeof *got)) continue;
            if (n_bad++ == 0) {
                printf("%s, %s, %lld tokens, token %lld row %lld: %.9g, expected %.9g\n", ml_dtype_name(dtype),
                       layout ? "panels" : "rows", (long long)n_token, (long long)(i / n), (long long)(i % n),
                       (double)got[i], (double)want[i]);
            }
        }
        free(want);
        free(got);
    }
    free(p.rows);
    free(p.x);
    return n_bad;
}

int main(void)
{
    ml_isa best = ml_cpu_isa();
    printf("kernels: %s\n", ml_isa_name(best));
    if (best == ML_ISA_SCALAR) return 1; /* nothing to compare: the emulator lacks the instructions */
    int n_bad = 0, n_check = 0;
    ml_thread_set_count(2);
    for (int dtype = ML_Q8_0; dtype < ML_N_DTYPE; dtype++) {
        int64_t unit = ml_dtype_block_length((ml_dtype)dtype);
        for (int c = 0; c < N_CONTENT; c++) {
            for (int64_t n_token = 1; n_token <= 7; n_token++, n_check++) {
                n_bad += check((ml_dtype)dtype, n_token, 37, 3 * unit, (content)c, best);
            }
            n_bad += check((ml_dtype)dtype, 5, 50, 2304 + unit, (content)c, best); /* more than one chunk */
            n_check++;
        }
    }
    printf("%d products, %d elements differ\n", n_check, n_bad);
    return n_bad ? 1 : 0;
}
