/* Load-balance loss and z loss, by the formulas of ops/cpu/router_loss.c.
 *
 *   score       one warp for each token: q (normalised scores), log-sum-exp, total of sigmoid scores, and which experts
 *               the token counts for
 *   sum         [sequence, expert] sums of q and of choices, in double: 32 sums of every 32nd token, added in order
 *   finish      one block: both losses
 *   backward    one warp for each token
 * The Switch loss takes the whole batch for one sequence. */
#include "ops/cuda/rows.cuh"
#include "ops/cuda/sequences.cuh"

enum { WARPS = 4, THREADS = WARPS * WARP, EXPERTS = 32, SLICES = 32, FINISH_THREADS = 256 };

typedef struct {
    ml_router_loss_param p;
    ml_score kind;
    ml_rows logit;
    const int32_t *id, *seq;
    int64_t id_stride, n_id, n_token, n_expert, n_seq;
    bool whole;            /* all tokens are one sequence */
    float *q, *softmax;    /* [tokens, n_expert] */
    unsigned char *chosen; /* [tokens, n_expert] */
    float *lse, *total;    /* [tokens] */
    double *q_sum, *n_sum; /* [n_seq, n_expert] */
    float *dlogit;         /* laid out as logit */
} work;

static __device__ bool is_accepted(const work *w, int64_t token, int e)
{
    for (int64_t k = 0; k < w->n_id; k++) {
        if (w->id[token * w->id_stride + k] == e) return true;
    }
    return false;
}

/* Is expert e among the top_k logits?  Ties go to the lower id. */
static __device__ bool is_in_top_k(const float *logit, int n, int64_t top_k, int e)
{
    int n_before = 0;
    for (int j = 0; j < n; j++) n_before += logit[j] > logit[e] || (logit[j] == logit[e] && j < e);
    return n_before < top_k;
}

static __global__ void __launch_bounds__(THREADS) score(work w)
{
    int64_t token = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    int lane = (int)threadIdx.x % WARP, n = (int)w.n_expert;
    if (token >= w.n_token) return;
    const float *logit = w.logit.data + token * w.logit.stride;
    float *q = w.q + token * n, *softmax = w.softmax + token * n, max = -INFINITY, sum = 0, total = 0;
    for (int e = lane; e < n; e += WARP) max = fmaxf(max, logit[e]);
    max = ml_warp_max(max);
    for (int e = lane; e < n; e += WARP) sum += softmax[e] = expf(logit[e] - max);
    sum = ml_warp_sum(sum);
    for (int e = lane; e < n; e += WARP) {
        softmax[e] /= sum;
        q[e] = w.kind == ML_SCORE_SIGMOID ? ml_sigmoid(logit[e]) : softmax[e];
        total += q[e];
        bool by_score = w.p.balance == ML_BALANCE_SEQUENCE;
        w.chosen[token * n + e] = by_score ? is_in_top_k(logit, n, w.p.top_k, e) : is_accepted(&w, token, e);
    }
    total = ml_warp_sum(total);
    for (int e = lane; e < n && w.kind == ML_SCORE_SIGMOID; e += WARP) q[e] /= total + 1e-20f;
    if (lane > 0) return;
    w.lse[token] = max + logf(sum);
    w.total[token] = total;
}

static __device__ void bounds_of(const work *w, int64_t s, int64_t *begin, int64_t *end)
{
    *begin = w->whole ? 0 : w->seq[s];
    *end = w->whole ? w->n_token : w->seq[s + 1];
    if (*begin < 0) *begin = 0;
    if (*end > w->n_token) *end = w->n_token;
}

static __global__ void __launch_bounds__(EXPERTS *SLICES) sum_sequences(work w)
{
    __shared__ double q_part[SLICES][EXPERTS], n_part[SLICES][EXPERTS];
    int64_t e = (int64_t)blockIdx.x * EXPERTS + threadIdx.x, s = blockIdx.y, begin, end;
    double q = 0, n = 0;
    bounds_of(&w, s, &begin, &end);
    for (int64_t t = begin + threadIdx.y; t < end && e < w.n_expert; t += SLICES) {
        q += (double)w.q[t * w.n_expert + e];
        n += (double)w.chosen[t * w.n_expert + e];
    }
    q_part[threadIdx.y][threadIdx.x] = q;
    n_part[threadIdx.y][threadIdx.x] = n;
    __syncthreads();
    if (threadIdx.y > 0 || e >= w.n_expert) return;
    q = n = 0;
    for (int i = 0; i < SLICES; i++) {
        q += q_part[i][threadIdx.x];
        n += n_part[i][threadIdx.x];
    }
    w.q_sum[s * w.n_expert + e] = q;
    w.n_sum[s * w.n_expert + e] = n;
}

/* E / (top_k T^2 S), S the sequences that have tokens; 0 for one that has none. */
static __device__ double scale_of(const work *w, int64_t s)
{
    int64_t n_used = 0, begin, end;
    for (int64_t i = 0; i < w->n_seq; i++) {
        bounds_of(w, i, &begin, &end);
        n_used += end > begin;
    }
    bounds_of(w, s, &begin, &end);
    double n = (double)(end - begin);
    return end > begin ? (double)w->n_expert / ((double)w->p.top_k * n * n) / (double)n_used : 0;
}

static __global__ void __launch_bounds__(FINISH_THREADS) finish(work w, float *loss)
{
    __shared__ double shared[FINISH_THREADS / WARP];
    double balance = 0, z = 0;
    for (int64_t s = 0; s < w.n_seq && w.p.balance != ML_BALANCE_NONE; s++) {
        double sum = 0;
        for (int64_t e = threadIdx.x; e < w.n_expert; e += FINISH_THREADS) {
            sum += w.q_sum[s * w.n_expert + e] * w.n_sum[s * w.n_expert + e];
        }
        balance += scale_of(&w, s) * sum;
    }
    for (int64_t t = threadIdx.x; t < w.n_token; t += FINISH_THREADS) z += (double)w.lse[t] * (double)w.lse[t];
    balance = ml_block_sum(balance, shared);
    z = ml_block_sum(z, shared);
    if (threadIdx.x > 0) return;
    loss[0] = (float)balance;
    loss[1] = w.n_token ? (float)(z / (double)w.n_token) : 0.0f;
}

static __global__ void __launch_bounds__(THREADS) backward(work w)
{
    int64_t token = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP, s = 0, begin, end;
    int lane = (int)threadIdx.x % WARP, n = (int)w.n_expert;
    if (token >= w.n_token) return;
    if (!w.whole) s = ml_find_sequence(w.seq, w.n_seq, w.n_token, token, &begin, &end);
    const float *q = w.q + token * n, *softmax = w.softmax + token * n;
    const double *n_sum = w.n_sum + s * n;
    float *dlogit = w.dlogit + token * w.logit.stride, total = w.total[token], mean = 0;
    float scale = w.p.balance == ML_BALANCE_NONE ? 0.0f : w.p.balance_coef * (float)scale_of(&w, s);
    float z = w.p.z_coef * 2 * w.lse[token] / (float)w.n_token;
    for (int e = lane; e < n; e += WARP) mean += (float)n_sum[e] * q[e];
    mean = ml_warp_sum(mean);
    for (int e = lane; e < n; e += WARP) {
        float slope = w.kind == ML_SCORE_SIGMOID ? q[e] * (1.0f - q[e] * total) : q[e];
        dlogit[e] += scale * slope * ((float)n_sum[e] - mean) + z * softmax[e];
    }
}

/* Scores and sums: what both directions start from. */
static ml_status gather(ml_ctx *ctx, const ml_op_args *args, work *w)
{
    const ml_tensor *logit = args->in[0], *id = args->in[1], *seq = args->in[2];
    memset(w, 0, sizeof *w);
    w->p = *(const ml_router_loss_param *)args->param;
    w->kind = w->p.balance == ML_BALANCE_SEQUENCE ? w->p.score : ML_SCORE_SOFTMAX;
    w->logit = ml_rows_of(logit);
    w->id = ml_i32(id);
    w->id_stride = id->stride;
    w->n_id = id->dim[1];
    w->seq = ml_i32(seq);
    w->n_token = logit->dim[0];
    w->n_expert = logit->dim[1];
    w->whole = w->p.balance != ML_BALANCE_SEQUENCE;
    w->n_seq = w->whole ? 1 : seq->dim[0] - 1;
    if (seq->dim[0] < 1 || id->dim[0] != w->n_token || (w->n_seq == 0 && w->n_token > 0) || w->n_seq > MAX_GRID_Y) {
        return ml_ctx_fail(ctx, ML_EINVAL, "router_loss: sequence offsets do not cover the tokens");
    }
    size_t n = (size_t)(w->n_token * w->n_expert), n_sum = (size_t)(w->n_seq * w->n_expert);
    w->q = (float *)ml_ctx_scratch_data(ctx, n * sizeof *w->q);
    w->softmax = (float *)ml_ctx_scratch_data(ctx, n * sizeof *w->softmax);
    w->chosen = (unsigned char *)ml_ctx_scratch_data(ctx, n);
    w->lse = (float *)ml_ctx_scratch_data(ctx, (size_t)w->n_token * sizeof *w->lse);
    w->total = (float *)ml_ctx_scratch_data(ctx, (size_t)w->n_token * sizeof *w->total);
    w->q_sum = (double *)ml_ctx_scratch_data(ctx, n_sum * sizeof *w->q_sum);
    w->n_sum = (double *)ml_ctx_scratch_data(ctx, n_sum * sizeof *w->n_sum);
    if (!w->q || !w->softmax || !w->chosen || !w->lse || !w->total || !w->q_sum || !w->n_sum) return ML_ENOMEM;
    ml_cuda_check_sequences(ctx, w->seq, seq->dim[0] - 1, w->n_token);
    if (w->n_token > 0) {
        ML_LAUNCH(ctx->device, score, (unsigned)ml_n_blocks(w->n_token, WARPS), THREADS, 0, *w);
    }
    if (w->n_seq > 0) {
        dim3 grid((unsigned)ml_n_blocks(w->n_expert, EXPERTS), (unsigned)w->n_seq);
        ML_LAUNCH(ctx->device, sum_sequences, grid, dim3(EXPERTS, SLICES), 0, *w);
    }
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_router_loss_forward(ml_ctx *ctx, const ml_op_args *args)
{
    work w;
    ML_TRY(gather(ctx, args, &w));
    ML_LAUNCH(ctx->device, finish, 1, FINISH_THREADS, 0, w, ml_f32(args->out[0]));
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_router_loss_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    if (!grads->in[0]) return ML_OK;
    work w;
    ML_TRY(gather(ctx, args, &w));
    w.dlogit = grads->in[0];
    if (w.n_token == 0) return ML_OK;
    ML_LAUNCH(ctx->device, backward, (unsigned)ml_n_blocks(w.n_token, WARPS), THREADS, 0, w);
    return ml_queued(ctx);
}
