/* Drawing tokens.  A row of logits is cut into pieces of PIECE ids, a block for each; what a block finds lies in
 * `part`, and the next launch's blocks add it up, each for itself and in one order, so that nobody waits and nothing is
 * added atomically.
 *
 *     summarise      max and sum of exp of the logits as they came, for the log-probability
 *     penalise       logits of late ids, which are put aside
 *     find_largest   what is likeliest in each piece
 *     narrow         16 sums of weights (and counts) of a piece: of the ids whose key has a known beginning, by its
 *                    next four bits.  Keys ascend as logits descend, or are ids where nothing is cut.  Eight launches
 *                    find the key at which the sum of all before it and it reaches a goal:
 *                      total   one launch, of all ids: what they weigh
 *                      top-k   the key at which the count reaches k
 *                      top-p   the key at which the weight reaches its goal
 *                      draw    the key at which the weight passes the number that was drawn
 *     count_ties     ids with that key, of which the n-th is meant
 *     pick           finds it
 *     restore        what was put aside
 *     finish         the log-probability
 *
 * Which ids are kept among equal logits is arithmetic: they weigh the same, and the lower ids are first. */
#include "ops/cuda/common.cuh"

extern "C" {
#include "infer/cuda/sample.h"
}

enum { THREADS = 128, EACH = 16, PIECE = THREADS * EACH, BITS = 4, BINS = 1 << BITS, PASSES = 32 / BITS };
enum { GROUPS = THREADS / BINS };

typedef enum { TOTAL, TOP_K, TOP_P, DRAW, N_PHASE } phase;

/* What one block found. */
typedef struct {
    double max, sum; /* of the logits as they came: sum of exp(logit - max) */
    float largest;
    int32_t best, n_tie;
    int32_t unused;
} piece;

typedef struct {
    uint64_t weight[BINS];
    uint32_t count[BINS];
} bins;

/* How far a row is; the same in all of its blocks. */
typedef struct {
    uint64_t goal, before, weight; /* what is looked for, what lies before the known beginning, what is kept */
    uint64_t n_before, n_all;
    uint32_t prefix; /* of the key that is looked for */
    float largest;
} progress;

typedef struct {
    float *logits;
    int64_t n_vocab, n_valid, n_piece;
    const ml_sample_row *row;
    const int32_t *penalised;
    float *aside;   /* [n_penalised] */
    piece *part;    /* [n_row, n_piece] */
    bins *found[2]; /* [n_row, n_piece] of this launch and the one before, in turns */
    progress *at[2];
    ml_sample_choice *out;
} job;

static __device__ __forceinline__ float *logits_of(const job *j, int64_t r)
{
    return j->logits + j->row[r].row * j->n_vocab;
}

static __device__ __forceinline__ bool is_greedy(const ml_sample_rule *rule)
{
    return !(rule->inverse > 0);
}

static __device__ __forceinline__ bool uses(const ml_sample_rule *rule, int of)
{
    if (is_greedy(rule)) return false;
    return of == TOP_K ? rule->top_k > 0 : of == TOP_P ? rule->top_p < 1 : true;
}

/* Nothing is cut: keys of what is drawn are ids. */
static __device__ __forceinline__ bool goes_by_id(const ml_sample_rule *rule, int of)
{
    return of == DRAW && rule->top_k == 0 && !(rule->top_p < 1);
}

/* ---- keys ---- */

static __device__ __forceinline__ uint32_t key_of(float logit)
{
    uint32_t u = __float_as_uint(logit + 0.0f); /* -0 becomes 0 */
    return ~(u >> 31 ? ~u : u | 0x80000000u);
}

static __device__ __forceinline__ float logit_of(uint32_t key)
{
    uint32_t u = ~key;
    return __uint_as_float(u >> 31 ? u & 0x7fffffffu : ~u);
}

/* ---- the largest, and the log-probability's sums ---- */

static __global__ void __launch_bounds__(THREADS) summarise(job j)
{
    __shared__ double shared[THREADS / WARP];
    const float *z = logits_of(&j, blockIdx.y);
    int64_t first = (int64_t)blockIdx.x * PIECE + threadIdx.x;
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < EACH; i++) {
        int64_t at = first + (int64_t)i * THREADS;
        if (at < j.n_valid) max = fmax(max, (double)z[at]);
    }
    for (int with = WARP / 2; with > 0; with /= 2) max = fmax(max, __shfl_xor_sync(ALL_LANES, max, with));
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = max;
    __syncthreads();
    for (int w = 0; w < THREADS / WARP; w++) max = fmax(max, shared[w]);
    for (int i = 0; i < EACH; i++) {
        int64_t at = first + (int64_t)i * THREADS;
        if (at < j.n_valid && (double)z[at] > -INFINITY) sum += (double)z[at] < max ? exp((double)z[at] - max) : 1.0;
    }
    sum = ml_block_sum(sum, shared);
    if (threadIdx.x != 0) return;
    piece *p = &j.part[(int64_t)blockIdx.y * j.n_piece + blockIdx.x];
    p->max = max;
    p->sum = sum;
}

/* One block for each row. */
static __global__ void __launch_bounds__(THREADS) penalise(job j, bool restores)
{
    const ml_sample_row *row = &j.row[blockIdx.x];
    float *z = logits_of(&j, blockIdx.x);
    for (int64_t i = threadIdx.x; i < row->n_penalised; i += THREADS) {
        int64_t at = row->first_penalised + i;
        float *logit = z + j.penalised[at];
        if (restores) {
            *logit = j.aside[at];
        } else {
            j.aside[at] = *logit;
            *logit = ml_rule_penalise(*logit, row->penalty);
        }
    }
}

/* The larger, or of equal ones the lower id; NaN is smaller than all. */
static __device__ __forceinline__ bool is_better(float a, int32_t a_id, float b, int32_t b_id)
{
    if (b_id < 0) return a_id >= 0;
    return a_id >= 0 && (a > b || (a == b && a_id < b_id));
}

static __global__ void __launch_bounds__(THREADS) find_largest(job j)
{
    __shared__ float largest[THREADS];
    __shared__ int32_t id[THREADS];
    const float *z = logits_of(&j, blockIdx.y);
    int64_t first = (int64_t)blockIdx.x * PIECE + threadIdx.x;
    float best = 0;
    int32_t best_id = -1;
    for (int i = 0; i < EACH; i++) {
        int64_t at = first + (int64_t)i * THREADS;
        if (at >= j.n_valid || z[at] != z[at]) continue;
        if (best_id >= 0 && !(z[at] > best)) continue; /* ids ascend */
        best = z[at];
        best_id = (int32_t)at;
    }
    largest[threadIdx.x] = best;
    id[threadIdx.x] = best_id;
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x >= half) continue;
        unsigned other = threadIdx.x + half;
        if (!is_better(largest[other], id[other], largest[threadIdx.x], id[threadIdx.x])) continue;
        largest[threadIdx.x] = largest[other];
        id[threadIdx.x] = id[other];
    }
    if (threadIdx.x != 0) return;
    piece *p = &j.part[(int64_t)blockIdx.y * j.n_piece + blockIdx.x];
    p->largest = largest[0];
    p->best = id[0];
}

/* What the processor's loop from id 0 on finds: an id, and its logit, which is NaN only at id 0. */
static __device__ int32_t greedy(const job *j, int64_t r, float *largest)
{
    const piece *p = j->part + r * j->n_piece;
    float z0 = logits_of(j, r)[0];
    int32_t best = -1;
    *largest = z0;
    if (z0 != z0) return 0;
    for (int64_t b = 0; b < j->n_piece; b++) {
        if (!is_better(p[b].largest, p[b].best, *largest, best)) continue;
        *largest = p[b].largest;
        best = p[b].best;
    }
    return best;
}

/* ---- narrowing ---- */

/* Sums of the launch before, of all pieces: every thread of the block calls it. */
static __device__ void add_up(const job *j, int64_t r, const bins *from, bins *sum, uint64_t (*weight)[BINS],
                              uint32_t (*count)[BINS])
{
    unsigned bin = threadIdx.x % BINS, group = threadIdx.x / BINS;
    const bins *f = from + r * j->n_piece;
    uint64_t w = 0;
    uint32_t n = 0;
    for (int64_t b = group; b < j->n_piece; b += GROUPS) {
        w += f[b].weight[bin];
        n += f[b].count[bin];
    }
    weight[group][bin] = w;
    count[group][bin] = n;
    __syncthreads();
    if (group == 0) {
        for (unsigned g = 1; g < GROUPS; g++) {
            w += weight[g][bin];
            n += count[g][bin];
        }
        sum->weight[bin] = w;
        sum->count[bin] = n;
    }
    __syncthreads();
}

/* The next four bits of the key, from the sums of one launch. */
static __device__ void advance(progress *p, const bins *sum, bool counts)
{
    unsigned d = 0;
    for (; d + 1 < BINS; d++) {
        uint64_t more = counts ? p->n_before + sum->count[d] : p->before + sum->weight[d];
        if (more >= p->goal) break;
        p->before += sum->weight[d];
        p->n_before += sum->count[d];
    }
    p->prefix = p->prefix << BITS | d;
}

/* The key is known: what is kept up to it. */
static __device__ void close_phase(progress *p, const ml_sample_rule *rule, int of)
{
    if (of == DRAW) return;
    uint64_t each = ml_rule_weight(rule, logit_of(p->prefix), p->largest), n;
    if (of == TOP_K) {
        n = p->goal - p->n_before;
    } else {
        n = each ? (p->goal - p->before + each - 1) / each : 0;
    }
    p->weight = p->before + n * each;
}

static __device__ void open_phase(progress *p, const ml_sample_row *row, int of)
{
    p->prefix = 0;
    p->before = p->n_before = 0;
    if (of == TOP_K) p->goal = (uint64_t)row->rule.top_k;
    if (of == TOP_P) p->goal = ml_rule_goal(&row->rule, p->weight);
    if (of == DRAW) p->goal = ml_rule_high_product(row->random, p->weight) + 1;
}

/* With fewer ids than top_k nothing is cut. */
static __device__ __forceinline__ bool takes_part(const ml_sample_rule *rule, const progress *p, int of)
{
    return uses(rule, of) && !(of == TOP_K && p->n_all <= (uint64_t)rule->top_k);
}

typedef struct {
    int turn;            /* of this launch: 0 or 1 */
    int last, last_pass; /* what the launch before was; last < 0: there was none */
    int of, pass;        /* what this one is */
} step;

/* Where a row is when a launch begins. */
static __device__ void catch_up(const job *j, int64_t r, const step *s, const bins *sum, progress *p)
{
    const ml_sample_rule *rule = &j->row[r].rule;
    if (s->last < 0) {
        memset(p, 0, sizeof *p);
        (void)greedy(j, r, &p->largest);
        return;
    }
    *p = j->at[s->turn ^ 1][r];
    if (s->last == TOTAL) {
        p->weight = sum->weight[0];
        p->n_all = sum->count[0];
    } else if (takes_part(rule, p, s->last)) {
        advance(p, sum, s->last == TOP_K);
        if (s->last_pass == PASSES - 1) close_phase(p, rule, s->last);
    }
}

/* What launches from `narrow` on begin with, all threads of a block: the row's progress, in shared memory. */
static __device__ void begin(const job *j, int64_t r, const step *s, progress *p, bins *sum, uint64_t (*weight)[BINS],
                             uint32_t (*count)[BINS])
{
    if (s->last >= 0) add_up(j, r, j->found[s->turn ^ 1], sum, weight, count);
    if (threadIdx.x == 0) {
        catch_up(j, r, s, sum, p);
        if (s->pass == 0 && s->of != TOTAL) open_phase(p, &j->row[r], s->of);
        if (blockIdx.x == 0) j->at[s->turn][r] = *p;
    }
    __syncthreads();
}

static __global__ void __launch_bounds__(THREADS) narrow(job j, step s)
{
    __shared__ uint64_t weight[THREADS][BINS];
    __shared__ uint32_t count[THREADS][BINS];
    __shared__ bins sum;
    __shared__ progress now;
    int64_t r = blockIdx.y;
    const ml_sample_rule *rule = &j.row[r].rule;
    if (is_greedy(rule)) return;
    begin(&j, r, &s, &now, &sum, weight, count);
    if (!takes_part(rule, &now, s.of)) return;
    float largest = now.largest;
    uint64_t w[BINS];
    uint32_t n[BINS];
#pragma unroll
    for (int d = 0; d < BINS; d++) w[d] = n[d] = 0;
    int shift = 32 - BITS * (s.pass + 1);
    const float *z = logits_of(&j, r);
    for (int i = 0; i < EACH; i++) {
        int64_t at = (int64_t)blockIdx.x * PIECE + (int64_t)i * THREADS + threadIdx.x;
        if (at >= j.n_valid || !ml_rule_passes(rule, z[at], largest)) continue;
        uint32_t key = goes_by_id(rule, s.of) ? (uint32_t)at : key_of(z[at]), digit = 0;
        if (s.of != TOTAL) {
            if ((uint64_t)key >> (shift + BITS) != now.prefix) continue;
            digit = key >> shift & (BINS - 1);
        }
        uint64_t v = ml_rule_weight(rule, z[at], largest);
#pragma unroll
        for (unsigned d = 0; d < BINS; d++) {
            w[d] += d == digit ? v : 0;
            n[d] += d == digit;
        }
    }
#pragma unroll
    for (int d = 0; d < BINS; d++) {
        weight[threadIdx.x][d] = w[d];
        count[threadIdx.x][d] = n[d];
    }
    __syncthreads();
    unsigned bin = threadIdx.x % BINS, group = threadIdx.x / BINS;
    for (unsigned t = group + GROUPS; t < THREADS; t += GROUPS) {
        weight[group][bin] += weight[t][bin];
        count[group][bin] += count[t][bin];
    }
    __syncthreads();
    if (group != 0) return;
    bins *to = &j.found[s.turn][r * j.n_piece + blockIdx.x];
    uint64_t all = 0;
    uint32_t n_all = 0;
    for (unsigned g = 0; g < GROUPS; g++) {
        all += weight[g][bin];
        n_all += count[g][bin];
    }
    to->weight[bin] = all;
    to->count[bin] = n_all;
}

/* ---- the id ---- */

/* Nothing is drawn: greedy, or no logit is a number above -infinity. */
static __device__ __forceinline__ bool is_drawn(const ml_sample_rule *rule, float largest)
{
    return !is_greedy(rule) && largest > -INFINITY;
}

static __global__ void __launch_bounds__(THREADS) count_ties(job j, step s)
{
    __shared__ uint64_t weight[GROUPS][BINS];
    __shared__ uint32_t count[GROUPS][BINS];
    __shared__ bins sum;
    __shared__ progress now;
    __shared__ int n_of[THREADS / WARP];
    int64_t r = blockIdx.y;
    const ml_sample_rule *rule = &j.row[r].rule;
    if (is_greedy(rule)) return;
    begin(&j, r, &s, &now, &sum, weight, count);
    const float *z = logits_of(&j, r);
    float largest = now.largest;
    int n = 0;
    for (int i = 0; i < EACH; i++) {
        int64_t at = (int64_t)blockIdx.x * PIECE + (int64_t)i * THREADS + threadIdx.x;
        if (at < j.n_valid && ml_rule_passes(rule, z[at], largest)) n += key_of(z[at]) == now.prefix;
    }
    n = ml_block_sum(n, n_of);
    if (threadIdx.x == 0) j.part[r * j.n_piece + blockIdx.x].n_tie = n;
}

/* One block for each row. */
static __global__ void __launch_bounds__(THREADS) pick(job j, int turn)
{
    __shared__ int n_of[THREADS];
    __shared__ int64_t first, left; /* of the piece; how many ties come before in it */
    int64_t r = blockIdx.x;
    const ml_sample_rule *rule = &j.row[r].rule;
    const float *z = logits_of(&j, r);
    float largest;
    int32_t best = greedy(&j, r, &largest);
    if (!is_drawn(rule, largest) || goes_by_id(rule, DRAW)) {
        if (threadIdx.x == 0) j.out[r].id = is_drawn(rule, largest) ? (int32_t)j.at[turn][r].prefix : best;
        return;
    }
    const progress *p = &j.at[turn][r];
    uint32_t key = p->prefix;
    if (threadIdx.x == 0) {
        uint64_t each = ml_rule_weight(rule, logit_of(key), largest);
        left = each ? (int64_t)((p->goal - 1 - p->before) / each) : 0;
        int64_t b = 0;
        for (; b + 1 < j.n_piece && left >= j.part[r * j.n_piece + b].n_tie; b++)
            left -= j.part[r * j.n_piece + b].n_tie;
        first = b * PIECE;
    }
    __syncthreads();
    int64_t from = first + (int64_t)threadIdx.x * EACH; /* here a thread has neighbours */
    int n = 0;
    for (int64_t at = from; at < from + EACH && at < j.n_valid; at++) {
        n += ml_rule_passes(rule, z[at], largest) && key_of(z[at]) == key;
    }
    n_of[threadIdx.x] = n;
    __syncthreads();
    int64_t before = 0;
    for (unsigned t = 0; t < threadIdx.x; t++) before += n_of[t];
    if (left < before || left >= before + n) return;
    for (int64_t at = from; at < from + EACH && at < j.n_valid; at++) {
        if (!ml_rule_passes(rule, z[at], largest) || key_of(z[at]) != key) continue;
        if (before++ == left) j.out[r].id = (int32_t)at;
    }
}

/* One thread for each row. */
static __global__ void finish(job j, int64_t n_row)
{
    int64_t r = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= n_row) return;
    const piece *p = j.part + r * j.n_piece;
    double max = -INFINITY, sum = 0;
    for (int64_t b = 0; b < j.n_piece; b++) max = fmax(max, p[b].max);
    for (int64_t b = 0; b < j.n_piece; b++) {
        if (p[b].max > -INFINITY) sum += p[b].max < max ? p[b].sum * exp(p[b].max - max) : p[b].sum;
    }
    j.out[r].logprob = (double)logits_of(&j, r)[j.out[r].id] - max - log(sum);
}

/* ---- launches ---- */

/* Whether any row wants a phase. */
static bool any_uses(const ml_sample_row *row, int64_t n_row, int of)
{
    for (int64_t r = 0; r < n_row; r++) {
        const ml_sample_rule *rule = &row[r].rule;
        if (!(rule->inverse > 0)) continue;
        if (of == TOTAL || of == DRAW || (of == TOP_K && rule->top_k > 0) || (of == TOP_P && rule->top_p < 1))
            return true;
    }
    return false;
}

/* The step behind the last launch. */
static step draw_all(ml_ctx *ctx, const job *j, const ml_sample_row *row, int64_t n_row)
{
    dim3 grid((unsigned)j->n_piece, (unsigned)n_row);
    step s = { 0, -1, 0, 0, 0 };
    for (int of = TOTAL; of < N_PHASE; of++) {
        if (!any_uses(row, n_row, of)) continue;
        for (int pass = 0; pass < (of == TOTAL ? 1 : PASSES); pass++) {
            s.of = of;
            s.pass = pass;
            ML_LAUNCH(ctx->device, narrow, grid, THREADS, 0, *j, s);
            s.last = of;
            s.last_pass = pass;
            s.turn ^= 1;
        }
    }
    return s;
}

static void launch(ml_ctx *ctx, const job *j, const ml_sample_row *row, int64_t n_row, bool penalises)
{
    dim3 grid((unsigned)j->n_piece, (unsigned)n_row);
    ML_LAUNCH(ctx->device, summarise, grid, THREADS, 0, *j);
    if (penalises) ML_LAUNCH(ctx->device, penalise, (unsigned)n_row, THREADS, 0, *j, false);
    ML_LAUNCH(ctx->device, find_largest, grid, THREADS, 0, *j);
    step s = { 0, -1, 0, 0, 0 };
    if (any_uses(row, n_row, DRAW)) {
        s = draw_all(ctx, j, row, n_row);
        s.pass = PASSES; /* no phase begins */
        ML_LAUNCH(ctx->device, count_ties, grid, THREADS, 0, *j, s);
    }
    ML_LAUNCH(ctx->device, pick, (unsigned)n_row, THREADS, 0, *j, s.turn);
    if (penalises) ML_LAUNCH(ctx->device, penalise, (unsigned)n_row, THREADS, 0, *j, true);
    ML_LAUNCH(ctx->device, finish, (unsigned)ml_n_blocks(n_row, THREADS), THREADS, 0, *j, n_row);
}

static void *take(ml_ctx *ctx, int64_t n, size_t size)
{
    return ml_ctx_scratch_data(ctx, (size_t)n * size);
}

static ml_status run(ml_ctx *ctx, job *j, const ml_sample_row *row, int64_t n_row, const int32_t *penalised,
                     int64_t n_penalised, ml_sample_choice *out, ml_error *err)
{
    int64_t n = n_row * j->n_piece;
    ml_sample_row *rows = (ml_sample_row *)take(ctx, n_row, sizeof *rows);
    int32_t *ids = (int32_t *)take(ctx, n_penalised, sizeof *ids);
    j->aside = (float *)take(ctx, n_penalised, sizeof *j->aside);
    j->part = (piece *)take(ctx, n, sizeof *j->part);
    j->out = (ml_sample_choice *)take(ctx, n_row, sizeof *j->out);
    for (int i = 0; i < 2; i++) {
        j->found[i] = (bins *)take(ctx, n, sizeof *j->found[i]);
        j->at[i] = (progress *)take(ctx, n_row, sizeof *j->at[i]);
    }
    ML_TRY(ml_ctx_status(ctx, err));
    j->row = rows;
    j->penalised = ids;
    ML_TRY(ml_device_upload(ctx->device, rows, row, (size_t)n_row * sizeof *rows, err));
    ML_TRY(ml_device_upload(ctx->device, ids, penalised, (size_t)n_penalised * sizeof *ids, err));
    launch(ctx, j, row, n_row, n_penalised > 0);
    ML_TRY(ml_ctx_status(ctx, err));
    return ml_device_download(ctx->device, out, j->out, (size_t)n_row * sizeof *out, err);
}

extern "C" ml_status ml_device_sample(ml_ctx *ctx, float *logits, int64_t n_vocab, int64_t n_valid,
                                      const ml_sample_row *row, int64_t n_row, const int32_t *penalised,
                                      int64_t n_penalised, ml_sample_choice *out, ml_error *err)
{
    if (n_row == 0) return ML_OK;
    if (n_row > MAX_GRID_Y) return ml_fail(err, ML_EINVAL, "%lld tokens at once are too many", (long long)n_row);
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    job j;
    memset(&j, 0, sizeof j);
    j.logits = logits;
    j.n_vocab = n_vocab;
    j.n_valid = n_valid;
    j.n_piece = ml_n_blocks(n_valid, PIECE);
    ml_status status = run(ctx, &j, row, n_row, penalised, n_penalised, out, err);
    ml_ctx_release(ctx, mark);
    return status;
}
