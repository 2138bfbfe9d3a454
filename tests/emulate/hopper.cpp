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

/* ---- products ---- */

typedef struct {
    float (*c)[4];
    uint64_t a, b;
    bool a_outer, b_outer;
    unsigned group;
} late_product;

static std::vector<late_product> late[1024]; /* of each thread, oldest first */
static unsigned late_group[1024];

/* Element (row, inner) of an operand: row of a or column of b.  A descriptor has, in units of 16 bytes, the address in
 * bits 0-13, the leading offset in 16-29 and the stride offset in 32-45; bits 62-63 are 1 for the 128-byte swizzle,
 * which exchanges bits 4-6 of an address by those of 7-9. */
static float element(uint64_t descriptor, bool outer, unsigned row, unsigned inner)
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
    uint16_t bits;
    memcpy(&bits, (const char *)ml_emulated_dynamic + at, sizeof bits);
    return __uint_as_float((unsigned)bits << 16);
}

static void multiply(const late_product *p)
{
    unsigned lane = ml_emulated_now.lane, first = ml_emulated_now.warp % 4 * 16 + lane / 4;
    float a[2][16];
    for (unsigned k = 0; k < 16; k++)
        for (unsigned half = 0; half < 2; half++) a[half][k] = element(p->a, p->a_outer, first + 8 * half, k);
    for (unsigned j = 0; j < 32; j++) {
        for (unsigned i = 0; i < 2; i++) {
            float sum[2] = { 0, 0 };
            for (unsigned k = 0; k < 16; k++) {
                float b = element(p->b, p->b_outer, 8 * j + 2 * (lane % 4) + i, k);
                sum[0] += a[0][k] * b;
                sum[1] += a[1][k] * b;
            }
            p->c[j][i] += sum[0];
            p->c[j][2 + i] += sum[1];
        }
    }
}

static void finish(size_t n)
{
    std::vector<late_product> &all = late[ml_emulated_thread_id()];
    for (size_t i = 0; i < n; i++) multiply(&all[i]);
    all.erase(all.begin(), all.begin() + (long)n);
}

void ml_emulated_wgmma(float (*c)[4], uint64_t a, uint64_t b, bool a_outer, bool b_outer)
{
    int thread = ml_emulated_thread_id();
    late[thread].push_back({ c, a, b, a_outer, b_outer, late_group[thread] });
    if (ml_emulated_order() == 1) finish(1);
}

void ml_emulated_wgmma_commit()
{
    late_group[ml_emulated_thread_id()]++;
}

void ml_emulated_wgmma_wait(int n_open)
{
    int thread = ml_emulated_thread_id();
    size_t n = 0;
    while (n < late[thread].size() && (int)(late_group[thread] - late[thread][n].group) > n_open) n++;
    finish(n);
    ml_emulated_warp_barrier(); /* .sync: the warp waits together */
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
        ml_emulated_yield();
    }
}
