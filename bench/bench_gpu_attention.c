/* Attention, of training and of prompts over a cache, and the operators that move memory, on the first GPU: medians of
 * timings by the device's own events, random inputs.
 *   bench_gpu_attention [--small] [REPEATS]      --small: shapes that only show that the program runs
 * Before them, in the same run, what the machine can do: a large bf16 product (TFLOP/s, ml_linear in ML_PRECISION_BF16
 * with a bf16 weight) and a large copy (bytes read and written).  Attention's TFLOP/s count the products of the causal
 * half that the pass must make: 2 forward, 5 backward; of prompts over a cache (f16, pages of 16 tokens) those 2, and
 * with MLA the product that makes keys and values of each position.  On Hopper attention is measured with both of its
 * forward kernels, one after the other (rows "by wgmma": MOONLIGHT_CUDA_ATTENTION=wgmma, docs/gpu.md).  The other
 * operators' bytes are what they must read and write once.  JSON on the last line.  Exit status 77 where there is no
 * GPU. */
#include "gpu_timing.h"
#include "ops/cached.h"

#include <math.h>
#include <string.h>

static ml_ctx ctx;
static int n_repeat = 20;
static double matrix_rate, copy_rate; /* flop/s, bytes/s */
static bool first_row = true, on_hopper;

/* [n, columns], with a gradient. */
static ml_tensor *random_rows(int64_t n, int64_t columns)
{
    ml_tensor *x = ml_tensor_new_2d(&ctx, ML_F32, n, columns);
    if (!x) return NULL;
    set_random(&ctx, ml_f32(x), n * columns);
    x->needs_grad = true;
    ml_tape_grad(&ctx, x);
    return x;
}

static ml_tensor *whole_numbers(int64_t n, const int32_t *values)
{
    return ml_tensor_wrap(&ctx, ML_I32, 1, &n, (void *)(uintptr_t)values);
}

typedef struct {
    ml_ctx_mark data;
    size_t grad;
} level;

static level get_level(void)
{
    return (level){ ml_ctx_get_mark(&ctx), ml_arena_mark(&ctx.grad) };
}

static void drop_to(level l)
{
    ml_ctx_release(&ctx, l.data);
    ml_arena_release(&ctx.grad, l.grad);
}

/* One output of an operator from `operands`; the medians of its forward and of its backward pass in seconds. */
typedef ml_tensor *(*operator_fn)(void *operands);

static void time_operator(operator_fn run, void *operands, double *forward, double *backward)
{
    double a[MAX_REPEAT], b[MAX_REPEAT];
    ml_error err;
    level before = get_level();
    for (int i = -2; i < n_repeat; i++) { /* two to warm up */
        double seconds[2];
        ctx.recording = true;
        ml_device_timer *timer = start_timer(ctx.device);
        ml_tensor *y = run(operands);
        seconds[0] = stop_timer(timer);
        check_ctx(&ctx);
        set_random(&ctx, ml_tape_grad(&ctx, y), ml_tensor_count(y));
        check_ctx(&ctx);
        timer = start_timer(ctx.device);
        if (ml_tape_backward(&ctx, &err) != ML_OK) give_up(&err);
        seconds[1] = stop_timer(timer);
        ctx.recording = false;
        ctx.tape = NULL;
        drop_to(before);
        if (i >= 0) {
            a[i] = seconds[0];
            b[i] = seconds[1];
        }
    }
    *forward = find_median(a, n_repeat);
    *backward = find_median(b, n_repeat);
}

/* ---- attention ---- */

typedef struct {
    const char *name;
    int64_t n_seq, length, n_head, n_kv_head, d_qk, d_shared, d_v;
} shape;

static const shape shapes[] = {
    { "MLA 16 x 192/128, 1 x 8192", 1, 8192, 16, 16, 192, 64, 128 },
    { "MLA 16 x 192/128, 4 x 2048", 4, 2048, 16, 16, 192, 64, 128 },
    { "MHA 8 x 64, 8 x 1024", 8, 1024, 8, 8, 64, 0, 64 },
    { "GQA 8:2 x 24, 16 x 512", 16, 512, 8, 2, 24, 0, 24 },
    { "GQA 32:8 x 128, 1 x 8192", 1, 8192, 32, 8, 128, 0, 128 },
};

typedef struct {
    ml_tensor *q, *k, *v, *shared, *seq;
    ml_attention_param param;
} attention_operands;

static ml_tensor *run_attention(void *p)
{
    attention_operands *o = p;
    return ml_attention(&ctx, o->q, o->k, o->v, o->shared, o->seq, &o->param);
}

static void add_json(char *json, size_t room, const char *row)
{
    size_t used = strlen(json);
    snprintf(json + used, room - used, "%s%s", first_row ? "" : ", ", row);
    first_row = false;
}

enum { MMA, WGMMA, N_KERNEL };

/* Have heads of d_qk columns that forward kernel here?  Then it is what runs from now on. */
static bool take_kernel(int kernel, int64_t d_qk)
{
    setenv("MOONLIGHT_CUDA_ATTENTION", kernel == WGMMA ? "wgmma" : "mma", 1);
    return kernel == MMA || (on_hopper && d_qk > 32 && d_qk <= 192);
}

static const char *suffix_of(int kernel)
{
    return kernel == WGMMA ? ", by wgmma" : "";
}

static void measure_attention(const shape *s, int kernel, bool small, char *json, size_t room)
{
    level before = get_level();
    int64_t length = small ? 40 : s->length, n_seq = small ? 2 : s->n_seq, n = n_seq * length;
    int64_t d_own = s->d_qk - s->d_shared;
    attention_operands o = { .q = random_rows(n, s->n_head * s->d_qk) };
    o.param = (ml_attention_param){ .n_head = s->n_head,
                                    .n_kv_head = s->n_kv_head,
                                    .d_qk = s->d_qk,
                                    .d_shared = s->d_shared,
                                    .d_v = s->d_v,
                                    .k_step = d_own,
                                    .v_step = s->d_v,
                                    .scale = (float)(1 / sqrt((double)s->d_qk)) };
    if (s->d_shared) { /* k and v interleaved, as kv_b leaves them */
        ml_tensor *kv = random_rows(n, s->n_kv_head * (d_own + s->d_v));
        o.k = kv;
        o.v = kv ? ml_tensor_cols(&ctx, kv, d_own, kv->dim[1] - d_own) : NULL;
        o.shared = random_rows(n, s->d_shared);
        o.param.k_step = o.param.v_step = d_own + s->d_v;
    } else {
        o.k = random_rows(n, s->n_kv_head * s->d_qk);
        o.v = random_rows(n, s->n_kv_head * s->d_v);
    }
    int32_t seq[32];
    for (int i = 0; i <= n_seq; i++) seq[i] = (int32_t)(i * length);
    o.seq = whole_numbers(n_seq + 1, seq);
    check_ctx(&ctx);
    double forward, backward;
    time_operator(run_attention, &o, &forward, &backward);
    double pairs = (double)(n_seq * s->n_head * length) * (double)(length + 1) / 2;
    double f = 2 * pairs * (double)(s->d_qk + s->d_v) / forward;
    double b = 2 * pairs * (double)(3 * s->d_qk + 2 * s->d_v) / backward;
    char name[64];
    snprintf(name, sizeof name, "%s%s", s->name, suffix_of(kernel));
    printf("%-39s forward %8.3f ms %7.1f TFLOP/s %5.1f %%   backward %8.3f ms %7.1f TFLOP/s %5.1f %%\n", name,
           forward * 1e3, f * 1e-12, 100 * f / matrix_rate, backward * 1e3, b * 1e-12, 100 * b / matrix_rate);
    char row[512];
    snprintf(row, sizeof row,
             "{\"name\": \"%s\", \"forward_ms\": %.4f, \"forward_tflops\": %.2f, \"backward_ms\": %.4f, "
             "\"backward_tflops\": %.2f}",
             name, forward * 1e3, f * 1e-12, backward * 1e3, b * 1e-12);
    add_json(json, room, row);
    drop_to(before);
}

/* ---- prompts over a cache ---- */

enum { PAGE = 16 };

typedef struct {
    const char *name;
    int64_t depth, n_head, n_kv_head, d_qk, d_v, rank, n_rot; /* rank 0: grouped queries */
} prompt_shape;

static const prompt_shape prompt_shapes[] = {
    { "prompt MLA 8192 at 0", 0, 16, 16, 192, 128, 512, 64 },
    { "prompt MLA 8192 at 8192", 8192, 16, 16, 192, 128, 512, 64 },
    { "prompt GQA 32:8 8192 at 0", 0, 32, 8, 128, 128, 0, 0 },
    { "prompt GQA 32:8 8192 at 8192", 8192, 32, 8, 128, 128, 0, 0 },
};

typedef struct {
    ml_tensor *q, *seq, *pos, *kv_b;
    ml_kv_view view;
    ml_attention_param gqa;
    ml_mla_param mla;
} prompt_operands;

static ml_tensor *run_prompt(const prompt_operands *o)
{
    if (!o->kv_b) return ml_attention_cached(&ctx, o->q, &o->view, o->seq, o->pos, 0, &o->gqa);
    const ml_mla_weights weights = { .kv_b = o->kv_b };
    return ml_attention_cached_mla(&ctx, o->q, &weights, &o->view, o->seq, o->pos, 0, &o->mla);
}

/* Rows of random keys and values for n_position positions of sequence 0. */
static void fill_cache(const prompt_shape *s, int64_t n_position, prompt_operands *o)
{
    int64_t k = s->rank ? s->rank : s->n_kv_head * s->d_qk, v = s->rank ? 0 : s->n_kv_head * s->d_v;
    int64_t n_page = (n_position + PAGE - 1) / PAGE, most = n_position > n_page ? n_position : n_page;
    int32_t *number = ml_alloc((size_t)most * sizeof *number), *zero = ml_calloc((size_t)n_position, sizeof *zero);
    if (!number || !zero) exit(1);
    for (int64_t i = 0; i < most; i++) number[i] = (int32_t)i;
    o->view = (ml_kv_view){ .dtype = ML_F16,
                            .k_row_bytes = (int64_t)ml_dtype_row_bytes(ML_F16, k + s->n_rot),
                            .v_row_bytes = (int64_t)ml_dtype_row_bytes(ML_F16, v),
                            .page_size = PAGE,
                            .page_table = ml_i32(whole_numbers(n_page, number)),
                            .pages_per_seq = n_page };
    o->view.k = ml_ctx_scratch_data(&ctx, (size_t)(n_page * PAGE * o->view.k_row_bytes));
    o->view.v = ml_ctx_scratch_data(&ctx, (size_t)(n_page * PAGE * o->view.v_row_bytes));
    check_ctx(&ctx);
    level before = get_level();
    ml_tensor *rows = random_rows(n_position, k), *tail = s->rank ? random_rows(n_position, s->n_rot) : NULL;
    ml_tensor *values = v ? random_rows(n_position, v) : NULL;
    ml_kv_store(&ctx, &o->view, rows, tail, values, whole_numbers(n_position, zero), whole_numbers(n_position, number));
    check_ctx(&ctx);
    drop_to(before);
    ml_free(number);
    ml_free(zero);
}

static ml_tensor *random_halves(int64_t n, int64_t columns)
{
    ml_tensor *w = ml_tensor_new_2d(&ctx, ML_BF16, n, columns);
    float *x = ml_alloc((size_t)(n * columns) * sizeof *x);
    uint16_t *rounded = ml_alloc((size_t)(n * columns) * sizeof *rounded);
    if (!w || !x || !rounded) exit(1);
    fill_random(x, n * columns);
    for (int64_t i = 0; i < n * columns; i++) x[i] /= sqrtf((float)columns);
    ml_convert_from_f32(ML_BF16, x, rounded, n * columns);
    ml_tensor_write(&ctx, w, rounded);
    ml_free(x);
    ml_free(rounded);
    return w;
}

static void measure_prompt(const prompt_shape *s, int kernel, bool small, char *json, size_t room)
{
    level before = get_level();
    int64_t n = small ? 40 : 8192, depth = small ? s->depth / 256 : s->depth, n_key = depth + n;
    int32_t *pos = ml_alloc((size_t)n * sizeof *pos), *zero = ml_calloc((size_t)n, sizeof *zero);
    double seconds[MAX_REPEAT];
    if (!pos || !zero) exit(1);
    for (int64_t i = 0; i < n; i++) pos[i] = (int32_t)(depth + i);
    prompt_operands o = { .q = random_rows(n, s->n_head * s->d_qk),
                          .seq = whole_numbers(n, zero),
                          .pos = whole_numbers(n, pos),
                          .gqa = { .n_head = s->n_head,
                                   .n_kv_head = s->n_kv_head,
                                   .d_qk = s->d_qk,
                                   .d_v = s->d_v,
                                   .k_step = s->d_qk,
                                   .v_step = s->d_v },
                          .mla = { .n_head = s->n_head,
                                   .d_nope = s->d_qk - s->n_rot,
                                   .n_rot = s->n_rot,
                                   .d_v = s->d_v,
                                   .kv_lora_rank = s->rank } };
    o.gqa.scale = o.mla.scale = (float)(1 / sqrt((double)s->d_qk));
    double made = s->rank ? (double)s->rank * (double)(s->n_head * (s->d_qk - s->n_rot + s->d_v)) : 0;
    if (s->rank) o.kv_b = random_halves(s->n_head * (s->d_qk - s->n_rot + s->d_v), s->rank);
    fill_cache(s, n_key, &o);
    for (int i = -2; i < n_repeat; i++) { /* two to warm up */
        level now = get_level();
        ml_device_timer *timer = start_timer(ctx.device);
        run_prompt(&o);
        double taken = stop_timer(timer);
        check_ctx(&ctx);
        drop_to(now);
        if (i >= 0) seconds[i] = taken;
    }
    double median = find_median(seconds, n_repeat), pairs = (double)n * ((double)depth + (double)(n + 1) / 2);
    double f = 2 * (pairs * (double)(s->n_head * (s->d_qk + s->d_v)) + (double)n_key * made) / median;
    char name[64];
    snprintf(name, sizeof name, "%s%s", s->name, suffix_of(kernel));
    printf("%-39s forward %8.3f ms %7.1f TFLOP/s %5.1f %%\n", name, median * 1e3, f * 1e-12, 100 * f / matrix_rate);
    char row[512];
    snprintf(row, sizeof row, "{\"name\": \"%s\", \"forward_ms\": %.4f, \"forward_tflops\": %.2f}", name, median * 1e3,
             f * 1e-12);
    add_json(json, room, row);
    drop_to(before);
    ml_free(pos);
    ml_free(zero);
}

/* ---- operators that move memory ---- */

typedef struct {
    ml_tensor *a, *b, *gain, *id;
    ml_rope_param rope;
    ml_router_param router;
} row_operands;

static ml_tensor *run_rmsnorm(void *p)
{
    row_operands *o = p;
    return ml_rmsnorm(&ctx, o->a, o->b, 1e-5f);
}

static ml_tensor *run_swiglu(void *p)
{
    return ml_swiglu(&ctx, ((row_operands *)p)->a);
}

static ml_tensor *run_add(void *p)
{
    row_operands *o = p;
    o->b->grad = NULL; /* as in a layer: it takes the sum's */
    return ml_add(&ctx, o->a, o->b, 1);
}

/* As in a layer: something has arrived at the sum (zeros, filled in within the time of forward). */
static ml_tensor *run_add_rmsnorm(void *p)
{
    row_operands *o = p;
    ml_normed_sum s;
    o->b->grad = NULL;
    return ml_add_rmsnorm(&ctx, o->a, o->b, o->gain, 1e-5f, &s) && ml_tape_grad(&ctx, s.sum) ? s.y : NULL;
}

static ml_tensor *run_rope(void *p)
{
    row_operands *o = p;
    return ml_rope(&ctx, o->a, o->id, &o->rope);
}

/* Floats that forward and backward must move for one token: an input read, an output written, a gradient added to. */
static void report_rows(const char *name, operator_fn run, row_operands *o, int64_t n, double forward_floats,
                        double backward_floats, char *json, size_t room)
{
    double forward, backward;
    check_ctx(&ctx);
    time_operator(run, o, &forward, &backward);
    double f = 4 * forward_floats * (double)n / forward, b = 4 * backward_floats * (double)n / backward;
    printf("%-39s forward %8.3f ms %7.0f GB/s    %5.1f %%   backward %8.3f ms %7.0f GB/s    %5.1f %%\n", name,
           forward * 1e3, f * 1e-9, 100 * f / copy_rate, backward * 1e3, b * 1e-9, 100 * b / copy_rate);
    char row[512];
    snprintf(row, sizeof row,
             "{\"name\": \"%s\", \"forward_ms\": %.4f, \"forward_gbs\": %.1f, \"backward_ms\": %.4f, "
             "\"backward_gbs\": %.1f}",
             name, forward * 1e3, f * 1e-9, backward * 1e3, b * 1e-9);
    add_json(json, room, row);
}

static void measure_rows(bool small, char *json, size_t room)
{
    int64_t n = small ? 24 : 8192, d = 2048, n_head = 16, d_head = 192, n_rot = 64, f = 2816;
    level before = get_level();
    row_operands o = { .a = random_rows(n, d), .b = random_rows(1, d) };
    if (o.b) o.b = ml_tensor_reshape(&ctx, o.b, 1, &d);
    double c = (double)d;
    report_rows("rmsnorm 2048", run_rmsnorm, &o, n, 2 * c, 4 * c, json, room);
    drop_to(before);

    o = (row_operands){ .a = random_rows(n, d), .b = random_rows(n, d) };
    report_rows("add 2048", run_add, &o, n, 3 * c, 3 * c, json, room); /* dy, and a's gradient read and written */
    drop_to(before);

    o = (row_operands){ .a = random_rows(n, d), .b = random_rows(n, d), .gain = random_rows(1, d) };
    if (o.gain) o.gain = ml_tensor_reshape(&ctx, o.gain, 1, &d);
    report_rows("add, rmsnorm 2048", run_add_rmsnorm, &o, n, 5 * c, 6 * c, json, room);
    drop_to(before);

    o = (row_operands){ .a = random_rows(n, 2 * f) };
    c = (double)f;
    report_rows("swiglu 2 x 2816", run_swiglu, &o, n, 3 * c, 7 * c, json, room);
    drop_to(before);

    float inv_freq[32];
    int32_t *pos = ml_alloc((size_t)n * sizeof *pos);
    if (!pos) exit(1);
    for (int i = 0; i < 32; i++) inv_freq[i] = (float)pow(50000, -(double)i / 32);
    for (int64_t i = 0; i < n; i++) pos[i] = (int32_t)i;
    o = (row_operands){ .a = random_rows(n, n_head * d_head), .id = whole_numbers(n, pos) };
    o.rope = (ml_rope_param){ .n_head = n_head,
                              .d_head = d_head,
                              .offset = d_head - n_rot,
                              .n_rot = n_rot,
                              .interleaved = true,
                              .magnitude = 1,
                              .inv_freq = inv_freq };
    c = (double)(n_head * n_rot);
    report_rows("rope 16 x 64 of 192", run_rope, &o, n, 2 * c, 2 * c, json, room);
    drop_to(before);
    ml_free(pos);
}

int main(int argc, char **argv)
{
    bool small = argc > 1 && !strcmp(argv[1], "--small");
    if (argc > 1 + small) n_repeat = atoi(argv[1 + small]);
    if (n_repeat < 1 || n_repeat > MAX_REPEAT) n_repeat = 20;
    ml_error err;
    ml_device *device;
    if (ml_device_open(0, &device, &err) != ML_OK) {
        printf("skipped: no GPU (%s)\n", err.message);
        return 77;
    }
    size_t n_bytes = small ? (size_t)64 << 20 : (size_t)10 << 30;
    if (ml_ctx_init_on(&ctx, device, n_bytes, n_bytes / 2, &err) != ML_OK) give_up(&err);
    ctx.precision = ML_PRECISION_BF16;
    ml_device_info info = ml_device_get_info(device);
    copy_rate = measure_copy_rate(device, small ? 1 << 16 : (size_t)2 << 30, n_repeat);
    matrix_rate = small ? measure_matrix_rate(&ctx, 32, 64, 32, n_repeat)
                        : measure_matrix_rate(&ctx, 8192, 32768, 8192, n_repeat);
    printf("%s: products %.1f TFLOP/s, copies %.0f GB/s; medians of %d\n", info.name, matrix_rate * 1e-12,
           copy_rate * 1e-9, n_repeat);
    static char json[8192];
    on_hopper = info.major == 9;
    for (size_t i = 0; i < N_KERNEL * sizeof shapes / sizeof shapes[0]; i++) {
        const shape *s = &shapes[i / N_KERNEL];
        int kernel = (int)(i % N_KERNEL);
        if (take_kernel(kernel, s->d_qk)) measure_attention(s, kernel, small, json, sizeof json);
    }
    ctx.mode = ML_MODE_FAST;
    for (size_t i = 0; i < N_KERNEL * sizeof prompt_shapes / sizeof prompt_shapes[0]; i++) {
        const prompt_shape *s = &prompt_shapes[i / N_KERNEL];
        int kernel = (int)(i % N_KERNEL);
        if (take_kernel(kernel, s->d_qk)) measure_prompt(s, kernel, small, json, sizeof json);
    }
    ctx.mode = ML_MODE_EXACT;
    measure_rows(small, json, sizeof json);
    printf("{\"gpu\": \"%s\", \"matrix_tflops\": %.1f, \"copy_gbs\": %.1f, \"rows\": [%s]}\n", info.name,
           matrix_rate * 1e-12, copy_rate * 1e-9, json);
    ml_ctx_free(&ctx);
    ml_device_close(device);
    return 0;
}
