/* How a model lies on a device: what the engine goes by, and what `moonlight inspect` shows of a device that may be
 * elsewhere. */
#include "format/find.h"
#include "format/gguf_config.h"
#include "infer/fit.h"
#include "ops/cached.h"
#include "quant/choose.h"

#include <stdio.h>
#include <string.h>

enum { PASS = 1024 };

/* What a device's products want: the largest weights of one operator as fp32; and attention of prompts. */
static int64_t products_bytes(const ml_config *c)
{
    int64_t experts = 3 * c->n_routed_experts * c->moe_intermediate_size, mlp = 3 * c->intermediate_size;
    int64_t most = experts > mlp ? experts : mlp;
    if (c->vocab_size > most) most = c->vocab_size;
    int64_t rows = (c->num_experts_per_tok + 2 * c->num_hidden_layers) * c->hidden_size * PASS;
    int64_t prompts = (int64_t)ML_PROMPT_WINDOW_BYTES + (int64_t)ML_PROMPT_STATE_BYTES;
    return (most * c->hidden_size + rows) * (int64_t)sizeof(float) + prompts + ((int64_t)512 << 20);
}

int64_t ml_fit_device_work(const ml_config *c)
{
    return ml_fit_make_plan(c, 0, 0, 1, ML_F32).work + products_bytes(c);
}

static ml_status measure_adapters(const ml_config *c, const ml_memory_budget *b, int64_t *n_bytes, ml_error *err)
{
    *n_bytes = 0;
    for (size_t i = 0; i < b->n_adapter; i++) {
        int64_t n;
        ML_TRY(ml_adapter_measure_files(ml_adapter_path_of(b->adapter[i]), c, &n, err));
        *n_bytes += n;
    }
    return ML_OK;
}

ml_status ml_fit_plan_device(const ml_config *c, ml_dtype dtype, ml_weight_source *source, const ml_memory_budget *b,
                             int64_t available, ml_fit_device_plan *out, ml_error *err)
{
    ml_upload_sizes sizes;
    int64_t none;
    *out = (ml_fit_device_plan){ .available = available,
                                 .cache = ml_fit_make_plan(c, 0, 0, b->cache_token, b->kv_dtype).cache,
                                 .work = ml_fit_device_work(c) };
    ML_TRY(measure_adapters(c, b, &out->adapters, err));
    int64_t left = available - out->cache - out->work - out->adapters;
    out->weights_room = left > 0 ? left : 1; /* 0 would be no limit */
    ML_TRY(ml_model_measure_upload(c, dtype, source, &sizes, err));
    (void)ml_upload_divide(&sizes, 0, &out->all, &none);
    int64_t n = ml_upload_divide(&sizes, out->weights_room, &out->weights, &out->host);
    out->fits = n >= 0;
    out->n_layer_in_host = out->fits ? n : 0;
    out->least = sizes.rest;
    ml_upload_sizes_free(&sizes);
    return ML_OK;
}

/* ---- weights that are not there ---- */

/* A source that knows types and sizes: what a mix would make of a model, as its GGUF file has it. */
typedef struct {
    ml_weight_source source;
    const ml_config *config;
    ml_quant_plan plan;
} planned;

static bool has_weight(const ml_weight_source *s, const char *name)
{
    (void)s;
    return !strstr(name, "kv_b_proj"); /* in halves */
}

static ml_status find_weight(const ml_weight_source *s, const char *name, int n_dim, const int64_t *dim,
                             ml_stored_weight *out, ml_error *err)
{
    const planned *p = (const planned *)s;
    long long layer = -1;
    *out = (ml_stored_weight){ .data = s, .n_dim = n_dim };
    for (int i = 0; i < n_dim; i++) out->dim[i] = dim[i];
    if (sscanf(name, "model.layers.%lld.", &layer) != 1) layer = -1;
    ml_quant_tensor t = { .ours = name,
                          .theirs = name,
                          .layer = layer,
                          .n_layer = p->config->num_hidden_layers,
                          .n_col = dim[n_dim - 1],
                          .is_head = p->config->tie_word_embeddings && !strcmp(name, "model.embed_tokens.weight") };
    return ml_quant_choose(&p->plan, &t, &out->dtype, err);
}

ml_status ml_fit_plan_device_mix(const ml_config *config, const char *mix, const ml_memory_budget *b, int64_t available,
                                 ml_fit_device_plan *out, ml_error *err)
{
    const ml_gguf_arch *arch;
    bool pair_rows;
    planned p = { .source = { .where = mix, .has = has_weight, .find = find_weight }, .config = config };
    ML_TRY(ml_gguf_arch_for(config, &arch, &pair_rows, err));
    ML_TRY(ml_quant_mix_find(mix, &p.plan.mix, err));
    return ml_fit_plan_device(config, ML_F32, &p.source, b, available, out, err);
}
