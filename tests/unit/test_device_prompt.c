/* Prompts over a cache in tiles on a device: against double precision with the rounding to bf16 modelled, and the same
 * bits however prompts are cut into calls, how many keys are made at a time, what else a call has, and when run again.
 * Memory that nobody has written is NaN.  On a GPU, or in builds with the emulated one there. */
#include "base/rng.h"
#include "ops/cached.h"
#include "support/operands.h"
#include "support/support.h"
#include "tensor/blocks.h"

#ifdef MOONLIGHT_CUDA_EMULATED
#include "emulate.h"
#endif

#include <math.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;
static ml_device *device;

/* One token; beyond a tile of keys and of queries; several of both; exactly a tile of keys. */
enum { N_SEQ = 4, N_TOKEN = 1 + 70 + 200 + 64, PAGE = 16, PAGES = 13 };
static const int length[N_SEQ] = { 1, 70, 200, 64 }, offset[N_SEQ] = { 0, 1, 71, 271 };

/* Tokens pos .. pos + n - 1 of a sequence in a call. */
typedef struct {
    int call, seq, pos, n;
} piece;

static const piece whole[] = { { 0, 2, 0, 200 }, { 0, 0, 0, 1 }, { 0, 1, 0, 70 }, { 0, 3, 0, 64 } };
/* Sequence 1 comes in two stretches within the first call; later calls begin where a cache is. */
static const piece cut[] = { { 0, 1, 0, 3 },  { 0, 2, 0, 37 },  { 0, 1, 3, 4 },  { 1, 2, 37, 92 }, { 1, 0, 0, 1 },
                             { 1, 1, 7, 63 }, { 2, 2, 129, 1 }, { 3, 3, 0, 64 }, { 3, 2, 130, 70 } };
#define N_PIECE(p) (sizeof(p) / sizeof *(p))

/* ---- problems ---- */

/* A matrix on the device, and the numbers it stands for here. */
typedef struct {
    ml_tensor stored;
    float *value;
} weight;

typedef struct {
    bool mla, split; /* split: k_b and v_b */
    ml_attention_param gqa;
    ml_mla_param latent;
    ml_dtype dtype, weight_type; /* of the cache, of kv_b */
    int64_t n_head, n_kv_head, d_qk, d_v;
    int64_t q_columns, k_columns, tail_columns, v_columns, y_columns;
    float *q, *k, *tail, *v; /* [N_TOKEN, columns] */
    weight kv_b, k_b, v_b;
    ml_mla_term term[N_SEQ]; /* there, rank 0: none; and here: */
    float *a[N_SEQ], *b[N_SEQ], *factor[N_SEQ];
} problem;

/* n_row x n_column numbers in a type. */
static void *encode(ml_dtype dtype, const float *x, int64_t n_row, int64_t n_column)
{
    void *data = malloc((size_t)n_row * ml_dtype_row_bytes(dtype, n_column));
    if (ml_dtype_is_block(dtype)) {
        assert_ok(ml_quantize_rows(dtype, x, n_row, n_column, NULL, data, &err));
    } else {
        ml_convert_from_f32(dtype, x, data, n_row * n_column);
    }
    return data;
}

/* As a cache or a weight of this type has them. */
static float *rounded(ml_dtype dtype, const float *x, int64_t n_row, int64_t n_column)
{
    void *data = encode(dtype, x, n_row, n_column);
    float *y = malloc((size_t)(n_row * n_column) * sizeof *y + 1);
    ml_convert_to_f32(dtype, data, y, n_row * n_column);
    free(data);
    return y;
}

static weight make_weight(ml_dtype dtype, int64_t n_row, int64_t n_column, uint64_t stream)
{
    float *x = test_random_values(7, n_row * n_column, 1 / sqrt((double)n_column), stream);
    void *data = encode(dtype, x, n_row, n_column);
    weight w = { .value = rounded(dtype, x, n_row, n_column) };
    size_t n_bytes = (size_t)n_row * ml_dtype_row_bytes(dtype, n_column);
    w.stored = ml_tensor_describe(dtype, 2, (int64_t[]){ n_row, n_column }, test_put(device, data, n_bytes));
    w.stored.device = device;
    free(data);
    free(x);
    return w;
}

static void fill_values(problem *p)
{
    p->q = test_random_values(7, N_TOKEN * p->q_columns, 1.5, 1);
    p->k = test_random_values(7, N_TOKEN * p->k_columns, 1, 2);
    p->v = test_random_values(7, N_TOKEN * p->v_columns, 1, 3);
    p->tail = test_random_values(7, N_TOKEN * p->tail_columns, 1, 4);
}

static problem make_gqa(int64_t n_head, int64_t n_kv_head, int64_t d_qk, int64_t d_v, ml_dtype dtype)
{
    problem p = { .gqa = { .n_head = n_head,
                           .n_kv_head = n_kv_head,
                           .d_qk = d_qk,
                           .d_v = d_v,
                           .k_step = d_qk,
                           .v_step = d_v,
                           .scale = 1 / sqrtf((float)d_qk) },
                  .dtype = dtype,
                  .n_head = n_head,
                  .n_kv_head = n_kv_head,
                  .d_qk = d_qk,
                  .d_v = d_v,
                  .q_columns = n_head * d_qk,
                  .k_columns = n_kv_head * d_qk,
                  .v_columns = n_kv_head * d_v,
                  .y_columns = n_head * d_v };
    fill_values(&p);
    return p;
}

static problem make_mla(ml_mla_param m, ml_dtype dtype, ml_dtype weight_type, bool split)
{
    int64_t d_qk = m.d_nope + m.n_rot;
    problem p = { .mla = true,
                  .split = split,
                  .latent = m,
                  .dtype = dtype,
                  .weight_type = weight_type,
                  .n_head = m.n_head,
                  .n_kv_head = m.n_head,
                  .d_qk = d_qk,
                  .d_v = m.d_v,
                  .q_columns = m.n_head * d_qk,
                  .k_columns = m.kv_lora_rank,
                  .tail_columns = m.n_rot,
                  .y_columns = m.n_head * m.d_v };
    p.latent.scale = 1 / sqrtf((float)d_qk);
    fill_values(&p);
    if (split) {
        p.k_b = make_weight(weight_type, m.n_head * m.kv_lora_rank, m.d_nope, 6);
        p.v_b = make_weight(weight_type, m.n_head * m.d_v, m.kv_lora_rank, 7);
    } else {
        p.kv_b = make_weight(weight_type, m.n_head * (m.d_nope + m.d_v), m.kv_lora_rank, 5);
    }
    return p;
}

/* A low-rank term of kv_b for sequences 1 (with factors) and 2. */
static void add_terms(problem *p)
{
    int64_t n_row = p->latent.n_head * (p->latent.d_nope + p->latent.d_v), rank = 3, n_column = p->latent.kv_lora_rank;
    for (int s = 1; s < 3; s++) {
        p->a[s] = test_random_values(7, rank * n_column, 0.2, 20 + (uint64_t)s);
        p->b[s] = test_random_values(7, n_row * rank, 0.5, 30 + (uint64_t)s);
        p->term[s] = (ml_mla_term){ .a = test_put(device, p->a[s], (size_t)(rank * n_column) * sizeof(float)),
                                    .b = test_put(device, p->b[s], (size_t)(n_row * rank) * sizeof(float)),
                                    .rank = rank,
                                    .scale = 0.75f };
    }
    p->factor[1] = test_random_values(7, n_row, 1, 40);
    p->term[1].factor = test_put(device, p->factor[1], (size_t)n_row * sizeof(float));
}

static void release(const void *there)
{
    if (there) ml_device_release(device, (void *)(uintptr_t)there);
}

static void free_problem(problem *p)
{
    weight *w[] = { &p->kv_b, &p->k_b, &p->v_b };
    for (int i = 0; i < 3; i++) {
        release(w[i]->stored.data);
        free(w[i]->value);
    }
    for (int s = 0; s < N_SEQ; s++) {
        release(p->term[s].a);
        release(p->term[s].b);
        release(p->term[s].factor);
        free(p->a[s]);
        free(p->b[s]);
        free(p->factor[s]);
    }
    free(p->q);
    free(p->k);
    free(p->tail);
    free(p->v);
}

/* ---- running ---- */

typedef struct {
    ml_kv_view view;
    size_t k_size, v_size;
} cache;

/* Rows with room behind them, all NaN; pages lie in an odd order. */
static cache make_cache(const problem *p)
{
    int32_t table[N_SEQ * PAGES];
    for (int i = 0; i < N_SEQ * PAGES; i++) table[i] = i * 7 % (N_SEQ * PAGES); /* 7 is coprime to 52 */
    cache c = { .view = { .dtype = p->dtype,
                          .k_row_bytes = (int64_t)(ml_dtype_row_bytes(p->dtype, p->k_columns) +
                                                   ml_dtype_row_bytes(p->dtype, p->tail_columns) + 4),
                          .v_row_bytes = (int64_t)ml_dtype_row_bytes(p->dtype, p->v_columns) + 4,
                          .page_size = PAGE,
                          .page_table = test_put(device, table, sizeof table),
                          .pages_per_seq = PAGES } };
    c.k_size = (size_t)(N_SEQ * PAGES * PAGE * c.view.k_row_bytes);
    c.v_size = (size_t)(N_SEQ * PAGES * PAGE * c.view.v_row_bytes);
    char *nan = malloc(c.k_size + c.v_size);
    memset(nan, 0xff, c.k_size + c.v_size);
    c.view.k = test_put(device, nan, c.k_size);
    c.view.v = test_put(device, nan, c.v_size);
    free(nan);
    return c;
}

static void free_cache(cache *c)
{
    release(c->view.k);
    release(c->view.v);
    release(c->view.page_table);
}

static char *download(const void *there, size_t n_bytes)
{
    char *here = malloc(n_bytes + 1);
    assert_ok(ml_device_download(device, here, there, n_bytes, &err));
    return here;
}

static void fill_arena(ml_ctx *ctx)
{
    char *bytes = malloc(ctx->data.capacity);
    memset(bytes, 0xff, ctx->data.capacity);
    assert_ok(ml_device_upload(device, ctx->data.base, bytes, ctx->data.capacity, &err));
    free(bytes);
}

/* Up to where an arena has been written. */
static size_t find_peak(ml_ctx *ctx)
{
    char *bytes = download(ctx->data.base, ctx->data.capacity);
    size_t n = ctx->data.capacity;
    while (n > 0 && bytes[n - 1] == (char)0xff) n--;
    free(bytes);
    return n;
}

typedef struct {
    float *y;    /* [N_TOKEN, y_columns] */
    size_t peak; /* bytes of the context at most */
} result;

/* One call: the cache is written before and only read by attention, and what lies before y stays. */
static void run_call(const problem *p, cache *c, const int32_t *token, const int32_t *seq, const int32_t *pos,
                     int64_t n, int64_t n_decode, result *out)
{
    static const int32_t guard[16] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };
    const float *const from[4] = { p->q, p->k, p->tail, p->v };
    const int64_t width[4] = { p->q_columns, p->k_columns, p->tail_columns, p->v_columns }, n_guard = 16;
    const ml_mla_term *term[N_SEQ];
    bool any = false;
    for (int s = 0; s < N_SEQ; s++) {
        term[s] = p->term[s].rank ? &p->term[s] : NULL;
        any = any || term[s];
    }
    ml_ctx ctx;
    assert_ok(ml_ctx_init_on(&ctx, device, (size_t)6 << 20, 0, &err));
    fill_arena(&ctx);
    ctx.mode = ML_MODE_FAST;
    ctx.precision = ML_PRECISION_BF16;
    ctx.n_decode = n_decode;
    ml_tensor *in[4] = { 0 };
    for (int i = 0; i < 4; i++) {
        if (width[i] == 0) continue;
        float *rows = malloc((size_t)(n * width[i]) * sizeof *rows);
        for (int64_t t = 0; t < n; t++) {
            memcpy(rows + t * width[i], from[i] + token[t] * width[i], (size_t)width[i] * sizeof *rows);
        }
        in[i] = ml_tensor_wrap(&ctx, ML_F32, 2, (int64_t[]){ n, width[i] }, rows);
        free(rows);
    }
    ml_tensor *s = ml_tensor_wrap(&ctx, ML_I32, 1, &n, (void *)(uintptr_t)seq);
    ml_tensor *at = ml_tensor_wrap(&ctx, ML_I32, 1, &n, (void *)(uintptr_t)pos);
    ml_kv_store(&ctx, &c->view, in[1], in[2], in[3], s, at);
    char *k = download(c->view.k, c->k_size), *v = download(c->view.v, c->v_size);
    ml_tensor *before = ml_tensor_wrap(&ctx, ML_I32, 1, &n_guard, (void *)(uintptr_t)guard), *y;
    if (p->mla) {
        ml_mla_weights weights = { .kv_b = p->split ? NULL : &p->kv_b.stored,
                                   .k_b = p->split ? &p->k_b.stored : NULL,
                                   .v_b = p->split ? &p->v_b.stored : NULL,
                                   .term = any ? term : NULL };
        y = ml_attention_cached_mla(&ctx, in[0], &weights, &c->view, s, at, n_decode, &p->latent);
    } else {
        y = ml_attention_cached(&ctx, in[0], &c->view, s, at, n_decode, &p->gqa);
    }
    assert_ok(ml_ctx_status(&ctx, &err));
    const float *rows = ml_tensor_read(&ctx, y);
    assert_ok(ml_ctx_status(&ctx, &err));
    for (int64_t t = 0; t < n; t++) {
        memcpy(out->y + token[t] * p->y_columns, rows + t * p->y_columns, (size_t)p->y_columns * sizeof *rows);
    }
    assert_memory_equal(ml_tensor_read(&ctx, before), guard, sizeof guard);
    char *k_after = download(c->view.k, c->k_size), *v_after = download(c->view.v, c->v_size);
    assert_memory_equal(k, k_after, c->k_size);
    assert_memory_equal(v, v_after, c->v_size);
    free(k);
    free(v);
    free(k_after);
    free(v_after);
    size_t peak = find_peak(&ctx);
    if (peak > out->peak) out->peak = peak;
    ml_ctx_free(&ctx);
}

/* All tokens in these pieces, at most `window` positions at a time (0: as many as the operator takes); the first
 * n_decode of each call are generated. */
static result run(const problem *p, const piece *pieces, size_t n_piece, int window, int64_t n_decode)
{
    result out = { .y = calloc((size_t)(N_TOKEN * p->y_columns), sizeof(float)) };
    int32_t token[N_TOKEN], seq[N_TOKEN], pos[N_TOKEN];
    char text[16];
    snprintf(text, sizeof text, "%d", window);
    if (window) setenv("MOONLIGHT_CUDA_WINDOW", text, 1);
    cache c = make_cache(p);
    int64_t n = 0;
    for (size_t i = 0; i < n_piece; i++) {
        for (int j = 0; j < pieces[i].n; j++, n++) {
            seq[n] = pieces[i].seq;
            pos[n] = pieces[i].pos + j;
            token[n] = offset[pieces[i].seq] + pos[n];
        }
        if (i + 1 < n_piece && pieces[i + 1].call == pieces[i].call) continue;
        run_call(p, &c, token, seq, pos, n, n_decode, &out);
        n = 0;
    }
    free_cache(&c);
    unsetenv("MOONLIGHT_CUDA_WINDOW");
    return out;
}

/* ---- the reference ---- */

static double to_bf16(double x)
{
    float f = (float)x;
    uint16_t half;
    ml_convert_from_f32(ML_BF16, &f, &half, 1);
    ml_convert_to_f32(ML_BF16, &half, &f, 1);
    return (double)f;
}

/* Element (row j of kv_b, column c) as products see it. */
static double kv_weight(const problem *p, int s, int64_t h, int64_t i, int64_t c)
{
    const ml_mla_param *m = &p->latent;
    int64_t rank = m->kv_lora_rank, j = h * (m->d_nope + m->d_v) + i;
    float w = !p->split       ? p->kv_b.value[j * rank + c]
              : i < m->d_nope ? p->k_b.value[(h * rank + c) * m->d_nope + i]
                              : p->v_b.value[(h * m->d_v + i - m->d_nope) * rank + c];
    double sum = 0;
    const ml_mla_term *t = &p->term[s];
    for (int64_t r = 0; r < t->rank; r++) sum += (double)p->b[s][j * t->rank + r] * (double)p->a[s][r * rank + c];
    sum = (double)w + (double)t->scale * sum;
    return to_bf16(p->factor[s] ? sum * (double)p->factor[s][j] : sum);
}

/* Keys [N_TOKEN, n_kv_head, d_qk] and values [N_TOKEN, n_kv_head, d_v] as tiles see them. */
typedef struct {
    double *k, *v;
} expanded;

static void expand_latent(const problem *p, const float *rows, const float *tail, expanded *e)
{
    const ml_mla_param *m = &p->latent;
    int64_t rank = m->kv_lora_rank, n_row = m->d_nope + m->d_v;
    double *w = malloc((size_t)(n_row * rank) * sizeof *w);
    for (int s = 0; s < N_SEQ; s++) {
        for (int64_t h = 0; h < m->n_head; h++) {
            for (int64_t i = 0; i < n_row * rank; i++) w[i] = kv_weight(p, s, h, i / rank, i % rank);
            for (int64_t t = offset[s]; t < offset[s] + length[s]; t++) {
                double *k = e->k + (t * m->n_head + h) * p->d_qk, *v = e->v + (t * m->n_head + h) * p->d_v;
                for (int64_t i = 0; i < n_row; i++) {
                    double sum = 0;
                    for (int64_t c = 0; c < rank; c++) sum += w[i * rank + c] * to_bf16((double)rows[t * rank + c]);
                    *(i < m->d_nope ? k + i : v + i - m->d_nope) = to_bf16(sum);
                }
                for (int64_t i = 0; i < m->n_rot; i++) k[m->d_nope + i] = to_bf16((double)tail[t * m->n_rot + i]);
            }
        }
    }
    free(w);
}

static expanded expand(const problem *p)
{
    int64_t n_k = N_TOKEN * p->n_kv_head * p->d_qk, n_v = N_TOKEN * p->n_kv_head * p->d_v;
    expanded e = { malloc((size_t)n_k * sizeof *e.k), malloc((size_t)n_v * sizeof *e.v) };
    float *k = rounded(p->dtype, p->k, N_TOKEN, p->k_columns);
    if (p->mla) {
        float *tail = rounded(p->dtype, p->tail, N_TOKEN, p->tail_columns);
        expand_latent(p, k, tail, &e);
        free(tail);
    } else {
        float *v = rounded(p->dtype, p->v, N_TOKEN, p->v_columns);
        for (int64_t i = 0; i < n_k; i++) e.k[i] = to_bf16((double)k[i]);
        for (int64_t i = 0; i < n_v; i++) e.v[i] = to_bf16((double)v[i]);
        free(v);
    }
    free(k);
    return e;
}

/* y [d_v] of a token and head, and the same sum of magnitudes. */
static void attend(const problem *p, const expanded *e, int s, int64_t t, int64_t h, double *y, double *magnitude)
{
    int64_t g = h / (p->n_head / p->n_kv_head), first = offset[s];
    float factor = (p->mla ? p->latent.scale : p->gqa.scale) * 1.4426950408889634f;
    double q[256], score[200], most = -INFINITY, sum = 0;
    for (int64_t c = 0; c < p->d_qk; c++) q[c] = to_bf16((double)(p->q[t * p->q_columns + h * p->d_qk + c] * factor));
    for (int64_t j = first; j <= t; j++) {
        score[j - first] = 0;
        for (int64_t c = 0; c < p->d_qk; c++) score[j - first] += q[c] * e->k[(j * p->n_kv_head + g) * p->d_qk + c];
        most = fmax(most, score[j - first]);
    }
    for (int64_t c = 0; c < p->d_v; c++) y[c] = magnitude[c] = 0;
    for (int64_t j = first; j <= t; j++) {
        double part = exp2(score[j - first] - most);
        sum += part;
        for (int64_t c = 0; c < p->d_v; c++) {
            double x = part * e->v[(j * p->n_kv_head + g) * p->d_v + c];
            y[c] += x;
            magnitude[c] += fabs(x);
        }
    }
    for (int64_t c = 0; c < p->d_v; c++) {
        y[c] /= sum;
        magnitude[c] /= sum;
    }
}

/* What is left is the rounding of weights to bf16, 2^-8 of each: 2^-8 of the sum of magnitudes.  Latent keys and values
 * are sums of fp32 that now and then fall on the other side when they are rounded, 2^-7 of an element: twice as much
 * again for values, and less for a score, of which a key's element is a small part. */
static void expect_reference(const problem *p, const float *y)
{
    expanded e = expand(p);
    double expected[256], magnitude[256], unit = ldexp(p->mla ? 3 : 1, -8);
    for (int s = 0; s < N_SEQ; s++) {
        for (int64_t t = offset[s]; t < offset[s] + length[s]; t++) {
            for (int64_t h = 0; h < p->n_head; h++) {
                attend(p, &e, s, t, h, expected, magnitude);
                for (int64_t c = 0; c < p->d_v; c++) {
                    double got = (double)y[t * p->y_columns + h * p->d_v + c];
                    if (fabs(got - expected[c]) <= unit * magnitude[c] + 1e-5) continue;
                    fail_msg("cache %s: position %lld of sequence %d, head %lld, column %lld is %.9g, expected %.9g",
                             ml_dtype_name(p->dtype), (long long)(t - offset[s]), s, (long long)h, (long long)c, got,
                             expected[c]);
                }
            }
        }
    }
    free(e.k);
    free(e.v);
}

/* ---- tests ---- */

static void expect_same(const problem *p, const result *a, result b, const char *what)
{
    for (int64_t i = 0; i < N_TOKEN * p->y_columns; i++) {
        if (memcmp(a->y + i, b.y + i, sizeof *b.y) == 0) continue;
        fail_msg("%s: element %lld of token %lld is %.9g and was %.9g", what, (long long)(i % p->y_columns),
                 (long long)(i / p->y_columns), (double)b.y[i], (double)a->y[i]);
    }
    free(b.y);
}

static void set_order(unsigned order)
{
#ifdef MOONLIGHT_CUDA_EMULATED
    ml_emulate_set_order(order);
#else
    (void)order;
#endif
}

static void check(problem p, bool thorough)
{
    result all = run(&p, whole, N_PIECE(whole), 0, 0);
    expect_reference(&p, all.y);
    expect_same(&p, &all, run(&p, cut, N_PIECE(cut), 0, 0), "prompts in pieces");
    result narrow = run(&p, whole, N_PIECE(whole), 64, 0);
    if (p.mla) assert_true(narrow.peak < all.peak); /* decompressed keys and values are most of what it takes */
    expect_same(&p, &all, narrow, "64 keys at a time");
    if (thorough) {
        expect_same(&p, &all, run(&p, cut, N_PIECE(cut), 64, 0), "pieces, 64 keys at a time");
        expect_same(&p, &all, run(&p, whole, N_PIECE(whole), 128, 0), "128 keys at a time");
        for (unsigned order = 1; order < 3; order++) {
            set_order(order);
            expect_same(&p, &all, run(&p, cut, N_PIECE(cut), 64, 0), "threads in another order");
            set_order(0);
        }
    }
    free(all.y);
    free_problem(&p);
}

static void test_grouped_queries(void **state)
{
    (void)state;
    check(make_gqa(4, 2, 32, 32, ML_F16), true);
    check(make_gqa(3, 1, 20, 33, ML_F32), false);
    check(make_gqa(2, 1, 64, 64, ML_Q8_0), true);
    check(make_gqa(1, 1, 128, 112, ML_BF16), false);
    check(make_gqa(1, 1, 160, 160, ML_Q8_0), false);
}

static void test_latent(void **state)
{
    (void)state;
    const ml_mla_param small = { .n_head = 3, .d_nope = 24, .n_rot = 8, .d_v = 20, .kv_lora_rank = 40 };
    const ml_mla_param odd = { .n_head = 2, .d_nope = 21, .n_rot = 6, .d_v = 19, .kv_lora_rank = 36 };
    const ml_mla_param block = { .n_head = 2, .d_nope = 32, .n_rot = 32, .d_v = 24, .kv_lora_rank = 256 };
    const ml_mla_param wide = { .n_head = 1, .d_nope = 128, .n_rot = 64, .d_v = 128, .kv_lora_rank = 64 };
    check(make_mla(small, ML_F16, ML_BF16, false), true);
    check(make_mla(odd, ML_F32, ML_F32, true), false);
    check(make_mla(odd, ML_BF16, ML_F16, false), false);
    check(make_mla(block, ML_Q8_0, ML_Q8_0, true), false);
    check(make_mla(block, ML_F16, ML_Q4_K, false), false);
    check(make_mla(wide, ML_Q8_0, ML_BF16, false), false);
}

static void test_latent_with_terms(void **state)
{
    (void)state;
    const ml_mla_param small = { .n_head = 2, .d_nope = 24, .n_rot = 8, .d_v = 20, .kv_lora_rank = 40 };
    const ml_mla_param block = { .n_head = 2, .d_nope = 32, .n_rot = 32, .d_v = 24, .kv_lora_rank = 32 };
    problem p = make_mla(small, ML_F16, ML_BF16, false);
    add_terms(&p);
    check(p, true);
    p = make_mla(block, ML_BF16, ML_Q8_0, true);
    add_terms(&p);
    check(p, false);
}

/* Generated tokens in front change nothing for prompts. */
static void test_generated_tokens_beside(void **state)
{
    (void)state;
    const ml_mla_param small = { .n_head = 2, .d_nope = 24, .n_rot = 8, .d_v = 20, .kv_lora_rank = 40 };
    static const piece pieces[] = {
        { 0, 0, 0, 1 }, { 0, 2, 0, 200 }, { 1, 3, 0, 1 }, { 1, 3, 1, 63 }, { 1, 1, 0, 70 }
    };
    for (int mla = 0; mla < 2; mla++) {
        problem p = mla ? make_mla(small, ML_F16, ML_BF16, false) : make_gqa(2, 1, 24, 24, ML_F16);
        result all = run(&p, whole, N_PIECE(whole), 0, 0), mixed = run(&p, pieces, N_PIECE(pieces), 0, 1);
        for (int s = 0; s < N_SEQ; s += 3) { /* their first tokens are generated here */
            for (int64_t i = 0; i < p.y_columns; i++) {
                int64_t at = offset[s] * p.y_columns + i;
                assert_true(fabs((double)mixed.y[at] - (double)all.y[at]) < 0.05);
                mixed.y[at] = all.y[at];
            }
        }
        expect_same(&p, &all, mixed, "generated tokens beside");
        free(all.y);
        free_problem(&p);
    }
}

/* Tokens of sequences in turn: more stretches than a launch takes. */
static void test_many_stretches(void **state)
{
    (void)state;
    enum { EACH = 25 };
    const ml_mla_param small = { .n_head = 2, .d_nope = 24, .n_rot = 8, .d_v = 20, .kv_lora_rank = 40 };
    static piece pieces[3 * EACH];
    for (int i = 0; i < 3 * EACH; i++) pieces[i] = (piece){ 0, 1 + i % 3, i / 3, 1 };
    for (int mla = 0; mla < 2; mla++) {
        problem p = mla ? make_mla(small, ML_F16, ML_BF16, false) : make_gqa(2, 1, 24, 24, ML_F16);
        if (mla) add_terms(&p);
        result all = run(&p, whole, N_PIECE(whole), 0, 0), some = run(&p, pieces, N_PIECE(pieces), 0, 0);
        for (int i = 0; i < 3 * EACH; i++) {
            int64_t at = (offset[pieces[i].seq] + pieces[i].pos) * p.y_columns;
            assert_memory_equal(some.y + at, all.y + at, (size_t)p.y_columns * sizeof *all.y);
        }
        free(some.y);
        free(all.y);
        free_problem(&p);
    }
}

static void test_bad_positions(void **state)
{
    (void)state;
    problem p = make_gqa(2, 1, 24, 24, ML_F16);
    cache c = make_cache(&p);
    ml_ctx ctx;
    const int64_t n = 1;
    int32_t seq = 0, pos = PAGES * PAGE;
    assert_ok(ml_ctx_init_on(&ctx, device, (size_t)1 << 20, 0, &err));
    ctx.precision = ML_PRECISION_BF16;
    ml_tensor *q = ml_tensor_wrap(&ctx, ML_F32, 2, (int64_t[]){ n, p.q_columns }, p.q);
    ml_tensor *s = ml_tensor_wrap(&ctx, ML_I32, 1, &n, &seq), *at = ml_tensor_wrap(&ctx, ML_I32, 1, &n, &pos);
    assert_null(ml_attention_cached(&ctx, q, &c.view, s, at, 0, &p.gqa));
    assert_fails(ml_ctx_status(&ctx, &err), ML_EINVAL, "position 208 of sequence 0 has no page");
    ml_ctx_reset(&ctx);
    q = ml_tensor_wrap(&ctx, ML_F32, 2, (int64_t[]){ n, p.q_columns }, p.q);
    s = ml_tensor_new_1d(&ctx, ML_I32, n); /* only the device knows */
    assert_null(ml_attention_cached(&ctx, q, &c.view, s, s, 0, &p.gqa));
    assert_fails(ml_ctx_status(&ctx, &err), ML_EINVAL, "known to this machine");
    ml_ctx_free(&ctx);
    free_cache(&c);
    free_problem(&p);
}

int main(void)
{
    if (!test_open_device(&device)) return TEST_SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grouped_queries),   cmocka_unit_test(test_latent),
        cmocka_unit_test(test_latent_with_terms), cmocka_unit_test(test_generated_tokens_beside),
        cmocka_unit_test(test_many_stretches),    cmocka_unit_test(test_bad_positions),
    };
    int status = cmocka_run_group_tests(tests, NULL, NULL);
    ml_device_close(device);
    return status;
}
