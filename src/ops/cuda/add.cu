/* y = a + scale * b;  da += dy, db += scale dy, both from one reading of dy, which may be db already.  One thread for
 * four columns of a row. */
#include "ops/cuda/pieces.cuh"

static __global__ void __launch_bounds__(ML_ROWS_THREADS)
    add(ml_rows a, ml_rows b, ml_rows y, float scale, int64_t n_row, bool aligned)
{
    int64_t row, c;
    if (!ml_piece_find(n_row, y.n_col, &row, &c)) return;
    int64_t n_left = y.n_col - c;
    float4 v = ml_piece_load(a.data + row * a.stride + c, n_left, aligned);
    float4 w = ml_piece_load(b.data + row * b.stride + c, n_left, aligned);
    v.x += scale * w.x;
    v.y += scale * w.y;
    v.z += scale * w.z;
    v.w += scale * w.w;
    ml_piece_store(y.data + row * y.stride + c, v, n_left, aligned);
}

/* da or db may be absent (data NULL). */
static __global__ void __launch_bounds__(ML_ROWS_THREADS)
    accumulate(ml_rows da, ml_rows db, ml_rows dy, float scale, int64_t n_row, bool aligned)
{
    int64_t row, c;
    if (!ml_piece_find(n_row, dy.n_col, &row, &c)) return;
    int64_t n_left = dy.n_col - c;
    float4 v = ml_piece_load(dy.data + row * dy.stride + c, n_left, aligned);
    if (da.data) ml_piece_add(da.data + row * da.stride + c, v, 1, n_left, aligned);
    if (db.data) ml_piece_add(db.data + row * db.stride + c, v, scale, n_left, aligned);
}

extern "C" ml_status ml_cuda_add_forward(ml_ctx *ctx, const ml_op_args *args)
{
    ml_rows a = ml_rows_of(args->in[0]), b = ml_rows_of(args->in[1]), y = ml_rows_of(args->out[0]);
    float scale = ((const ml_add_param *)args->param)->scale;
    int64_t n_row = args->out[0]->dim[0];
    bool aligned = ml_pieces_aligned(a) && ml_pieces_aligned(b) && ml_pieces_aligned(y);
    unsigned n_block;
    ML_TRY(ml_piece_blocks(ctx, n_row, y.n_col, &n_block));
    if (n_block == 0) return ML_OK;
    ML_LAUNCH(ctx->device, add, n_block, ML_ROWS_THREADS, 0, a, b, y, scale, n_row, aligned);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_add_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    float scale = ((const ml_add_param *)args->param)->scale;
    ml_rows da = ml_rows_like(args->in[0], grads->in[0]), db = ml_rows_like(args->in[1], grads->in[1]);
    ml_rows dy = ml_rows_like(args->out[0], grads->out[0]);
    if (db.data == dy.data) db.data = NULL;
    int64_t n_row = args->out[0]->dim[0];
    bool aligned = ml_pieces_aligned(da) && ml_pieces_aligned(db) && ml_pieces_aligned(dy);
    unsigned n_block;
    ML_TRY(ml_piece_blocks(ctx, n_row, dy.n_col, &n_block));
    if (n_block == 0 || (!da.data && !db.data)) return ML_OK;
    ML_LAUNCH(ctx->device, accumulate, n_block, ML_ROWS_THREADS, 0, da, db, dy, scale, n_row, aligned);
    return ml_queued(ctx);
}
