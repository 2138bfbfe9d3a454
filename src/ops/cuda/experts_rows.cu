#include "ops/cuda/experts.cuh"

#include "ops/cuda/sort.cuh"

enum { THREADS = 256 };

static __global__ void clear_rows(ml_cuda_experts l)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < l.n_row) l.rows[i] = -1;
}

static __global__ void list_rows(ml_cuda_experts l)
{
    int64_t r = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (r >= l.n_row) return;
    bool used = r < l.offset[l.n_expert];
    l.token[r] = used ? (int32_t)(l.flat[r] / l.top_k) : 0;
    if (used) l.rows[l.flat[r]] = (int32_t)r;
}

/* Of one token: rows in ascending order (insertion), -1 last. */
static __global__ void order_rows(ml_cuda_experts l)
{
    int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (t >= l.n_token) return;
    int32_t *row = l.rows + t * l.top_k;
    for (int64_t i = 1; i < l.top_k; i++) {
        int32_t v = row[i];
        int64_t j = i;
        for (; j > 0 && (uint32_t)row[j - 1] > (uint32_t)v; j--) row[j] = row[j - 1];
        row[j] = v;
    }
}

static unsigned blocks_for(int64_t n)
{
    return (unsigned)ml_n_blocks(n, THREADS);
}

ml_status ml_cuda_experts_describe(ml_ctx *ctx, const ml_op_args *args, ml_cuda_experts *l)
{
    const ml_tensor *id = args->in[1], *gate = args->in[3];
    memset(l, 0, sizeof *l);
    l->n_token = id->dim[0];
    l->top_k = id->dim[1];
    l->n_expert = gate->dim[0];
    l->f = gate->dim[1];
    l->d = gate->dim[2];
    l->n_row = l->n_token * l->top_k;
    l->offset = ml_i32(args->save[0]);
    l->flat = ml_i32(args->save[1]);
    l->x = ml_rows_of(args->in[0]);
    l->prob = ml_rows_of(args->in[2]);
    l->activation = ((const ml_experts_param *)args->param)->activation;
    l->has_up = args->in[4] != NULL;
    if (l->n_row > INT32_MAX) {
        return ml_ctx_fail(ctx, ML_EINVAL, "experts: %lld tokens with %lld experts each are too many for one batch",
                           (long long)l->n_token, (long long)l->top_k);
    }
    ML_TRY(ml_cuda_weight_read(ctx, gate, &l->gate));
    if (l->has_up) ML_TRY(ml_cuda_weight_read(ctx, args->in[4], &l->up));
    ML_TRY(ml_cuda_weight_read(ctx, args->in[5], &l->down));
    l->token = (int32_t *)ml_ctx_scratch_data(ctx, (size_t)l->n_row * sizeof *l->token);
    l->rows = (int32_t *)ml_ctx_scratch_data(ctx, (size_t)l->n_row * sizeof *l->rows);
    return l->token && l->rows ? ML_OK : ML_ENOMEM;
}

ml_status ml_cuda_experts_sort(ml_ctx *ctx, const ml_op_args *args, const ml_cuda_experts *l)
{
    const ml_tensor *id = args->in[1];
    ml_cuda_sort sort;
    return ml_cuda_sort_make(ctx, ml_i32(id), id->stride, l->n_token, l->top_k, l->n_expert, ml_i32(args->save[0]),
                             ml_i32(args->save[1]), &sort);
}

void ml_cuda_experts_list(ml_ctx *ctx, const ml_cuda_experts *l)
{
    if (l->n_row == 0) return;
    ML_LAUNCH(ctx->device, clear_rows, blocks_for(l->n_row), THREADS, 0, *l);
    ML_LAUNCH(ctx->device, list_rows, blocks_for(l->n_row), THREADS, 0, *l);
    ML_LAUNCH(ctx->device, order_rows, blocks_for(l->n_token), THREADS, 0, *l);
}

ml_status ml_cuda_experts_check(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    const ml_tensor *gate = args->in[3], *down = args->in[5];
    if ((!grads->in[3] || ml_is_trainable(gate)) && (!grads->in[4] || ml_is_trainable(args->in[4])) &&
        (!grads->in[5] || ml_is_trainable(down))) {
        return ML_OK;
    }
    return ml_ctx_fail(ctx, ML_EINVAL, "experts: weights of type %s cannot be trained: expected f32",
                       ml_dtype_name(gate->dtype != ML_F32 ? gate->dtype : down->dtype));
}

ml_cuda_gemm ml_cuda_experts_rows(const ml_cuda_experts *l, ml_cuda_operand a, ml_cuda_operand b, int64_t n, int64_t k)
{
    ml_cuda_gemm g = ml_cuda_gemm_make(l->n_row, n, k);
    g.n_product = l->n_expert;
    g.a = a;
    g.b = b;
    g.grouping = ML_GROUP_ROWS;
    g.offset = l->offset;
    return g;
}

void ml_cuda_experts_add_gradient(ml_ctx *ctx, const ml_cuda_experts *l, ml_cuda_operand a, ml_cuda_operand b,
                                  int64_t m, int64_t n, float *dw, int64_t dw_product)
{
    ml_cuda_gemm g = ml_cuda_gemm_make(m, n, l->n_row);
    g.n_product = l->n_expert;
    g.a = a;
    g.a.transpose = true;
    g.b = b;
    g.c = dw;
    g.c_stride = n;
    g.c_product = dw_product;
    g.accumulate = true;
    g.grouping = ML_GROUP_INNER;
    g.offset = l->offset;
    ml_cuda_gemm_run(ctx, &g);
}
