/* Rows of a key/value cache as kernels find and read them (ops/cached.h). */
#ifndef ML_OPS_CUDA_CACHED_CUH
#define ML_OPS_CUDA_CACHED_CUH

#include "ops/cuda/quads.cuh"

extern "C" {
#include "ops/cached_heads.h"
}

/* Where position `pos` of sequence `seq` lies, in rows; -1: it has no page. */
static __device__ __forceinline__ int64_t ml_cached_row(const ml_kv_view &kv, int64_t seq, int64_t pos)
{
    int64_t page = pos / kv.page_size;
    if (seq < 0 || pos < 0 || page >= kv.pages_per_seq) return -1;
    return (int64_t)kv.page_table[seq * kv.pages_per_seq + page] * kv.page_size + pos % kv.page_size;
}

/* Columns c and c + 1 (c even) of a stored row, `n` of them in all. */
template <ml_dtype T> static __device__ __forceinline__ void ml_cached_pair(const char *row, int c, float out[2])
{
    const uint8_t *b = (const uint8_t *)row;
    if (T == ML_F32) {
        memcpy(out, __builtin_assume_aligned(b + 4 * c, 4), 8);
    } else if (T == ML_Q8_0) {
        const uint8_t *block = b + c / 32 * 34;
        float d = ml_f16_bits(ml_half_word(block));
        uint32_t both = ml_half_word(block + 2 + c % 32);
        out[0] = ml_round_product(d, (float)(int8_t)both);
        out[1] = ml_round_product(d, (float)(int8_t)(both >> 8));
    } else {
        uint32_t both = ml_word_at_even(b + 2 * c);
        out[0] = T == ML_F16 ? ml_f16_bits(both & 0xffff) : __uint_as_float(both << 16);
        out[1] = T == ML_F16 ? ml_f16_bits(both >> 16) : __uint_as_float(both & 0xffff0000u);
    }
}

/* What attention_cached.cu computes for GQA and, in the latent space, for MLA. */
typedef struct {
    ml_kv_view kv;
    const int32_t *seq, *pos; /* of the tokens from here on */
    int64_t n_token;
    const float *q; /* [tokens, n_head, d_qk], q_stride apart; columns from d_first on come from q_tail */
    int64_t q_stride, q_head;
    const float *q_tail;
    int64_t tail_stride, tail_head, d_first;
    float *y; /* [tokens, n_head, d_v] */
    int64_t y_stride;
    int64_t n_head, n_group, d_qk, d_v;
    int64_t k_head_bytes, v_head_bytes; /* from one key head to the next in a cached row */
    bool v_is_k;
    float scale;
    ml_fault *fault;
} ml_cuda_cached;

/* y of n_token tokens; decode: keys of a token in spans that run side by side. */
ml_status ml_cuda_cached_run(ml_ctx *ctx, const ml_cuda_cached *a, bool decode);

#endif
