#include "hopper.h"

#include "emulate.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

#undef threadIdx

static void die(const char *what)
{
    fprintf(stderr, "emulated CUDA device: %s\n", what);
    abort();
}

/* ---- products ----
 * A warp's lanes ask for the same products; the first lane that comes behind the barrier of their wait computes them
 * for all, since nothing in shared memory can be changed by the warp in between. */

enum { MAX_THREADS = 1024, MAX_COLUMNS = 256, INNER = 16, ROWS = 16 /* of a warp */ };

typedef struct {
    float (*c)[4];
    unsigned n_column;
    uint64_t a, b;
    const uint32_t *registers; /* of a, or NULL */
    bool a_outer, b_outer, add;
    unsigned group;
} late_product;

static std::vector<late_product> late[MAX_THREADS]; /* of each thread, oldest first */
static unsigned late_group[MAX_THREADS];

/* 8 elements of an operand that are one 16-byte chunk, from (row, inner) on: row of a or column of b; along `inner`, or
 * along rows if `outer`.  A descriptor has, in units of 16 bytes, the address in bits 0-13, the leading offset in 16-29
 * and the stride offset in 32-45; bits 62-63 are 1 for the 128-byte swizzle, which exchanges bits 4-6 of an address by
 * those of 7-9. */
static void read_chunk(uint64_t descriptor, bool outer, unsigned row, unsigned inner, float to[8])
{
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) die("an operand with another swizzle, or a base offset");
    unsigned start = (unsigned)(descriptor & 0x3fff) << 4, leading = (unsigned)(descriptor >> 16 & 0x3fff) << 4;
    unsigned stride = (unsigned)(descriptor >> 32 & 0x3fff) << 4, at = start;
    if (outer) {
        at += row / 64 * leading + inner / 8 * stride + inner % 8 * 128 + row % 64 * 2;
    } else {
        at += row / 8 * stride + row % 8 * 128 + inner * 2;
    }
    at ^= (at >> 7 & 7) << 4;
    uint16_t bits[8];
    memcpy(bits, (const char *)ml_emulated_dynamic + at, sizeof bits);
    for (int i = 0; i < 8; i++) to[i] = __uint_as_float((unsigned)bits[i] << 16);
}

/* n rows (columns) from `first` on: to[inner][row - first], `step` apart. */
static void read_operand(uint64_t descriptor, bool outer, unsigned first, unsigned n, float *to, unsigned step)
{
    float some[8];
    for (unsigned chunk = 0; chunk < n * INNER / 8; chunk++) {
        unsigned row = outer ? chunk / INNER * 8 : chunk / 2, inner = outer ? chunk % INNER : chunk % 2 * 8;
        read_chunk(descriptor, outer, first + row, inner, some);
        for (unsigned i = 0; i < 8; i++) {
            if (outer) {
                to[inner * step + row + i] = some[i];
            } else {
                to[(inner + i) * step + row] = some[i];
            }
        }
    }
}

/* Each sum in order of the inner dimension; columns together. */
static void multiply_warp(const float a[INNER][ROWS], const float b[INNER][MAX_COLUMNS], unsigned n_column,
                          float sum[ROWS][MAX_COLUMNS])
{
    for (unsigned row = 0; row < ROWS; row++) {
        for (unsigned j = 0; j < n_column; j++) sum[row][j] = 0;
        for (unsigned k = 0; k < INNER; k++)
            for (unsigned j = 0; j < n_column; j++) sum[row][j] += a[k][row] * b[k][j];
    }
}

/* What the lanes hold of a: rows lane / 4 and + 8, columns 2 (lane % 4) and + 1, then those + 8. */
static void read_registers(int first, size_t i, float a[INNER][ROWS])
{
    for (unsigned lane = 0; lane < 32; lane++) {
        const uint32_t *from = late[first + (int)lane][i].registers;
        for (unsigned e = 0; e < 8; e++) {
            uint32_t word = from[e / 2];
            unsigned row = lane / 4 + e / 2 % 2 * 8, inner = 2 * (lane % 4) + e % 2 + e / 4 * 8;
            a[inner][row] = __uint_as_float(e % 2 ? word & 0xffff0000u : word << 16);
        }
    }
}

/* Product number i of every lane of the running thread's warp. */
static void multiply(size_t i)
{
    static float a[INNER][ROWS], b[INNER][MAX_COLUMNS], sum[ROWS][MAX_COLUMNS];
    int first = ml_emulated_thread_id() / 32 * 32;
    const late_product p = late[first][i];
    for (unsigned lane = 0; lane < 32; lane++) {
        const late_product *q = &late[first + (int)lane][i];
        bool same = q->a == p.a && q->b == p.b && q->n_column == p.n_column && q->add == p.add;
        if (!same || !q->registers != !p.registers) die("lanes of a warp that ask for different products");
    }
    if (p.registers) {
        read_registers(first, i, a);
    } else {
        read_operand(p.a, p.a_outer, ml_emulated_now->warp % 4 * ROWS, ROWS, a[0], ROWS);
    }
    read_operand(p.b, p.b_outer, 0, p.n_column, b[0], MAX_COLUMNS);
    multiply_warp(a, b, p.n_column, sum);
    for (unsigned lane = 0; lane < 32; lane++) {
        float(*c)[4] = late[first + (int)lane][i].c;
        for (unsigned j = 0; j < p.n_column / 8; j++) {
            for (unsigned e = 0; e < 4; e++) {
                float v = sum[lane / 4 + e / 2 * 8][8 * j + 2 * (lane % 4) + e % 2];
                c[j][e] = p.add ? c[j][e] + v : v;
            }
        }
    }
}

/* The n oldest of the warp. */
static void finish(size_t n)
{
    int first = ml_emulated_thread_id() / 32 * 32;
    for (int t = first; t < first + 32; t++)
        if (late[t].size() < n) die("lanes of a warp that ask for different products");
    for (size_t i = 0; i < n; i++) multiply(i);
    for (int t = first; t < first + 32; t++) late[t].erase(late[t].begin(), late[t].begin() + (long)n);
}

void ml_emulated_wgmma(float (*c)[4], int n_column, uint64_t a, const uint32_t *a_registers, uint64_t b, bool a_outer,
                       bool b_outer, bool add)
{
    int thread = ml_emulated_thread_id();
    late[thread].push_back({ c, (unsigned)n_column, a, b, a_registers, a_outer, b_outer, add, late_group[thread] });
    if (ml_emulated_order() != 1) return;
    ml_emulated_warp_barrier(); /* .sync: the warp comes together */
    finish(late[thread].size());
}

void ml_emulated_wgmma_commit()
{
    late_group[ml_emulated_thread_id()]++;
}

void ml_emulated_wgmma_wait(int n_open)
{
    int thread = ml_emulated_thread_id();
    ml_emulated_warp_barrier();
    size_t n = 0;
    while (n < late[thread].size() && (int)(late_group[thread] - late[thread][n].group) > n_open) n++;
    finish(n);
}

/* ---- barriers: arrivals still to come, arrivals of a phase, parity of the phase that is under way ---- */

typedef struct {
    uint32_t open;
    uint16_t n, parity;
} barrier_state;

static barrier_state load(const uint64_t *barrier)
{
    barrier_state s;
    memcpy(&s, barrier, sizeof s);
    return s;
}

static void store(uint64_t *barrier, barrier_state s)
{
    memcpy(barrier, &s, sizeof s);
}

void ml_emulated_barrier_init(uint64_t *barrier, unsigned n)
{
    store(barrier, { n, (uint16_t)n, 0 });
}

void ml_emulated_barrier_arrive(uint64_t *barrier)
{
    barrier_state s = load(barrier);
    if (s.open == 0 || s.n == 0) die("an arrival at a barrier that was not made");
    if (--s.open == 0) {
        s.open = s.n;
        s.parity ^= 1;
    }
    store(barrier, s);
}

void ml_emulated_barrier_wait(uint64_t *barrier, unsigned parity)
{
    for (long n = 0; load(barrier).parity == parity; n++) {
        if (n > 10000000) die("a barrier that nobody ends");
        if (n > 0) ml_emulated_copy_finish(barrier);
        if (load(barrier).parity == parity) ml_emulated_yield();
    }
}
