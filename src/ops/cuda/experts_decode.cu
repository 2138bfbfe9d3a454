/* Which experts there are to compute only the device knows: rows (token, k) are sorted by expert, and the i-th of as
 * many block rows as can be needed finds the i-th expert that has rows (ops/cuda/matvec.cuh).
 *
 *     sort      offset [n_expert + 1], flat [rows]
 *     list      token and weight of each row, the row of each (token, k)
 *     gate, up  a[row] = prob * act(gate_e x[token]) [* up_e x[token]]
 *     down      z[row] = down_e a[row]
 *     combine   y[token] = its rows of z added in their order, which is that of expert ids */
#include "ops/cuda/experts_decode.cuh"

#include "ops/cuda/matvec.cuh"
#include "ops/cuda/rows.cuh"
#include "ops/cuda/sort.cuh"

enum { THREADS = 256 };

typedef struct {
    int64_t n_token, top_k, n_expert, d, f, n_row;
    const int32_t *offset, *flat;
    int32_t *token, *row; /* row: [tokens, top_k], -1 where no expert was accepted */
    float *factor, *a, *z;
    ml_rows prob, y;
} layer;

static __global__ void __launch_bounds__(THREADS) list(layer l)
{
    int64_t n_used = l.offset[l.n_expert];
    for (int64_t i = threadIdx.x; i < l.n_row; i += THREADS) l.row[i] = -1;
    __syncthreads();
    for (int64_t r = threadIdx.x; r < n_used; r += THREADS) {
        int32_t pair = l.flat[r];
        l.token[r] = pair / (int32_t)l.top_k;
        l.factor[r] = l.prob.data[pair / l.top_k * l.prob.stride + pair % l.top_k];
        l.row[pair] = (int32_t)r;
    }
}

static __global__ void __launch_bounds__(THREADS) combine(layer l)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= l.n_token * l.d) return;
    int64_t t = i / l.d, c = i % l.d;
    const int32_t *row = l.row + t * l.top_k;
    float sum = 0;
    for (int64_t n = 0, last = -1; n < l.top_k; n++) {
        int64_t next = l.n_row;
        for (int64_t k = 0; k < l.top_k; k++) {
            if (row[k] > last && row[k] < next) next = row[k];
        }
        if (next == l.n_row) break;
        sum += l.z[next * l.d + c];
        last = next;
    }
    l.y.data[t * l.y.stride + c] = sum;
}

bool ml_cuda_experts_can_decode(const ml_op_args *args)
{
    const ml_tensor *gate = args->in[3], *up = args->in[4], *down = args->in[5];
    if (gate->part || down->part || gate->layout != ML_LAYOUT_ROWS || down->layout != ML_LAYOUT_ROWS) return false;
    return !up || (!up->part && up->dtype == gate->dtype && up->layout == ML_LAYOUT_ROWS);
}

/* Of every expert's matrix [n, k]. */
static ml_cuda_matvec describe(const layer *l, const ml_tensor *w)
{
    ml_cuda_matvec m = ml_cuda_matvec_make(w);
    m.n = w->dim[1];
    m.product_bytes = (int64_t)ml_dtype_row_bytes(w->dtype, w->stride);
    m.n_product = l->n_expert;
    m.offset = l->offset;
    m.n_row = l->n_row;
    m.n_most = l->n_token;
    return m;
}

static bool allocate(ml_ctx *ctx, layer *l)
{
    size_t n = (size_t)l->n_row;
    l->token = (int32_t *)ml_ctx_scratch_data(ctx, n * sizeof *l->token);
    l->row = (int32_t *)ml_ctx_scratch_data(ctx, n * sizeof *l->row);
    l->factor = (float *)ml_ctx_scratch_data(ctx, n * sizeof *l->factor);
    l->a = (float *)ml_ctx_scratch_data(ctx, n * (size_t)l->f * sizeof *l->a);
    l->z = (float *)ml_ctx_scratch_data(ctx, n * (size_t)l->d * sizeof *l->z);
    return l->token && l->row && l->factor && l->a && l->z;
}

ml_status ml_cuda_experts_decode(ml_ctx *ctx, const ml_op_args *args)
{
    const ml_tensor *x = args->in[0], *id = args->in[1], *gate = args->in[3], *up = args->in[4];
    layer l;
    memset(&l, 0, sizeof l);
    l.n_token = id->dim[0];
    l.top_k = id->dim[1];
    l.n_expert = gate->dim[0];
    l.f = gate->dim[1];
    l.d = gate->dim[2];
    l.n_row = l.n_token * l.top_k;
    l.prob = ml_rows_of(args->in[2]);
    l.y = ml_rows_of(args->out[0]);
    if (l.n_row > INT32_MAX) return ml_ctx_fail(ctx, ML_EINVAL, "experts: too many tokens for one batch");
    if (l.n_row == 0) return ML_OK;
    ml_cuda_sort sort;
    ML_TRY(ml_cuda_sort_make(ctx, ml_i32(id), id->stride, l.n_token, l.top_k, l.n_expert, NULL, NULL, &sort));
    l.offset = sort.offset;
    l.flat = sort.flat;
    if (!allocate(ctx, &l)) return ML_ENOMEM;
    ML_LAUNCH(ctx->device, list, 1, THREADS, 0, l);
    ml_cuda_matvec m = describe(&l, gate);
    m.w_up = up ? (const uint8_t *)up->data : NULL;
    m.up_product_bytes = up ? (int64_t)ml_dtype_row_bytes(up->dtype, up->stride) : 0;
    m.x = ml_f32(x);
    m.x_stride = x->stride;
    m.x_row = l.token;
    m.y = l.a;
    m.y_stride = l.f;
    m.activate = true;
    m.activation = ((const ml_experts_param *)args->param)->activation;
    m.factor = l.factor;
    ml_cuda_matvec_run(ctx, &m);
    m = describe(&l, args->in[5]);
    m.x = l.a;
    m.x_stride = l.f;
    m.y = l.z;
    m.y_stride = l.d;
    ml_cuda_matvec_run(ctx, &m);
    ML_LAUNCH(ctx->device, combine, (unsigned)ml_n_blocks(l.n_token * l.d, THREADS), THREADS, 0, l);
    return ml_queued(ctx);
}
