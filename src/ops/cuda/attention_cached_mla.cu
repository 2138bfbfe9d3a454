/* Latent attention on the compressed cache, absorbed (ops/cached.h): queries go into the latent space, all heads of a
 * token attend to the same cached rows, and the means of these come out of it again.  So for tokens being generated,
 * and in fp32 for prompts too, which ML_PRECISION_BF16 decompresses (prompt.cuh).
 *
 *     absorb     q_abs[t, h] = W_uk[h]^T q_nope[t, h]     [tokens, n_head, rank], rotary columns beside it as they are
 *     attend     as grouped-query attention with one key head whose values are the first columns of its keys
 *     project    y[t, h] = W_uv[h] z[t, h]
 *
 * Low-rank terms of kv_b are added to the first and the last step (attention_cached_terms.cuh). */
#include "ops/cuda/attention_cached_terms.cuh"
#include "ops/cuda/cached.cuh"
#include "ops/cuda/matvec.cuh"
#include "ops/cuda/prompt.cuh"
#include "ops/cuda/weight.cuh"

enum { COLUMNS = 64, GROUPS = 8, THREADS = COLUMNS * GROUPS, TOKENS = 4, CHUNK = 1024 };

typedef struct {
    ml_dtype dtype;
    const uint8_t *w; /* row 0 of head 0 */
    int64_t row_bytes, head_bytes, n_row, n_col;
    const float *q;
    int64_t q_stride, q_head, n_token;
    float *y;
    int64_t y_stride;
} column_sums;

/* y[t, h, c] = sum over i of q[t, h, i] W[h][i][c]: GROUPS threads share the rows of a column, whose sums are added in
 * their order. */
static __global__ void __launch_bounds__(THREADS) sum_columns(column_sums s)
{
    __shared__ float partial[TOKENS][GROUPS][COLUMNS];
    int column = (int)threadIdx.x % COLUMNS, group = (int)threadIdx.x / COLUMNS;
    int64_t c = (int64_t)blockIdx.x * COLUMNS + column, h = blockIdx.y, t0 = (int64_t)blockIdx.z * TOKENS;
    int64_t each = (s.n_row + GROUPS - 1) / GROUPS, begin = group * each;
    int64_t end = begin + each < s.n_row ? begin + each : s.n_row;
    int n = s.n_token - t0 < TOKENS ? (int)(s.n_token - t0) : TOKENS;
    float sum[TOKENS] = { 0, 0, 0, 0 };
    const uint8_t *w = s.w + h * s.head_bytes;
#pragma unroll 8
    for (int64_t i = begin; i < end; i++) {
        float v = c < s.n_col ? ml_block_element(s.dtype, w + i * s.row_bytes, c) : 0.0f;
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            if (t < n) sum[t] = fmaf(s.q[(t0 + t) * s.q_stride + h * s.q_head + i], v, sum[t]);
        }
    }
    for (int t = 0; t < TOKENS; t++) partial[t][group][column] = sum[t];
    __syncthreads();
    if (group >= n || c >= s.n_col) return; /* thread `group` of a column adds up token `group` */
    float v = partial[group][0][column];
    for (int g = 1; g < GROUPS; g++) v += partial[group][g][column];
    s.y[(t0 + group) * s.y_stride + h * s.n_col + c] = v;
}

/* q_abs [n, n_head * rank] of tokens from `first` on */
static ml_status absorb(ml_ctx *ctx, const ml_mla_weights *weights, const ml_mla_param *p, const float *q,
                        int64_t q_stride, int64_t n, float *y)
{
    int64_t rank = p->kv_lora_rank, q_head = p->d_nope + p->n_rot;
    if (!weights->kv_b) {
        ML_TRY(ml_cuda_weight_check(ctx, weights->k_b));
        ml_cuda_matvec m = ml_cuda_matvec_make(weights->k_b);
        m.n = rank;
        m.k = p->d_nope;
        m.row_bytes = (int64_t)ml_dtype_row_bytes(m.dtype, m.k);
        m.product_bytes = rank * m.row_bytes;
        m.n_product = p->n_head;
        m.n_row = n;
        m.x = q;
        m.x_stride = q_stride;
        m.x_product = q_head;
        m.y = y;
        m.y_stride = p->n_head * rank;
        m.y_product = rank;
        ml_cuda_matvec_run(ctx, &m);
        return ml_queued(ctx);
    }
    ML_TRY(ml_cuda_weight_check(ctx, weights->kv_b));
    column_sums s;
    memset(&s, 0, sizeof s);
    s.dtype = weights->kv_b->dtype;
    s.w = (const uint8_t *)weights->kv_b->data;
    s.row_bytes = (int64_t)ml_dtype_row_bytes(s.dtype, rank);
    s.head_bytes = (p->d_nope + p->d_v) * s.row_bytes;
    s.n_row = p->d_nope;
    s.n_col = rank;
    s.q = q;
    s.q_stride = q_stride;
    s.q_head = q_head;
    s.n_token = n;
    s.y = y;
    s.y_stride = p->n_head * rank;
    dim3 grid((unsigned)ml_n_blocks(rank, COLUMNS), (unsigned)p->n_head, (unsigned)ml_n_blocks(n, TOKENS));
    ML_LAUNCH(ctx->device, sum_columns, grid, THREADS, 0, s);
    return ml_queued(ctx);
}

/* y [n, n_head * d_v] from z [n, n_head * rank] */
static ml_status project(ml_ctx *ctx, const ml_mla_weights *weights, const ml_mla_param *p, const float *z, int64_t n,
                         float *y, int64_t y_stride)
{
    int64_t rank = p->kv_lora_rank;
    const ml_tensor *w = weights->kv_b ? weights->kv_b : weights->v_b;
    ML_TRY(ml_cuda_weight_check(ctx, w));
    ml_cuda_matvec m = ml_cuda_matvec_make(w);
    m.n = p->d_v;
    m.k = rank;
    m.row_bytes = (int64_t)ml_dtype_row_bytes(m.dtype, rank);
    m.product_bytes = (weights->kv_b ? p->d_nope + p->d_v : p->d_v) * m.row_bytes;
    if (weights->kv_b) m.w += p->d_nope * m.row_bytes;
    m.n_product = p->n_head;
    m.n_row = n;
    m.x = z;
    m.x_stride = p->n_head * rank;
    m.x_product = rank;
    m.y = y;
    m.y_stride = y_stride;
    m.y_product = p->d_v;
    ml_cuda_matvec_run(ctx, &m);
    return ml_queued(ctx);
}

static ml_cuda_latent_terms terms_of(const ml_mla_weights *weights, const ml_mla_param *p, int64_t first, int64_t n)
{
    ml_cuda_latent_terms t;
    memset(&t, 0, sizeof t);
    t.p = p;
    t.n = n;
    if (!weights->token_term) return t;
    t.terms = *weights->token_term;
    t.terms.of_token += first;
    return t;
}

/* Tokens first .. first + n - 1, of one phase. */
static ml_status run_chunk(ml_ctx *ctx, const ml_cached_heads *h, const ml_mla_weights *weights, const ml_mla_param *p,
                           int64_t first, int64_t n, bool decode)
{
    int64_t rank = p->kv_lora_rank, stride = h->q->stride;
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    size_t n_bytes = (size_t)(n * p->n_head * rank) * sizeof(float);
    float *q_abs = (float *)ml_ctx_scratch_data(ctx, n_bytes), *z = (float *)ml_ctx_scratch_data(ctx, n_bytes);
    if (!q_abs || !z) return ML_ENOMEM;
    const float *q = ml_f32(h->q) + first * stride;
    ml_cuda_latent_terms terms = terms_of(weights, p, first, n);
    const float *scaled = ml_cuda_latent_scale_query(ctx, &terms, q, stride);
    if (!scaled) return ML_ENOMEM;
    ML_TRY(absorb(ctx, weights, p, scaled, stride, n, q_abs));
    ml_cuda_latent_add_absorbed(ctx, &terms, scaled, stride, q_abs);
    ml_cuda_cached a;
    memset(&a, 0, sizeof a);
    a.kv = *h->kv;
    a.seq = h->seq_of_token + first;
    a.pos = h->pos + first;
    a.n_token = n;
    a.q = q_abs;
    a.q_stride = p->n_head * rank;
    a.q_head = rank;
    a.d_first = rank;
    a.q_tail = q + p->d_nope;
    a.tail_stride = stride;
    a.tail_head = p->d_nope + p->n_rot;
    a.y = z;
    a.y_stride = p->n_head * rank;
    a.n_head = a.n_group = p->n_head;
    a.d_qk = rank + p->n_rot;
    a.d_v = rank;
    a.v_is_k = true;
    a.scale = p->scale;
    a.fault = ctx->device->fault;
    ML_TRY(ml_cuda_cached_run(ctx, &a, decode));
    float *y = ml_f32(h->y) + first * h->y->stride;
    ML_TRY(project(ctx, weights, p, z, n, y, h->y->stride));
    ml_cuda_latent_add_projected(ctx, &terms, z, y, h->y->stride);
    ml_ctx_release(ctx, mark);
    return ML_OK;
}

static ml_status run_phase(ml_ctx *ctx, const ml_cached_heads *h, const ml_mla_weights *weights, const ml_mla_param *p,
                           int64_t begin, int64_t end, bool decode)
{
    for (int64_t t = begin, n; t < end; t += n) {
        n = end - t;
        if (n > CHUNK) n = CHUNK;
        ML_TRY(run_chunk(ctx, h, weights, p, t, n, decode));
    }
    return ML_OK;
}

extern "C" ml_status ml_cuda_attention_cached_mla(ml_ctx *ctx, const ml_cached_heads *h, const ml_mla_weights *weights,
                                                  int64_t n_decode, const ml_mla_param *p)
{
    bool in_tiles = ml_cuda_prompt_in_tiles(ctx, h);
    if (weights->term && !weights->token_term && (n_decode > 0 || !in_tiles)) {
        return ml_ctx_fail(ctx, ML_EINVAL,
                           "latent attention on the GPU: expected the terms of tokens in the compressed space token by "
                           "token");
    }
    ML_TRY(run_phase(ctx, h, weights, p, 0, n_decode, true));
    if (in_tiles) return ml_cuda_prompt_latent(ctx, h, weights, p, n_decode);
    return run_phase(ctx, h, weights, p, n_decode, h->q->dim[0], false);
}
