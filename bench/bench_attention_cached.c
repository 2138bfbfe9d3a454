/* Speed of attention over a cache in Moonlight-16B's shape (27 layers, 16 heads, latent rows of 512 + 64), every layer
 * with its own cache and its own kv_b as in a model, so that all of it comes from memory, and of grouped-query
 * attention in a common shape.
 *   bench_attention_cached [mla|gqa [cache type [weight type [repeats [decode]]]]]      decode: no prefill
 *   MOONLIGHT_ISA=avx2 bench_attention_cached ...
 * Shares are of what the same run measures: reading 512 MiB with all threads, and our product of small matrices that
 * stay in the first-level cache, which runs at the processor's fused multiply-add rate.
 * Bytes and operations are those of the definition: the cache and the weights once, and for prefill the decompression
 * of every position once and the causal half of the scores. */
#include "base/clock.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "ops/cached.h"
#include "ops/cpu/attention_kernel.h"
#include "tensor/blocks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_LAYER = 27, PAGE = 64, MAX_DEPTH = 8192 + PAGE, RANK = 512, N_ROT = 64, D_NOPE = 128, D_V = 128, N_HEAD = 16 };
enum { GQA_HEADS = 32, GQA_KV_HEADS = 8, D_HEAD = 128 };

/* ---- what the machine can do ---- */

static const int64_t *big;
static volatile int64_t sink;

static void read_range(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)arg;
    (void)thread;
    int64_t a = 0, b = 0, c = 0, d = 0;
    for (int64_t i = begin * 8192; i < end * 8192; i += 4) {
        a += big[i];
        b += big[i + 1];
        c += big[i + 2];
        d += big[i + 3];
    }
    sink = a + b + c + d;
}

/* Bytes per second. */
static double measure_reading(void)
{
    enum { N = 1024 }; /* times 64 KiB, times 8 */
    ml_arena memory;
    ml_error err;
    if (ml_arena_init(&memory, (size_t)N * 8 * 65536, &err) != ML_OK) exit(1);
    memset(memory.base, 1, memory.capacity);
    big = (const int64_t *)(const void *)memory.base;
    double best = INFINITY;
    for (int i = 0; i < 8; i++) {
        double start = ml_clock_seconds();
        ml_parallel_for(8 * N, 64, read_range, NULL);
        best = fmin(best, ml_clock_seconds() - start);
    }
    ml_arena_free(&memory);
    return (double)N * 8 * 65536 / best;
}

static void multiply(void *arg, int64_t begin, int64_t end, int thread)
{
    enum { M = 64, K = 128, N = 32 };
    static _Thread_local float a[M * K], b[K * N], c[M * N];
    (void)arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        ml_attention_kernel_get()->product(&(ml_attention_product){
            .m = M, .n = N, .k = K, .a = a, .a_row = K, .a_col = 1, .b = b, .b_stride = N, .c = c, .c_stride = N });
    }
}

/* fp32 operations per second, two for a multiply-add. */
static double measure_multiplying(void)
{
    enum { N = 4096 };
    double best = INFINITY;
    for (int i = 0; i < 20; i++) {
        double start = ml_clock_seconds();
        ml_parallel_for(N, 16, multiply, NULL);
        best = fmin(best, ml_clock_seconds() - start);
    }
    return 2.0 * 64 * 128 * 32 * N / best;
}

/* ---- a model's worth of caches and weights ---- */

typedef struct {
    ml_ctx ctx;
    ml_arena memory;
    bool mla;
    ml_dtype kv, weight;
    int64_t k_bytes, v_bytes;
    char *k[N_LAYER], *v[N_LAYER];
    ml_tensor kv_b[N_LAYER];
    int32_t table[MAX_DEPTH / PAGE];
    double read_rate, flop_rate;
    int n_repeat;
} bench;

static void *take(bench *b, int64_t n_bytes)
{
    void *p = ml_arena_alloc(&b->memory, (size_t)n_bytes);
    if (!p) exit(1);
    return p;
}

/* n_row rows of random numbers in any type, the same every 64 rows. */
static void *random_rows(bench *b, ml_dtype dtype, int64_t n_row, int64_t n_column, float scale)
{
    enum { N = 64 };
    ml_error err;
    ml_rng rng = ml_rng_make(3, (uint64_t)n_column);
    size_t row_bytes = ml_dtype_row_bytes(dtype, n_column), part = N * row_bytes;
    float *x = malloc((size_t)(N * n_column) * sizeof *x);
    char *rows = take(b, n_row * (int64_t)row_bytes), *piece = malloc(part);
    for (int64_t i = 0; i < N * n_column; i++) x[i] = scale * ((float)ml_rng_uniform(&rng) - 0.5f);
    if (ml_dtype_is_block(dtype)) {
        if (ml_quantize_rows(dtype, x, N, n_column, NULL, piece, &err) != ML_OK) {
            fprintf(stderr, "%s\n", err.message);
            exit(1);
        }
    } else {
        ml_convert_from_f32(dtype, x, piece, N * n_column);
    }
    for (int64_t i = 0; i < n_row; i += N) {
        memcpy(rows + (size_t)i * row_bytes, piece, n_row - i < N ? (size_t)(n_row - i) * row_bytes : part);
    }
    free(x);
    free(piece);
    return rows;
}

static void make(bench *b)
{
    ml_error err;
    if (ml_ctx_init(&b->ctx, (size_t)4 << 30, 0, &err) != ML_OK ||
        ml_arena_init(&b->memory, (size_t)16 << 30, &err) != ML_OK) {
        exit(1);
    }
    b->ctx.mode = ML_MODE_FAST;
    for (int i = 0; i < MAX_DEPTH / PAGE; i++) b->table[i] = i;
    int64_t k_columns = b->mla ? RANK + N_ROT : GQA_KV_HEADS * D_HEAD, v_columns = b->mla ? 0 : k_columns;
    b->k_bytes = (int64_t)ml_dtype_row_bytes(b->kv, k_columns);
    b->v_bytes = (int64_t)ml_dtype_row_bytes(b->kv, v_columns);
    for (int i = 0; i < N_LAYER; i++) {
        b->k[i] = random_rows(b, b->kv, MAX_DEPTH, k_columns, 2);
        if (!b->mla) b->v[i] = random_rows(b, b->kv, MAX_DEPTH, v_columns, 2);
        if (!b->mla) continue;
        int64_t n_row = N_HEAD * (D_NOPE + D_V);
        b->kv_b[i] =
            ml_tensor_describe(b->weight, 2, (int64_t[]){ n_row, RANK }, random_rows(b, b->weight, n_row, RANK, 0.1f));
    }
}

/* n_new tokens after `depth` cached ones through all layers, decoded or as a prompt; seconds. */
static double run(bench *b, int64_t depth, int64_t n_new, bool decode)
{
    const ml_mla_param mla = { N_HEAD, D_NOPE, N_ROT, D_V, RANK, 0.07f };
    const ml_attention_param gqa = { GQA_HEADS, GQA_KV_HEADS, D_HEAD, 0, D_HEAD, D_HEAD, D_HEAD, 0.09f };
    ml_ctx *ctx = &b->ctx;
    ml_ctx_reset(ctx);
    int64_t columns = b->mla ? N_HEAD * (D_NOPE + N_ROT) : GQA_HEADS * D_HEAD;
    ml_tensor *q = ml_tensor_new_2d(ctx, ML_F32, n_new, columns);
    ml_tensor *seq = ml_tensor_new_1d(ctx, ML_I32, n_new), *pos = ml_tensor_new_1d(ctx, ML_I32, n_new);
    for (int64_t i = 0; i < n_new * columns; i++) ml_f32(q)[i] = (float)(i % 97) * 0.02f - 1;
    for (int64_t t = 0; t < n_new; t++) {
        ml_i32(seq)[t] = 0;
        ml_i32(pos)[t] = (int32_t)(depth + t);
    }
    size_t mark = ml_arena_mark(&ctx->act);
    double start = ml_clock_seconds();
    for (int i = 0; i < N_LAYER; i++) {
        ml_kv_view kv = { b->kv, b->k[i], b->v[i], b->k_bytes, b->v_bytes, PAGE, b->table, MAX_DEPTH / PAGE };
        ml_mla_weights weights = { .kv_b = &b->kv_b[i] };
        int64_t n_decode = decode ? n_new : 0;
        ml_tensor *y = b->mla ? ml_attention_cached_mla(ctx, q, &weights, &kv, seq, pos, n_decode, &mla)
                              : ml_attention_cached(ctx, q, &kv, seq, pos, n_decode, &gqa);
        if (!y) {
            fprintf(stderr, "%s\n", ctx->error.message);
            exit(1);
        }
        ml_arena_release(&ctx->act, mark);
    }
    return ml_clock_seconds() - start;
}

static void report(bench *b, const char *phase, int64_t depth, int64_t n_new, bool decode)
{
    double best = INFINITY;
    for (int i = 0; i < b->n_repeat; i++) best = fmin(best, run(b, depth, n_new, decode));
    double pairs = (double)n_new * ((double)depth + (double)(n_new + 1) / 2), weights = 0, macs;
    if (b->mla) {
        double per_position = N_HEAD * (D_NOPE + D_V) * RANK;
        weights = per_position / RANK * (double)ml_dtype_row_bytes(b->weight, RANK);
        macs = decode ? pairs * N_HEAD * (2 * RANK + N_ROT) + per_position * (double)n_new
                      : pairs * N_HEAD * (D_NOPE + N_ROT + D_V) + per_position * (double)(depth + n_new);
    } else {
        macs = pairs * GQA_HEADS * 2 * D_HEAD;
    }
    double bytes = N_LAYER * (weights + (double)(depth + n_new) * (double)(b->k_bytes + b->v_bytes));
    double flop = 2 * N_LAYER * macs;
    printf("%-8s %4lld at depth %5lld: %9.3f ms, %8.1f MB at %5.1f GB/s (%3.0f %%), %8.2f GFLOP at %6.1f GFLOP/s "
           "(%3.0f %%)\n",
           phase, (long long)n_new, (long long)depth, best * 1e3, bytes * 1e-6, bytes / best * 1e-9,
           100 * bytes / best / b->read_rate, flop * 1e-9, flop / best * 1e-9, 100 * flop / best / b->flop_rate);
}

static ml_dtype parse(int argc, char **argv, int i, ml_dtype otherwise)
{
    ml_dtype dtype = otherwise;
    if (argc > i && !ml_dtype_parse(argv[i], &dtype)) exit(2);
    return dtype;
}

int main(int argc, char **argv)
{
    static bench b;
    b.mla = argc <= 1 || strcmp(argv[1], "gqa") != 0;
    b.kv = parse(argc, argv, 2, ML_F16);
    b.weight = parse(argc, argv, 3, ML_F16);
    b.n_repeat = argc > 4 ? atoi(argv[4]) : 10;
    b.read_rate = measure_reading();
    b.flop_rate = measure_multiplying();
    printf("%s, cache %s, weights %s; %d threads, %s, best of %d; reading %.1f GB/s, fp32 %.1f GFLOP/s\n",
           b.mla ? "MLA" : "GQA", ml_dtype_name(b.kv), ml_dtype_name(b.weight), ml_thread_count(),
           ml_isa_name(ml_cpu_isa()), b.n_repeat, b.read_rate * 1e-9, b.flop_rate * 1e-9);
    make(&b);
    static const int64_t depths[] = { 0, 1024, 4096, 8192 };
    for (int i = 0; i < 4; i++) report(&b, "decode", depths[i], 1, true);
    report(&b, "decode", 1024, 8, true);
    if (argc > 5 && !strcmp(argv[5], "decode")) return 0;
    b.n_repeat = (b.n_repeat + 2) / 3;
    report(&b, "prefill", 0, 512, false);
    report(&b, "prefill", 4096 - 512, 512, false);
    report(&b, "prefill", 0, 4096, false);
    ml_ctx_free(&b.ctx);
    ml_arena_free(&b.memory);
    return 0;
}
