#include "ops/cuda/token_terms.cuh"

enum { WARPS = 4, THREADS = WARPS * WARP };

static __device__ __forceinline__ bool is_row(const ml_cuda_token_rows &w, int64_t r)
{
    return !w.n_used || r < *w.n_used;
}

/* h [n_row, n_part, most_rank] */
static __global__ void __launch_bounds__(THREADS) pull_rows(ml_cuda_token_rows w, int64_t most_rank, float *h)
{
    int64_t row = blockIdx.x, p = blockIdx.z, j = (int64_t)blockIdx.y * WARPS + threadIdx.x / WARP;
    if (!is_row(w, row)) return;
    int64_t token = w.token ? w.token[row] : row;
    const ml_token_term *t = ml_find_term(w.part[p].terms, token);
    if (!t || j >= t->rank) return;
    const float *x = w.x + (w.x_by_token ? token : row) * w.x_stride;
    const float *a = t->a + ((w.expert ? w.expert[row] : 0) * t->rank + j) * t->n_in;
    float sum = 0;
#pragma unroll 4
    for (int64_t c = threadIdx.x % WARP; c < t->n_in; c += WARP) sum = fmaf(a[c], x[c], sum);
    sum = ml_warp_sum(sum);
    if (threadIdx.x % WARP == 0) h[(row * w.n_part + p) * most_rank + j] = t->scale * sum;
}

static __global__ void __launch_bounds__(THREADS) push_rows(ml_cuda_token_rows w, int64_t most_rank, const float *h)
{
    int64_t row = blockIdx.x, p = blockIdx.z, j = (int64_t)blockIdx.y * THREADS + threadIdx.x;
    const ml_token_part &part = w.part[p];
    if (!is_row(w, row) || j >= part.n) return;
    const ml_token_term *t = ml_find_term(part.terms, w.token ? w.token[row] : row);
    if (!t && !w.bias) return;
    float *y = w.y + row * w.y_stride + part.column + j, v = *y;
    if (t) {
        int64_t out = (w.expert ? w.expert[row] : 0) * t->n_out + j;
        const float *b = t->b + out * t->rank, *from = h + (row * w.n_part + p) * most_rank;
        float sum = 0;
        for (int64_t i = 0; i < t->rank; i++) sum = fmaf(b[i], from[i], sum);
        v = ml_token_factor(t, out) * (v + sum);
    }
    *y = w.bias ? v + w.bias[part.column + j] : v;
}

ml_status ml_cuda_token_rows_run(ml_ctx *ctx, const ml_cuda_token_rows *w)
{
    int64_t most_rank = 0, most_n = 0;
    for (int p = 0; p < w->n_part; p++) {
        const ml_token_part *part = &w->part[p];
        if (part->terms.most_rank > most_rank) most_rank = part->terms.most_rank;
        if (part->n > most_n) most_n = part->n;
    }
    if (w->n_row == 0 || most_n == 0 || (most_rank == 0 && !w->bias)) return ml_queued(ctx);
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    float *h = (float *)ml_ctx_scratch_data(ctx, (size_t)(w->n_row * w->n_part * most_rank) * sizeof *h);
    if (!h) return ML_ENOMEM;
    if (most_rank > 0) {
        dim3 grid((unsigned)w->n_row, (unsigned)ml_n_blocks(most_rank, WARPS), (unsigned)w->n_part);
        ML_LAUNCH(ctx->device, pull_rows, grid, THREADS, 0, *w, most_rank, h);
    }
    dim3 grid((unsigned)w->n_row, (unsigned)ml_n_blocks(most_n, THREADS), (unsigned)w->n_part);
    ML_LAUNCH(ctx->device, push_rows, grid, THREADS, 0, *w, most_rank, h);
    ml_ctx_release(ctx, mark);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_token_terms_linear(ml_ctx *ctx, ml_tensor *y, const ml_tensor *x,
                                                const ml_token_part *part, int n_part, const ml_tensor *bias,
                                                int64_t n_row)
{
    ml_cuda_token_rows w;
    memset(&w, 0, sizeof w);
    for (int i = 0; i < n_part; i++) w.part[i] = part[i];
    w.n_part = n_part;
    w.n_row = n_row;
    w.x = ml_f32(x);
    w.x_stride = x->stride;
    w.y = ml_f32(y);
    w.y_stride = y->stride;
    w.bias = ml_f32(bias);
    return ml_cuda_token_rows_run(ctx, &w);
}
