/* Speed of attention, forward and backward, on the shapes of the models that are trained here.
 * Usage: bench_attention [repeats].  Effective GFLOP/s count the products of the causal half only. */
#include "base/clock.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "ops/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    const char *name;
    int64_t n_seq, length, n_head, n_kv_head, d_qk, d_shared, d_v;
} shape;

static const shape shapes[] = {
    { "nano-moe, 8 x 512", 8, 512, 8, 2, 24, 0, 24 },
    { "GQA 64, 2 x 1024", 2, 1024, 8, 2, 64, 0, 64 },
    { "MHA 128, 1 x 2048", 1, 2048, 4, 4, 128, 0, 128 },
    { "MLA 192/128, 1 x 1024", 1, 1024, 8, 8, 192, 64, 128 },
};

static ml_tensor *random_rows(ml_ctx *ctx, int64_t n, int64_t columns)
{
    ml_rng rng = ml_rng_make(1, (uint64_t)columns);
    ml_tensor *x = ml_tensor_new_2d(ctx, ML_F32, n, columns);
    for (int64_t i = 0; x && i < n * columns; i++) ml_f32(x)[i] = (float)ml_rng_uniform(&rng) - 0.5f;
    if (x) x->needs_grad = true;
    return x;
}

static void measure(const shape *s, int n_repeat)
{
    ml_ctx ctx;
    ml_error err;
    if (ml_ctx_init(&ctx, (size_t)2 << 30, (size_t)1 << 30, &err) != ML_OK) return;
    int64_t n = s->n_seq * s->length, d_own = s->d_qk - s->d_shared, n_offset = s->n_seq + 1;
    ml_tensor *q = random_rows(&ctx, n, s->n_head * s->d_qk), *k = random_rows(&ctx, n, s->n_kv_head * d_own);
    ml_tensor *v = random_rows(&ctx, n, s->n_kv_head * s->d_v);
    ml_tensor *shared = s->d_shared ? random_rows(&ctx, n, s->d_shared) : NULL;
    ml_tensor *seq = ml_tensor_new_1d(&ctx, ML_I32, n_offset);
    for (int i = 0; i < n_offset; i++) ml_i32(seq)[i] = (int32_t)(i * s->length);
    ml_attention_param param = { .n_head = s->n_head,
                                 .n_kv_head = s->n_kv_head,
                                 .d_qk = s->d_qk,
                                 .d_shared = s->d_shared,
                                 .d_v = s->d_v,
                                 .k_step = d_own,
                                 .v_step = s->d_v,
                                 .scale = (float)(1 / sqrt((double)s->d_qk)) };
    ml_tensor *inputs[] = { q, k, v, shared };
    for (int i = 0; i < 4; i++) {
        if (inputs[i]) ml_tape_grad(&ctx, inputs[i]);
    }
    size_t act_mark = ml_arena_mark(&ctx.act), grad_mark = ml_arena_mark(&ctx.grad);
    double forward = INFINITY, backward = INFINITY;
    for (int i = 0; i < n_repeat; i++) {
        ctx.recording = true;
        double start = ml_clock_seconds();
        ml_tensor *y = ml_attention(&ctx, q, k, v, shared, seq, &param);
        forward = fmin(forward, ml_clock_seconds() - start);
        float *dy = y ? ml_tape_grad(&ctx, y) : NULL;
        if (!dy) break;
        for (int64_t j = 0; j < ml_tensor_count(y); j++) dy[j] = 0.01f;
        start = ml_clock_seconds();
        if (ml_tape_backward(&ctx, &err) != ML_OK) break;
        backward = fmin(backward, ml_clock_seconds() - start);
        ml_arena_release(&ctx.act, act_mark);
        ml_arena_release(&ctx.grad, grad_mark);
    }
    double pairs = (double)(s->n_seq * s->n_head * s->length * (s->length + 1)) / 2;
    double forward_flop = 2 * pairs * (double)(s->d_qk + s->d_v);
    double backward_flop = 2 * pairs * (double)(3 * s->d_qk + 2 * s->d_v);
    printf("%-24s forward %8.2f ms %6.1f GFLOP/s   backward %8.2f ms %6.1f GFLOP/s\n", s->name, forward * 1e3,
           forward_flop / forward * 1e-9, backward * 1e3, backward_flop / backward * 1e-9);
    ml_ctx_free(&ctx);
}

int main(int argc, char **argv)
{
    int n_repeat = argc > 1 ? atoi(argv[1]) : 10;
    printf("%d threads, %s, best of %d\n", ml_thread_count(), ml_isa_name(ml_cpu_isa()), n_repeat);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) measure(&shapes[i], n_repeat);
    return 0;
}
