/* y = silu(gate) * up;  silu'(g) = s + g s (1 - s) with s = sigmoid(g).  One thread for four columns of a row of y. */
#include "ops/cuda/pieces.cuh"

static __device__ __forceinline__ float activate(float gate, float up)
{
    return gate * ml_sigmoid(gate) * up;
}

static __global__ void __launch_bounds__(ML_ROWS_THREADS)
    forward(ml_rows gate_up, ml_rows y, int64_t n_row, bool aligned)
{
    int64_t row, c;
    if (!ml_piece_find(n_row, y.n_col, &row, &c)) return;
    int64_t n_left = y.n_col - c;
    const float *gate = gate_up.data + row * gate_up.stride + c;
    float4 g = ml_piece_load(gate, n_left, aligned), u = ml_piece_load(gate + y.n_col, n_left, aligned), v;
    v.x = activate(g.x, u.x);
    v.y = activate(g.y, u.y);
    v.z = activate(g.z, u.z);
    v.w = activate(g.w, u.w);
    ml_piece_store(y.data + row * y.stride + c, v, n_left, aligned);
}

/* gate and up become their gradients, of a slope d of y. */
static __device__ __forceinline__ void differentiate(float *gate, float *up, float d)
{
    float s = ml_sigmoid(*gate), silu = *gate * s;
    *gate = d * *up * (s + silu * (1.0f - s));
    *up = d * silu;
}

static __global__ void __launch_bounds__(ML_ROWS_THREADS)
    backward(ml_rows gate_up, ml_rows dgate_up, ml_rows dy, int64_t n_row, bool aligned)
{
    int64_t row, c;
    if (!ml_piece_find(n_row, dy.n_col, &row, &c)) return;
    int64_t n_left = dy.n_col - c, at = row * gate_up.stride + c;
    float4 g = ml_piece_load(gate_up.data + at, n_left, aligned);
    float4 u = ml_piece_load(gate_up.data + at + dy.n_col, n_left, aligned);
    float4 d = ml_piece_load(dy.data + row * dy.stride + c, n_left, aligned);
    differentiate(&g.x, &u.x, d.x);
    differentiate(&g.y, &u.y, d.y);
    differentiate(&g.z, &u.z, d.z);
    differentiate(&g.w, &u.w, d.w);
    ml_piece_add(dgate_up.data + at, g, 1, n_left, aligned);
    ml_piece_add(dgate_up.data + at + dy.n_col, u, 1, n_left, aligned);
}

extern "C" ml_status ml_cuda_swiglu_forward(ml_ctx *ctx, const ml_op_args *args)
{
    ml_rows gate_up = ml_rows_of(args->in[0]), y = ml_rows_of(args->out[0]);
    int64_t n_row = args->out[0]->dim[0];
    bool aligned = ml_pieces_aligned(gate_up) && ml_pieces_aligned(y) && y.n_col % ML_PIECE == 0;
    unsigned n_block;
    ML_TRY(ml_piece_blocks(ctx, n_row, y.n_col, &n_block));
    if (n_block == 0) return ML_OK;
    ML_LAUNCH(ctx->device, forward, n_block, ML_ROWS_THREADS, 0, gate_up, y, n_row, aligned);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_swiglu_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    ml_rows gate_up = ml_rows_of(args->in[0]), dgate_up = ml_rows_like(args->in[0], grads->in[0]);
    ml_rows dy = ml_rows_like(args->out[0], grads->out[0]);
    int64_t n_row = args->out[0]->dim[0];
    bool aligned =
        ml_pieces_aligned(gate_up) && ml_pieces_aligned(dgate_up) && ml_pieces_aligned(dy) && dy.n_col % ML_PIECE == 0;
    unsigned n_block;
    ML_TRY(ml_piece_blocks(ctx, n_row, dy.n_col, &n_block));
    if (n_block == 0 || !dgate_up.data) return ML_OK;
    ML_LAUNCH(ctx->device, backward, n_block, ML_ROWS_THREADS, 0, gate_up, dgate_up, dy, n_row, aligned);
    return ml_queued(ctx);
}
