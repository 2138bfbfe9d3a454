/* The two operators that training a Mixture-of-Experts model spends its time in, forward and backward:
 * milliseconds and GFLOP/s of their matrix products (logprob's backward makes its logits again: that counts).
 *
 *   bench_moe [rounds [part of a name]]
 *
 * The best round counts: on a shared machine interference only ever slows a round down. */
#include "base/clock.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "ops/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *what;
    int64_t n_token, d, n_expert, top_k, f, n_vocab; /* n_vocab: logprob, n_expert: experts */
} shape;

static const shape shapes[] = {
    { "experts, nano: 4 experts of 512, top 2", 4096, 192, 4, 2, 512, 0 },
    { "experts, 6 of 2048, top 2", 4096, 512, 6, 2, 2048, 0 },
    { "experts, 64 of 512, top 6", 2048, 512, 64, 6, 512, 0 },
    { "logprob, nano: vocabulary of 10000", 4096, 192, 0, 0, 0, 10000 },
    { "logprob, vocabulary of 50304", 1024, 512, 0, 0, 0, 50304 },
};

static ml_tensor random_tensor(int n_dim, const int64_t *dims, double std, ml_rng *rng)
{
    ml_tensor t = ml_tensor_describe(ML_F32, n_dim, dims, NULL);
    int64_t n = ml_tensor_count(&t);
    float *x = ml_alloc((size_t)n * sizeof *x);
    if (!x || !(t.grad = ml_calloc((size_t)n, sizeof *x))) exit(1);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(std * (ml_rng_uniform(rng) - 0.5));
    t.data = x;
    t.needs_grad = true;
    return t;
}

static void free_tensor(ml_tensor *t)
{
    ml_free(t->data);
    ml_free(t->grad);
}

typedef struct {
    const shape *s;
    ml_tensor x, prob, w, down; /* w: gate and up of all experts, or the vocabulary */
    ml_tensor id;               /* chosen experts, or targets */
} problem;

static problem make_problem(const shape *s)
{
    ml_rng rng = ml_rng_make(11, 0);
    problem p = { .s = s, .x = random_tensor(2, (int64_t[]){ s->n_token, s->d }, 2, &rng) };
    int64_t n_id = s->n_vocab ? 1 : s->top_k;
    int32_t *id = ml_alloc((size_t)(s->n_token * n_id) * sizeof *id);
    if (!id) exit(1);
    p.id = ml_tensor_describe(ML_I32, s->n_vocab ? 1 : 2, (int64_t[]){ s->n_token, n_id }, id);
    for (int64_t t = 0; t < s->n_token; t++) {
        int64_t first = (int64_t)ml_rng_below(&rng, (uint64_t)(s->n_vocab ? s->n_vocab : s->n_expert));
        for (int64_t k = 0; k < n_id; k++) id[t * n_id + k] = (int32_t)(s->n_vocab ? first : (first + k) % s->n_expert);
    }
    if (s->n_vocab) {
        p.w = random_tensor(2, (int64_t[]){ s->n_vocab, s->d }, 0.2, &rng);
    } else {
        p.w = random_tensor(2, (int64_t[]){ s->n_expert, 2 * s->f * s->d }, 0.2, &rng);
        p.down = random_tensor(3, (int64_t[]){ s->n_expert, s->d, s->f }, 0.2, &rng);
        p.prob = random_tensor(2, (int64_t[]){ s->n_token, s->top_k }, 1, &rng);
    }
    return p;
}

static ml_tensor *half_of(ml_ctx *ctx, problem *p, int half)
{
    int64_t size = p->s->f * p->s->d;
    ml_tensor *t = ml_tensor_cols(ctx, &p->w, half * size, size);
    if (!t) exit(1);
    t->n_dim = 3;
    t->dim[1] = p->s->f;
    t->dim[2] = p->s->d;
    return t;
}

static ml_tensor *forward(ml_ctx *ctx, problem *p)
{
    if (p->s->n_vocab) return ml_logprob(ctx, &p->x, &p->w, NULL, &p->id);
    ml_experts_param param = { ML_ACT_SILU };
    return ml_experts(ctx, &p->x, &p->id, &p->prob, half_of(ctx, p, 0), half_of(ctx, p, 1), &p->down, &param);
}

static void measure(const shape *s, int n_round)
{
    problem p = make_problem(s);
    ml_ctx ctx;
    ml_error err = { 0 };
    double best_forward = 1e30, best_backward = 1e30;
    if (ml_ctx_init(&ctx, (size_t)4 << 30, (size_t)1 << 30, &err) != ML_OK) exit(1);
    for (int i = 0; i < n_round; i++) {
        ml_ctx_reset(&ctx);
        ctx.recording = true;
        double t0 = ml_clock_seconds();
        ml_tensor *y = forward(&ctx, &p);
        double t1 = ml_clock_seconds();
        float *dy = y ? ml_tape_grad(&ctx, y) : NULL;
        if (!dy) exit(1);
        for (int64_t j = 0; j < ml_tensor_count(y); j++) dy[j] = 1e-3f * (float)(j % 7 - 3);
        double t2 = ml_clock_seconds();
        if (ml_tape_backward(&ctx, &err) != ML_OK) exit(1);
        double t3 = ml_clock_seconds();
        if (t1 - t0 < best_forward) best_forward = t1 - t0;
        if (t3 - t2 < best_backward) best_backward = t3 - t2;
    }
    double unit = 2e-9 * (double)s->n_token * (double)s->d;
    double n_forward = unit * (double)(s->n_vocab ? s->n_vocab : s->top_k * 3 * s->f);
    double n_backward = n_forward * (s->n_vocab ? 3 : 2);
    printf("%-42s forward %7.2f ms %6.1f GFLOP/s   backward %7.2f ms %6.1f GFLOP/s\n", s->what, 1e3 * best_forward,
           n_forward / best_forward, 1e3 * best_backward, n_backward / best_backward);
    ml_ctx_free(&ctx);
    free_tensor(&p.x);
    free_tensor(&p.w);
    free_tensor(&p.down);
    free_tensor(&p.prob);
    ml_free(p.id.data);
}

int main(int argc, char **argv)
{
    int n_round = argc > 1 ? atoi(argv[1]) : 10;
    printf("%s, %d threads, best of %d rounds\n", ml_isa_name(ml_cpu_isa()), ml_thread_count(), n_round);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (argc < 3 || strstr(shapes[i].what, argv[2])) measure(&shapes[i], n_round);
    }
    return 0;
}
