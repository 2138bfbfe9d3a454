#include "cli/init_gguf.h"

#include "base/log.h"
#include "base/rng.h"
#include "cli/amount.h"
#include "format/gguf_config.h"
#include "model/model.h"
#include "quant/gguf_export.h"

#include <math.h>

typedef struct {
    const ml_config *config;
    const ml_gguf_layout *layout;
    uint64_t seed;
    ml_progress *progress;
} fresh;

static void fill_constant(float value, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) out[i] = value;
}

/* Normals beyond 2 are drawn again, from further rows of the same stream. */
static void truncate_normals(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        for (uint64_t row = 1; fabsf(out[i]) > 2; row++) {
            ml_rng_fill_normal(seed, stream, (row << 48) + first + (uint64_t)i, 1, &out[i]);
        }
    }
}

/* Every element is drawn, each tensor from random streams of its own: one for each part. */
static ml_status fill(void *arg, const ml_gguf_entry *e, int64_t part, int64_t row, int64_t n_row, float *out,
                      ml_error *err)
{
    (void)err;
    const fresh *f = arg;
    ml_weight_class class = ml_weight_class_of(e->ours);
    int64_t n = n_row * e->cols;
    if (class == ML_CLASS_NORM || class == ML_CLASS_BIAS) {
        fill_constant(class == ML_CLASS_NORM ? 1.0f : 0.0f, n, out);
        return ML_OK;
    }
    ml_param_kind kind = class == ML_CLASS_EMBEDDING ? ML_PARAM_EMBEDDING
                         : class == ML_CLASS_ROUTER  ? ML_PARAM_ROUTER
                                                     : ML_PARAM_MATRIX;
    int64_t fan_in = class == ML_CLASS_ATTN_K_B ? f->config->kv_lora_rank : e->cols; // k_b is stored transposed
    float std = (float)ml_model_init_std(f->config, kind, fan_in);
    uint64_t stream = (uint64_t)(e - f->layout->entry) << 20 | (uint64_t)part;
    uint64_t first = (uint64_t)(row * e->cols);
    ml_rng_fill_normal(f->seed, stream, first, (uint64_t)n, out);
    if (f->config->init == ML_INIT_TRUNCATED) truncate_normals(f->seed, stream, first, n, out);
    for (int64_t i = 0; i < n; i++) out[i] *= std;
    return ML_OK;
}

static void show(void *arg, uint64_t done, uint64_t total)
{
    (void)total;
    ml_progress_update(((const fresh *)arg)->progress, (double)done / 1e6, NULL);
}

static ml_status write_file(const ml_options *o, fresh *f, ml_gguf_export *x, const char *path, ml_error *err)
{
    const char *mix = ml_options_text(o, "quant"), *tokenizer = ml_options_text(o, "tokenizer");
    ml_tokenizer *t = NULL;
    uint64_t total;
    ML_TRY(ml_quant_mix_find(mix ? mix : ml_options_text(o, "dtype"), &x->plan.mix, err));
    ML_TRY(ml_gguf_export_bytes(x, &total, err));
    if (tokenizer) ML_TRY(ml_tokenizer_open(tokenizer, &t, err));
    x->tokenizer = t;
    f->progress = ml_progress_begin("writing", "MB", (double)total / 1e6);
    ml_stop_install();
    ml_status status = ml_gguf_export_write(x, path, err);
    ml_progress_end(f->progress);
    ml_tokenizer_free(t);
    if (status == ML_OK) {
        ml_log_info("%s: %s, %lld parameters in %s, %s", path, x->arch->name,
                    (long long)ml_model_count(x->config).total, ml_quant_mix_name(x->plan.mix),
                    ml_cli_bytes((int64_t)total).text);
    }
    return status;
}

ml_status ml_cli_init_gguf(const ml_options *o, const ml_config *config, const char *path, ml_error *err)
{
    bool pair_rows; /* random rows have no order */
    ml_gguf_layout layout = { 0 };
    fresh f = { .config = config, .layout = &layout, .seed = (uint64_t)ml_options_int(o, "seed") };
    ml_gguf_export x = { .config = config,
                         .layout = &layout,
                         .name = ml_options_positional(o, 0),
                         .fill = fill,
                         .arg = &f,
                         .progress = show };
    ML_TRY(ml_gguf_arch_for(config, &x.arch, &pair_rows, err));
    ML_TRY(ml_gguf_layout_make(config, x.arch, false, false, &layout, err));
    ml_status status = write_file(o, &f, &x, path, err);
    ml_gguf_layout_free(&layout);
    return status;
}
