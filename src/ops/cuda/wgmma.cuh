/* Hopper's matrix unit: products of a warpgroup (four warps) whose operands lie in shared memory, and what a pipeline
 * of such products needs: barriers in memory, registers moved between warpgroups.  PTX ISA: wgmma.mma_async,
 * "Asynchronous warpgroup level matrix instructions"; mbarrier; setmaxnreg.  For sm_90a; elsewhere calls trap.
 *
 *   c [64, n] += a [64, 16] b [16, n];  warp w of the group has rows 16 w .., and in them c[j] is the fragment of
 *   columns 8 j .. 8 j + 7 as in mma.cuh: row group, columns 2 pair and + 1, then row group + 8.
 *
 * a may also be in registers: a warp's 16 rows as mma.cuh has them.  In memory an operand is a matrix of lines of 128
 * bytes (64 elements), swizzled: the 16-byte chunk q of a line whose number is r lies at chunk q ^ (r % 8); eight lines
 * are 1024 bytes and begin at a multiple of that.
 *
 *   inner   a line is 64 inner elements of one row (of a) or column (of b); `stride_bytes` to the next eight rows; 16
 *           inner elements on is 32 bytes on
 *
 *   outer   a line is 64 rows (columns) of one inner element; `stride_bytes` to the next eight inner elements,
 *           `leading_bytes` to the next 64 rows (columns) */
#ifndef ML_OPS_CUDA_WGMMA_CUH
#define ML_OPS_CUDA_WGMMA_CUH

#include "ops/cuda/mma.cuh"

#ifdef ML_EMULATED
#include "hopper.h"
#define ML_HOPPER_ASM(emulated, ...) emulated
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ML_HOPPER_ASM(emulated, ...) __VA_ARGS__
#else
#define ML_HOPPER_ASM(emulated, ...) __trap()
#endif

enum { ML_WGMMA_ROWS = 64, ML_WGMMA_COLS = 256, ML_WGMMA_INNER = 16, ML_LINE_BYTES = 128, ML_LINES_BYTES = 1024 };

static __device__ __forceinline__ uint32_t ml_shared_address(const void *shared)
{
#ifdef ML_EMULATED
    return (uint32_t)((const char *)shared - (const char *)ml_emulated_dynamic);
#else
    return (uint32_t)__cvta_generic_to_shared(shared);
#endif
}

/* What wgmma takes for an operand: address, leading and stride offset in units of 16 bytes, 128-byte swizzle. */
static __device__ __forceinline__ uint64_t ml_wgmma_operand(uint32_t address, int leading_bytes, int stride_bytes)
{
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)(leading_bytes >> 4) << 16 |
           (uint64_t)(stride_bytes >> 4) << 32 | (uint64_t)1 << 62;
}

/* A thread's sums as operands of asm: of columns 8 j .., 32 j .. and 64 j ... */
#define ML_SUMS_8(c, j) "+f"((c)[j][0]), "+f"((c)[j][1]), "+f"((c)[j][2]), "+f"((c)[j][3])
#define ML_SUMS_32(c, j)                                                                                               \
    ML_SUMS_8(c, 4 * (j)), ML_SUMS_8(c, 4 * (j) + 1), ML_SUMS_8(c, 4 * (j) + 2), ML_SUMS_8(c, 4 * (j) + 3)
#define ML_SUMS_64(c, j) ML_SUMS_32(c, 2 * (j)), ML_SUMS_32(c, 2 * (j) + 1)

/* Products are queued.  From the fence before one to the wait after it, c, and a in registers, belong to the matrix
 * unit. */

/* c [64, 256] += a b */
template <bool A_OUTER, bool B_OUTER>
static __device__ __forceinline__ void ml_wgmma(float c[ML_WGMMA_COLS / 8][4], uint64_t a, uint64_t b)
{
    /* clang-format off */
    ML_HOPPER_ASM(ml_emulated_wgmma(c, ML_WGMMA_COLS, a, NULL, b, A_OUTER, B_OUTER, true), asm volatile(
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
        "}, %128, %129, 1, 1, 1, %130, %131;"
        : ML_SUMS_64(c, 0), ML_SUMS_64(c, 1), ML_SUMS_64(c, 2), ML_SUMS_64(c, 3)
        : "l"(a), "l"(b), "n"(A_OUTER), "n"(B_OUTER)));
    /* clang-format on */
}

/* c [64, 128] = a b, or += with ADD; both operands `inner` */
template <bool ADD> static __device__ __forceinline__ void ml_wgmma_inner(float c[16][4], uint64_t a, uint64_t b)
{
    /* clang-format off */
    ML_HOPPER_ASM(ml_emulated_wgmma(c, 128, a, NULL, b, false, false, ADD), asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, %64, %65, %66, 1, 1, 0, 0;"
        : ML_SUMS_64(c, 0), ML_SUMS_64(c, 1)
        : "l"(a), "l"(b), "n"(ADD)));
    /* clang-format on */
}

/* c [64, 8 N] += a b, a in registers, b `outer` */
template <int N>
static __device__ __forceinline__ void ml_wgmma_registers(float (&c)[N][4], const uint32_t a[4], uint64_t b)
{
    static_assert(N == 8 || N == 16, "64 or 128 columns");
    /* clang-format off */
    if constexpr (N == 8) {
        ML_HOPPER_ASM(ml_emulated_wgmma(c, 64, 0, a, b, false, true, true), asm volatile(
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
            "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
            : ML_SUMS_64(c, 0)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)));
    } else {
        ML_HOPPER_ASM(ml_emulated_wgmma(c, 128, 0, a, b, false, true, true), asm volatile(
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
            "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
            : ML_SUMS_64(c, 0), ML_SUMS_64(c, 1)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)));
    }
    /* clang-format on */
}

/* c and the operands are what this thread wrote last. */
static __device__ __forceinline__ void ml_wgmma_fence(void)
{
    ML_HOPPER_ASM((void)0, asm volatile("wgmma.fence.sync.aligned;" ::: "memory"));
}

/* Products since the last commit become one group. */
static __device__ __forceinline__ void ml_wgmma_commit(void)
{
    ML_HOPPER_ASM(ml_emulated_wgmma_commit(), asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"));
}

/* Until at most N of the newest groups are under way. */
template <int N> static __device__ __forceinline__ void ml_wgmma_wait(void)
{
    ML_HOPPER_ASM(ml_emulated_wgmma_wait(N), asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"));
}

/* The compiler may keep c, of N fragments, where it is, but not move reads or writes of it across. */
template <int N> static __device__ __forceinline__ void ml_wgmma_hold(float c[N][4])
{
#ifdef ML_EMULATED
    (void)c;
#else
#pragma unroll
    for (int j = 0; j < N; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+f"(c[j][i])::"memory");
    }
#endif
}

/* The same of a in registers, N times. */
template <int N> static __device__ __forceinline__ void ml_wgmma_hold_operand(uint32_t a[N][4])
{
#ifdef ML_EMULATED
    (void)a;
#else
#pragma unroll
    for (int j = 0; j < N; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+r"(a[j][i])::"memory");
    }
#endif
}

/* What this thread wrote to shared memory is seen by the matrix unit after a barrier that follows; what others wrote
 * before a barrier that this thread has passed, by products that it queues. */
static __device__ __forceinline__ void ml_fence_for_matrix_unit(void)
{
    ML_HOPPER_ASM((void)0, asm volatile("fence.proxy.async.shared::cta;" ::: "memory"));
}

/* ---- barriers in shared memory: n arrivals end a phase; phases alternate in parity, the first is 0 ---- */

static __device__ __forceinline__ void ml_barrier_init(uint64_t *barrier, unsigned n)
{
    ML_HOPPER_ASM(ml_emulated_barrier_init(barrier, n),
                  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(ml_shared_address(barrier)), "r"(n)
                               : "memory"));
}

static __device__ __forceinline__ void ml_barrier_arrive(uint64_t *barrier)
{
    ML_HOPPER_ASM(ml_emulated_barrier_arrive(barrier),
                  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(ml_shared_address(barrier))
                               : "memory"));
}

/* Until the phase of this parity has ended; of a new barrier, the phase of parity 1 has. */
static __device__ __forceinline__ void ml_barrier_wait(uint64_t *barrier, unsigned parity)
{
    ML_HOPPER_ASM(ml_emulated_barrier_wait(barrier, parity), {
        uint32_t done = 0, at = ml_shared_address(barrier);
        while (!done) {
            asm volatile("{\n.reg .pred p;\n"
                         "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                         "selp.u32 %0, 1, 0, p;\n}"
                         : "=r"(done)
                         : "r"(at), "r"(parity)
                         : "memory");
        }
    });
}

/* This thread arrives once its copies so far (ml_copy_16) are done; nobody waits for them here. */
static __device__ __forceinline__ void ml_barrier_arrive_copied(uint64_t *barrier)
{
    ML_HOPPER_ASM(ml_emulated_copy_arrive(barrier),
                  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(ml_shared_address(barrier))
                               : "memory"));
}

/* Of a block of three warpgroups, one that copies and two that multiply: a launch gives each thread 168 registers at
 * most, and who takes more than others give back waits forever. */
static constexpr bool ml_registers_suffice(int copying, int multiplying)
{
    return copying + 2 * multiplying <= 3 * 168;
}

/* A warpgroup takes registers, up to N for a thread, or gives back what it has beyond N. */
template <int N> static __device__ __forceinline__ void ml_registers_take(void)
{
    ML_HOPPER_ASM((void)0, asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)));
}

template <int N> static __device__ __forceinline__ void ml_registers_give(void)
{
    ML_HOPPER_ASM((void)0, asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)));
}

#endif
