/* Attention over a cache: in double precision the same values whatever the types, the phase and the instruction set,
 * and the same bits however the work is cut. */
#include "ops/cached.h"

#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "support/operands.h"
#include "support/support.h"
#include "tensor/blocks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;

/* Shorter and longer than a block of 64 keys and a span of 256; one of a single token. */
enum { N_SEQ = 3, N_TOKEN = 70 + 1 + 300 };
static const int32_t seq_offset[N_SEQ + 1] = { 0, 70, 71, N_TOKEN };

/* A matrix in some type, and the numbers it stands for. */
typedef struct {
    ml_tensor stored;
    float *value;
} weight;

typedef struct {
    bool mla;
    ml_attention_param gqa;
    ml_mla_param latent;
    int64_t q_columns, y_columns, k_columns, v_columns; /* MLA: k is c_kv, and there is no v */
    float *q, *k, *v;                                   /* [tokens, columns] */
    float *k_pe;                                        /* MLA: [tokens, n_rot] */
    weight kv_b, k_b, v_b;                              /* MLA: kv_b or both others */
} problem;

typedef enum { DECODE, PREFILL, MIXED } phase;

/* One way to run it: the order of the tokens, how many per call, where pages lie. */
typedef struct {
    phase phase;
    bool round_robin; /* one token of each sequence in turn; else sequence after sequence */
    int chunk;
    int n_thread;
    int32_t page_size;
    bool shuffle_pages;
    ml_dtype dtype; /* of the cache */
} plan;

static plan whole(phase in, ml_dtype dtype)
{
    return (plan){ .phase = in, .chunk = N_TOKEN, .n_thread = 1, .page_size = 512, .dtype = dtype };
}

static problem make_gqa(int64_t n_head, int64_t n_kv_head, int64_t d_qk, int64_t d_v)
{
    problem p = { .gqa = { .n_head = n_head,
                           .n_kv_head = n_kv_head,
                           .d_qk = d_qk,
                           .d_v = d_v,
                           .k_step = d_qk,
                           .v_step = d_v,
                           .scale = (float)(1 / sqrt((double)d_qk)) },
                  .q_columns = n_head * d_qk,
                  .y_columns = n_head * d_v,
                  .k_columns = n_kv_head * d_qk,
                  .v_columns = n_kv_head * d_v };
    p.q = test_random_values(7, N_TOKEN * p.q_columns, 1.5, 1);
    p.k = test_random_values(7, N_TOKEN * p.k_columns, 1.5, 2);
    p.v = test_random_values(7, N_TOKEN * p.v_columns, 1, 3);
    return p;
}

static weight make_weight(ml_dtype dtype, int64_t n_row, int64_t n_column, const float *x)
{
    weight w = { .value = malloc((size_t)(n_row * n_column) * sizeof(float)) };
    void *data = malloc((size_t)n_row * ml_dtype_row_bytes(dtype, n_column));
    if (ml_dtype_is_block(dtype)) {
        assert_ok(ml_quantize_rows(dtype, x, n_row, n_column, NULL, data, &err));
    } else {
        ml_convert_from_f32(dtype, x, data, n_row * n_column);
    }
    ml_convert_to_f32(dtype, data, w.value, n_row * n_column);
    w.stored = ml_tensor_describe(dtype, 2, (int64_t[]){ n_row, n_column }, data);
    return w;
}

/* `split`: k_b and v_b of the two types, else kv_b of the first. */
static problem make_mla(ml_mla_param shape, bool split, ml_dtype first, ml_dtype second)
{
    int64_t d_qk = shape.d_nope + shape.n_rot, rank = shape.kv_lora_rank, d_nope = shape.d_nope;
    int64_t n_row = shape.n_head * (d_nope + shape.d_v);
    problem p = { .mla = true,
                  .latent = shape,
                  .q_columns = shape.n_head * d_qk,
                  .y_columns = shape.n_head * shape.d_v,
                  .k_columns = rank };
    p.latent.scale = (float)(1 / sqrt((double)d_qk));
    p.q = test_random_values(7, N_TOKEN * p.q_columns, 1.5, 1);
    p.k = test_random_values(7, N_TOKEN * rank, 1, 2);
    p.k_pe = test_random_values(7, N_TOKEN * shape.n_rot, 1, 3);
    float *x = test_random_values(7, n_row * rank, 1 / sqrt((double)rank), 4);
    if (!split) {
        p.kv_b = make_weight(first, n_row, rank, x);
    } else {
        float *k = malloc((size_t)(shape.n_head * rank * d_nope) * sizeof *k);
        float *v = malloc((size_t)(shape.n_head * rank * shape.d_v) * sizeof *v);
        for (int64_t h = 0; h < shape.n_head; h++) {
            const float *head = x + h * (d_nope + shape.d_v) * rank;
            for (int64_t i = 0; i < d_nope; i++) {
                for (int64_t r = 0; r < rank; r++) k[(h * rank + r) * d_nope + i] = head[i * rank + r];
            }
            memcpy(v + h * shape.d_v * rank, head + d_nope * rank, (size_t)(shape.d_v * rank) * sizeof *v);
        }
        p.k_b = make_weight(first, shape.n_head * rank, d_nope, k);
        p.v_b = make_weight(second, shape.n_head * shape.d_v, rank, v);
        free(k);
        free(v);
    }
    free(x);
    return p;
}

static void free_problem(problem *p)
{
    free(p->q);
    free(p->k);
    free(p->v);
    free(p->k_pe);
    weight *all[] = { &p->kv_b, &p->k_b, &p->v_b };
    for (int i = 0; i < 3; i++) {
        free(all[i]->stored.data);
        free(all[i]->value);
    }
}

/* ---- the reference ---- */

/* x [n_row, n_column] as a cache of this type holds it. */
static float *rounded(ml_dtype dtype, const float *x, int64_t n_row, int64_t n_column)
{
    float *y = malloc((size_t)(n_row * n_column) * sizeof *y);
    weight w = make_weight(dtype, n_row, n_column, x);
    memcpy(y, w.value, (size_t)(n_row * n_column) * sizeof *y);
    free(w.stored.data);
    free(w.value);
    return y;
}

/* Keys and values of every token and key head, as attention is defined on them. */
typedef struct {
    int64_t n_kv_head, d_qk, d_v;
    double *k, *v; /* [tokens, n_kv_head, d_qk], [tokens, n_kv_head, d_v] */
} expanded;

static expanded expand_gqa(const problem *p, ml_dtype dtype)
{
    expanded e = { p->gqa.n_kv_head, p->gqa.d_qk, p->gqa.d_v, NULL, NULL };
    float *k = rounded(dtype, p->k, N_TOKEN, p->k_columns), *v = rounded(dtype, p->v, N_TOKEN, p->v_columns);
    e.k = malloc((size_t)(N_TOKEN * p->k_columns) * sizeof(double));
    e.v = malloc((size_t)(N_TOKEN * p->v_columns) * sizeof(double));
    for (int64_t i = 0; i < N_TOKEN * p->k_columns; i++) e.k[i] = (double)k[i];
    for (int64_t i = 0; i < N_TOKEN * p->v_columns; i++) e.v[i] = (double)v[i];
    free(k);
    free(v);
    return e;
}

/* W_uk[h][i][r], W_uv[h][i][r] */
static double key_weight(const problem *p, int64_t h, int64_t i, int64_t r)
{
    const ml_mla_param *m = &p->latent;
    if (p->kv_b.value) return (double)p->kv_b.value[(h * (m->d_nope + m->d_v) + i) * m->kv_lora_rank + r];
    return (double)p->k_b.value[(h * m->kv_lora_rank + r) * m->d_nope + i];
}

static double value_weight(const problem *p, int64_t h, int64_t i, int64_t r)
{
    const ml_mla_param *m = &p->latent;
    if (p->kv_b.value) return (double)p->kv_b.value[(h * (m->d_nope + m->d_v) + m->d_nope + i) * m->kv_lora_rank + r];
    return (double)p->v_b.value[(h * m->d_v + i) * m->kv_lora_rank + r];
}

static expanded expand_mla(const problem *p, ml_dtype dtype)
{
    const ml_mla_param *m = &p->latent;
    expanded e = { m->n_head, m->d_nope + m->n_rot, m->d_v, NULL, NULL };
    float *c_kv = rounded(dtype, p->k, N_TOKEN, m->kv_lora_rank), *k_pe = rounded(dtype, p->k_pe, N_TOKEN, m->n_rot);
    e.k = malloc((size_t)(N_TOKEN * m->n_head * e.d_qk) * sizeof(double));
    e.v = malloc((size_t)(N_TOKEN * m->n_head * e.d_v) * sizeof(double));
    for (int64_t t = 0; t < N_TOKEN; t++) {
        const float *c = c_kv + t * m->kv_lora_rank;
        for (int64_t h = 0; h < m->n_head; h++) {
            double *k = e.k + (t * m->n_head + h) * e.d_qk, *v = e.v + (t * m->n_head + h) * e.d_v;
            for (int64_t i = 0; i < m->d_nope; i++) {
                k[i] = 0;
                for (int64_t r = 0; r < m->kv_lora_rank; r++) k[i] += key_weight(p, h, i, r) * (double)c[r];
            }
            for (int64_t i = 0; i < m->n_rot; i++) k[m->d_nope + i] = (double)k_pe[t * m->n_rot + i];
            for (int64_t i = 0; i < m->d_v; i++) {
                v[i] = 0;
                for (int64_t r = 0; r < m->kv_lora_rank; r++) v[i] += value_weight(p, h, i, r) * (double)c[r];
            }
        }
    }
    free(c_kv);
    free(k_pe);
    return e;
}

/* y [d_v] of token t of a sequence that begins at token `first`. */
static void attend(const problem *p, const expanded *e, int64_t first, int64_t t, int64_t h, double *y)
{
    int64_t n_head = p->mla ? p->latent.n_head : p->gqa.n_head, g = h / (n_head / e->n_kv_head);
    double scale = (double)(p->mla ? p->latent.scale : p->gqa.scale), sum = 0;
    const float *q = p->q + t * p->q_columns + h * e->d_qk;
    for (int64_t c = 0; c < e->d_v; c++) y[c] = 0;
    for (int64_t s = first; s <= t; s++) {
        const double *k = e->k + (s * e->n_kv_head + g) * e->d_qk, *v = e->v + (s * e->n_kv_head + g) * e->d_v;
        double score = 0;
        for (int64_t c = 0; c < e->d_qk; c++) score += (double)q[c] * k[c];
        double p_s = exp(scale * score); /* scores are below 40 here */
        sum += p_s;
        for (int64_t c = 0; c < e->d_v; c++) y[c] += p_s * v[c];
    }
    for (int64_t c = 0; c < e->d_v; c++) y[c] /= sum;
}

static double *reference(const problem *p, ml_dtype dtype)
{
    expanded e = p->mla ? expand_mla(p, dtype) : expand_gqa(p, dtype);
    int64_t n_head = p->mla ? p->latent.n_head : p->gqa.n_head;
    double *y = malloc((size_t)(N_TOKEN * p->y_columns) * sizeof *y);
    for (int s = 0; s < N_SEQ; s++) {
        for (int64_t t = seq_offset[s]; t < seq_offset[s + 1]; t++) {
            for (int64_t h = 0; h < n_head; h++) attend(p, &e, seq_offset[s], t, h, y + t * p->y_columns + h * e.d_v);
        }
    }
    free(e.k);
    free(e.v);
    return y;
}

/* ---- running ---- */

/* The cache of one run and the tokens of one call. */
typedef struct {
    ml_kv_view view;
    int32_t *table;
    int32_t seq[N_TOKEN], pos[N_TOKEN], token[N_TOKEN];
} cache;

static int64_t row_bytes(ml_dtype dtype, int64_t n)
{
    return (int64_t)ml_dtype_row_bytes(dtype, n);
}

static void make_cache(const problem *p, const plan *how, cache *c)
{
    int64_t pages_per_seq = (N_TOKEN + how->page_size - 1) / how->page_size;
    int64_t n_page = N_SEQ * pages_per_seq, n_row = n_page * how->page_size;
    c->table = malloc((size_t)n_page * sizeof *c->table);
    for (int i = 0; i < n_page; i++) c->table[i] = i;
    ml_rng rng = ml_rng_make(5, 5);
    for (int64_t i = n_page - 1; how->shuffle_pages && i > 0; i--) {
        int64_t j = (int64_t)ml_rng_below(&rng, (uint64_t)i + 1);
        int32_t swap = c->table[i];
        c->table[i] = c->table[j];
        c->table[j] = swap;
    }
    /* Rows are padded, and filled with NaN: a row that was not stored must not be read. */
    int64_t k_bytes = row_bytes(how->dtype, p->k_columns) + (p->mla ? row_bytes(how->dtype, p->latent.n_rot) : 0) + 12;
    int64_t v_bytes = row_bytes(how->dtype, p->v_columns) + 4;
    c->view = (ml_kv_view){ .dtype = how->dtype,
                            .k = malloc((size_t)(n_row * k_bytes)),
                            .v = malloc((size_t)(n_row * v_bytes)),
                            .k_row_bytes = k_bytes,
                            .v_row_bytes = v_bytes,
                            .page_size = how->page_size,
                            .page_table = c->table,
                            .pages_per_seq = pages_per_seq };
    memset(c->view.k, 0xff, (size_t)(n_row * k_bytes));
    memset(c->view.v, 0xff, (size_t)(n_row * v_bytes));
}

static void free_cache(cache *c)
{
    free(c->view.k);
    free(c->view.v);
    free(c->table);
}

/* All tokens in the plan's order; those of one sequence stay in theirs. */
static void order_tokens(const plan *how, cache *c)
{
    int n = 0;
    for (int outer = 0; outer < (how->round_robin ? N_TOKEN : N_SEQ); outer++) {
        for (int inner = 0; inner < (how->round_robin ? N_SEQ : N_TOKEN); inner++) {
            int s = how->round_robin ? inner : outer, p = how->round_robin ? outer : inner;
            if (p >= seq_offset[s + 1] - seq_offset[s]) continue;
            c->seq[n] = s;
            c->pos[n] = p;
            c->token[n++] = seq_offset[s] + p;
        }
    }
    assert_int_equal(n, N_TOKEN);
}

static bool is_decoded(phase in, int32_t token)
{
    return in == DECODE || (in == MIXED && token % 5 < 2);
}

/* Tokens at .. at + n - 1, those to be decoded first; how many these are. */
static int64_t sort_phases(phase in, cache *c, int64_t at, int64_t n)
{
    cache old = *c;
    int64_t to = at, n_decode = 0;
    for (int decoded = 1; decoded >= 0; decoded--) {
        for (int64_t i = at; i < at + n; i++) {
            if (is_decoded(in, old.token[i]) != (decoded == 1)) continue;
            c->seq[to] = old.seq[i];
            c->pos[to] = old.pos[i];
            c->token[to++] = old.token[i];
        }
        if (decoded) n_decode = to - at;
    }
    return n_decode;
}

/* Rows token[0..n) of src, [.., columns]. */
static ml_tensor *gather(ml_ctx *ctx, const float *src, int64_t columns, const int32_t *token, int64_t n)
{
    ml_tensor *x = ml_tensor_new_2d(ctx, ML_F32, n, columns);
    for (int64_t i = 0; x && i < n; i++) {
        memcpy(ml_f32(x) + i * columns, src + token[i] * columns, (size_t)columns * sizeof(float));
    }
    return x;
}

static ml_tensor *run_chunk(ml_ctx *ctx, const problem *p, cache *c, int64_t at, int64_t n, int64_t n_decode)
{
    const int32_t *token = c->token + at;
    ml_tensor *seq = ml_tensor_wrap(ctx, ML_I32, 1, &n, c->seq + at);
    ml_tensor *pos = ml_tensor_wrap(ctx, ML_I32, 1, &n, c->pos + at);
    ml_tensor *q = gather(ctx, p->q, p->q_columns, token, n), *k = gather(ctx, p->k, p->k_columns, token, n);
    if (p->mla) {
        ml_tensor *k_pe = gather(ctx, p->k_pe, p->latent.n_rot, token, n);
        ml_mla_weights weights = { .kv_b = p->kv_b.value ? &p->kv_b.stored : NULL,
                                   .k_b = p->k_b.value ? &p->k_b.stored : NULL,
                                   .v_b = p->v_b.value ? &p->v_b.stored : NULL };
        ml_kv_store(ctx, &c->view, k, k_pe, NULL, seq, pos);
        return ml_attention_cached_mla(ctx, q, &weights, &c->view, seq, pos, n_decode, &p->latent);
    }
    ml_kv_store(ctx, &c->view, k, NULL, gather(ctx, p->v, p->v_columns, token, n), seq, pos);
    return ml_attention_cached(ctx, q, &c->view, seq, pos, n_decode, &p->gqa);
}

static float *run(const problem *p, const plan *how)
{
    ml_ctx ctx;
    assert_ok(ml_ctx_init(&ctx, (size_t)1 << 29, 0, &err));
    ctx.mode = ML_MODE_FAST;
    cache c;
    make_cache(p, how, &c);
    order_tokens(how, &c);
    ml_thread_set_count(how->n_thread);
    float *y = malloc((size_t)(N_TOKEN * p->y_columns) * sizeof *y);
    for (int64_t at = 0; at < N_TOKEN; at += how->chunk) {
        int64_t n = N_TOKEN - at < how->chunk ? N_TOKEN - at : how->chunk;
        int64_t n_decode = sort_phases(how->phase, &c, at, n);
        size_t mark = ml_arena_mark(&ctx.act);
        ml_tensor *out = run_chunk(&ctx, p, &c, at, n, n_decode);
        assert_ok(ml_ctx_status(&ctx, &err));
        for (int64_t i = 0; i < n; i++) {
            memcpy(y + c.token[at + i] * p->y_columns, ml_f32(out) + i * p->y_columns,
                   (size_t)p->y_columns * sizeof *y);
        }
        ml_arena_release(&ctx.act, mark);
    }
    ml_thread_set_count(0);
    free_cache(&c);
    ml_ctx_free(&ctx);
    return y;
}

/* y is a mean of values of order 1 with weights that sum to 1.  Scores are below 40; a rounding of 6e-8 in each of
 * their terms, over up to 300 additions of random sign, is an error of some 1e-5 in the worst of a million weights,
 * and a mean of many is closer. */
static const double tolerance = 1e-5;

/* Decoding over latent rows of q8_0 rounds queries and weights to 16 bits (attention_kernel_q8.h): up to Q / 65534 for
 * each column of a key, so for the queries of up to 0.8 here and the 288 columns of size 0.8 an error of the score of
 * 1.2e-5 / sqrt(3) * sqrt(288) * 0.8 = 1e-4 as standard deviation; weights' 1.5e-5 are less.  A mean of values of order
 * 1 moves by as much when a single key has most of the weight. */
static const double integer_tolerance = 5e-4;

static void expect_close(const problem *p, const plan *how, const double *expected)
{
    float *found = run(p, how);
    bool in_integers = p->mla && how->dtype == ML_Q8_0 && how->phase == DECODE;
    for (int64_t i = 0; i < N_TOKEN * p->y_columns; i++) {
        if (fabs((double)found[i] - expected[i]) <= (in_integers ? integer_tolerance : tolerance)) continue;
        fail_msg("%s, cache %s, phase %d: token %lld column %lld: %.9g, not %.9g", ml_isa_name(ml_cpu_isa()),
                 ml_dtype_name(how->dtype), (int)how->phase, (long long)(i / p->y_columns),
                 (long long)(i % p->y_columns), (double)found[i], expected[i]);
    }
    free(found);
}

static void for_each_isa(void (*check)(const problem *p, const void *arg), const problem *p, const void *arg)
{
    static const ml_isa all[] = { ML_ISA_SCALAR, ML_ISA_AVX2, ML_ISA_AVX512 };
    ml_isa best = ml_cpu_isa();
    for (int i = 0; i < 3 && all[i] <= best; i++) {
        ml_cpu_set_isa(all[i]);
        check(p, arg);
    }
    ml_cpu_set_isa(best);
}

typedef struct {
    ml_dtype dtype;
    const double *expected;
} values_arg;

static void check_both_phases(const problem *p, const void *arg)
{
    const values_arg *a = arg;
    plan how[] = { whole(DECODE, a->dtype), whole(PREFILL, a->dtype) };
    for (int i = 0; i < 2; i++) expect_close(p, &how[i], a->expected);
}

static void check_values(problem p, ml_dtype dtype)
{
    double *expected = reference(&p, dtype);
    values_arg arg = { dtype, expected };
    for_each_isa(check_both_phases, &p, &arg);
    free(expected);
    free_problem(&p);
}

static const ml_dtype cache_types[] = { ML_F32, ML_F16, ML_BF16, ML_Q8_0 };

static void test_values(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) check_values(make_gqa(4, 2, 32, 64), cache_types[i]);
    for (int i = 0; i < 3; i++) check_values(make_gqa(3, 3, 20, 33), cache_types[i]); /* no whole vectors */
    for (int i = 0; i < 4; i++) check_values(make_gqa(14, 2, 64, 32), cache_types[i]);
    check_values(make_gqa(66, 1, 4, 4), ML_F32); /* more query heads on one key head than lanes, or rows of a task */
    check_values(make_gqa(40, 1, 32, 32), ML_Q8_0);
}

static const ml_mla_param odd_shape = { .n_head = 6, .d_nope = 24, .n_rot = 8, .d_v = 20, .kv_lora_rank = 40 };
static const ml_mla_param block_shape = { .n_head = 3, .d_nope = 32, .n_rot = 32, .d_v = 24, .kv_lora_rank = 256 };

static void test_values_mla(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) check_values(make_mla(odd_shape, false, cache_types[i], ML_F32), cache_types[2 - i]);
    for (int i = 0; i < 3; i++) check_values(make_mla(odd_shape, true, cache_types[i], ML_F16), cache_types[2 - i]);
    for (int i = 0; i < 4; i++) check_values(make_mla(block_shape, false, ML_Q8_0, ML_F32), cache_types[i]);
    ml_mla_param many_heads = odd_shape;
    many_heads.n_head = 19; /* more than the rows of a task and the heads of a window */
    check_values(make_mla(many_heads, false, ML_F16, ML_F32), ML_F16);
}

static void test_values_of_block_weights(void **state)
{
    (void)state;
    for (int dtype = ML_Q8_0; dtype < ML_N_DTYPE; dtype++) {
        if (!ml_can_quantize((ml_dtype)dtype)) continue;
        bool fits_k_b = block_shape.d_nope % ml_dtype_block_length((ml_dtype)dtype) == 0;
        check_values(make_mla(block_shape, false, (ml_dtype)dtype, ML_F32), ML_F16);
        check_values(make_mla(block_shape, true, fits_k_b ? (ml_dtype)dtype : ML_Q5_0, (ml_dtype)dtype), ML_F16);
    }
}

/* ---- bits ---- */

static void expect_same_bits(const problem *p, const plan *how, const float *decoded, const float *prefilled)
{
    float *found = run(p, how);
    for (int64_t i = 0; i < N_TOKEN * p->y_columns; i++) {
        int64_t token = i / p->y_columns;
        const float *expected = is_decoded(how->phase, (int32_t)token) ? decoded : prefilled;
        if (memcmp(&found[i], &expected[i], sizeof *found) == 0) continue;
        fail_msg("%s, phase %d, chunk %d: token %lld has other bits: %.9g, not %.9g", ml_isa_name(ml_cpu_isa()),
                 (int)how->phase, how->chunk, (long long)token, (double)found[i], (double)expected[i]);
    }
    free(found);
}

static void check_bits(const problem *p, const void *arg)
{
    static const plan plans[] = {
        { .chunk = 1, .n_thread = 1, .page_size = 16 },
        { .chunk = 3, .n_thread = 1, .page_size = 512, .round_robin = true },
        { .chunk = 7, .n_thread = 2, .page_size = 64 },
        { .chunk = 29, .n_thread = 2, .page_size = 48, .shuffle_pages = true },
        { .chunk = 150, .n_thread = 1, .page_size = 1, .shuffle_pages = true, .round_robin = true },
        { .chunk = 64, .n_thread = 2, .page_size = 16, .shuffle_pages = true },
        { .chunk = N_TOKEN, .n_thread = 3, .page_size = 100, .shuffle_pages = true, .round_robin = true },
    };
    ml_dtype dtype = *(const ml_dtype *)arg;
    plan decode = whole(DECODE, dtype), prefill = whole(PREFILL, dtype);
    float *decoded = run(p, &decode), *prefilled = run(p, &prefill);
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        static const phase phases[] = { DECODE, PREFILL, MIXED };
        for (int k = 0; k < 3; k++) {
            plan how = plans[i];
            how.dtype = dtype;
            how.phase = phases[k];
            expect_same_bits(p, &how, decoded, prefilled);
        }
    }
    free(decoded);
    free(prefilled);
}

static void check_bits_of(problem p, ml_dtype dtype)
{
    for_each_isa(check_bits, &p, &dtype);
    free_problem(&p);
}

static void test_bits(void **state)
{
    (void)state;
    check_bits_of(make_gqa(4, 2, 32, 32), ML_F16);
    check_bits_of(make_gqa(4, 2, 32, 32), ML_Q8_0);
    check_bits_of(make_gqa(3, 3, 20, 33), ML_F32);
    check_bits_of(make_gqa(66, 1, 4, 4), ML_BF16);
}

static void test_bits_mla(void **state)
{
    (void)state;
    check_bits_of(make_mla(odd_shape, false, ML_F32, ML_F32), ML_F32);
    check_bits_of(make_mla(odd_shape, true, ML_F16, ML_BF16), ML_F16);
    check_bits_of(make_mla(block_shape, true, ML_Q5_0, ML_Q4_K), ML_Q8_0);
}

/* ---- long sequences ---- */

enum { LONG = 16384 + 700, N_LATE = 5, D = 32 };

/* Beyond the positions from which spans grow (64 of 256), and on both sides of blocks, windows and spans. */
static const int32_t late[N_LATE] = { 511, 512, 16383, 16384, LONG - 1 };

typedef struct {
    float *q, *k, *v; /* [N_LATE, D], [LONG, D], [LONG, D] */
    char *k_row, *v_row;
    double expected[N_LATE][D];
} long_problem;

static float *run_late(const long_problem *p, int64_t n_decode, int n_thread)
{
    enum { PAGE = 128, N_PAGE = (LONG + PAGE - 1) / PAGE };
    static const ml_attention_param param = { 1, 1, D, 0, D, D, D, 0.2f };
    int32_t table[N_PAGE], seq[N_LATE] = { 0 };
    int64_t n = N_LATE;
    for (int i = 0; i < N_PAGE; i++) table[i] = i;
    ml_kv_view view = { ML_F16, p->k_row, p->v_row, D * 2, D * 2, PAGE, table, N_PAGE };
    ml_ctx ctx;
    assert_ok(ml_ctx_init(&ctx, (size_t)1 << 26, 0, &err));
    ml_thread_set_count(n_thread);
    ml_tensor *y = ml_attention_cached(&ctx, ml_tensor_wrap(&ctx, ML_F32, 2, (int64_t[]){ N_LATE, D }, p->q), &view,
                                       ml_tensor_wrap(&ctx, ML_I32, 1, &n, seq),
                                       ml_tensor_wrap(&ctx, ML_I32, 1, &n, (void *)(uintptr_t)late), n_decode, &param);
    ml_thread_set_count(0);
    assert_ok(ml_ctx_status(&ctx, &err));
    float *copy = malloc(sizeof(float) * N_LATE * D);
    memcpy(copy, y->data, sizeof(float) * N_LATE * D);
    ml_ctx_free(&ctx);
    return copy;
}

static void test_long_sequences(void **state)
{
    (void)state;
    long_problem p = { test_random_values(7, N_LATE * D, 1, 1),
                       test_random_values(7, LONG * D, 1, 2),
                       test_random_values(7, LONG * D, 1, 3),
                       malloc(LONG * D * 2),
                       malloc(LONG * D * 2),
                       { { 0 } } };
    ml_convert_from_f32(ML_F16, p.k, p.k_row, LONG * D);
    ml_convert_to_f32(ML_F16, p.k_row, p.k, LONG * D);
    ml_convert_from_f32(ML_F16, p.v, p.v_row, LONG * D);
    ml_convert_to_f32(ML_F16, p.v_row, p.v, LONG * D);
    for (int i = 0; i < N_LATE; i++) {
        double sum = 0;
        for (int64_t s = 0; s <= late[i]; s++) {
            double score = 0;
            for (int c = 0; c < D; c++) score += (double)p.q[i * D + c] * (double)p.k[s * D + c];
            double p_s = exp((double)0.2f * score);
            sum += p_s;
            for (int c = 0; c < D; c++) p.expected[i][c] += p_s * (double)p.v[s * D + c];
        }
        for (int c = 0; c < D; c++) p.expected[i][c] /= sum;
    }
    for (int n_decode = 0; n_decode <= N_LATE; n_decode += N_LATE) {
        float *one = run_late(&p, n_decode, 1), *three = run_late(&p, n_decode, 3);
        assert_memory_equal(one, three, sizeof(float) * N_LATE * D);
        for (int i = 0; i < N_LATE * D; i++) {
            /* Weights are up to a few times 1 / 16384; their sum is rounded in spans, not one after the other. */
            assert_true(fabs((double)one[i] - p.expected[i / D][i % D]) < 1e-6);
        }
        free(one);
        free(three);
    }
    free(p.q);
    free(p.k);
    free(p.v);
    free(p.k_row);
    free(p.v_row);
}

/* ---- storing ---- */

enum { N_STORED = 96 };

static ml_status store_row(ml_ctx *ctx, ml_dtype dtype, float *x, char *row)
{
    int32_t table = 0, seq = 0, pos = 0;
    int64_t one = 1;
    ml_kv_view view = {
        dtype,  row, row + row_bytes(dtype, N_STORED), row_bytes(dtype, N_STORED), row_bytes(dtype, N_STORED), 1,
        &table, 1
    };
    ml_tensor *all = ml_tensor_wrap(ctx, ML_F32, 2, (int64_t[]){ 1, N_STORED }, x);
    return ml_kv_store(ctx, &view, ml_tensor_cols(ctx, all, 0, 64), ml_tensor_cols(ctx, all, 64, 32), all,
                       ml_tensor_wrap(ctx, ML_I32, 1, &one, &seq), ml_tensor_wrap(ctx, ML_I32, 1, &one, &pos));
}

/* As the converters round, in k (in two parts) and in v. */
static void check_stored_bits(const problem *unused, const void *arg)
{
    (void)unused;
    (void)arg;
    ml_ctx ctx;
    assert_ok(ml_ctx_init(&ctx, (size_t)1 << 22, 0, &err));
    ml_rng rng = ml_rng_make(3, 3);
    for (int trial = 0; trial < 200; trial++) {
        float x[N_STORED];
        double size = pow(10, (double)(trial % 40) / 4 - 6);
        for (int i = 0; i < N_STORED; i++) x[i] = (float)fmax(-65504, fmin(65504, size * ml_rng_normal(&rng)));
        for (int i = 32; trial % 10 == 0 && i < 64; i++) x[i] = 0;
        for (int i = 0; i < 4; i++) {
            ml_dtype dtype = cache_types[i];
            char got[2 * N_STORED * 4], want[N_STORED * 4];
            size_t n = ml_dtype_row_bytes(dtype, N_STORED);
            ml_ctx_reset(&ctx);
            assert_ok(store_row(&ctx, dtype, x, got));
            if (dtype == ML_Q8_0) {
                assert_ok(ml_quantize_rows(dtype, x, 1, N_STORED, NULL, want, &err));
            } else {
                ml_convert_from_f32(dtype, x, want, N_STORED);
            }
            assert_memory_equal(got, want, n);
            assert_memory_equal(got + n, want, n);
        }
    }
    ml_ctx_free(&ctx);
}

static void test_storing(void **state)
{
    (void)state;
    for_each_isa(check_stored_bits, NULL, NULL);
}

static void test_what_a_half_cannot_hold_is_refused(void **state)
{
    (void)state;
    static const float bad[] = { 65520, -1e30f, INFINITY, NAN };
    ml_ctx ctx;
    assert_ok(ml_ctx_init(&ctx, (size_t)1 << 22, 0, &err));
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < 4; k++) {
            float x[N_STORED] = { 0 };
            char row[2 * N_STORED * 4];
            x[70] = bad[k];
            ml_ctx_reset(&ctx);
            store_row(&ctx, cache_types[i], x, row);
            if (cache_types[i] == ML_F32 || cache_types[i] == ML_BF16) {
                assert_ok(ml_ctx_status(&ctx, &err));
            } else {
                assert_fails(ml_ctx_status(&ctx, &err), ML_EINVAL, "use --kv-cache-type bf16 or f32");
            }
        }
    }
    ml_ctx_free(&ctx);
}

/* ---- edges ---- */

static void test_no_tokens(void **state)
{
    (void)state;
    problem all[] = { make_gqa(4, 2, 32, 32), make_mla(odd_shape, false, ML_F16, ML_F32) };
    plan how = whole(DECODE, ML_F16);
    for (int i = 0; i < 2; i++) {
        ml_ctx ctx;
        cache c;
        assert_ok(ml_ctx_init(&ctx, (size_t)1 << 24, 0, &err));
        make_cache(&all[i], &how, &c);
        order_tokens(&how, &c);
        ml_tensor *y = run_chunk(&ctx, &all[i], &c, 0, 0, 0);
        assert_ok(ml_ctx_status(&ctx, &err));
        assert_non_null(y);
        assert_int_equal(y->dim[0], 0);
        free_cache(&c);
        free_problem(&all[i]);
        ml_ctx_free(&ctx);
    }
}

static void expect_refusal(ml_ctx *ctx, const problem *p, cache *c, int64_t n_decode, const char *part)
{
    ml_ctx_reset(ctx);
    assert_null(run_chunk(ctx, p, c, 0, 1, n_decode));
    assert_fails(ml_ctx_status(ctx, &err), ML_EINVAL, part);
}

static void test_refusals(void **state)
{
    (void)state;
    problem p = make_gqa(4, 2, 24, 24);
    plan how = whole(PREFILL, ML_F32);
    ml_ctx ctx;
    cache c;
    assert_ok(ml_ctx_init(&ctx, (size_t)1 << 24, 0, &err));
    make_cache(&p, &how, &c);
    order_tokens(&how, &c);
    expect_refusal(&ctx, &p, &c, 2, "2 of 1 tokens are said to be generated");
    expect_refusal(&ctx, &p, &c, -1, "-1 of 1 tokens");
    c.pos[0] = 512;
    expect_refusal(&ctx, &p, &c, 0, "position 512 of sequence 0 has no page");
    c.pos[0] = 0;
    c.view.k_row_bytes = p.k_columns * 4 - 1;
    expect_refusal(&ctx, &p, &c, 0, "cannot hold a token");
    c.view.dtype = ML_Q8_0;
    expect_refusal(&ctx, &p, &c, 0, "not whole blocks of q8_0");
    c.view.dtype = ML_Q4_0;
    expect_refusal(&ctx, &p, &c, 0, "expected f32, f16, bf16 or q8_0");
    free_cache(&c);
    free_problem(&p);
    ml_ctx_free(&ctx);
}

static void test_refused_weights(void **state)
{
    (void)state;
    problem joined = make_mla(odd_shape, false, ML_F32, ML_F32), split = make_mla(odd_shape, true, ML_F32, ML_F32);
    plan how = whole(PREFILL, ML_F32);
    ml_ctx ctx;
    cache c;
    assert_ok(ml_ctx_init(&ctx, (size_t)1 << 24, 0, &err));
    make_cache(&joined, &how, &c);
    order_tokens(&how, &c);
    joined.kv_b.stored.dim[0]--;
    expect_refusal(&ctx, &joined, &c, 0, "expected kv_b [264, 40], or k_b [6, 40, 24] and v_b [6, 20, 40]");
    split.v_b.stored.dim[1]--;
    expect_refusal(&ctx, &split, &c, 0, "expected kv_b");
    split.v_b.stored.dim[1]++;
    split.k_b.stored.dtype = ML_Q8_0; /* rows of 24 */
    expect_refusal(&ctx, &split, &c, 0, "whole blocks");
    free(split.k_b.value);
    split.k_b.value = NULL;
    expect_refusal(&ctx, &split, &c, 0, "expected kv_b");
    free_cache(&c);
    free_problem(&joined);
    free_problem(&split);
    ml_ctx_free(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_values_mla),
        cmocka_unit_test(test_values_of_block_weights),
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_bits_mla),
        cmocka_unit_test(test_long_sequences),
        cmocka_unit_test(test_storing),
        cmocka_unit_test(test_what_a_half_cannot_hold_is_refused),
        cmocka_unit_test(test_no_tokens),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_refused_weights),
    };
    return cmocka_run_group_tests_name("attention over a cache", tests, NULL, NULL);
}
