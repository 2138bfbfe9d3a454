/* A block has one row of a weight, whose elements are read one by one from whatever type they have. */
#include "ops/cuda/blocks.cuh"

extern "C" {
#include "model/cuda/adapter.h"
}

enum { THREADS = 128 };

/* Rows of a weight, stored end to end, and what a term adds to them. */
typedef struct {
    ml_dtype dtype;
    const uint8_t *w;
    int64_t row_bytes, cols;
    int64_t first, rows; /* the first row's number among those of all matrices; rows of a matrix */
    const float *a, *b;  /* [n_matrix, rank, cols], [n_matrix * rows, rank] */
    int64_t rank;
    float scale;
} beside;

/* Element c of row first + i of W + scale B A; products of the term in order. */
static __device__ __forceinline__ float sum_at(const beside *s, int64_t i, int64_t c)
{
    int64_t row = s->first + i;
    const float *a = s->a + row / s->rows * s->rank * s->cols + c, *b = s->b + row * s->rank;
    float w = ml_block_element(s->dtype, s->w + i * s->row_bytes, c);
    for (int64_t j = 0; j < s->rank; j++) w = fmaf(s->scale * b[j], a[j * s->cols], w);
    return w;
}

static __global__ void __launch_bounds__(THREADS) norm_rows(beside s, float *norm)
{
    __shared__ double shared[THREADS / WARP];
    double sum = 0;
    for (int64_t c = threadIdx.x; c < s.cols; c += THREADS) {
        double w = (double)sum_at(&s, blockIdx.x, c);
        sum += w * w;
    }
    sum = ml_block_sum(sum, shared);
    if (threadIdx.x == 0) norm[s.first + blockIdx.x] = (float)sqrt(sum);
}

static __global__ void __launch_bounds__(THREADS) divide_rows(const float *m, const float *norm, int64_t n, float *out)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) out[i] = norm[i] > 0 ? m[i] / norm[i] : 1.0f;
}

static beside make_beside(const ml_adapter_term *t)
{
    beside s;
    memset(&s, 0, sizeof s);
    s.cols = t->module.cols;
    s.rows = t->module.rows;
    s.a = ml_f32(&t->a);
    s.b = ml_f32(&t->b);
    s.rank = t->rank;
    s.scale = t->scale;
    return s;
}

/* ---- kv_b ---- */

/* Row r is row r % (nope + d_v) of head r / (nope + d_v): a column of the head's k_b, or a row of its v_b. */
typedef struct {
    ml_dtype k_dtype, v_dtype;
    const uint8_t *k, *v;
    int64_t k_row_bytes, v_row_bytes, nope, d_v, rank;
} halves;

static __global__ void __launch_bounds__(THREADS) join_halves(halves h, float *out)
{
    int64_t r = blockIdx.x, head = r / (h.nope + h.d_v), j = r % (h.nope + h.d_v);
    for (int64_t c = threadIdx.x; c < h.rank; c += THREADS) {
        out[r * h.rank + c] = j < h.nope
                                  ? ml_block_element(h.k_dtype, h.k + (head * h.rank + c) * h.k_row_bytes, j)
                                  : ml_block_element(h.v_dtype, h.v + (head * h.d_v + j - h.nope) * h.v_row_bytes, c);
    }
}

static __global__ void __launch_bounds__(THREADS)
    copy_rows(ml_dtype dtype, const uint8_t *w, int64_t row_bytes, int64_t cols, float *out)
{
    for (int64_t c = threadIdx.x; c < cols; c += THREADS)
        out[(int64_t)blockIdx.x * cols + c] = ml_block_element(dtype, w + (int64_t)blockIdx.x * row_bytes, c);
}

extern "C" ml_status ml_cuda_read_kv_b(ml_ctx *ctx, const ml_model *m, int64_t layer_id, float *out)
{
    const ml_config *c = &m->config;
    const ml_layer *y = &m->layer[layer_id];
    int64_t n_row = c->num_attention_heads * (c->qk_nope_head_dim + c->v_head_dim);
    if (y->kv_b.data) {
        ML_LAUNCH(ctx->device, copy_rows, (unsigned)n_row, THREADS, 0, y->kv_b.dtype, (const uint8_t *)y->kv_b.data,
                  (int64_t)ml_dtype_row_bytes(y->kv_b.dtype, y->kv_b.stride), c->kv_lora_rank, out);
        return ml_queued(ctx);
    }
    halves h;
    h.k_dtype = y->k_b.dtype;
    h.v_dtype = y->v_b.dtype;
    h.k = (const uint8_t *)y->k_b.data;
    h.v = (const uint8_t *)y->v_b.data;
    h.k_row_bytes = (int64_t)ml_dtype_row_bytes(y->k_b.dtype, y->k_b.stride);
    h.v_row_bytes = (int64_t)ml_dtype_row_bytes(y->v_b.dtype, y->v_b.stride);
    h.nope = c->qk_nope_head_dim;
    h.d_v = c->v_head_dim;
    h.rank = c->kv_lora_rank;
    ML_LAUNCH(ctx->device, join_halves, (unsigned)n_row, THREADS, 0, h, out);
    return ml_queued(ctx);
}

/* ---- norms ---- */

/* The tensor that has the matrices of a slot, and the first of its rows that are theirs. */
static const ml_tensor *find_weight(const ml_model *m, const ml_adapter_module *module, int64_t *first)
{
    const ml_layer *y = &m->layer[module->layer];
    const ml_config *c = &m->config;
    int64_t n_kv = c->num_key_value_heads * c->head_dim;
    *first = 0;
    switch (module->slot) {
    case ML_SLOT_Q: return &y->attn_in;
    case ML_SLOT_K: *first = y->attn_in.dim[0] - 2 * n_kv; return &y->attn_in;
    case ML_SLOT_V: *first = y->attn_in.dim[0] - n_kv; return &y->attn_in;
    case ML_SLOT_KV_A: *first = y->attn_in.dim[0] - module->rows; return &y->attn_in;
    case ML_SLOT_Q_B: return &y->q_b;
    case ML_SLOT_O: return &y->attn_out;
    case ML_SLOT_GATE: return &y->gate_up;
    case ML_SLOT_UP: *first = module->rows; return &y->gate_up;
    case ML_SLOT_DOWN: return &y->down;
    case ML_SLOT_EXPERT_GATE: return &y->expert_gate;
    case ML_SLOT_EXPERT_UP: return &y->expert_up;
    case ML_SLOT_EXPERT_DOWN: return &y->expert_down;
    default: return NULL; /* kv_b, which is read as a whole */
    }
}

static void launch_norms(ml_ctx *ctx, beside *s, int64_t n_row, float *norm)
{
    if (n_row > 0) ML_LAUNCH(ctx->device, norm_rows, (unsigned)n_row, THREADS, 0, *s, norm);
}

/* Norms of those of the module's rows that one tensor (perhaps of several matrices, which may lie apart) has, it being
 * rows `at` and on of all that lie together; the module's begin with row `begin` of those. */
static void norms_of(ml_ctx *ctx, beside *s, const ml_tensor *w, int64_t at, int64_t begin, int64_t n_row, float *norm)
{
    int64_t n_matrix = w->n_dim == 3 ? w->dim[0] : 1, rows = w->dim[w->n_dim - 2];
    int64_t matrix_bytes = w->n_dim == 3 ? (int64_t)ml_dtype_row_bytes(w->dtype, w->stride) : 0;
    s->dtype = w->dtype;
    s->row_bytes = (int64_t)ml_dtype_row_bytes(w->dtype, w->n_dim == 3 ? s->cols : w->stride);
    for (int64_t i = 0; i < n_matrix; i++, at += rows) {
        int64_t first = at > begin ? at : begin, end = at + rows < begin + n_row ? at + rows : begin + n_row;
        s->w = (const uint8_t *)w->data + i * matrix_bytes + (first - at) * s->row_bytes;
        s->first = first - begin;
        launch_norms(ctx, s, end - first, norm);
    }
}

extern "C" ml_status ml_cuda_adapter_norms(ml_ctx *ctx, const ml_model *m, const ml_adapter_term *t)
{
    const ml_adapter_module *module = &t->module;
    beside s = make_beside(t);
    int64_t begin, at = 0, n_row = module->n_matrix * module->rows;
    const ml_tensor *w = find_weight(m, module, &begin);
    float *norm = ml_f32(&t->norm);
    if (!w) {
        ml_ctx_mark mark = ml_ctx_get_mark(ctx);
        float *kv_b = (float *)ml_ctx_scratch_data(ctx, (size_t)(n_row * s.cols) * sizeof *kv_b);
        if (!kv_b) return ML_ENOMEM;
        ML_TRY(ml_cuda_read_kv_b(ctx, m, module->layer, kv_b));
        s.dtype = ML_F32;
        s.w = (const uint8_t *)kv_b;
        s.row_bytes = s.cols * (int64_t)sizeof *kv_b;
        launch_norms(ctx, &s, n_row, norm);
        ml_ctx_release(ctx, mark);
        return ml_queued(ctx);
    }
    for (int64_t i = 0; i < (w->part ? w->n_part : 1); i++) {
        const ml_tensor *one = w->part ? &w->part[i] : w;
        norms_of(ctx, &s, one, at, begin, n_row, norm);
        at += ml_tensor_count(one) / s.cols;
    }
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_adapter_factors(ml_ctx *ctx, const ml_adapter_term *t, const float **out)
{
    int64_t n = t->module.n_matrix * t->module.rows;
    float *factor = (float *)ml_ctx_scratch_data(ctx, (size_t)n * sizeof *factor);
    if (!factor) return ML_ENOMEM;
    ML_LAUNCH(ctx->device, divide_rows, (unsigned)ml_n_blocks(n, THREADS), THREADS, 0, ml_f32(&t->m), ml_f32(&t->norm),
              n, factor);
    *out = factor;
    return ml_queued(ctx);
}

/* ---- rows ---- */

/* A block for a row; `from_row` and `to_row`: NULL, or which row is meant by each. */
static __global__ void __launch_bounds__(THREADS)
    copy_picked(const int32_t *from, int64_t from_stride, const int32_t *from_row, int32_t *to, int64_t to_stride,
                const int32_t *to_row, int64_t n_col)
{
    const int32_t *x = from + (from_row ? from_row[blockIdx.x] : (int64_t)blockIdx.x) * from_stride;
    int32_t *y = to + (to_row ? to_row[blockIdx.x] : (int64_t)blockIdx.x) * to_stride;
    for (int64_t c = threadIdx.x; c < n_col; c += THREADS) y[c] = x[c];
}

extern "C" ml_status ml_cuda_gather_rows(ml_ctx *ctx, const ml_tensor *x, const ml_tensor *row, ml_tensor *y)
{
    if (row->dim[0] == 0) return ml_queued(ctx);
    ML_LAUNCH(ctx->device, copy_picked, (unsigned)row->dim[0], THREADS, 0, ml_i32(x), x->stride, ml_i32(row), ml_i32(y),
              y->stride, (const int32_t *)NULL, y->dim[1]);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_scatter_rows(ml_ctx *ctx, const ml_tensor *x, const ml_tensor *row, ml_tensor *y)
{
    if (row->dim[0] == 0) return ml_queued(ctx);
    ML_LAUNCH(ctx->device, copy_picked, (unsigned)row->dim[0], THREADS, 0, ml_i32(x), x->stride, (const int32_t *)NULL,
              ml_i32(y), y->stride, ml_i32(row), y->dim[1]);
    return ml_queued(ctx);
}
