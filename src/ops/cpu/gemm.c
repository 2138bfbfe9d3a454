/* The blocked product around the kernels of gemm_kernel.h (after Goto and van de Geijn, "Anatomy of
 * High-Performance Matrix Multiplication", 2008).
 *
 *            n_part columns                        k is cut into blocks of K_BLOCK; a part of B is packed by all
 *          +----------------+                      threads, then tasks (rows x columns of C) each pack their
 *   k_part |  B, packed     |  <= n_block * K_BLOCK    own rows of A, block by block, and run the kernel over
 *          +----------------+                      panels:
 *
 *     c = accumulate ? c : nothing                 per element of C
 *     for each block:  s = +0;  for k in block: s = fma(a, b, s);   c = first and not accumulate ? s : c + s
 *
 * A is packed into the buffer of the thread that runs the task, B into that of the caller (gemm_memory.h). */
#include "ops/cpu/gemm.h"

#include "base/cpu.h"
#include "base/thread.h"
#include "ops/cpu/gemm_kernel.h"
#include "ops/cpu/gemm_memory.h"

#include <string.h>

enum {
    K_BLOCK = ML_GEMM_K_BLOCK,
    M_PART = 6144,         /* rows given to one parallel loop; bounds its list of tasks */
    PANELS_PER_TASK = 8,   /* of B, packed as one task */
    PREFETCH_ROWS = 12,    /* stored rows fetched ahead where packing jumps from one to the next */
    MIN_PARALLEL = 200000, /* multiply-adds below which starting the threads costs more than it saves */
};

typedef struct {
    const ml_gemm *g;
    const ml_gemm_kernel *kernel;
    float *b;              /* packed part of B: blocks of k; within a block, panels of nr columns */
    int64_t n0, n, k0, k;  /* the part */
    int64_t n_panel;       /* of nr columns in the part */
    int64_t n_column_task; /* tasks that a block of rows is cut into */
    const int64_t *row;    /* task boundaries: rows row[i] .. row[i + 1] */
} part;

static int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static const float *stored_row(const ml_gemm_operand *x, int64_t i)
{
    return x->data + (x->row ? x->row[i] : i) * x->stride;
}

/* Panels of `width` lines one after another, from lines [line, line + n_line) of the operand, elements
 * [k0, k0 + k) of each.  `lines_are_rows`: the lines are stored rows (and are transposed into the panels), else
 * stored columns. */
static void pack_panels(const ml_gemm_kernel *kernel, const ml_gemm_operand *x, bool lines_are_rows, int64_t line,
                        int64_t n_line, int64_t k0, int64_t k, int width, float *panel)
{
    if (lines_are_rows) {
        for (int64_t at = 0; at < n_line; at += width, panel += width * k) {
            const float *lines[ML_GEMM_MAX_PANEL];
            int n = (int)min_i64(width, n_line - at);
            for (int i = 0; i < n; i++) lines[i] = stored_row(x, line + at + i) + k0;
            kernel->pack_across(panel, width, lines, n, k);
        }
    } else { /* each stored row is read once, across all panels */
        for (int64_t p = 0; p < k; p++) {
            if (p + PREFETCH_ROWS < k) {
                const float *ahead = stored_row(x, k0 + p + PREFETCH_ROWS) + line;
                for (int64_t i = 0; i < n_line; i += 16) __builtin_prefetch(ahead + i);
            }
            kernel->pack_along(panel + p * width, width * k, width, stored_row(x, k0 + p) + line, n_line);
        }
    }
}

/* Start of panel j of the block that begins at k0 + k_at of the part. */
static float *b_panel(const part *w, int64_t k_at, int64_t j)
{
    int nr = w->kernel->nr;
    return w->b + k_at * w->n_panel * nr + j * nr * min_i64(K_BLOCK, w->k - k_at);
}

/* Task t packs PANELS_PER_TASK panels of one block of k. */
static void pack_b(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const part *w = arg;
    int nr = w->kernel->nr;
    int64_t n_task = (w->n_panel + PANELS_PER_TASK - 1) / PANELS_PER_TASK;
    for (int64_t t = begin; t < end; t++) {
        int64_t k_at = t / n_task * K_BLOCK, j = t % n_task * PANELS_PER_TASK;
        pack_panels(w->kernel, &w->g->b, w->g->b.transpose, w->n0 + j * nr,
                    min_i64(PANELS_PER_TASK * nr, w->n - j * nr), w->k0 + k_at, min_i64(K_BLOCK, w->k - k_at), nr,
                    b_panel(w, k_at, j));
    }
}

/* Rows [row, row + m) of C, panels [j_begin, j_end) of the part. */
static void compute_block(const part *w, float *a_pack, int64_t row, int64_t m, int64_t j_begin, int64_t j_end)
{
    const ml_gemm *g = w->g;
    int mr = w->kernel->mr, nr = w->kernel->nr;
    float *c[ML_GEMM_M_BLOCK];
    for (int64_t i = 0; i < m; i++) c[i] = g->c + (g->c_row ? g->c_row[row + i] : row + i) * g->c_stride + w->n0;
    for (int64_t k_at = 0; k_at < w->k; k_at += K_BLOCK) {
        int64_t k = min_i64(K_BLOCK, w->k - k_at);
        pack_panels(w->kernel, &g->a, !g->a.transpose, row, m, w->k0 + k_at, k, mr, a_pack);
        bool add = g->accumulate || w->k0 + k_at > 0;
        for (int64_t j = j_begin; j < j_end; j++) {
            const float *b = b_panel(w, k_at, j);
            int cols = (int)min_i64(nr, w->n - j * nr);
            for (int64_t i = 0; i < m; i += mr) {
                w->kernel->multiply(k, a_pack + i * k, b, c + i, j * nr, (int)min_i64(mr, m - i), cols, add);
            }
        }
    }
}

static void compute(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const part *w = arg;
    ml_gemm_memory memory = ml_gemm_memory_get();
    for (int64_t t = begin; t < end; t++) {
        int64_t i = t / w->n_column_task, j = t % w->n_column_task;
        int64_t j_begin = j * w->n_panel / w->n_column_task, j_end = (j + 1) * w->n_panel / w->n_column_task;
        for (int64_t row = w->row[i]; row < w->row[i + 1]; row += memory.m_block) {
            compute_block(w, memory.a, row, min_i64(memory.m_block, w->row[i + 1] - row), j_begin, j_end);
        }
    }
}

/* Cut rows [begin, end) into blocks: as large as the packing buffer first, then smaller and smaller, so that
 * the threads finish together.  Returns their number; boundaries go to row[0 .. number]. */
static int64_t cut_rows(int64_t begin, int64_t end, int mr, int n_threads, int64_t *row)
{
    int64_t n = 0;
    while (begin < end) {
        int64_t size = ML_GEMM_M_BLOCK;
        if (n_threads > 1) {
            int64_t share = (end - begin) / (3 * n_threads);
            size = min_i64(ML_GEMM_M_BLOCK, (share / mr + 1) * mr);
        }
        row[n++] = begin;
        begin = min_i64(begin + size, end);
    }
    row[n] = end;
    return n;
}

static void for_each(int n_threads, int64_t n, int64_t grain, ml_task_fn fn, void *arg)
{
    if (n_threads > 1) {
        ml_parallel_for(n, grain, fn, arg);
    } else {
        fn(arg, 0, n, 0);
    }
}

static void run_part(part *w, int n_threads)
{
    int64_t row[M_PART / 4 + 2];
    int64_t n_block = (w->k + K_BLOCK - 1) / K_BLOCK;
    int64_t n_pack_task = n_block * ((w->n_panel + PANELS_PER_TASK - 1) / PANELS_PER_TASK);
    for_each(n_threads, n_pack_task, 1, pack_b, w);
    for (int64_t begin = 0; begin < w->g->m; begin += M_PART) {
        int64_t n_row_task = cut_rows(begin, min_i64(begin + M_PART, w->g->m), w->kernel->mr, n_threads, row);
        int64_t wanted = n_threads > 1 ? (6 * n_threads + n_row_task - 1) / n_row_task : 1;
        w->row = row;
        w->n_column_task = min_i64(wanted, w->n_panel);
        for_each(n_threads, n_row_task * w->n_column_task, 1, compute, w);
    }
}

static void clear(const ml_gemm *g)
{
    for (int64_t i = 0; i < g->m; i++) {
        memset(g->c + (g->c_row ? g->c_row[i] : i) * g->c_stride, 0, (size_t)g->n * sizeof *g->c);
    }
}

static const ml_gemm_kernel *choose_kernel(void)
{
#if defined(__x86_64__)
    if (ml_cpu_isa() >= ML_ISA_AVX512) return &ml_gemm_kernel_avx512;
    if (ml_cpu_isa() >= ML_ISA_AVX2) return &ml_gemm_kernel_avx2;
#endif
    return &ml_gemm_kernel_scalar;
}

static void run(const ml_gemm *g, int n_threads)
{
    if (g->m <= 0 || g->n <= 0) return;
    if (g->k <= 0) {
        if (!g->accumulate) clear(g);
        return;
    }
    ml_gemm_memory memory = ml_gemm_memory_get();
    part w = { .g = g, .kernel = choose_kernel(), .b = memory.b };
    int nr = w.kernel->nr;
    /* As many columns as one block of k leaves room for, then as many blocks of k as those leave room for. */
    int64_t room = memory.n_block * K_BLOCK, n_limit = room / min_i64(g->k, K_BLOCK) / nr * nr;
    int64_t n_cut = (g->n + n_limit - 1) / n_limit;
    int64_t n_part = ((g->n + n_cut - 1) / n_cut + nr - 1) / nr * nr;
    int64_t k_part = room / n_part / K_BLOCK * K_BLOCK;
    if (k_part < K_BLOCK) k_part = K_BLOCK;
    for (w.n0 = 0; w.n0 < g->n; w.n0 += n_part) {
        w.n = min_i64(n_part, g->n - w.n0);
        w.n_panel = (w.n + nr - 1) / nr;
        for (w.k0 = 0; w.k0 < g->k; w.k0 += k_part) {
            w.k = min_i64(k_part, g->k - w.k0);
            run_part(&w, n_threads);
        }
    }
}

void ml_gemm_run(const ml_gemm *g)
{
    run(g, (double)g->m * (double)g->n * (double)g->k < MIN_PARALLEL ? 1 : ml_thread_count());
}

void ml_gemm_run_serial(const ml_gemm *g)
{
    run(g, 1);
}
