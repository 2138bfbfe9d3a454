#include "infer/fit.h"

#include "base/memory.h"
#include "format/gguf_config.h"
#include "model/count.h"
#include "model/kv_cache.h"
#include "quant/gguf_export.h"

#include <stdio.h>
#include <string.h>

enum { USUAL_CONTEXT = 8192, PASS = 1024 };

/* Of a pass: every intermediate of one layer, and its result; the largest logits are those of a few rows. */
static int64_t work_bytes(const ml_config *c)
{
    int64_t attention = c->num_attention_heads * (ml_config_d_qk(c) + ml_config_d_v(c));
    int64_t experts = (c->num_experts_per_tok + c->n_shared_experts) * c->moe_intermediate_size;
    int64_t layer = 8 * c->hidden_size + 2 * c->intermediate_size + 2 * attention + 2 * experts;
    return (layer * PASS + 8 * c->vocab_size) * (int64_t)sizeof(float) + ((int64_t)32 << 20);
}

ml_fit_plan ml_fit_make_plan(const ml_config *c, int64_t stored, int64_t copied, int64_t n_token, ml_dtype kv_dtype)
{
    int64_t usual = c->max_position_embeddings < USUAL_CONTEXT ? c->max_position_embeddings : USUAL_CONTEXT;
    ml_fit_plan p = { .stored = stored, .copied = copied, .work = work_bytes(c) };
    p.cache = ml_kv_cache_token_bytes(c, kv_dtype) * (n_token ? n_token : usual);
    p.total = p.stored + p.copied + p.cache + p.work;
    return p;
}

/* ---- what would fit ---- */

ml_status ml_fit_measure_mix(const ml_config *config, const char *mix, int64_t *bytes, ml_error *err)
{
    bool pair_rows;
    uint64_t total;
    ml_gguf_layout layout = { 0 };
    ml_gguf_export x = { .config = config, .layout = &layout };
    ML_TRY(ml_gguf_arch_for(config, &x.arch, &pair_rows, err));
    ML_TRY(ml_quant_mix_find(mix, &x.plan.mix, err));
    ML_TRY(ml_gguf_layout_make(config, x.arch, pair_rows, false, &layout, err));
    ml_status status = ml_gguf_export_bytes(&x, &total, err);
    ml_gguf_layout_free(&layout);
    *bytes = (int64_t)total;
    return status;
}

const char *ml_fit_find_mix(const ml_config *config, int64_t available, int64_t n_token, ml_dtype kv_dtype,
                            int64_t *mix_bytes)
{
    /* From most bits to fewest. */
    static const char *const mixes[] = { "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k", "q4_k_m", "q4_k", "q4_0" };
    ml_error ignored;
    for (size_t i = 0; i < sizeof mixes / sizeof *mixes; i++) {
        if (ml_fit_measure_mix(config, mixes[i], mix_bytes, &ignored) != ML_OK) return NULL;
        if (ml_fit_make_plan(config, *mix_bytes, 0, n_token, kv_dtype).total <= available) return mixes[i];
    }
    return NULL;
}

/* ---- the check ---- */

static double gigabytes(int64_t n_bytes)
{
    return (double)n_bytes * 1e-9;
}

/* What could be done about it, in out[size]. */
static void advise(const char *path, const ml_config *config, const ml_memory_budget *b, int64_t available,
                   const ml_fit_plan *p, char *out, size_t size)
{
    int64_t mix_bytes = 0;
    const char *mix = ml_fit_find_mix(config, available, b->cache_token, b->kv_dtype, &mix_bytes);
    if (mix && mix_bytes < p->stored + p->copied) {
        snprintf(out, size,
                 "quantised to %s its weights take %.4g GB and fit: moonlight convert %.200s DST.gguf --quant %s", mix,
                 gigabytes(mix_bytes), path, mix);
    } else if (mix_bytes > 0) {
        snprintf(out, size, "even in q4_0 its weights take %.4g GB: a %s with more memory, or a smaller model",
                 gigabytes(mix_bytes), b->on ? "GPU" : "machine");
    } else {
        snprintf(out, size, "free some memory, or take a smaller model");
    }
}

int64_t ml_fit_memory(const ml_memory_budget *b)
{
    int64_t there = b->on ? ml_device_get_info(b->on).free_bytes : 0;
    if (b->on) return b->available && b->available < there ? b->available : there;
    return b->available ? b->available : ml_memory_available();
}

ml_status ml_fit_check(const char *path, const ml_config *config, ml_weight_source *source, const ml_memory_budget *b,
                       ml_error *err)
{
    size_t stored, copied;
    char advice[512];
    int64_t available = ml_fit_memory(b);
    ML_TRY(ml_kv_cache_check(config, b->kv_dtype, err));
    ML_TRY(ml_model_measure_bind(config, source, &stored, &copied, err));
    ml_fit_plan p = ml_fit_make_plan(config, (int64_t)stored, (int64_t)copied, b->cache_token, b->kv_dtype);
    if (b->on) {
        ml_fit_device_plan there;
        ML_TRY(ml_fit_plan_device(config, ML_F32, source, b, available, &there, err));
        if (there.fits && there.host < ml_memory_available() / 10 * 8) return ML_OK;
        int64_t more = there.work + there.adapters - p.work;
        p.work += more;
        p.total += more;
        advise(path, config, b, available - more, &p, advice, sizeof advice);
        return ml_fail(err, ML_ENOMEM,
                       "%.300s does not fit on the GPU: %.4g GB of weights, %.4g GB of keys and values and %.4g GB for "
                       "computing%s are %.4g GB, but %.4g GB of its memory are available; %s, or give --device cpu",
                       path, gigabytes(p.stored + p.copied), gigabytes(p.cache), gigabytes(p.work),
                       there.adapters ? " and adapters" : "", gigabytes(p.total), gigabytes(available), advice);
    }
    if (p.total - (b->stream ? p.stored : 0) <= available) return ML_OK;
    advise(path, config, b, available, &p, advice, sizeof advice);
    bool streams = b->offers_stream && p.total - p.stored <= available;
    return ml_fail(err, ML_ENOMEM,
                   "%.300s does not fit: %.4g GB of weights, %.4g GB of keys and values and %.4g GB for computing are "
                   "%.4g GB, but %.4g GB of memory are available; %s%s",
                   path, gigabytes(p.stored + p.copied), gigabytes(p.cache), gigabytes(p.work), gigabytes(p.total),
                   gigabytes(available), advice,
                   streams ? "; --stream on runs it as it is, reading its weights from the disk for every pass" : "");
}

/* Bytes of the weights that must stay in memory beside what is allocated already, or all of them under a limit. */
static ml_status held_bytes(const ml_model *m, const ml_memory_budget *b, int64_t *out, ml_error *err)
{
    size_t stored = 0, copied = m->values.capacity;
    if (m->source) ML_TRY(ml_model_measure_bind(&m->config, m->source, &stored, &copied, err));
    int64_t mapped = (int64_t)stored - (int64_t)m->panels.capacity;
    if (mapped < 0 || b->stream) mapped = 0;
    *out = b->available ? mapped + (int64_t)(m->panels.capacity + copied) : mapped;
    return ML_OK;
}

ml_status ml_fit_check_cache(const ml_model *m, int64_t n_token, const ml_memory_budget *b, const char *remedy,
                             ml_error *err)
{
    int64_t held, left = b->available ? b->available : ml_memory_available();
    ML_TRY(ml_kv_cache_check(&m->config, b->kv_dtype, err));
    int64_t need = ml_kv_cache_token_bytes(&m->config, b->kv_dtype) * n_token;
    if (m->device) { /* the weights have their memory */
        left = ml_device_get_info(m->device).free_bytes;
        held = ml_fit_device_work(&m->config);
    } else {
        ML_TRY(held_bytes(m, b, &held, err));
    }
    left = left > held ? left - held : 0;
    if (need <= left) return ML_OK;
    return ml_fail(err, ML_ENOMEM,
                   "the keys and values of %lld tokens take %.4g GB in %s, and the weights leave %.4g GB: %s%s",
                   (long long)n_token, gigabytes(need), ml_dtype_name(b->kv_dtype), gigabytes(left), remedy,
                   b->kv_dtype == ML_Q8_0 ? "" : ", or --kv-cache-type q8_0");
}
