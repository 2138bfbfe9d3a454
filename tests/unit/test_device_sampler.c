/* Tokens drawn on a device are those that the processor draws from the same logits with the same seed, whatever the
 * settings: random logits, and such as are made to be difficult; alone and many together, which gives the same bits. */
#include "infer/cuda/sample.h"
#include "infer/sampler.h"
#include "support/support.h"

#ifdef MOONLIGHT_CUDA_EMULATED
#include "emulate.h"
#endif

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 5000, N_RECENT = 12, N_TOGETHER = 6 };

static ml_error err;
static ml_device *device;
static ml_rng rng;

/* ---- logits ---- */

typedef enum {
    SPREAD,     /* as of a model */
    NARROW,     /* hardly different: nothing is cut by its weight */
    TIES,       /* few values, 0 and -0 among them */
    EQUAL,      /* one value */
    HALVES,     /* powers of two of probability, so that top-p falls between two tokens */
    NEIGHBOURS, /* one unit in the last place apart */
    INFINITE,   /* some +infinity and -infinity */
    ONE,        /* all but one -infinity */
    NOTHING,    /* all -infinity */
    HUGE_ONES,  /* of the range's ends */
    FIRST_NAN,
    SOME_NAN,
    ALL_NAN,
    N_KIND
} kind;

static float make_logit(kind k, int64_t i, int64_t n)
{
    static const float few[] = { 1, 0, -0.0f, 2.5f, -3 };
    double x = ml_rng_normal(&rng);
    switch (k) {
    case SPREAD: return (float)(3 * x);
    case NARROW: return (float)(1e-4 * x);
    case TIES: return few[ml_rng_below(&rng, 5)];
    case EQUAL: return -7.25f;
    case HALVES: return (float)(-log(2) * (double)(i * 7 % n % 40));
    case NEIGHBOURS: return nextafterf(5, (float)(i % 3) * 10);
    case INFINITE: return i % 5 == 3 ? INFINITY : i % 7 == 2 ? -INFINITY : (float)x;
    case ONE: return i == n / 2 ? (float)x : -INFINITY;
    case NOTHING: return -INFINITY;
    case HUGE_ONES: return i % 3 == 0 ? 3.4e38f : i % 3 == 1 ? -3.4e38f : (float)(1e-40 * x);
    case FIRST_NAN: return i == 0 ? NAN : (float)x;
    case SOME_NAN: return i % 3 == 1 ? NAN : (float)x;
    default: return NAN;
    }
}

/* ---- both ---- */

typedef struct {
    ml_sampling sampling;
    kind kind;
} wanted;

static float rows[N_TOGETHER * MOST];
static int32_t recent[N_RECENT];

/* Tokens of n_row samplers, one of each row, in one call; the rows are given in another order than they lie. */
static void draw_there(ml_ctx *ctx, float *there, int64_t n_vocab, int64_t n_valid, ml_sampler **sampler, int64_t n_row,
                       int64_t first, ml_sample_choice *out)
{
    ml_sample_row row[N_TOGETHER];
    ml_sample_choice choice[N_TOGETHER];
    int32_t late[N_TOGETHER * N_RECENT];
    int64_t n_late = 0;
    for (int64_t i = 0; i < n_row; i++) {
        int64_t at = n_row - 1 - i;
        row[i] = (ml_sample_row){ .row = first + at,
                                  .rule = ml_sampler_get_rule(sampler[at]),
                                  .random = ml_sampler_next_random(sampler[at]),
                                  .first_penalised = n_late,
                                  .penalty = ml_sampler_get_penalty(sampler[at]) };
        row[i].n_penalised = ml_sampler_list_penalised(sampler[at], recent, N_RECENT, late + n_late);
        assert_true(row[i].n_penalised <= ml_sampler_most_penalised(sampler[at], N_RECENT));
        n_late += row[i].n_penalised;
    }
    assert_ok(ml_device_sample(ctx, there, n_vocab, n_valid, row, n_row, late, n_late, choice, &err));
    for (int64_t i = 0; i < n_row; i++) out[n_row - 1 - i] = choice[i];
}

static void check(ml_ctx *ctx, float *there, const wanted *w, int64_t n_vocab, int64_t n_valid)
{
    enum { TURNS = 3 };
    static float back[N_TOGETHER * MOST];
    ml_sampler *here[N_TOGETHER], *together[N_TOGETHER], *alone;
    size_t n_bytes = (size_t)(N_TOGETHER * n_vocab) * sizeof(float);
    for (int r = 0; r < N_TOGETHER; r++) {
        for (int64_t i = 0; i < n_vocab; i++) {
            rows[r * n_vocab + i] = i < n_valid ? make_logit(w[r].kind, i, n_valid) : 1e30f; /* never chosen */
        }
        assert_ok(ml_sampler_make(&w[r].sampling, n_vocab, n_valid, &here[r], &err));
        assert_ok(ml_sampler_make(&w[r].sampling, n_vocab, n_valid, &together[r], &err));
    }
    for (int i = 0; i < N_RECENT; i++) recent[i] = (int32_t)ml_rng_below(&rng, (uint64_t)(i % 3 ? n_valid : 3));
    recent[5] = -1, recent[6] = (int32_t)n_vocab, recent[7] = recent[8];
    assert_ok(ml_device_upload(device, there, rows, n_bytes, &err));
    for (int turn = 0; turn < TURNS; turn++) {
        ml_sample_choice choice[N_TOGETHER], one;
        draw_there(ctx, there, n_vocab, n_valid, together, N_TOGETHER, 0, choice);
        for (int r = 0; r < N_TOGETHER; r++) {
            double logprob;
            const ml_sampling *s = &w[r].sampling;
            int32_t id = ml_sampler_choose(here[r], rows + r * n_vocab, recent, N_RECENT, &logprob);
            if (choice[r].id != id) {
                fail_msg("kind %d, n %lld, temperature %g, top-k %lld, top-p %.17g, min-p %g, penalty %g, turn %d: id "
                         "%d, the processor's %d",
                         (int)w[r].kind, (long long)n_valid, s->temperature, (long long)s->top_k, s->top_p, s->min_p,
                         s->repetition_penalty, turn, choice[r].id, id);
            }
            /* The processor adds up exponentials in fp32. */
            bool ordinary = w[r].kind < INFINITE;
            if (ordinary) assert_true(fabs(choice[r].logprob - logprob) < 1e-5);
        }
        if (turn > 0) continue; /* what is drawn alone is drawn once: a sampler goes on */
        int r = (int)ml_rng_below(&rng, N_TOGETHER);
        assert_ok(ml_sampler_make(&w[r].sampling, n_vocab, n_valid, &alone, &err));
        draw_there(ctx, there, n_vocab, n_valid, &alone, 1, r, &one);
        assert_int_equal(one.id, choice[r].id);
        assert_memory_equal(&one.logprob, &choice[r].logprob, sizeof one.logprob);
        ml_sampler_free(alone);
    }
    assert_ok(ml_device_download(device, back, there, n_bytes, &err));
    assert_memory_equal(back, rows, n_bytes);
    for (int r = 0; r < N_TOGETHER; r++) {
        ml_sampler_free(here[r]);
        ml_sampler_free(together[r]);
    }
}

static wanted random_wanted(void)
{
    static const double temperature[] = { 0, 5e-324, 1e-30, 0.05, 0.7, 1, 3, 100 },
                        min_p[] = { 0, 0, 0.05, 0.5, 0.9999 };
    static const double top_p[] = { 1, 1, 0.95, 0.5, 0.75, 1 - 1e-12, 1e-9, 0.25 }, penalty[] = { 1, 1, 1.3, 0.7, 100 };
    static const int64_t top_k[] = { 0, 0, 0, 1, 2, 5, 40, 1000000 };
    wanted w = { .kind = (kind)ml_rng_below(&rng, N_KIND) };
    w.sampling = (ml_sampling){ .temperature = temperature[ml_rng_below(&rng, 8)],
                                .top_k = top_k[ml_rng_below(&rng, 8)],
                                .top_p = top_p[ml_rng_below(&rng, 8)],
                                .min_p = min_p[ml_rng_below(&rng, 5)],
                                .repetition_penalty = penalty[ml_rng_below(&rng, 5)],
                                .repetition_window = (int64_t)ml_rng_below(&rng, 2) * 4,
                                .seed = ml_rng_u64(&rng) >> 12 };
    return w;
}

static void test_same_tokens(void **state)
{
    (void)state;
    static const struct {
        int64_t n_vocab, n_valid, rounds;
    } sizes[] = { { 1, 1, 4 }, { 7, 5, 40 }, { 300, 300, 120 }, { 2049, 2048, 16 }, { MOST, MOST - 3, 16 } };
    ml_ctx ctx;
    void *there;
    assert_ok(ml_ctx_init_on(&ctx, device, (size_t)16 << 20, 0, &err));
    assert_ok(ml_device_alloc(device, sizeof rows, "logits", &there, &err));
    rng = ml_rng_make(17, 3);
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        for (int64_t i = 0; i < sizes[s].rounds; i++) {
            wanted w[N_TOGETHER];
#ifdef MOONLIGHT_CUDA_EMULATED
            ml_emulate_set_order((unsigned)i % 4);
#endif
            for (int r = 0; r < N_TOGETHER; r++) {
                w[r] = random_wanted();
                if (i % 4 == 0) w[r].sampling.temperature = 0; /* none is drawn */
                if (r == 1) w[r].kind = SPREAD;
            }
            check(&ctx, there, w, sizes[s].n_vocab, sizes[s].n_valid);
        }
    }
    ml_device_release(device, there);
    ml_ctx_free(&ctx);
}

int main(void)
{
    if (!test_open_device(&device)) return TEST_SKIPPED;
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_same_tokens) };
    int status = cmocka_run_group_tests(tests, NULL, NULL);
    ml_device_close(device);
    return status;
}
