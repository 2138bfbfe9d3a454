/* Attention over a cache: the same values as the training operator on the same data (whose own truth is the
 * double-precision reference of the operator tests), and the same bits however the work is cut. */
#include "ops/cached.h"

#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;

/* Shorter and longer than a block of 64 keys and a span of 256; one of a single token. */
enum { N_SEQ = 3, N_TOKEN = 70 + 1 + 300 };
static const int32_t seq_offset[N_SEQ + 1] = { 0, 70, 71, N_TOKEN };

/* What both operators differ in for the two kinds of attention. */
typedef struct {
    bool mla;
    ml_attention_param gqa; /* the training operator's, for both kinds */
    ml_mla_param latent;
    int64_t q_columns, y_columns;
    float *q, *k, *v; /* GQA: [tokens, n_kv_head * d]; MLA: k is c_kv, v is NULL */
    float *k_pe;      /* MLA: [tokens, n_rot] */
    void *kv_b;       /* MLA, of dtype kv_b_dtype */
    ml_dtype kv_b_dtype;
    int64_t k_columns, v_columns, kv_b_rows;
} problem;

/* One way to run it: the order of the tokens, how many per call, where pages lie. */
typedef struct {
    bool round_robin; /* one token of each sequence in turn; else sequence after sequence */
    int chunk;
    int n_thread;
    int32_t page_size;
    bool shuffle_pages;
    ml_dtype dtype; /* of the cache */
} plan;

static const plan whole = { .chunk = N_TOKEN, .n_thread = 1, .page_size = 512, .dtype = ML_F32 };

static float *random_values(int64_t n, double std, uint64_t stream)
{
    ml_rng rng = ml_rng_make(7, stream);
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(std * ml_rng_normal(&rng));
    return x;
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
    p.q = random_values(N_TOKEN * p.q_columns, 1.5, 1);
    p.k = random_values(N_TOKEN * p.k_columns, 1.5, 2);
    p.v = random_values(N_TOKEN * p.v_columns, 1, 3);
    return p;
}

static problem make_mla(ml_dtype kv_b_dtype)
{
    enum { N_HEAD = 6, D_NOPE = 24, N_ROT = 8, D_V = 20, RANK = 40 };
    problem p = { .mla = true,
                  .gqa = { .n_head = N_HEAD,
                           .n_kv_head = N_HEAD,
                           .d_qk = D_NOPE + N_ROT,
                           .d_shared = N_ROT,
                           .d_v = D_V,
                           .k_step = D_NOPE + D_V,
                           .v_step = D_NOPE + D_V,
                           .scale = 0.2f },
                  .latent = { .n_head = N_HEAD,
                              .d_nope = D_NOPE,
                              .n_rot = N_ROT,
                              .d_v = D_V,
                              .kv_lora_rank = RANK,
                              .scale = 0.2f },
                  .q_columns = N_HEAD * (D_NOPE + N_ROT),
                  .y_columns = N_HEAD * D_V,
                  .kv_b_dtype = kv_b_dtype,
                  .k_columns = RANK,
                  .kv_b_rows = N_HEAD * (D_NOPE + D_V) };
    p.q = random_values(N_TOKEN * p.q_columns, 1.5, 1);
    p.k = random_values(N_TOKEN * RANK, 1, 2);
    p.k_pe = random_values(N_TOKEN * N_ROT, 1, 3);
    float *kv_b = random_values(p.kv_b_rows * RANK, 0.15, 4);
    p.kv_b = malloc((size_t)(p.kv_b_rows * RANK) * sizeof(float));
    ml_convert_from_f32(kv_b_dtype, kv_b, p.kv_b, p.kv_b_rows * RANK);
    free(kv_b);
    return p;
}

static void free_problem(problem *p)
{
    free(p->q);
    free(p->k);
    free(p->v);
    free(p->k_pe);
    free(p->kv_b);
}

/* [tokens, n] -> the kv_b output that the training operator reads, in double precision. */
static float *decompress(const problem *p)
{
    int64_t n = p->kv_b_rows, rank = p->k_columns;
    float *w = malloc((size_t)(n * rank) * sizeof *w), *out = malloc((size_t)(N_TOKEN * n) * sizeof *out);
    ml_convert_to_f32(p->kv_b_dtype, p->kv_b, w, n * rank);
    for (int64_t t = 0; t < N_TOKEN; t++) {
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;
            for (int64_t j = 0; j < rank; j++) sum += (double)w[i * rank + j] * (double)p->k[t * rank + j];
            out[t * n + i] = (float)sum;
        }
    }
    free(w);
    return out;
}

static ml_tensor *matrix(ml_ctx *ctx, int64_t columns, float *data)
{
    return ml_tensor_wrap(ctx, ML_F32, 2, (int64_t[]){ N_TOKEN, columns }, data);
}

static float *run_training(const problem *p)
{
    ml_ctx ctx;
    assert_ok(ml_ctx_init(&ctx, (size_t)1 << 28, 0, &err));
    int64_t n_offset = N_SEQ + 1;
    ml_tensor *seq = ml_tensor_wrap(&ctx, ML_I32, 1, &n_offset, (void *)(uintptr_t)seq_offset), *y;
    ml_tensor *q = matrix(&ctx, p->q_columns, p->q);
    if (p->mla) {
        float *kv = decompress(p);
        ml_tensor *all = matrix(&ctx, p->kv_b_rows, kv);
        ml_tensor *v = ml_tensor_cols(&ctx, all, p->latent.d_nope, p->kv_b_rows - p->latent.d_nope);
        y = ml_attention(&ctx, q, all, v, matrix(&ctx, p->latent.n_rot, p->k_pe), seq, &p->gqa);
        free(kv);
    } else {
        ml_tensor *k = matrix(&ctx, p->k_columns, p->k), *v = matrix(&ctx, p->v_columns, p->v);
        y = ml_attention(&ctx, q, k, v, NULL, seq, &p->gqa);
    }
    assert_ok(ml_ctx_status(&ctx, &err));
    size_t n_bytes = (size_t)(N_TOKEN * p->y_columns) * sizeof(float);
    float *copy = malloc(n_bytes);
    memcpy(copy, y->data, n_bytes);
    ml_ctx_free(&ctx);
    return copy;
}

/* The cache of one run and the tokens of one call. */
typedef struct {
    ml_kv_view view;
    int32_t *table;
    int32_t seq[N_TOKEN], pos[N_TOKEN], token[N_TOKEN];
} cache;

static void make_cache(const problem *p, const plan *how, cache *c)
{
    int64_t element = (int64_t)ml_dtype_size(how->dtype),
            pages_per_seq = (N_TOKEN + how->page_size - 1) / how->page_size;
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
    int64_t k_bytes = (p->k_columns + (p->mla ? p->latent.n_rot : 0) + 3) * element;
    int64_t v_bytes = (p->v_columns + 1) * element;
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

/* Rows token[0..n) of src, [.., columns]. */
static ml_tensor *gather(ml_ctx *ctx, const float *src, int64_t columns, const int32_t *token, int64_t n)
{
    ml_tensor *x = ml_tensor_new_2d(ctx, ML_F32, n, columns);
    for (int64_t i = 0; i < n; i++) {
        memcpy(ml_f32(x) + i * columns, src + token[i] * columns, (size_t)columns * sizeof(float));
    }
    return x;
}

static ml_tensor *run_chunk(ml_ctx *ctx, const problem *p, cache *c, int64_t at, int64_t n)
{
    const int32_t *token = c->token + at;
    ml_tensor *seq = ml_tensor_wrap(ctx, ML_I32, 1, &n, c->seq + at);
    ml_tensor *pos = ml_tensor_wrap(ctx, ML_I32, 1, &n, c->pos + at);
    ml_tensor *q = gather(ctx, p->q, p->q_columns, token, n), *k = gather(ctx, p->k, p->k_columns, token, n);
    if (p->mla) {
        ml_tensor *k_pe = gather(ctx, p->k_pe, p->latent.n_rot, token, n);
        ml_tensor kv_b = ml_tensor_describe(p->kv_b_dtype, 2, (int64_t[]){ p->kv_b_rows, p->k_columns }, p->kv_b);
        ml_kv_store(ctx, &c->view, k, k_pe, NULL, seq, pos);
        return ml_attention_cached_mla(ctx, q, &kv_b, &c->view, seq, pos, &p->latent);
    }
    ml_kv_store(ctx, &c->view, k, NULL, gather(ctx, p->v, p->v_columns, token, n), seq, pos);
    return ml_attention_cached(ctx, q, &c->view, seq, pos, &p->gqa);
}

static float *run_cached(const problem *p, const plan *how)
{
    ml_ctx ctx;
    assert_ok(ml_ctx_init(&ctx, (size_t)1 << 28, 0, &err));
    ctx.mode = ML_MODE_FAST;
    cache c;
    make_cache(p, how, &c);
    order_tokens(how, &c);
    ml_thread_set_count(how->n_thread);
    float *y = malloc((size_t)(N_TOKEN * p->y_columns) * sizeof *y);
    for (int64_t at = 0; at < N_TOKEN; at += how->chunk) {
        int64_t n = N_TOKEN - at < how->chunk ? N_TOKEN - at : how->chunk;
        size_t mark = ml_arena_mark(&ctx.act);
        ml_tensor *out = run_chunk(&ctx, p, &c, at, n);
        assert_ok(ml_ctx_status(&ctx, &err));
        for (int64_t i = 0; i < n; i++) {
            memcpy(y + c.token[at + i] * p->y_columns, ml_f32(out) + i * p->y_columns,
                   (size_t)p->y_columns * sizeof *y);
        }
        ml_arena_release(&ctx.act, mark);
    }
    ml_thread_set_count(0);
    free(c.view.k);
    free(c.view.v);
    free(c.table);
    ml_ctx_free(&ctx);
    return y;
}

static void expect_close(const problem *p, const plan *how, double tolerance)
{
    float *expected = run_training(p), *found = run_cached(p, how);
    for (int64_t i = 0; i < N_TOKEN * p->y_columns; i++) {
        double difference = fabs((double)found[i] - (double)expected[i]);
        if (!(difference <= tolerance)) {
            fail_msg("token %lld column %lld: %.9g, training has %.9g", (long long)(i / p->y_columns),
                     (long long)(i % p->y_columns), (double)found[i], (double)expected[i]);
        }
    }
    free(expected);
    free(found);
}

static void expect_same_bits(const problem *p, ml_dtype dtype)
{
    static const plan plans[] = {
        { .chunk = 1, .n_thread = 1, .page_size = 16 },
        { .chunk = 3, .n_thread = 1, .page_size = 512, .round_robin = true },
        { .chunk = 29, .n_thread = 2, .page_size = 48, .shuffle_pages = true }, /* few tasks: threads share spans */
        { .chunk = 150, .n_thread = 1, .page_size = 1, .shuffle_pages = true, .round_robin = true },
        { .chunk = 64, .n_thread = 2, .page_size = 16, .shuffle_pages = true },
        { .chunk = N_TOKEN, .n_thread = 3, .page_size = 100, .shuffle_pages = true, .round_robin = true },
    };
    plan first = whole;
    first.dtype = dtype;
    float *expected = run_cached(p, &first);
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        plan how = plans[i];
        how.dtype = dtype;
        float *found = run_cached(p, &how);
        for (int64_t j = 0; j < N_TOKEN * p->y_columns; j++) {
            if (memcmp(&found[j], &expected[j], sizeof *found) == 0) continue;
            fail_msg("plan %zu: token %lld has other bits", i, (long long)(j / p->y_columns));
        }
        free(found);
    }
    free(expected);
}

/* Each with every instruction set of the machine. */
static void for_each_isa(void (*check)(problem *p), problem (*make)(void))
{
    ml_isa best = ml_cpu_isa();
    problem p = make();
    for (int isa = ML_ISA_SCALAR; isa <= (int)best; isa++) {
        ml_cpu_set_isa((ml_isa)isa);
        check(&p);
    }
    ml_cpu_set_isa(best);
    free_problem(&p);
}

/* y is a mean of values of order 1 with weights that sum to 1.  Both sides differ by fp32 rounding of scores of
 * magnitude up to 20 (relative 6e-8 each, over d additions, so about 2e-6 in a weight) and of the sum. */
static const double tolerance = 1e-5;

static problem make_small_gqa(void)
{
    return make_gqa(4, 2, 24, 24);
}

static problem make_mha(void)
{
    return make_gqa(3, 3, 20, 33);
}

static problem make_mqa_wide(void)
{
    return make_gqa(66, 1, 4, 4); /* more query heads on one key head than lanes */
}

static problem make_mla_f32(void)
{
    return make_mla(ML_F32);
}

static problem make_mla_bf16(void)
{
    return make_mla(ML_BF16);
}

static problem make_mla_f16(void)
{
    return make_mla(ML_F16);
}

static void check_values(problem *p)
{
    expect_close(p, &whole, tolerance);
}

static void check_bits(problem *p)
{
    expect_same_bits(p, ML_F32);
}

static void check_bits_f16(problem *p)
{
    expect_same_bits(p, ML_F16);
}

/* The cache rounds what is stored, so the training operator is given the rounded values. */
static void check_values_f16(problem *p)
{
    uint16_t *half = malloc((size_t)(N_TOKEN * (p->k_columns + p->v_columns)) * sizeof *half);
    ml_convert_from_f32(ML_F16, p->k, half, N_TOKEN * p->k_columns);
    ml_convert_to_f32(ML_F16, half, p->k, N_TOKEN * p->k_columns);
    ml_convert_from_f32(ML_F16, p->v, half, N_TOKEN * p->v_columns);
    ml_convert_to_f32(ML_F16, half, p->v, N_TOKEN * p->v_columns);
    free(half);
    plan how = whole;
    how.dtype = ML_F16;
    expect_close(p, &how, tolerance);
}

static void test_values(void **state)
{
    (void)state;
    for_each_isa(check_values, make_small_gqa);
    for_each_isa(check_values, make_mha);
    for_each_isa(check_values, make_mqa_wide);
    for_each_isa(check_values_f16, make_small_gqa);
}

static void test_values_mla(void **state)
{
    (void)state;
    for_each_isa(check_values, make_mla_f32);
    for_each_isa(check_values, make_mla_bf16);
    for_each_isa(check_values, make_mla_f16);
}

static void test_bits(void **state)
{
    (void)state;
    for_each_isa(check_bits, make_small_gqa);
    for_each_isa(check_bits_f16, make_mha);
    for_each_isa(check_bits, make_mqa_wide);
}

static void test_bits_mla(void **state)
{
    (void)state;
    for_each_isa(check_bits, make_mla_f32);
    for_each_isa(check_bits_f16, make_mla_bf16);
}

static void test_refusals(void **state)
{
    (void)state;
    problem p = make_small_gqa();
    ml_ctx ctx;
    assert_ok(ml_ctx_init(&ctx, (size_t)1 << 24, 0, &err));
    cache c;
    make_cache(&p, &whole, &c);
    order_tokens(&whole, &c);
    c.pos[0] = 512;
    assert_null(run_chunk(&ctx, &p, &c, 0, 1));
    assert_fails(ml_ctx_status(&ctx, &err), ML_EINVAL, "position 512 of sequence 0 has no page");
    ml_ctx_reset(&ctx);
    c.pos[0] = 0;
    c.view.k_row_bytes = p.k_columns * 4 - 1;
    assert_null(run_chunk(&ctx, &p, &c, 0, 1));
    assert_fails(ml_ctx_status(&ctx, &err), ML_EINVAL, "cannot hold a token");
    free(c.view.k);
    free(c.view.v);
    free(c.table);
    free_problem(&p);
    ml_ctx_free(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),   cmocka_unit_test(test_values_mla), cmocka_unit_test(test_bits),
        cmocka_unit_test(test_bits_mla), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("attention over a cache", tests, NULL, NULL);
}
