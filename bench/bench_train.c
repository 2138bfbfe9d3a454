/* Speed of the training step on a preset with random tokens:
 *     bench_train [PRESET] [BATCH] [SEQ] [adamw|muon] [STEPS]        (default: nano-moe 8 512 adamw 12)
 * prints tokens per second (median of the steps), the share of this machine's own fp32 matrix rate that
 * 6 x active parameters x tokens/s amounts to, and peak memory.  The rate is OpenBLAS's at 2048, and ours. */
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/thread.h"
#include "ops/cpu/gemm.h"
#include "random_stage.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *openblas_get_corename(void);

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double rate(bool ours)
{
    enum { N = 2048 };
    float *m = calloc(3 * N * N, sizeof *m);
    ml_gemm g = { .m = N,
                  .n = N,
                  .k = N,
                  .a = { .data = m, .stride = N },
                  .b = { .data = m + N * N, .stride = N },
                  .c = m + 2 * N * N,
                  .c_stride = N };
    double best = 1e9;
    for (int i = 0; i < 5; i++) {
        double start = ml_clock_seconds();
        if (ours)
            ml_gemm_run(&g);
        else
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, N, N, N, 1, m, N, m + N * N, N, 0, m + 2 * N * N, N);
        double seconds = ml_clock_seconds() - start;
        if (seconds < best) best = seconds;
    }
    free(m);
    return 2.0 * N * N * N / best;
}

static ml_status run(int argc, char **argv, ml_error *err)
{
    const char *preset = argc > 1 ? argv[1] : "nano-moe";
    int64_t batch = argc > 2 ? atoi(argv[2]) : 8, seq = argc > 3 ? atoi(argv[3]) : 512;
    bool muon = argc > 4 && !strcmp(argv[4], "muon");
    enum { MAX_STEPS = 1000 };
    int64_t steps = argc > 5 ? atoi(argv[5]) : 12;
    if (steps > MAX_STEPS) steps = MAX_STEPS;
    ml_config config;
    ml_model *model;
    ML_TRY(ml_config_preset(preset, &config, err));
    ML_TRY(ml_model_make(&config, ML_F32, true, &model, err));
    ml_model_init(model, 1);
    random_stage self = { ml_rng_make(1, 1), batch, seq, config.vocab_size };
    ml_stage stage = random_stage_make(&self);
    ml_train_config train = { .batch = batch,
                              .accumulate = 1,
                              .seq = seq,
                              .clip = 1,
                              .seed = 1,
                              .schedule = { .kind = ML_SCHEDULE_CONSTANT, .lr = 3e-4, .steps = steps },
                              .optim = ml_optim_default_config(muon ? ML_OPTIM_MUON : ML_OPTIM_ADAMW) };
    char folder[] = "/tmp/moonlight-bench-XXXXXX";
    if (!mkdtemp(folder)) return ml_fail_errno(err, "%s", folder);
    ml_loop *loop;
    ML_TRY(ml_loop_make(&train, folder, false, model, &stage, NULL, NULL, &loop, err));
    static double seconds[MAX_STEPS];
    double last_loss = 0;
    for (int64_t i = 0; i < steps; i++) {
        ml_train_step r;
        ML_TRY(ml_loop_step(loop, &r, err));
        seconds[i] = r.seconds;
        last_loss = r.ce;
    }
    int64_t peak = ml_memory_peak();
    qsort(seconds, (size_t)steps, sizeof *seconds, compare);
    double tps = (double)(batch * seq) / seconds[steps / 2];
    double flops = 6.0 * (double)ml_model_count(&config).active * tps, blas = rate(false), own = rate(true);
    printf("%s %s %lld x %lld, %d threads: %.0f tokens/s (step %.3f s, median of %lld; min %.3f), peak memory %.0f MB, "
           "loss %.3f\n",
           preset, muon ? "muon" : "adamw", (long long)batch, (long long)seq, ml_thread_count(), tps,
           seconds[steps / 2], (long long)steps, seconds[0], (double)peak / 1e6, last_loss);
    printf("6 N_active tokens/s = %.1f GFLOP/s = %.3f of OpenBLAS (%s) sgemm 2048 at %.1f, %.3f of ours at %.1f\n",
           flops / 1e9, flops / blas, openblas_get_corename(), blas / 1e9, flops / own, own / 1e9);
    ml_loop_free(loop);
    ml_model_free(model);
    return ml_dir_remove(folder, err);
}

int main(int argc, char **argv)
{
    ml_error err;
    if (run(argc, argv, &err) == ML_OK) return 0;
    fprintf(stderr, "bench_train: %s\n", err.message);
    return 1;
}
