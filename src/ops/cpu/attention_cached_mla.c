/* Multi-head latent attention on the compressed cache.
 *
 * Decode: queries are taken into the latent space and the mean of latent rows out of it again, so that all heads read
 * one row per position; reading the weights once is the cost of both products, a task per head.
 * Prefill: the latent rows of a window are turned over, [rank][64 positions], and every head's part of kv_b multiplies
 * them: keys and values come out with positions as their fast dimension, as attention's products take them.
 *
 * A low-rank term of kv_b stays a low-rank term in decoding, beside both products of a head; in prefill it joins the
 * head's part of kv_b when that becomes fp32. */
#include "ops/cpu/attention_cached.h"

#include "base/thread.h"
#include "ops/cpu/attention_kernel.h"
#include "ops/cpu/attention_kernel_rows.h"
#include "ops/cpu/attention_kernel_absorb.h"
#include "tensor/blocks.h"

#include <string.h>

enum { KEYS = ML_PREFILL_KEYS, WINDOW_BLOCKS = ML_PREFILL_WINDOW / KEYS, MIN_HEADS_TO_HALVE = 16 };

/* ---- weights ---- */

static ml_absorb_rows rows_of(const ml_tensor *w, int64_t first, int64_t n_row, int64_t n_column)
{
    int64_t row_bytes = (int64_t)ml_dtype_row_bytes(w->dtype, n_column);
    return (ml_absorb_rows){ w->dtype, (const char *)w->data + first * row_bytes, n_row, n_column, row_bytes };
}

/* W_uk[h]: [d_nope, rank], or with k_b its transpose. */
static ml_absorb_rows key_weight(const ml_mla_weights *w, const ml_mla_param *p, int64_t h)
{
    if (w->kv_b) return rows_of(w->kv_b, h * (p->d_nope + p->d_v), p->d_nope, p->kv_lora_rank);
    return rows_of(w->k_b, h * p->kv_lora_rank, p->kv_lora_rank, p->d_nope);
}

/* W_uv[h]: [d_v, rank] */
static ml_absorb_rows value_weight(const ml_mla_weights *w, const ml_mla_param *p, int64_t h)
{
    if (w->kv_b) return rows_of(w->kv_b, h * (p->d_nope + p->d_v) + p->d_nope, p->d_v, p->kv_lora_rank);
    return rows_of(w->v_b, h * p->d_v, p->d_v, p->kv_lora_rank);
}

/* The term of a sequence, or NULL. */
static const ml_mla_term *term_of(const ml_mla_weights *w, int64_t seq)
{
    return w->term ? w->term[seq] : NULL;
}

/* ---- decode ---- */

typedef struct {
    const ml_absorb_kernel *kernel;
    const ml_mla_weights *weights;
    const ml_mla_param *param;
    int64_t n_token;
    const float *in;
    int64_t in_stride;
    float *out;
    int64_t out_stride;
    float *scratch;
    int64_t scratch_count;
    const int32_t *seq; /* of each token */
    float *scaled;      /* NULL without terms, or [n_head, n_token, d_nope] */
} absorb_work;

/* Rows of kv_b of a head: first its keys', then its values'. */
static int64_t first_row(const ml_mla_param *p, int64_t h)
{
    return h * (p->d_nope + p->d_v);
}

/* y [rank] = (y of the weight alone, from q times factor) + scale * a^T (b^T q), q = factor * the query [d_nope]. */
static void add_query_term(const ml_mla_term *term, const ml_mla_param *p, int64_t h, const float *q, float *y)
{
    int64_t row = first_row(p, h);
    for (int64_t r = 0; r < term->rank; r++) {
        float sum = 0;
        for (int64_t i = 0; i < p->d_nope; i++) sum += term->b[(row + i) * term->rank + r] * q[i];
        sum *= term->scale;
        for (int64_t c = 0; c < p->kv_lora_rank; c++) y[c] += sum * term->a[r * p->kv_lora_rank + c];
    }
}

/* y [d_v] += scale * b (a z), then times factor. */
static void add_value_term(const ml_mla_term *term, const ml_mla_param *p, int64_t h, const float *z, float *y)
{
    int64_t row = first_row(p, h) + p->d_nope;
    for (int64_t r = 0; r < term->rank; r++) {
        float sum = 0;
        for (int64_t c = 0; c < p->kv_lora_rank; c++) sum += term->a[r * p->kv_lora_rank + c] * z[c];
        sum *= term->scale;
        for (int64_t i = 0; i < p->d_v; i++) y[i] += term->b[(row + i) * term->rank + r] * sum;
    }
    for (int64_t i = 0; i < p->d_v && term->factor; i++) y[i] *= term->factor[row + i];
}

/* Queries of a head times the factors of their sequences' terms: q_nope [n_token, d_nope] in `out`.  False when there
 * are none. */
static bool scale_queries(const absorb_work *w, int64_t h, const float *q, float *out)
{
    const ml_mla_param *p = w->param;
    bool any = false;
    for (int64_t t = 0; t < w->n_token; t++) any = any || term_of(w->weights, w->seq[t]);
    for (int64_t t = 0; t < w->n_token && any; t++) {
        const ml_mla_term *term = term_of(w->weights, w->seq[t]);
        const float *factor = term && term->factor ? term->factor + first_row(p, h) : NULL;
        for (int64_t i = 0; i < p->d_nope; i++) {
            out[t * p->d_nope + i] = q[t * w->in_stride + i] * (factor ? factor[i] : 1);
        }
    }
    return any;
}

/* out[t, h] = scale * [q_nope[t, h] W_uk[h] | q_pe[t, h]], zeros behind */
static void absorb_query(void *arg, int64_t begin, int64_t end, int thread)
{
    const absorb_work *w = arg;
    const ml_mla_param *p = w->param;
    int64_t rank = p->kv_lora_rank, d_row = rank + p->n_rot, pad = ml_rows_pad(d_row);
    for (int64_t h = begin; h < end; h++) {
        const float *q = w->in + h * (p->d_nope + p->n_rot);
        ml_absorb_rows rows = key_weight(w->weights, p, h);
        ml_absorb_operand o = { q, w->in_stride, w->out + h * pad, w->out_stride, w->n_token };
        bool has_terms = w->scaled && scale_queries(w, h, q, w->scaled + h * w->n_token * p->d_nope);
        const float *scaled = has_terms ? w->scaled + h * w->n_token * p->d_nope : NULL;
        if (scaled) {
            o.x = scaled;
            o.x_stride = p->d_nope;
        }
        (w->weights->kv_b ? w->kernel->sums : w->kernel->dots)(&rows, &o, w->scratch + thread * w->scratch_count);
        for (int64_t t = 0; t < w->n_token; t++) {
            float *y = w->out + t * w->out_stride + h * pad;
            const float *q_pe = q + t * w->in_stride + p->d_nope;
            const ml_mla_term *term = scaled ? term_of(w->weights, w->seq[t]) : NULL;
            if (term) add_query_term(term, p, h, scaled + t * p->d_nope, y);
            for (int64_t c = 0; c < rank; c++) y[c] *= p->scale;
            for (int64_t c = 0; c < p->n_rot; c++) y[rank + c] = p->scale * q_pe[c];
            for (int64_t c = d_row; c < pad; c++) y[c] = 0;
        }
    }
}

/* out[t, h] = W_uv[h] in[t, h] */
static void project_value(void *arg, int64_t begin, int64_t end, int thread)
{
    const absorb_work *w = arg;
    const ml_mla_param *p = w->param;
    for (int64_t h = begin; h < end; h++) {
        ml_absorb_rows rows = value_weight(w->weights, p, h);
        ml_absorb_operand o = { w->in + h * p->kv_lora_rank, w->in_stride, w->out + h * p->d_v, w->out_stride,
                                w->n_token };
        w->kernel->dots(&rows, &o, w->scratch + thread * w->scratch_count);
        for (int64_t t = 0; t < w->n_token && w->scaled; t++) {
            const ml_mla_term *term = term_of(w->weights, w->seq[t]);
            const float *z = w->in + h * p->kv_lora_rank + t * w->in_stride;
            if (term) add_value_term(term, p, h, z, w->out + h * p->d_v + t * w->out_stride);
        }
    }
}

/* Heads that read a row of the cache together: all, but of one token with few keys, which are a single span, a half, so
 * that two threads have something to do. */
static int64_t heads_together(const ml_cached_heads *a, int64_t n_head, int64_t n_token)
{
    bool few = n_token == 1 && a->pos[0] < ML_DECODE_SPAN && ml_thread_count() > 1;
    return few && n_head % 2 == 0 && n_head >= MIN_HEADS_TO_HALVE ? n_head / 2 : n_head;
}

static ml_status decode(ml_ctx *ctx, const ml_cached_heads *a, const ml_mla_weights *weights, const ml_mla_param *p,
                        int64_t n_token)
{
    if (n_token == 0) return ML_OK;
    int64_t rank = p->kv_lora_rank, d_row = rank + p->n_rot, pad = ml_rows_pad(d_row);
    float *q = ml_ctx_scratch(ctx, (size_t)(n_token * p->n_head * pad) * sizeof *q);
    float *latent = ml_ctx_scratch(ctx, (size_t)(n_token * p->n_head * rank) * sizeof *latent);
    absorb_work work = { .kernel = ml_absorb_kernel_get(),
                         .weights = weights,
                         .param = p,
                         .n_token = n_token,
                         .in = ml_f32(a->q),
                         .in_stride = a->q->stride,
                         .out = q,
                         .out_stride = p->n_head * pad,
                         .scratch_count = ML_ABSORB_ROWS * (rank > p->d_nope ? rank : p->d_nope) };
    work.scratch = ml_ctx_scratch(ctx, (size_t)(work.scratch_count * ml_thread_count()) * sizeof(float));
    work.seq = a->seq_of_token;
    if (weights->term) {
        work.scaled = ml_ctx_scratch(ctx, (size_t)(p->n_head * n_token * p->d_nope) * sizeof(float));
        if (!work.scaled) return ML_ENOMEM;
    }
    if (!q || !latent || !work.scratch) return ML_ENOMEM;
    ml_parallel_for(p->n_head, 1, absorb_query, &work);
    ml_cached_decode d = { .kv = a->kv,
                           .seq_of_token = a->seq_of_token,
                           .pos = a->pos,
                           .n_token = n_token,
                           .q = q,
                           .y = latent,
                           .y_stride = p->n_head * rank,
                           .n_head = p->n_head,
                           .n_group = heads_together(a, p->n_head, n_token),
                           .d_qk = d_row,
                           .d_v = rank,
                           .v_is_k = true };
    ML_TRY(ml_cached_decode_run(ctx, &d));
    work.in = latent;
    work.in_stride = p->n_head * rank;
    work.out = ml_f32(a->y);
    work.out_stride = a->y->stride;
    ml_parallel_for(p->n_head, 1, project_value, &work);
    return ML_OK;
}

/* ---- prefill ---- */

typedef struct {
    const ml_mla_weights *weights;
    const ml_mla_param *param;
    float *lanes; /* [WINDOW_BLOCKS][rank][KEYS] */
    float *scratch;
    int64_t scratch_count; /* floats per thread */
} decompression;

typedef struct {
    const ml_cached_prefill *p;
    const decompression *d;
    int64_t seq, first, n, g0;
} window_work;

/* Blocks of latent rows: c_kv turned over, k_pe as it lies. */
static void turn_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    const window_work *w = arg;
    const ml_mla_param *param = w->d->param;
    const ml_kv_view *kv = w->p->heads.kv;
    const ml_rows_kernel *kernel = ml_rows_kernel_get();
    int64_t rank = param->kv_lora_rank, d_row = rank + param->n_rot, pad = ml_rows_pad(d_row);
    float *rows = w->d->scratch + thread * w->d->scratch_count; // [KEYS, pad]
    for (int64_t b = begin; b < end; b++) {
        int64_t n = w->n - b * KEYS < KEYS ? w->n - b * KEYS : KEYS;
        const float *row[KEYS];
        for (int64_t i = 0; i < n; i++) {
            int64_t at = b * KEYS + i;
            float *to = rows + i * pad;
            kernel->load(kv->dtype, ml_kv_k_at(kv, w->seq, w->first + at, 0), to, d_row);
            memcpy(w->p->window.shared + at * param->n_rot, to + rank, (size_t)param->n_rot * sizeof *to);
            row[i] = to;
        }
        ml_attention_kernel_get()->pack(w->d->lanes + b * rank * KEYS, KEYS, row, n, rank, 1.0f);
    }
}

/* A stored matrix as fp32 rows: where it lies, or in `buffer`, n_column padded. */
static const float *weight_as_f32(const ml_absorb_rows *w, float *buffer, int64_t *stride)
{
    *stride = w->n_column;
    if (w->dtype == ML_F32) return (const float *)(const void *)w->data;
    *stride = ml_rows_pad(w->n_column);
    for (int64_t i = 0; i < w->n_row; i++) {
        const char *from = w->data + i * w->row_bytes;
        if (ml_kv_dtype_is_valid(w->dtype)) {
            ml_rows_kernel_get()->load(w->dtype, from, buffer + i * *stride, w->n_column);
        } else {
            ml_dequantize(w->dtype, from, buffer + i * *stride, w->n_column);
        }
    }
    return buffer;
}

/* The same with a term joined in, in `buffer`: rows [first, first + n) of kv_b, or (transposed) those as columns. */
static const float *weight_with_term(const ml_mla_term *term, const float *weight, int64_t *stride, float *buffer,
                                     const ml_absorb_rows *w, int64_t first, bool transposed)
{
    if (!term) return weight;
    int64_t from = *stride;
    *stride = ml_rows_pad(w->n_column);
    int64_t n = transposed ? w->n_column : w->n_row, rank = transposed ? w->n_row : w->n_column;
    if (weight != buffer) {
        for (int64_t i = 0; i < w->n_row; i++) {
            memcpy(buffer + i * *stride, weight + i * from, (size_t)w->n_column * sizeof *buffer);
        }
    }
    int64_t row_step = transposed ? 1 : *stride, column_step = transposed ? *stride : 1;
    for (int64_t i = 0; i < n; i++) {
        const float *b = term->b + (first + i) * term->rank;
        float *row = buffer + i * row_step, factor = term->factor ? term->factor[first + i] : 1;
        for (int64_t r = 0; r < term->rank; r++) {
            float scale = term->scale * b[r];
            const float *a = term->a + r * rank;
            for (int64_t c = 0; c < rank; c++) row[c * column_step] += scale * a[c];
        }
        for (int64_t c = 0; c < rank; c++) row[c * column_step] *= factor;
    }
    return buffer;
}

/* Index: a head's keys, then its values. */
static void multiply_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    const window_work *w = arg;
    const ml_mla_param *param = w->d->param;
    const ml_prefill_window *window = &w->p->window;
    const ml_attention_kernel *kernel = ml_attention_kernel_get();
    int64_t rank = param->kv_lora_rank;
    for (int64_t i = begin; i < end; i++) {
        int64_t g = i / 2, head = w->g0 + g, stride;
        bool is_value = i % 2, transposed = !is_value && !w->d->weights->kv_b;
        ml_absorb_rows rows =
            is_value ? value_weight(w->d->weights, param, head) : key_weight(w->d->weights, param, head);
        float *buffer = w->d->scratch + thread * w->d->scratch_count;
        const float *weight = weight_as_f32(&rows, buffer, &stride);
        int64_t first = first_row(param, head) + (is_value ? param->d_nope : 0);
        weight = weight_with_term(term_of(w->d->weights, w->seq), weight, &stride, buffer, &rows, first, transposed);
        for (int64_t b = 0; b * KEYS < w->n; b++) {
            int64_t n = w->n - b * KEYS < KEYS ? w->n - b * KEYS : KEYS;
            float *to = window->data + g * window->head_floats + b * window->block_floats;
            kernel->product(&(ml_attention_product){ .m = is_value ? param->d_v : param->d_nope,
                                                     .n = ml_attention_pad(n),
                                                     .k = rank,
                                                     .a = weight,
                                                     .a_row = transposed ? 1 : stride,
                                                     .a_col = transposed ? stride : 1,
                                                     .b = w->d->lanes + b * rank * KEYS,
                                                     .b_stride = KEYS,
                                                     .c = to + (is_value ? window->v_at : 0),
                                                     .c_stride = KEYS });
        }
    }
}

static void fill_window(const ml_cached_prefill *p, int64_t seq, int64_t first, int64_t n, int64_t g0, int64_t n_g)
{
    window_work work = { p, p->arg, seq, first, n, g0 };
    ml_parallel_for((n + KEYS - 1) / KEYS, 1, turn_blocks, &work);
    ml_parallel_for(2 * n_g, 1, multiply_heads, &work);
}

static int64_t largest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static ml_status prefill(ml_ctx *ctx, const ml_cached_heads *a, const ml_mla_weights *weights, const ml_mla_param *p,
                         int64_t token0, int64_t n_token)
{
    if (n_token == 0) return ML_OK;
    int64_t rank = p->kv_lora_rank, d_kv = p->d_nope + p->d_v;
    int64_t weight_count = largest(largest(p->d_nope, p->d_v) * ml_rows_pad(rank), rank * ml_rows_pad(p->d_nope));
    decompression d = { .weights = weights,
                        .param = p,
                        .scratch_count = largest(KEYS * ml_rows_pad(rank + p->n_rot), weight_count) };
    d.lanes = ml_ctx_scratch(ctx, (size_t)(WINDOW_BLOCKS * rank * KEYS) * sizeof(float));
    d.scratch = ml_ctx_scratch(ctx, (size_t)(d.scratch_count * ml_thread_count()) * sizeof(float));
    ml_cached_prefill prefill = { .heads = *a,
                                  .token0 = token0,
                                  .n_token = n_token,
                                  .fill = fill_window,
                                  .arg = &d,
                                  .window = { .block_floats = d_kv * KEYS,
                                              .head_floats = d_kv * ML_PREFILL_WINDOW,
                                              .k_row = 1,
                                              .k_column = KEYS,
                                              .v_at = p->d_nope * KEYS,
                                              .v_row = 1,
                                              .v_column = KEYS,
                                              .d_shared = p->n_rot } };
    int64_t n_g = p->n_head < ML_PREFILL_HEADS ? p->n_head : ML_PREFILL_HEADS;
    prefill.window.data = ml_ctx_scratch(ctx, (size_t)(n_g * prefill.window.head_floats) * sizeof(float));
    prefill.window.shared = ml_ctx_scratch(ctx, (size_t)(ML_PREFILL_WINDOW * p->n_rot) * sizeof(float));
    if (!d.lanes || !d.scratch || !prefill.window.data || !prefill.window.shared) return ML_ENOMEM;
    return ml_cached_prefill_run(ctx, &prefill);
}

/* ---- both ---- */

ml_status ml_cpu_attention_cached_mla(ml_ctx *ctx, const ml_cached_heads *a, const ml_mla_weights *weights,
                                      int64_t n_decode, const ml_mla_param *param)
{
    ML_TRY(ml_cached_check(ctx, a->kv, a->seq_of_token, a->pos, a->q->dim[0]));
    ML_TRY(decode(ctx, a, weights, param, n_decode));
    return prefill(ctx, a, weights, param, n_decode, a->q->dim[0] - n_decode);
}
