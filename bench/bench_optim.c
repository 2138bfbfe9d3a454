/* One optimizer step on the parameters of nano-moe (11.3 M), AdamW and Muon: milliseconds, and Muon's share of a
 * training step.
 *
 *   bench_optim [repeats]
 *
 * The best repeat counts: on a shared machine interference only ever slows one down.  Multiply-adds of Muon's
 * products are counted from the shapes; "direct" is the iteration as the paper writes it. */
#include "base/clock.h"
#include "base/rng.h"
#include "base/thread.h"
#include "optim/clip.h"
#include "optim/optimizer.h"

#include <stdio.h>
#include <stdlib.h>

enum { D = 192, F = 512, LAYERS = 6, EXPERTS = 4, VOCAB = 10000, D_KV = 48, TOKENS = 8 * 512, MAX_PARAM = 80 };

typedef struct {
    ml_param param[MAX_PARAM];
    int64_t n;
} table;

static void add(table *t, const char *name, ml_param_kind kind, int64_t n_matrix, int64_t rows, int64_t cols)
{
    ml_param *p = &t->param[t->n++];
    *p = (ml_param){ .name = name, .kind = kind, .n_matrix = n_matrix, .rows = rows, .cols = cols };
    size_t n = (size_t)ml_param_count(p);
    p->value = malloc(n * sizeof(float));
    p->grad = malloc(n * sizeof(float));
    if (!p->value || !p->grad) exit(1);
    ml_rng rng = ml_rng_make((uint64_t)t->n, 0);
    for (size_t i = 0; i < n; i++) {
        p->value[i] = 0.02f * (float)ml_rng_normal(&rng);
        p->grad[i] = (float)ml_rng_uniform(&rng) - 0.5f;
    }
}

static void fill(table *t)
{
    add(t, "embedding", ML_PARAM_EMBEDDING, 1, VOCAB, D);
    for (int i = 0; i < LAYERS; i++) {
        add(t, "attention_norm", ML_PARAM_NORM, 1, 1, D);
        add(t, "q", ML_PARAM_MATRIX, 1, D, D);
        add(t, "k", ML_PARAM_MATRIX, 1, D_KV, D);
        add(t, "v", ML_PARAM_MATRIX, 1, D_KV, D);
        add(t, "o", ML_PARAM_MATRIX, 1, D, D);
        add(t, "mlp_norm", ML_PARAM_NORM, 1, 1, D);
        add(t, "router", ML_PARAM_ROUTER, 1, EXPERTS, D);
        add(t, "experts.gate_up", ML_PARAM_EXPERT, 2 * EXPERTS, F, D);
        add(t, "experts.down", ML_PARAM_EXPERT, EXPERTS, D, F);
        add(t, "shared.gate_up", ML_PARAM_MATRIX, 2, F, D);
        add(t, "shared.down", ML_PARAM_MATRIX, 1, D, F);
    }
    add(t, "norm", ML_PARAM_NORM, 1, 1, D);
}

static double count_direct(const table *t)
{
    double total = 0.0;
    for (int64_t i = 0; i < t->n; i++) {
        const ml_param *p = &t->param[i];
        if (p->kind != ML_PARAM_MATRIX && p->kind != ML_PARAM_EXPERT && p->kind != ML_PARAM_ROUTER) continue;
        double a = (double)(p->rows < p->cols ? p->rows : p->cols), b = (double)(p->rows < p->cols ? p->cols : p->rows);
        total += (double)p->n_matrix * 5.0 * (2.0 * a * a * b + a * a * a);
    }
    return total;
}

static double time_step(ml_optimizer *opt, int repeats)
{
    static ml_error err;
    ml_optim_stats stats;
    double best = 1e9;
    for (int i = 0; i < repeats; i++) {
        double start = ml_clock_seconds();
        if (ml_optimizer_step(opt, 1e-3, 1.0, &stats, &err) != ML_OK) exit(1);
        double seconds = ml_clock_seconds() - start;
        if (seconds < best) best = seconds;
    }
    printf("  update rms %.4f (muon %.4f, adamw %.4f)\n", stats.rms_all, stats.rms[ML_GROUP_MUON],
           stats.rms[ML_GROUP_ADAMW]);
    return best;
}

int main(int argc, char **argv)
{
    static ml_error err;
    static table t;
    int repeats = argc > 1 ? atoi(argv[1]) : 10;
    fill(&t);
    double norm, start = ml_clock_seconds();
    if (ml_clip_compute_norm(t.param, t.n, &norm, &err) != ML_OK) exit(1);
    printf("threads %d; gradient norm %.1f ms\n", ml_thread_count(), 1e3 * (ml_clock_seconds() - start));
    /* forward and backward: 6 multiply-add pairs for each active parameter and token */
    double step_flop = 6.0 * 7788480.0 * TOKENS;
    for (int name = ML_OPTIM_ADAMW; name <= ML_OPTIM_MUON; name++) {
        ml_optim_config config = ml_optim_default_config((ml_optim_name)name);
        ml_optimizer *opt;
        if (ml_optimizer_make(&config, t.param, t.n, &opt, &err) != ML_OK) {
            fprintf(stderr, "%s\n", err.message);
            return 1;
        }
        double seconds = time_step(opt, repeats);
        printf("%s: %.1f ms", name == ML_OPTIM_MUON ? "muon" : "adamw", 1e3 * seconds);
        if (name == ML_OPTIM_MUON)
            printf("; direct products %.1f GFLOP, %.1f %% of a step of %d tokens; effective %.0f GFLOP/s",
                   2e-9 * count_direct(&t), 200.0 * count_direct(&t) / step_flop, TOKENS,
                   2e-9 * count_direct(&t) / seconds);
        printf("\n");
        ml_optimizer_free(opt);
    }
    return 0;
}
