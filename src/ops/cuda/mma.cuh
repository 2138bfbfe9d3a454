/* The matrix unit, from Ampere on: bf16 operands, fp32 sums (PTX ISA, mma.sync.aligned.m16n8k16 and ldmatrix), and the
 * copies from global to shared memory that go on beside it (cp.async).
 *
 *   c [16, 8] += a [16, 16] b [16, 8];   with group = lane / 4 and pair = lane % 4 a lane holds
 *   a[0], a[1]   rows group, group + 8 of columns 2 pair, 2 pair + 1       a[2], a[3]   the same of columns + 8
 *   b[0], b[1]   rows 2 pair, 2 pair + 1 (then + 8) of column group
 *   c[0], c[1]   row group, columns 2 pair, 2 pair + 1                      c[2], c[3]   the same of row group + 8
 * Two bf16 lie in a word, the earlier column (row, for b) in its lower half.  All lanes of a warp call together. */
#ifndef ML_OPS_CUDA_MMA_CUH
#define ML_OPS_CUDA_MMA_CUH

#include "ops/cuda/common.cuh"

/* Two numbers rounded to bf16 (to nearest, ties to even), `low` in the lower half. */
static __device__ __forceinline__ uint32_t ml_pack_bf16(float low, float high)
{
#ifdef ML_EMULATED
    return (uint32_t)ml_emulated_bf16(low) | (uint32_t)ml_emulated_bf16(high) << 16;
#else
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#endif
}

static __device__ __forceinline__ float ml_bf16_low(uint32_t both)
{
    return __uint_as_float(both << 16);
}

static __device__ __forceinline__ float ml_bf16_high(uint32_t both)
{
    return __uint_as_float(both & 0xffff0000u);
}

static __device__ __forceinline__ void ml_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
#ifdef ML_EMULATED
    ml_emulated_mma_bf16(c, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* Four 8 x 8 matrices of 16-bit elements from shared memory: lane i gives the address (16 bytes aligned) of row i % 8
 * of matrix i / 8; to[j] is row lane / 4, columns 2 (lane % 4) and + 1 of matrix j, as a and b above want them. */
static __device__ __forceinline__ void ml_load_matrix(uint32_t to[4], const void *row)
{
#ifdef ML_EMULATED
    ml_emulated_load_matrix(to, row, false);
#else
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
#endif
}

/* The same of the transposed matrices: to[j] is column lane / 4, rows 2 (lane % 4) and + 1 of what is stored. */
static __device__ __forceinline__ void ml_load_matrix_transposed(uint32_t to[4], const void *row)
{
#ifdef ML_EMULATED
    ml_emulated_load_matrix(to, row, true);
#else
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
#endif
}

/* 16 bytes to shared memory, both sides 16 bytes aligned; of them the first n_valid (0 .. 16) are read, the others
 * become zero.  Done when ml_copy_wait says so, and seen by other threads after a barrier that follows. */
static __device__ __forceinline__ void ml_copy_16(void *shared, const void *global, int n_valid)
{
#ifdef ML_EMULATED
    ml_emulated_copy_16(shared, global, n_valid);
#else
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(n_valid) : "memory");
#endif
}

/* The copies since the last commit become one group. */
static __device__ __forceinline__ void ml_copy_commit(void)
{
#ifdef ML_EMULATED
    ml_emulated_copy_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Until at most N of the newest groups are under way. */
template <int N> static __device__ __forceinline__ void ml_copy_wait(void)
{
#ifdef ML_EMULATED
    ml_emulated_copy_wait(N);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

#endif
