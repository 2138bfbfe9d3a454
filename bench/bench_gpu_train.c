/* Training on the first GPU, on random tokens:
 *   bench_gpu_train [--small] [REPEATS]      --small: shapes that only show that the program runs
 *   - layers of moonlight-16b (one dense, four of experts), 8192 tokens, bf16: forward and backward of the layers,
 * forward and backward of the head, and Muon's step for all their weights, each by itself, medians of the device's
 * timings; operations are those of the products and of attention's causal half, 2 a weight forward and 4 backward;
 *   - whole training steps of nano-moe and moonlight-moe-130m (AdamW, clipping, the guard), tokens per second of the
 * median step by this machine's clock. JSON on the last line.  Exit status 77 where there is no GPU. */
#include "gpu_timing.h"
#include "random_stage.h"

#include "base/file.h"
#include "model/place.h"
#include "optim/optimizer.h"

#include <string.h>
#include <unistd.h>

static int n_repeat = 10;
static bool small;
static ml_device *device;
static double matrix_rate;
static char json[4096];

static void add_json(const char *row)
{
    size_t used = strlen(json);
    snprintf(json + used, sizeof json - used, "%s%s", used ? ", " : "", row);
}

/* ---- layers ---- */

/* Weights of one token's products, without embedding and head. */
static double count_active(const ml_config *c)
{
    double d = (double)c->hidden_size, n_head = (double)c->num_attention_heads, sum = 0;
    double d_v = (double)c->v_head_dim, rope = (double)c->qk_rope_head_dim, nope = (double)c->qk_nope_head_dim;
    double lora = (double)c->kv_lora_rank;
    for (int64_t i = 0; i < c->num_hidden_layers; i++) {
        sum += d * n_head * (nope + rope) + d * (lora + rope) + lora * n_head * (nope + d_v) + n_head * d_v * d;
        if (ml_config_layer_is_moe(c, i)) {
            double n = (double)(c->num_experts_per_tok + c->n_shared_experts);
            sum += d * (double)c->n_routed_experts + 3 * d * (double)c->moe_intermediate_size * n;
        } else {
            sum += 3 * d * (double)c->intermediate_size;
        }
    }
    return sum;
}

/* Of all layers, forward; backward takes 5 such products where forward takes 2. */
static double count_attention(const ml_config *c, int64_t n_seq, int64_t length, bool backward)
{
    double pairs = (double)(n_seq * length) * (double)(length + 1) / 2;
    double d_qk = (double)ml_config_d_qk(c), d_v = (double)ml_config_d_v(c);
    double columns = backward ? 3 * d_qk + 2 * d_v : d_qk + d_v;
    return 2 * pairs * columns * (double)(c->num_attention_heads * c->num_hidden_layers);
}

typedef struct {
    double forward[MAX_REPEAT], backward[MAX_REPEAT], head[MAX_REPEAT], head_back[MAX_REPEAT];
} layer_times;

static ml_tensor *numbers(ml_ctx *ctx, int64_t n, int32_t *values)
{
    return ml_tensor_wrap(ctx, ML_I32, 1, &n, values);
}

/* Random tokens in n_seq sequences: id, pos, seq, target, one after another. */
static int32_t *make_tokens(const ml_config *c, int64_t n_seq, int64_t length)
{
    int64_t n = n_seq * length;
    int32_t *all = ml_alloc((size_t)(3 * n + n_seq + 1) * sizeof *all);
    if (!all) exit(1);
    ml_rng rng = ml_rng_make(1, 2);
    for (int64_t i = 0; i < n; i++) {
        all[i] = (int32_t)ml_rng_below(&rng, (uint64_t)c->vocab_size);
        all[n + i] = (int32_t)(i % length);
        all[2 * n + i] = (int32_t)ml_rng_below(&rng, (uint64_t)c->vocab_size);
    }
    for (int64_t s = 0; s <= n_seq; s++) all[3 * n + s] = (int32_t)(s * length);
    return all;
}

static void run_once(ml_ctx *ctx, ml_model *m, int32_t *tokens, int64_t n_seq, int64_t length, double seconds[4])
{
    int64_t n = n_seq * length;
    ml_error err;
    ml_ctx_reset(ctx);
    ml_model_input in = { .id = numbers(ctx, n, tokens),
                          .pos = numbers(ctx, n, tokens + n),
                          .seq = numbers(ctx, n_seq + 1, tokens + 3 * n),
                          .training = true,
                          .aux_scale = 1 };
    ctx->recording = true;
    ml_device_timer *timer = start_timer(device);
    ml_tensor *x = ml_model_forward(ctx, m, &in);
    seconds[0] = stop_timer(timer);
    check_ctx(ctx);
    set_random(ctx, ml_tape_grad(ctx, x), ml_tensor_count(x));
    timer = start_timer(device);
    if (ml_tape_backward(ctx, &err) != ML_OK) give_up(&err);
    seconds[1] = stop_timer(timer);

    /* The head alone, on rows of the same kind. */
    ml_ctx_reset(ctx);
    ml_tensor *target = numbers(ctx, n, tokens + 2 * n);
    x = ml_tensor_new_2d(ctx, ML_F32, n, m->config.hidden_size);
    check_ctx(ctx);
    set_random(ctx, ml_f32(x), ml_tensor_count(x));
    x->needs_grad = true;
    ml_tape_grad(ctx, x);
    ctx->recording = true;
    timer = start_timer(device);
    ml_tensor *logp = ml_model_logprob(ctx, m, x, target);
    seconds[2] = stop_timer(timer);
    check_ctx(ctx);
    set_random(ctx, ml_tape_grad(ctx, logp), n);
    timer = start_timer(device);
    if (ml_tape_backward(ctx, &err) != ML_OK) give_up(&err);
    seconds[3] = stop_timer(timer);
    ctx->recording = false;
}

/* Norm and Muon's step of all weights; seconds. */
static double time_optimizer(ml_ctx *ctx, ml_model *m)
{
    ml_error err;
    double seconds[MAX_REPEAT];
    ml_optim_config config = ml_optim_default_config(ML_OPTIM_MUON);
    ml_optim_storage storage = { 0 };
    ml_optimizer *opt;
    ml_ctx_reset(ctx);
    if (ml_optimizer_make_on(ctx, &config, &storage, m->param, (int64_t)m->n_param, &opt, &err) != ML_OK) give_up(&err);
    ml_update_control control = { .use = 1, .grad_scale = 1e-3f, .correction = 1, .unbias = 1, .step = 1 };
    if (ml_device_upload(device, ml_optimizer_get_control(opt), &control, sizeof control, &err) != ML_OK) give_up(&err);
    for (int i = -1; i < n_repeat; i++) {
        const double *squares;
        ml_ctx_reset(ctx);
        ml_device_timer *timer = start_timer(device);
        ml_optimizer_queue_norm(opt);
        if (ml_optimizer_queue_step(opt, 1e-4, &squares, &err) != ML_OK) give_up(&err);
        double taken = stop_timer(timer);
        if (i >= 0) seconds[i] = taken;
    }
    ml_optimizer_free(opt);
    return find_median(seconds, n_repeat);
}

static void measure_layers(int64_t n_seq, int64_t length)
{
    ml_error err;
    ml_config c;
    if (ml_config_preset("moonlight-16b", &c, &err) != ML_OK) give_up(&err);
    c.num_hidden_layers = 5;
    if (small) {
        c.vocab_size = 256;
        c.hidden_size = c.kv_lora_rank = 32;
        c.num_hidden_layers = c.num_attention_heads = c.num_key_value_heads = 2;
        c.intermediate_size = c.moe_intermediate_size = 16;
        c.n_routed_experts = 8;
    }
    ml_model *m;
    ml_ctx ctx;
    if (ml_model_make(&c, ML_F32, true, &m, &err) != ML_OK) give_up(&err);
    ml_model_init(m, 1);
    if (ml_model_place(m, device, ML_PLACE_HALF, &err) != ML_OK) give_up(&err);
    size_t room = small ? (size_t)64 << 20 : (size_t)12 << 30;
    if (ml_ctx_init_on(&ctx, device, room, small ? room : room / 2, &err) != ML_OK) give_up(&err);
    ctx.precision = ML_PRECISION_BF16;
    int32_t *tokens = make_tokens(&c, n_seq, length);
    static layer_times t;
    for (int i = -2; i < n_repeat; i++) {
        double seconds[4];
        run_once(&ctx, m, tokens, n_seq, length, seconds);
        if (i < 0) continue;
        t.forward[i] = seconds[0];
        t.backward[i] = seconds[1];
        t.head[i] = seconds[2];
        t.head_back[i] = seconds[3];
    }
    double forward = find_median(t.forward, n_repeat), backward = find_median(t.backward, n_repeat);
    double head = find_median(t.head, n_repeat), head_back = find_median(t.head_back, n_repeat);
    double optimizer = time_optimizer(&ctx, m);
    double n = (double)(n_seq * length), products = 2 * n * count_active(&c);
    double flop = 3 * products + count_attention(&c, n_seq, length, false) + count_attention(&c, n_seq, length, true);
    double rate = flop / (forward + backward);
    printf(
        "layers of moonlight-16b, %lld x %lld: forward %.2f ms, backward %.2f ms, %.1f TFLOP/s, %.1f %% of products' "
        "rate; head %.2f + %.2f ms; Muon %.2f ms\n",
        (long long)n_seq, (long long)length, forward * 1e3, backward * 1e3, rate * 1e-12, 100 * rate / matrix_rate,
        head * 1e3, head_back * 1e3, optimizer * 1e3);
    char row[512];
    snprintf(row, sizeof row,
             "{\"name\": \"layers of moonlight-16b, %lld x %lld\", \"forward_ms\": %.3f, \"backward_ms\": %.3f, "
             "\"tflops\": %.2f, \"share\": %.4f, \"head_forward_ms\": %.3f, \"head_backward_ms\": %.3f, "
             "\"optimizer_ms\": %.3f}",
             (long long)n_seq, (long long)length, forward * 1e3, backward * 1e3, rate * 1e-12, rate / matrix_rate,
             head * 1e3, head_back * 1e3, optimizer * 1e3);
    add_json(row);
    ml_free(tokens);
    ml_ctx_free(&ctx);
    ml_model_free(m);
}

/* ---- whole steps ---- */

static void measure_steps(const char *preset, int64_t batch, int64_t seq)
{
    enum { WARM = 5 };
    ml_error err;
    ml_config config;
    ml_model *model;
    ml_loop *loop;
    if (small) batch = 1, seq = 4;
    if (ml_config_preset(preset, &config, &err) != ML_OK) give_up(&err);
    if (small) {
        config.num_hidden_layers = 1;
        config.vocab_size = 64;
    }
    if (ml_model_make(&config, ML_F32, true, &model, &err) != ML_OK) give_up(&err);
    ml_model_init(model, 1);
    random_stage self = { ml_rng_make(1, 1), batch, seq, config.vocab_size };
    ml_stage stage = random_stage_make(&self);
    int n_step = small ? 1 : 4 * n_repeat < MAX_REPEAT ? 4 * n_repeat : MAX_REPEAT;
    ml_train_config train = { .batch = batch,
                              .accumulate = 1,
                              .seq = seq,
                              .clip = 1,
                              .seed = 1,
                              .schedule = { .kind = ML_SCHEDULE_CONSTANT, .lr = 3e-4, .steps = WARM + n_step },
                              .optim = ml_optim_default_config(ML_OPTIM_ADAMW),
                              .device = device,
                              .precision = ML_PRECISION_BF16,
                              .placing = ML_PLACE_HALF };
    char folder[] = "/tmp/moonlight-bench-XXXXXX";
    if (!mkdtemp(folder)) exit(1);
    if (ml_loop_make(&train, folder, false, model, &stage, NULL, NULL, &loop, &err) != ML_OK) give_up(&err);
    static double seconds[MAX_REPEAT];
    for (int i = -(small ? 0 : WARM); i < n_step; i++) {
        ml_train_step r;
        if (ml_loop_step(loop, &r, &err) != ML_OK) give_up(&err);
        if (i >= 0) seconds[i] = r.seconds;
    }
    double tps = (double)(batch * seq) / find_median(seconds, n_step);
    printf("%s, %lld x %lld, AdamW: %.0f tokens/s\n", preset, (long long)batch, (long long)seq, tps);
    char row[256];
    snprintf(row, sizeof row, "{\"name\": \"%s, %lld x %lld\", \"tokens_s\": %.0f}", preset, (long long)batch,
             (long long)seq, tps);
    add_json(row);
    ml_loop_free(loop);
    ml_model_free(model);
    if (ml_dir_remove(folder, &err) != ML_OK) give_up(&err);
}

int main(int argc, char **argv)
{
    ml_error err;
    small = argc > 1 && !strcmp(argv[1], "--small");
    if (argc > 1 + small) n_repeat = atoi(argv[1 + small]);
    if (n_repeat < 1 || n_repeat > MAX_REPEAT) n_repeat = 10;
    if (ml_device_open(0, &device, &err) != ML_OK) {
        printf("skipped: no GPU (%s)\n", err.message);
        return 77;
    }
    ml_ctx ctx;
    if (ml_ctx_init_on(&ctx, device, (size_t)(small ? 16 : 4096) << 20, 1 << 20, &err) != ML_OK) give_up(&err);
    matrix_rate = small ? measure_matrix_rate(&ctx, 32, 64, 32, n_repeat)
                        : measure_matrix_rate(&ctx, 8192, 32768, 8192, n_repeat);
    ml_ctx_free(&ctx);
    ml_device_info info = ml_device_get_info(device);
    printf("%s: products %.1f TFLOP/s; medians of %d\n", info.name, matrix_rate * 1e-12, n_repeat);
    measure_layers(1, small ? 12 : 8192);
    if (!small) measure_layers(4, 2048);
    measure_steps("nano-moe", 64, 512);
    measure_steps("moonlight-moe-130m", 16, 1024);
    printf("{\"gpu\": \"%s\", \"matrix_tflops\": %.1f, \"rows\": [%s]}\n", info.name, matrix_rate * 1e-12, json);
    ml_device_close(device);
    return 0;
}
