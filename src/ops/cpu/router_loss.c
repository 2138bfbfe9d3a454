/* Load-balance loss and z loss of one router.
 *
 * Both balance losses are one formula.  Over S sequences, sequence s with T tokens and E experts,
 *   balance = 1/S sum_s E / (top_k T^2) sum_e P_e n_e,  P_e = sum of q_te over its tokens
 * with q the scores normalised over all experts.  Switch takes the whole batch for one sequence, softmax for q and
 * the accepted choices for n; the sequence loss counts a top-k of the unbiased scores instead, taken from the
 * logits, which have the same order and do not saturate.  n carries no gradient.  Sequences without tokens do not
 * count.
 *   z = mean over tokens of log(sum_e exp(logit_te))^2
 *
 * Tokens are cut into pieces that no sequence boundary crosses; a piece's sums are taken in order of tokens, in
 * double, and pieces are added in order. */
#include "ops/cpu/cpu.h"

#include "base/thread.h"

#include <math.h>
#include <string.h>

enum { TOKENS_PER_PIECE = 256 };

typedef struct {
    int64_t begin, end, seq;
} piece;

typedef struct {
    const ml_router_loss_param *param;
    const ml_tensor *logit, *id;
    int64_t n_token, n_expert, n_piece, n_seq; /* n_seq: those that have tokens */
    piece *pieces;
    double *score_sum; /* [n_piece, n_expert] */
    double *n_chosen;  /* [n_piece, n_expert], going backward [n_seq, n_expert] scaled (see weigh_experts) */
    double *z_sum;     /* [n_piece] */
    double *seq_scale; /* [n_seq]  E / (top_k T^2 S) */
    float *scratch;    /* [threads, 2, n_expert] */
    float *dlogit;     /* laid out as logit */
} loss_work;

/* q of one row, and the softmax beside it when they differ; -> logsumexp.  Sigmoid: *total = sum of scores. */
static float normalised_scores(ml_score kind, const float *logit, int64_t n, float *q, float *softmax, float *total)
{
    float max = logit[0], sum = 0;
    for (int64_t e = 1; e < n; e++) max = logit[e] > max ? logit[e] : max;
    for (int64_t e = 0; e < n; e++) sum += softmax[e] = expf(logit[e] - max);
    for (int64_t e = 0; e < n; e++) softmax[e] /= sum;
    *total = 0;
    if (kind == ML_SCORE_SIGMOID) {
        for (int64_t e = 0; e < n; e++) *total += q[e] = 1.0f / (1.0f + expf(-logit[e]));
        for (int64_t e = 0; e < n; e++) q[e] /= *total + 1e-20f;
    } else {
        memcpy(q, softmax, (size_t)n * sizeof *q);
    }
    return max + logf(sum);
}

static ml_score score_of(const ml_router_loss_param *param)
{
    return param->balance == ML_BALANCE_SEQUENCE ? param->score : ML_SCORE_SOFTMAX;
}

/* Is expert e among the top_k logits?  Ties go to the lower id. */
static bool in_top_k(const float *logit, int64_t n, int64_t top_k, int64_t e)
{
    int64_t n_before = 0;
    for (int64_t j = 0; j < n; j++) n_before += logit[j] > logit[e] || (logit[j] == logit[e] && j < e);
    return n_before < top_k;
}

static void count_choices(const loss_work *w, int64_t token, double *n_chosen)
{
    if (w->param->balance == ML_BALANCE_SEQUENCE) {
        const float *logit = ml_f32(w->logit) + token * w->logit->stride;
        for (int64_t e = 0; e < w->n_expert; e++) n_chosen[e] += in_top_k(logit, w->n_expert, w->param->top_k, e);
        return;
    }
    const int32_t *id = ml_i32(w->id) + token * w->id->stride;
    for (int64_t k = 0; k < w->id->dim[1]; k++) {
        if (id[k] >= 0) n_chosen[id[k]] += 1;
    }
}

static void sum_pieces(void *arg, int64_t begin, int64_t end, int thread)
{
    const loss_work *w = arg;
    int64_t n = w->n_expert;
    float *q = w->scratch + thread * 2 * n, *softmax = q + n;
    for (int64_t i = begin; i < end; i++) {
        double *score_sum = w->score_sum + i * n, *n_chosen = w->n_chosen + i * n, z = 0;
        memset(score_sum, 0, (size_t)n * sizeof *score_sum);
        memset(n_chosen, 0, (size_t)n * sizeof *n_chosen);
        for (int64_t t = w->pieces[i].begin; t < w->pieces[i].end; t++) {
            float total;
            float lse =
                normalised_scores(score_of(w->param), ml_f32(w->logit) + t * w->logit->stride, n, q, softmax, &total);
            z += (double)lse * (double)lse;
            for (int64_t e = 0; e < n; e++) score_sum[e] += (double)q[e];
            count_choices(w, t, n_chosen);
        }
        w->z_sum[i] = z;
    }
}

/* Cut one sequence into pieces. */
static void cut_sequence(loss_work *w, int64_t begin, int64_t end)
{
    if (begin == end) return;
    double n = (double)(end - begin);
    w->seq_scale[w->n_seq] = (double)w->n_expert / ((double)w->param->top_k * n * n);
    for (int64_t t = begin; t < end; t += TOKENS_PER_PIECE) {
        int64_t stop = t + TOKENS_PER_PIECE < end ? t + TOKENS_PER_PIECE : end;
        w->pieces[w->n_piece++] = (piece){ t, stop, w->n_seq };
    }
    w->n_seq++;
}

/* The ids and boundaries come from the caller's data: check before they index memory. */
static ml_status check_inputs(ml_ctx *ctx, const ml_tensor *id, const ml_tensor *seq, int64_t n_token, int64_t n_expert)
{
    int64_t n_seq = seq->dim[0] - 1;
    const int32_t *at = ml_i32(seq);
    bool good = n_seq >= 0 && at[0] == 0 && at[n_seq] == n_token && id->dim[0] == n_token;
    for (int64_t s = 0; s < n_seq && good; s++) good = at[s] <= at[s + 1];
    if (!good) return ml_ctx_fail(ctx, ML_EINVAL, "router_loss: sequence offsets do not cover the tokens");
    for (int64_t t = 0; t < n_token; t++) {
        for (int64_t k = 0; k < id->dim[1]; k++) {
            int32_t expert = ml_i32(id)[t * id->stride + k];
            if (expert >= n_expert) {
                return ml_ctx_fail(ctx, ML_EINVAL, "router_loss: token %lld chooses expert %d of %lld", (long long)t,
                                   (int)expert, (long long)n_expert);
            }
        }
    }
    return ML_OK;
}

/* Pieces and their sums: what both directions start from. */
static ml_status gather_sums(ml_ctx *ctx, const ml_op_args *args, loss_work *w)
{
    const ml_tensor *logit = args->in[0], *seq = args->in[2];
    *w = (loss_work){
        .param = args->param, .logit = logit, .id = args->in[1], .n_token = logit->dim[0], .n_expert = logit->dim[1]
    };
    ML_TRY(check_inputs(ctx, args->in[1], seq, w->n_token, w->n_expert));
    int64_t n_seq = seq->dim[0] - 1, max_piece = n_seq + w->n_token / TOKENS_PER_PIECE + 1;
    w->pieces = ml_ctx_scratch(ctx, (size_t)max_piece * sizeof *w->pieces);
    w->seq_scale = ml_ctx_scratch(ctx, (size_t)(n_seq + 1) * sizeof *w->seq_scale);
    w->score_sum = ml_ctx_scratch(ctx, (size_t)(max_piece * w->n_expert) * sizeof *w->score_sum);
    w->n_chosen = ml_ctx_scratch(ctx, (size_t)(max_piece * w->n_expert) * sizeof *w->n_chosen);
    w->z_sum = ml_ctx_scratch(ctx, (size_t)max_piece * sizeof *w->z_sum);
    w->scratch = ml_ctx_scratch(ctx, (size_t)(ml_thread_count() * 2 * w->n_expert) * sizeof *w->scratch);
    if (!w->pieces || !w->seq_scale || !w->score_sum || !w->n_chosen || !w->z_sum || !w->scratch) return ML_ENOMEM;
    if (w->param->balance == ML_BALANCE_SEQUENCE) {
        for (int64_t s = 0; s < n_seq; s++) cut_sequence(w, ml_i32(seq)[s], ml_i32(seq)[s + 1]);
    } else {
        cut_sequence(w, 0, w->n_token);
    }
    for (int64_t s = 0; s < w->n_seq; s++) w->seq_scale[s] /= (double)w->n_seq;
    ml_parallel_for(w->n_piece, 1, sum_pieces, w);
    return ML_OK;
}

/* Add the pieces of each sequence together, into the place of its first piece's sums: [n_seq, n_expert] after. */
static void join_pieces(const loss_work *w, double *sum)
{
    for (int64_t i = 0; i < w->n_piece; i++) {
        double *total = sum + w->pieces[i].seq * w->n_expert, *part = sum + i * w->n_expert;
        bool first = i == 0 || w->pieces[i - 1].seq != w->pieces[i].seq;
        for (int64_t e = 0; e < w->n_expert; e++) total[e] = first ? part[e] : total[e] + part[e];
    }
}

ml_status ml_cpu_router_loss_forward(ml_ctx *ctx, const ml_op_args *args)
{
    loss_work w;
    ML_TRY(gather_sums(ctx, args, &w));
    double balance = 0, z = 0;
    join_pieces(&w, w.score_sum);
    join_pieces(&w, w.n_chosen);
    for (int64_t s = 0; s < w.n_seq && w.param->balance != ML_BALANCE_NONE; s++) {
        double sum = 0;
        for (int64_t e = 0; e < w.n_expert; e++) {
            sum += w.score_sum[s * w.n_expert + e] * w.n_chosen[s * w.n_expert + e];
        }
        balance += w.seq_scale[s] * sum;
    }
    for (int64_t i = 0; i < w.n_piece; i++) z += w.z_sum[i];
    float *loss = ml_f32(args->out[0]);
    loss[0] = (float)balance;
    loss[1] = w.n_token ? (float)(z / (double)w.n_token) : 0.0f;
    return ML_OK;
}

/* dlogit of a piece's tokens.  With c_e = balance_coef * seq_scale * n_e (d balance / d q_te):
 *   softmax   q_e (c_e - <c, q>)
 *   sigmoid   s_e (1 - s_e) (c_e - <c, q>) / sum of s
 *   z         z_coef * 2 lse softmax_e / tokens */
static void backward_pieces(void *arg, int64_t begin, int64_t end, int thread)
{
    const loss_work *w = arg;
    int64_t n = w->n_expert;
    float *q = w->scratch + thread * 2 * n, *softmax = q + n;
    for (int64_t i = begin; i < end; i++) {
        const double *n_chosen = w->n_chosen + w->pieces[i].seq * n;
        bool balanced = w->param->balance != ML_BALANCE_NONE;
        float scale = balanced ? w->param->balance_coef * (float)w->seq_scale[w->pieces[i].seq] : 0.0f;
        for (int64_t t = w->pieces[i].begin; t < w->pieces[i].end; t++) {
            float total, mean = 0, *dlogit = w->dlogit + t * w->logit->stride;
            ml_score kind = score_of(w->param);
            float lse = normalised_scores(kind, ml_f32(w->logit) + t * w->logit->stride, n, q, softmax, &total);
            float z = w->param->z_coef * 2 * lse / (float)w->n_token;
            for (int64_t e = 0; e < n; e++) mean += (float)n_chosen[e] * q[e];
            for (int64_t e = 0; e < n; e++) {
                float slope = kind == ML_SCORE_SIGMOID ? q[e] * (1.0f - q[e] * total) : q[e];
                dlogit[e] += scale * slope * ((float)n_chosen[e] - mean) + z * softmax[e];
            }
        }
    }
}

ml_status ml_cpu_router_loss_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    if (!grads->in[0]) return ML_OK;
    loss_work w;
    ML_TRY(gather_sums(ctx, args, &w));
    join_pieces(&w, w.n_chosen);
    w.dlogit = grads->in[0];
    ml_parallel_for(w.n_piece, 1, backward_pieces, &w);
    return ML_OK;
}
