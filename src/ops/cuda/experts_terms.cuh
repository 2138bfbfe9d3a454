/* Low-rank terms of a layer of experts on a device, beside the products of experts.cu: what ops/cpu/experts_lora.h
 * says, for all rows at once.
 *
 *   h[row] = scale * a_e dropout(input[row]);   out[row] += b_e h[row]
 *   going back, with dh[row] = scale * b_e^T dout[row]:
 *   db_e += dout^T h;   da_e += dh^T dropout(input);   dinput += dropout(dh a_e)
 * With magnitudes the sum u of product and term becomes g u, g = m / norm; ds is the gradient of that, du = g ds, and
 * dm += ds u / norm. */
#ifndef ML_OPS_CUDA_EXPERTS_TERMS_CUH
#define ML_OPS_CUDA_EXPERTS_TERMS_CUH

#include "ops/cuda/experts.cuh"

/* The term of one of the three matrices; without `a` there is none, and without `m` no magnitudes. */
typedef struct {
    const float *a, *b; /* [n_expert, r, n_in], [n_expert, n_out, r] */
    int64_t a_stride, b_stride, r, n_in, n_out;
    float *h, *dh;       /* first of a row; rows h_stride apart */
    float *da, *db, *dm; /* NULL: not wanted */
    const float *m, *norm;
    int64_t m_stride, norm_stride;
    uint64_t seed;
} ml_cuda_term;

typedef struct {
    ml_cuda_term gate, up, down;
    int64_t h_stride;
    float scale, dropout;
    float *dropped; /* with dropout: [n_row, max(d, f)] */
} ml_cuda_terms;

/* The terms of an operator's arguments; all absent for `experts`.  grads: NULL going forward. */
ml_status ml_cuda_terms_describe(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads,
                                 const ml_cuda_experts *e, ml_cuda_terms *t);
/* h of all rows, and out [rows, n_out] += b h.  These do nothing for an absent term. */
void ml_cuda_term_add(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_terms *t, const ml_cuda_term *term,
                      ml_cuda_operand input, float *out, int64_t stride);
/* Only the second, of the h that was kept. */
void ml_cuda_term_add_kept(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_terms *t, const ml_cuda_term *term,
                           float *out, int64_t stride);
/* dh of all rows. */
void ml_cuda_term_pull(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_terms *t, const ml_cuda_term *term,
                       ml_cuda_operand dout);
/* da and db, once dh is there. */
void ml_cuda_term_add_gradients(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_terms *t, const ml_cuda_term *term,
                                ml_cuda_operand dout, ml_cuda_operand input);
/* dinput [rows, n_in] += dropout(dh a), once dh is there. */
void ml_cuda_term_add_input(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_terms *t, const ml_cuda_term *term,
                            float *dinput, int64_t stride);
/* to [rows, n_out] = g from, row by row (by `from`'s rows). */
void ml_cuda_term_scale(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_term *term, ml_cuda_operand from,
                        float *to);
/* dm_e += sum over its rows, in their order, of ds u / norm; without u, ds has the product already. */
void ml_cuda_term_add_magnitudes(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_term *term, ml_cuda_operand ds,
                                 const float *u, int64_t u_stride);

/* m / norm of output j; 1 without magnitudes, and where norm is 0. */
static __device__ __forceinline__ float ml_term_factor(const ml_cuda_term *t, int64_t expert, int64_t j)
{
    if (!t->m) return 1.0f;
    float norm = t->norm[expert * t->norm_stride + j];
    return norm > 0 ? t->m[expert * t->m_stride + j] / norm : 1.0f;
}

#endif
