#include "ops/cpu/gemm_memory.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>

enum {
    A_BYTES = ML_GEMM_M_BLOCK * ML_GEMM_K_BLOCK * (int)sizeof(float),
    B_BYTES = ML_GEMM_N_BLOCK * ML_GEMM_K_BLOCK * (int)sizeof(float),
    HUGE_PAGE = 2 << 20, /* b starts on one, so that packed panels need few TLB entries */
    MAP_BYTES = HUGE_PAGE + B_BYTES + A_BYTES,
};

static alignas(64) _Thread_local float small_a[ML_GEMM_SMALL_M_BLOCK * ML_GEMM_K_BLOCK];
static alignas(64) _Thread_local float small_b[ML_GEMM_SMALL_N_BLOCK * ML_GEMM_K_BLOCK];
static _Thread_local float *mapped_a, *mapped_b;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key; /* the mapping, for its unmapping at the end of the thread */
static bool have_key;
static atomic_bool force_small;

static void unmap(void *map)
{
    munmap(map, MAP_BYTES);
}

static void make_key(void)
{
    have_key = pthread_key_create(&key, unmap) == 0;
}

static void map_pair(void)
{
    pthread_once(&once, make_key);
    if (!have_key) return;
    void *map = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return;
    if (pthread_setspecific(key, map) != 0) {
        unmap(map);
        return;
    }
    char *b = (char *)map + (HUGE_PAGE - (uintptr_t)map % HUGE_PAGE) % HUGE_PAGE;
    madvise(b, B_BYTES + A_BYTES, MADV_HUGEPAGE); /* a wish: refusal only costs speed */
    mapped_b = (float *)(void *)b;
    mapped_a = (float *)(void *)(b + B_BYTES);
}

ml_gemm_memory ml_gemm_memory_get(void)
{
    bool small = atomic_load_explicit(&force_small, memory_order_relaxed);
    if (!mapped_b && !small) map_pair();
    if (mapped_b && !small) return (ml_gemm_memory){ mapped_a, mapped_b, ML_GEMM_M_BLOCK, ML_GEMM_N_BLOCK };
    return (ml_gemm_memory){ small_a, small_b, ML_GEMM_SMALL_M_BLOCK, ML_GEMM_SMALL_N_BLOCK };
}

void ml_gemm_memory_force_small(bool small)
{
    atomic_store(&force_small, small);
}
