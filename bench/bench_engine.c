/* What the engine costs beyond the passes themselves, and what it gains from a batch.
 *
 *   bench_engine MODEL [tokens [rounds [batch]]]        batch: only the second part
 *
 * Decode of one sequence by a session (the passes and nothing else, as `moonlight bench` times them) and by the engine
 * with one request (queue, pages, sampling, callbacks), in turns of one token each, so that what else the machine does
 * meets both alike; then the engine with 16 requests at once.  Two threads. */
#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/thread.h"
#include "infer/engine.h"
#include "infer/loaded.h"
#include "infer/session.h"

#include <stdio.h>
#include <stdlib.h>

enum { N_PROMPT = 16, N_SLOT = 16 };

static ml_error err;

static void must(ml_status status)
{
    if (status == ML_OK) return;
    fprintf(stderr, "bench_engine: %s\n", err.message);
    exit(1);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int64_t n)
{
    qsort(x, (size_t)n, sizeof *x, compare);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static ml_engine *make_engine(ml_model *model, int64_t n_slot, int64_t capacity)
{
    ml_engine_config c = { .n_slot = n_slot,
                           .capacity = capacity,
                           .n_valid = model->config.vocab_size,
                           .kv_dtype = ML_SESSION_KV,
                           .reuse = true };
    ml_engine *e;
    must(ml_engine_make(model, &c, &e, &err));
    return e;
}

static void submit(ml_engine *e, const int32_t *prompt, int64_t n_gen, double temperature)
{
    int64_t id;
    ml_request q = { .prompt = prompt, .n_prompt = N_PROMPT, .max_tokens = n_gen, .sampling = ml_sampling_default() };
    q.sampling.temperature = temperature;
    must(ml_engine_submit(e, &q, &id, &err));
}

static double step(ml_engine *e)
{
    double start = ml_clock_seconds();
    must(ml_engine_step(e, &err));
    return ml_clock_seconds() - start;
}

/* Median milliseconds of a token by the session, by the engine, and of their differences. */
static void compare_one(ml_model *model, const int32_t *prompt, int64_t n_gen, double temperature)
{
    double *bare = calloc((size_t)n_gen, sizeof *bare), *engine = calloc((size_t)n_gen, sizeof *engine);
    double *more = calloc((size_t)n_gen, sizeof *more), sums[2] = { 0 };
    ml_session *s;
    if (!bare || !engine || !more) exit(1);
    must(ml_session_make_as(model, N_PROMPT + n_gen + 1, true, ML_SESSION_KV, &s, &err));
    must(ml_session_append(s, prompt, N_PROMPT, &err));
    ml_engine *e = make_engine(model, 1, N_PROMPT + n_gen + 1);
    submit(e, prompt, n_gen + 1, temperature);
    step(e); /* the prompt, and the first token */
    for (int64_t i = 0; i < n_gen; i++) {
        for (int k = 0; k < 2; k++) { /* who is first changes: the second finds what the first left in the caches */
            if ((k ^ (int)(i & 1)) == 0) {
                double start = ml_clock_seconds();
                must(ml_session_append_generated(s, prompt[i % N_PROMPT], &err));
                bare[i] = ml_clock_seconds() - start;
            } else {
                engine[i] = step(e);
            }
        }
        more[i] = engine[i] - bare[i];
        sums[0] += bare[i];
        sums[1] += engine[i];
    }
    double m = median(bare, n_gen), d = median(more, n_gen);
    printf("temperature %g: session %.4f ms a token, engine %.4f, median of the differences %.4f ms (%.2f %%); "
           "sums %.2f and %.2f ms\n",
           temperature, 1e3 * m, 1e3 * median(engine, n_gen), 1e3 * d, 100 * d / m, 1e3 * sums[0], 1e3 * sums[1]);
    ml_engine_free(e);
    ml_session_free(s);
    free(bare);
    free(engine);
    free(more);
}

/* Tokens per second of n requests at once, once their prompts are read. */
static double measure_batch(ml_model *model, const int32_t *prompt, int64_t n, int64_t n_gen)
{
    ml_engine *e = make_engine(model, n, N_PROMPT + n_gen + 1);
    double seconds = 0;
    for (int64_t i = 0; i < n; i++) submit(e, prompt + i * N_PROMPT, n_gen + 1, 0);
    step(e);
    while (ml_engine_is_busy(e)) seconds += step(e);
    ml_engine_free(e);
    return (double)(n * n_gen) / seconds;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: bench_engine MODEL [tokens [rounds [batch]]]\n");
        return 2;
    }
    int64_t n_gen = argc > 2 ? atoll(argv[2]) : 64, rounds = argc > 3 ? atoll(argv[3]) : 3;
    ml_thread_set_count(2);
    ml_model *model;
    ml_memory_budget budget = { 0 };
    must(ml_loaded_open_weights(argv[1], "auto", &budget, &model, &err));
    int32_t prompt[N_SLOT * N_PROMPT];
    ml_rng rng = ml_rng_make(5, 0);
    for (int i = 0; i < N_SLOT * N_PROMPT; i++) {
        prompt[i] = (int32_t)ml_rng_below(&rng, (uint64_t)model->config.vocab_size);
    }
    for (int64_t r = 0; r < rounds; r++) {
        if (argc <= 4) {
            compare_one(model, prompt, n_gen, 0);
            compare_one(model, prompt, n_gen, 1);
        }
        double one = measure_batch(model, prompt, 1, n_gen), many = measure_batch(model, prompt, N_SLOT, n_gen);
        printf("one request %.1f tokens/s, %d at once %.1f: %.2f times\n", one, N_SLOT, many, many / one);
    }
    ml_model_free(model);
    return 0;
}
