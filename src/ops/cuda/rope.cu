/* Rotation in place, angles in double as on the CPU.  A thread owns one pair of columns of one token, in all heads, and
 * has FLIGHT heads on their way at a time.
 * inv_freq is this machine's memory: it travels with the launch. */
#include "ops/cuda/rows.cuh"

enum { MAX_PAIRS = 512, THREADS = 128, FLIGHT = 4 };

typedef struct {
    float inv_freq[MAX_PAIRS];
} frequencies;

static __global__ void rotate(float *x, int64_t stride, const int32_t *pos, int64_t n_token, ml_rope_param p,
                              frequencies f, double direction, ml_fault *fault)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, half = p.n_rot / 2;
    if (i >= n_token * half) return;
    int64_t token = i / half, pair = i % half;
    if (pos[token] < 0) {
        ml_report(fault, ML_FAULT_POSITION, pos[token], token);
        return;
    }
    double angle = (double)pos[token] * (double)f.inv_freq[pair];
    float c = (float)((double)p.magnitude * cos(angle));
    float s = (float)((double)p.magnitude * direction * sin(angle));
    int64_t a = p.interleaved ? 2 * pair : pair, b = p.interleaved ? 2 * pair + 1 : pair + half;
    float *row = x + token * stride + p.offset;
    for (int64_t first = 0; first < p.n_head; first += FLIGHT) {
        float va[FLIGHT], vb[FLIGHT];
#pragma unroll
        for (int h = 0; h < FLIGHT; h++) {
            if (first + h >= p.n_head) continue;
            va[h] = row[(first + h) * p.d_head + a];
            vb[h] = row[(first + h) * p.d_head + b];
        }
#pragma unroll
        for (int h = 0; h < FLIGHT; h++) {
            if (first + h >= p.n_head) continue;
            row[(first + h) * p.d_head + a] = va[h] * c - vb[h] * s;
            row[(first + h) * p.d_head + b] = vb[h] * c + va[h] * s;
        }
    }
}

static ml_status rotate_all(ml_ctx *ctx, const ml_op_args *args, float *x, double direction)
{
    const ml_rope_param *p = (const ml_rope_param *)args->param;
    const ml_tensor *pos = args->in[1];
    int64_t n = pos->dim[0] * p->n_rot / 2;
    if (p->n_rot / 2 > MAX_PAIRS) {
        return ml_ctx_fail(ctx, ML_EINVAL, "rope: expected at most %d rotated columns, found %lld", 2 * MAX_PAIRS,
                           (long long)p->n_rot);
    }
    if (n == 0) return ML_OK;
    frequencies f;
    memset(&f, 0, sizeof f);
    memcpy(f.inv_freq, p->inv_freq, (size_t)(p->n_rot / 2) * sizeof(float));
    ML_LAUNCH(ctx->device, rotate, (unsigned)ml_n_blocks(n, THREADS), THREADS, 0, x, args->in[0]->stride, ml_i32(pos),
              pos->dim[0], *p, f, direction, ctx->device->fault);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_rope_forward(ml_ctx *ctx, const ml_op_args *args)
{
    return rotate_all(ctx, args, ml_f32(args->in[0]), 1);
}

extern "C" ml_status ml_cuda_rope_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    return grads->in[0] ? rotate_all(ctx, args, grads->in[0], -1) : ML_OK;
}
