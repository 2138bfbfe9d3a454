/* moonlight bench: tokens per second of prefill and decode, and how near they are to what the machine can do. */
#include "cli/cli.h"
#include "cli/load.h"

#include "base/clock.h"
#include "base/cpu.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "infer/speed.h"
#include "model/traffic.h"
#include "ops/cpu/limits.h"
#include "ops/device_limits.h"

#include <errno.h>
#include <stdlib.h>

typedef struct {
    const ml_options *o;
    ml_model *model;
    double load_seconds;
    ml_machine_limits limits; /* of the processor */
    ml_device_limits there;   /* of the device, when the model computes on one */
    json_t *object, *rows;    /* of --json; rows belongs to object */
} job;

/* One depth: what was measured, and its share of the machine. */
typedef struct {
    int64_t depth;
    ml_speed speed;
    ml_token_traffic traffic;
    double read_share, decode_bytes; /* of decode */
    double arithmetic_share;         /* of prefill */
} row;

/* Quantised weights meet activations of 8 bits; others are multiplied in fp32. */
static bool computes_in_int8(const ml_model *m)
{
    return ml_dtype_is_block(m->layer[0].attn_out.dtype);
}

static ml_status measure_depth(job *j, int64_t depth, row *r, ml_error *err)
{
    ml_speed_config config = { .n_prompt = ml_options_int(j->o, "prompt"),
                               .n_gen = ml_options_int(j->o, "gen"),
                               .depth = depth,
                               .n_batch = ml_options_int(j->o, "batch"),
                               .kv_dtype = ml_cli_kv_dtype(j->o),
                               .n_repeat = ml_options_int(j->o, "repeat"),
                               .seed = 1 };
    r->depth = depth;
    ML_TRY(ml_speed_measure(j->model, &config, &r->speed, err));
    /* The middle of the tokens that were generated; weights are read once for all sequences. */
    int64_t n_cache = r->speed.cache_token_bytes, middle = depth + config.n_gen / 2;
    const ml_device *device = j->model->device;
    r->traffic = ml_model_pass_traffic(j->model, config.n_batch, middle, n_cache);
    r->decode_bytes = (r->traffic.weight_bytes + r->traffic.cache_bytes) / (double)config.n_batch;
    r->read_share = r->decode_bytes * r->speed.decode.mean / (device ? j->there.read_bytes : j->limits.read_bytes);
    double head = (double)j->model->config.vocab_size * (double)j->model->config.hidden_size;
    double peak = computes_in_int8(j->model) ? j->limits.int8_macs : j->limits.fp32_macs;
    if (device) peak = j->there.bf16_macs;
    double macs = r->traffic.weight_macs / (double)config.n_batch;
    r->arithmetic_share = (macs - head) * r->speed.prefill.mean / peak;
    return ML_OK;
}

static const char *where_weights_are(const ml_model *m)
{
    return m->device ? "uploaded" : m->panels.base ? "repacked" : "mapped";
}

static void print_titles(const char *depth, const char *prefill, const char *decode, const char *read,
                         const char *reading, const char *arithmetic)
{
    printf("%7s  %19s  %18s  %8s  %8s  %10s\n", depth, prefill, decode, read, reading, arithmetic);
}

static void print_row(const row *r)
{
    printf("%7lld  %9.1f +- %6.1f  %8.2f +- %6.2f  %8.1f  %7.0f%%  %9.0f%%\n", (long long)r->depth,
           r->speed.prefill.mean, r->speed.prefill.sd, r->speed.decode.mean, r->speed.decode.sd, r->decode_bytes * 1e-6,
           100 * r->read_share, 100 * r->arithmetic_share);
    fflush(stdout);
}

static json_t *row_to_json(const row *r)
{
    return json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:f, s:o, s:o}", "depth", (json_int_t)r->depth, "launches",
                     (json_int_t)r->speed.n_launch, "prefill_tps", ml_json_number(r->speed.prefill.mean),
                     "prefill_tps_sd", ml_json_number(r->speed.prefill.sd), "decode_tps",
                     ml_json_number(r->speed.decode.mean), "decode_tps_sd", ml_json_number(r->speed.decode.sd),
                     "decode_bytes", r->decode_bytes, "read_share", ml_json_number(r->read_share), "arithmetic_share",
                     ml_json_number(r->arithmetic_share));
}

static void print_device(const job *j)
{
    printf("ready in %.2f s; on %s; reads %.1f GB/s, multiplies %.2f T/s of bf16; decodes %lld together\n\n",
           j->load_seconds, j->model->device_choice, j->there.read_bytes * 1e-9, j->there.bf16_macs * 1e-12,
           (long long)ml_options_int(j->o, "batch"));
}

static void print_processor(const job *j)
{
    printf("ready in %.2f s; %d threads, %s; reads %.1f GB/s, multiplies %.0f G/s of int8, %.0f G/s of fp32\n\n",
           j->load_seconds, ml_thread_count(), ml_isa_name(ml_cpu_isa()), j->limits.read_bytes * 1e-9,
           j->limits.int8_macs * 1e-9, j->limits.fp32_macs * 1e-9);
}

static void print_head(const job *j)
{
    ml_model_info info = ml_model_get_info(j->model);
    printf("%s, %lld parameters, %lld active; %s weights\n", info.class_name, (long long)info.n_params,
           (long long)info.n_params_active, where_weights_are(j->model));
    if (j->model->device) {
        print_device(j);
    } else {
        print_processor(j);
    }
    char prefill[32], decode[32];
    snprintf(prefill, sizeof prefill, "prefill of %lld", (long long)ml_options_int(j->o, "prompt"));
    snprintf(decode, sizeof decode, "decode of %lld", (long long)ml_options_int(j->o, "gen"));
    print_titles("", prefill, decode, "read per", "decode's", "prefill's");
    print_titles("", "", "", "token,", "share of", "share of");
    print_titles("depth", "tokens/s", "tokens/s", "MB", "reading", "arithmetic");
}

static ml_status parse_depth(const char *text, int64_t *out, ml_error *err)
{
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno || *end || end == text || n < 0) {
        return ml_fail(err, ML_EINVAL, "--depth: expected a number of tokens, found \"%s\"", text);
    }
    *out = n;
    return ML_OK;
}

/* Before anything is measured: whether all that is asked for fits. */
static ml_status check_lengths(const job *j, ml_error *err)
{
    int64_t n_prompt = ml_options_int(j->o, "prompt"), n_gen = ml_options_int(j->o, "gen"), depth;
    int64_t most = j->model->config.max_position_embeddings;
    const char *const *items;
    size_t n = ml_options_list(j->o, "depth", &items);
    for (size_t i = 0; i < n; i++) {
        ML_TRY(parse_depth(items[i], &depth, err));
        if (depth <= most - n_prompt - n_gen) continue;
        return ml_fail(err, ML_EINVAL,
                       "--depth %lld, --prompt %lld and --gen %lld: expected at most the model's %lld positions in "
                       "all: give smaller ones",
                       (long long)depth, (long long)n_prompt, (long long)n_gen, (long long)most);
    }
    return ML_OK;
}

static ml_status measure_depths(job *j, ml_error *err)
{
    const char *const *items;
    size_t n = ml_options_list(j->o, "depth", &items);
    for (size_t i = 0; i < n; i++) {
        row r = { 0 };
        int64_t depth;
        ML_TRY(parse_depth(items[i], &depth, err));
        ML_TRY(measure_depth(j, depth, &r, err));
        if (j->rows) {
            json_array_append_new(j->rows, row_to_json(&r));
        } else {
            print_row(&r);
        }
        if (j->object && i == 0) json_object_update_new(j->object, row_to_json(&r));
    }
    return ML_OK;
}

static ml_status bench(job *j, ml_error *err)
{
    const char *path;
    ML_TRY(ml_cli_require(j->o, "model", &path, err));
    double start = ml_clock_seconds();
    ml_memory_budget budget = ml_cli_budget(j->o);
    ML_TRY(ml_loaded_open_weights(path, ml_options_text(j->o, "repack"), &budget, &j->model, err));
    j->load_seconds = ml_clock_seconds() - start;
    ml_loaded_tell(j->model, ml_log_warn);
    ML_TRY(check_lengths(j, err));
    if (j->model->device) {
        ML_TRY(ml_device_limits_measure(j->model->device, &j->there, err));
    } else {
        bool asked = ml_options_given(j->o, "device") && !ml_options_flag(j->o, "json");
        if (asked) ml_log_info("computes on %s", j->model->device_choice);
        ML_TRY(ml_machine_measure(1.5, &j->limits, err));
    }
    if (ml_options_flag(j->o, "json")) {
        j->object = json_object();
        j->rows = json_array();
        json_object_set_new(j->object, "depths", j->rows);
    } else {
        print_head(j);
    }
    ML_TRY(measure_depths(j, err));
    if (!j->object) return ML_OK;
    json_object_update_new(
        j->object, json_pack("{s:i, s:s, s:s, s:f, s:o, s:o, s:o, s:I}", "threads", ml_thread_count(), "isa",
                             ml_isa_name(ml_cpu_isa()), "weights", where_weights_are(j->model), "load_seconds",
                             j->load_seconds, "read_bytes_per_second", ml_json_number(j->limits.read_bytes),
                             "int8_macs_per_second", ml_json_number(j->limits.int8_macs), "fp32_macs_per_second",
                             ml_json_number(j->limits.fp32_macs), "peak_memory", (json_int_t)ml_memory_peak()));
    json_object_update_new(j->object,
                           json_pack("{s:I, s:s, s:o, s:o}", "batch", (json_int_t)ml_options_int(j->o, "batch"),
                                     "device", j->model->device_choice, "device_read_bytes_per_second",
                                     ml_json_number(j->there.read_bytes), "device_bf16_macs_per_second",
                                     ml_json_number(j->there.bf16_macs)));
    json_t *object = j->object;
    j->object = NULL;
    return ml_cli_print_json(object, err);
}

ml_status ml_cli_bench(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("bench", NULL, argc, argv, 0, 0, "", &o, err));
    ml_stop_install();
    job j = { .o = o };
    ml_status status = bench(&j, err);
    json_decref(j.object);
    ml_model_free(j.model);
    ml_options_free(o);
    return status;
}
