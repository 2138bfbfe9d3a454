/* Training on the GPU, beside what its matrix unit does at best here.
 *
 *   bench_gpu_training [--small]     --small: a tiny model, to see that it runs; no figures
 *
 * Medians of N_REPEAT timings by the device's events, random weights and tokens, products in bf16 with fp32 masters;
 * the last line is JSON.  Of each model: forward        of its layers layers         forward and backward of its
 * layers: 6 operations a token for each weight it meets outside of embedding and head, and 6 n_head (d_qk + d_v) for
 * each pair of tokens that meet in attention head           what the head and its loss add to that, forward and
 * backward norm           the gradient's optimizer      Muon, and AdamW for what is no matrix step           layers,
 * head, norm and optimizer, as tokens a second */
#include "ops/cuda/gemm.cuh"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

extern "C" {
#include "model/place.h"
#include "optim/optimizer.h"
#include "train/plan.h"
}

enum { N_REPEAT = 7, N_WARM = 2 };

static ml_device *device;
static bool small;
static double matrix_rate;
static char json[8192];

static void stop_on(ml_status status, const ml_error *err)
{
    if (status == ML_OK) return;
    fprintf(stderr, "bench_gpu_training: %s\n", err->message);
    exit(1);
}

/* Median seconds of one call. */
static double time_of(ml_ctx *ctx, const std::function<void()> &work)
{
    ml_error err;
    std::vector<double> seconds;
    for (int i = 0; i < (small ? 1 : N_REPEAT + N_WARM); i++) {
        ml_device_timer *timer;
        double one;
        stop_on(ml_device_timer_start(device, &timer, &err), &err);
        work();
        stop_on(ml_device_timer_stop(timer, &one, &err), &err);
        stop_on(ml_ctx_status(ctx, &err), &err);
        if (small || i >= N_WARM) seconds.push_back(one);
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
}

static void add_json(const char *format, const char *model, const char *part, double a, double b)
{
    size_t at = strlen(json);
    at += (size_t)snprintf(json + at, sizeof json - at, "%s", at ? ", " : "");
    snprintf(json + at, sizeof json - at, format, model, part, a, b);
}

/* operations 0: only a time */
static void report(const char *model, const char *part, double seconds, double operations)
{
    if (small) {
        printf("%s, %s: ran\n", model, part);
        return;
    }
    double rate = operations / seconds;
    printf("%-22s %-10s %10.3f ms", model, part, seconds * 1e3);
    if (operations > 0) printf(" %8.1f TFLOP/s %6.1f %% of the matrix rate", rate / 1e12, 100 * rate / matrix_rate);
    printf("\n");
    fflush(stdout);
    add_json("{\"model\": \"%s\", \"part\": \"%s\", \"ms\": %.4f, \"share\": %.4f}", model, part, seconds * 1e3,
             rate / matrix_rate);
}

static void measure_rate(ml_ctx *ctx)
{
    int64_t n = small ? 64 : 8192;
    size_t n_bytes = (size_t)(n * n) * sizeof(uint16_t);
    uint16_t *m[3];
    std::vector<uint16_t> here((size_t)(n * n));
    ml_error err;
    ml_rng rng = ml_rng_make(1, 1);
    /* 0.5 to 2 in size, of either sign */
    for (uint16_t &x : here)
        x = (uint16_t)(0x3f00u + (unsigned)ml_rng_below(&rng, 0x100) + (ml_rng_below(&rng, 2) << 15));
    for (int i = 0; i < 3; i++) {
        void *p;
        stop_on(ml_device_alloc(device, n_bytes, "an operand", &p, &err), &err);
        stop_on(ml_device_upload(device, p, here.data(), n_bytes, &err), &err);
        m[i] = (uint16_t *)p;
    }
    ml_cuda_gemm g = ml_cuda_gemm_make(n, n, n);
    g.a = ml_cuda_operand_half(m[0], n, false);
    g.b = ml_cuda_operand_half(m[1], n, true);
    g.c_half = m[2];
    g.c_stride = n;
    double seconds = time_of(ctx, [&]() { ml_cuda_gemm_run(ctx, &g); });
    matrix_rate = 2.0 * (double)n * (double)n * (double)n / (seconds > 0 ? seconds : 1e-9);
    report("8192 x 8192 x 8192", "product", seconds, 2.0 * (double)n * (double)n * (double)n);
    for (int i = 0; i < 3; i++) ml_device_release(device, m[i]);
}

/* ---- one model ---- */

struct bench {
    ml_model *m;
    ml_ctx ctx;
    ml_optimizer *optimizer;
    int64_t n_token, n_seq;
    std::vector<int32_t> id, pos, seq, target;
    float *dy, *dlogp; /* [n_token, d], [n_token] on the device */
};

static float *upload_constant(int64_t n, float value)
{
    ml_error err;
    void *p;
    std::vector<float> here((size_t)n, value);
    stop_on(ml_device_alloc(device, here.size() * sizeof(float), "a gradient", &p, &err), &err);
    stop_on(ml_device_upload(device, p, here.data(), here.size() * sizeof(float), &err), &err);
    return (float *)p;
}

static void make_batch(bench *b, int64_t n_seq, int64_t n_each)
{
    ml_rng rng = ml_rng_make(2, 1);
    b->n_seq = n_seq;
    b->n_token = n_seq * n_each;
    for (int64_t s = 0; s < n_seq; s++) {
        b->seq.push_back((int32_t)(s * n_each));
        for (int64_t i = 0; i < n_each; i++) {
            b->id.push_back((int32_t)ml_rng_below(&rng, (uint64_t)b->m->config.vocab_size));
            b->target.push_back((int32_t)ml_rng_below(&rng, (uint64_t)b->m->config.vocab_size));
            b->pos.push_back((int32_t)i);
        }
    }
    b->seq.push_back((int32_t)b->n_token);
}

static ml_tensor *forward(bench *b, ml_model_input *in)
{
    ml_ctx *ctx = &b->ctx;
    int64_t n_offset = b->n_seq + 1;
    ml_ctx_reset(ctx);
    ctx->recording = true;
    *in = {};
    in->id = ml_tensor_wrap(ctx, ML_I32, 1, &b->n_token, b->id.data());
    in->pos = ml_tensor_wrap(ctx, ML_I32, 1, &b->n_token, b->pos.data());
    in->seq = ml_tensor_wrap(ctx, ML_I32, 1, &n_offset, b->seq.data());
    in->training = true;
    in->aux_scale = 1;
    return ml_model_forward(ctx, b->m, in);
}

static void run_layers(bench *b, bool backward)
{
    ml_model_input in;
    ml_error err;
    ml_tensor *hidden = forward(b, &in); // [tokens, d]
    if (!hidden || !backward) return;
    hidden->grad = b->dy;
    stop_on(ml_tape_backward(&b->ctx, &err), &err);
}

static void run_whole(bench *b)
{
    ml_model_input in;
    ml_error err;
    ml_tensor *hidden = forward(b, &in);
    ml_tensor *target = ml_tensor_wrap(&b->ctx, ML_I32, 1, &b->n_token, b->target.data());
    ml_tensor *logp = ml_model_logprob(&b->ctx, b->m, hidden, target); // [tokens]
    if (!logp) return;
    logp->grad = b->dlogp;
    stop_on(ml_tape_backward(&b->ctx, &err), &err);
}

static void open_bench(bench *b, const char *preset, int64_t n_layer, int64_t n_seq, int64_t n_each)
{
    ml_error err;
    ml_config c;
    stop_on(ml_config_preset(preset, &c, &err), &err);
    if (n_layer) c.num_hidden_layers = n_layer;
    stop_on(ml_model_make(&c, ML_F32, true, &b->m, &err), &err);
    ml_model_init(b->m, 1);
    make_batch(b, n_seq, n_each);
    ml_optim_config optim = ml_optim_default_config(ML_OPTIM_MUON);
    ml_optim_storage storage = {};
    ml_device_plan_choice choice = ml_train_place_way(0, ML_PRECISION_BF16, false);
    ml_train_plan plan = ml_train_make_device_plan(&c, b->n_token, &optim, ML_RECOMPUTE_OFF, &choice);
    stop_on(ml_model_place(b->m, device, choice.placing, &err), &err);
    stop_on(ml_ctx_init_on(&b->ctx, device, (size_t)plan.activations, (size_t)plan.activation_gradients, &err), &err);
    b->ctx.precision = ML_PRECISION_BF16;
    stop_on(ml_optimizer_make_on(&b->ctx, &optim, &storage, b->m->param, (int64_t)b->m->n_param, &b->optimizer, &err),
            &err);
    b->dy = upload_constant(b->n_token * c.hidden_size, 1e-3f);
    b->dlogp = upload_constant(b->n_token, (float)(-1.0 / (double)b->n_token));
}

static void close_bench(bench *b)
{
    ml_optimizer_free(b->optimizer);
    ml_model_free(b->m);
    ml_device_release(device, b->dy);
    ml_device_release(device, b->dlogp);
    ml_ctx_free(&b->ctx);
}

static void bench_model(const char *preset, int64_t n_layer, int64_t n_seq, int64_t n_each)
{
    bench b = {};
    ml_error err;
    open_bench(&b, preset, n_layer, n_seq, n_each);
    const ml_config *c = &b.m->config;
    double tokens = (double)b.n_token, pairs = (double)n_seq * (double)n_each * (double)(n_each + 1) / 2;
    double attention = 2.0 * (double)c->num_hidden_layers * (double)c->num_attention_heads *
                       (double)(ml_config_d_qk(c) + ml_config_d_v(c)) * pairs;
    double operations = 2.0 * (double)ml_model_count(c).active_without_embedding * tokens + attention;
    double head_operations = 6.0 * (double)c->vocab_size * (double)c->hidden_size * tokens;
    double ahead = time_of(&b.ctx, [&]() { run_layers(&b, false); });
    double layers = time_of(&b.ctx, [&]() { run_layers(&b, true); });
    double whole = time_of(&b.ctx, [&]() { run_whole(&b); });
    ml_ctx_reset(&b.ctx);
    double norm = time_of(&b.ctx, [&]() { ml_optimizer_queue_norm(b.optimizer); });
    double optimizer = time_of(&b.ctx, [&]() { stop_on(ml_optimizer_step(b.optimizer, 1e-4, 1, NULL, &err), &err); });
    report(preset, "forward", ahead, operations);
    report(preset, "layers", layers, 3 * operations);
    report(preset, "head", whole - layers, head_operations);
    report(preset, "norm", norm, 0);
    report(preset, "optimizer", optimizer, 0);
    double step = whole + norm + optimizer;
    report(preset, "step", step, 0);
    if (!small) {
        printf("%-22s %-10s %10.0f tokens/s\n", preset, "step", tokens / step);
        add_json("{\"model\": \"%s\", \"part\": \"%s\", \"tokens_s\": %.1f, \"tokens\": %.0f}", preset, "step",
                 tokens / step, tokens);
    }
    close_bench(&b);
}

int main(int argc, char **argv)
{
    ml_error err;
    small = argc > 1 && !strcmp(argv[1], "--small");
    if (ml_device_open(0, &device, &err) != ML_OK) {
        printf("skipped: no GPU (%s)\n", err.message);
        return 77;
    }
    ml_ctx ctx;
    stop_on(ml_ctx_init_on(&ctx, device, (size_t)(small ? 16 : 1024) << 20, (size_t)16 << 20, &err), &err);
    ctx.precision = ML_PRECISION_BF16;
    measure_rate(&ctx);
    ml_ctx_free(&ctx);
    if (small) {
        bench_model("moonlight-tiny", 2, 2, 6);
    } else {
        bench_model("nano-moe", 0, 8, 512);
        bench_model("moonlight-moe-130m", 0, 8, 512);
        bench_model("moonlight-16b", 5, 2, 4096); /* one dense layer, four of experts */
        printf("{\"training\": [%s]}\n", json);
    }
    ml_device_close(device);
    return 0;
}
