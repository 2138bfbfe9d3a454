#include "infer/session.h"

#include "model/kv_cache.h"

#include <string.h>

enum { CHUNK = 256 }; /* tokens per forward pass: bounds the activations, and changes no bit of the result */

struct ml_session {
    ml_model *model;
    bool use_cache;
    ml_ctx ctx;
    ml_kv_cache *cache;
    int32_t *id; /* [capacity] */
    int64_t n, capacity;
    int64_t n_cached; /* tokens whose keys and values are in the cache */
    int32_t pos[CHUNK], seq[CHUNK];
    float *logits; /* [vocab_size] */
    bool has_logits;
};

/* Activations of one chunk: every intermediate of one layer, with room to spare; only touched pages cost memory. */
static size_t activation_bytes(const ml_config *c)
{
    int64_t width = 8 * c->hidden_size + 4 * c->intermediate_size +
                    4 * c->num_attention_heads * (ml_config_d_qk(c) + ml_config_d_v(c) + 2 * c->kv_lora_rank) +
                    8 * (c->num_experts_per_tok + c->n_shared_experts) * c->moe_intermediate_size +
                    4 * c->n_routed_experts;
    return (size_t)(c->num_hidden_layers * width * CHUNK + 2 * c->vocab_size) * sizeof(float) + ((size_t)64 << 20);
}

ml_status ml_session_make(ml_model *model, int64_t capacity, bool use_cache, ml_session **out, ml_error *err)
{
    *out = NULL;
    const ml_config *c = &model->config;
    if (capacity < 1 || capacity > c->max_position_embeddings) {
        return ml_fail(err, ML_EINVAL, "a context of %lld tokens: expected 1 to %lld, the model's positions",
                       (long long)capacity, (long long)c->max_position_embeddings);
    }
    ml_session *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "a session");
    s->model = model;
    s->use_cache = use_cache;
    s->capacity = capacity;
    ml_status status = ml_ctx_init(&s->ctx, activation_bytes(c), 0, err);
    if (status == ML_OK) status = ml_kv_cache_make(c, capacity, ML_SESSION_KV, &s->cache, err);
    if (status == ML_OK) {
        s->id = ml_calloc((size_t)capacity, sizeof *s->id);
        s->logits = ml_calloc((size_t)c->vocab_size, sizeof *s->logits);
        if (!s->id || !s->logits) status = ml_fail_memory(err, (size_t)c->vocab_size * sizeof *s->logits, "a session");
    }
    if (status != ML_OK) {
        ml_session_free(s);
        return status;
    }
    *out = s;
    return ML_OK;
}

void ml_session_free(ml_session *s)
{
    if (!s) return;
    ml_ctx_free(&s->ctx);
    ml_kv_cache_free(s->cache);
    ml_free(s->id);
    ml_free(s->logits);
    ml_free(s);
}

/* Tokens [n_cached, n_cached + n_chunk) into the cache; logits when they are the last ones. */
static ml_status run_chunk(ml_session *s, int64_t n_chunk, ml_error *err)
{
    ml_ctx *ctx = &s->ctx;
    ml_ctx_reset(ctx);
    ctx->mode = ML_MODE_FAST;
    for (int64_t i = 0; i < n_chunk; i++) {
        s->pos[i] = (int32_t)(s->n_cached + i);
        s->seq[i] = 0;
    }
    ml_model_input in = { .cache = s->cache };
    in.id = ml_tensor_wrap(ctx, ML_I32, 1, &n_chunk, s->id + s->n_cached);
    in.pos = ml_tensor_wrap(ctx, ML_I32, 1, &n_chunk, s->pos);
    in.seq = ml_tensor_wrap(ctx, ML_I32, 1, &n_chunk, s->seq);
    ml_tensor *hidden = ml_model_forward(ctx, s->model, &in); // [n_chunk, d]
    bool last = s->n_cached + n_chunk == s->n;
    if (last && hidden) {
        ml_tensor *logits = ml_model_logits(ctx, s->model, ml_tensor_rows(ctx, hidden, n_chunk - 1, 1)); // [1, vocab]
        if (logits) memcpy(s->logits, logits->data, (size_t)s->model->config.vocab_size * sizeof *s->logits);
    }
    ML_TRY(ml_ctx_status(ctx, err));
    s->n_cached += n_chunk;
    s->has_logits = last;
    return ML_OK;
}

ml_status ml_session_append(ml_session *s, const int32_t *id, int64_t n, ml_error *err)
{
    if (n < 1) return ML_OK;
    if (n > s->capacity - s->n) {
        return ml_fail(err, ML_EINVAL, "%lld tokens and %lld more do not fit into a context of %lld", (long long)s->n,
                       (long long)n, (long long)s->capacity);
    }
    for (int64_t i = 0; i < n; i++) {
        if (id[i] >= 0 && id[i] < s->model->config.vocab_size) continue;
        return ml_fail(err, ML_EINVAL, "token id %d at position %lld is outside the model's vocabulary of %lld", id[i],
                       (long long)(s->n + i), (long long)s->model->config.vocab_size);
    }
    memcpy(s->id + s->n, id, (size_t)n * sizeof *id);
    s->n += n;
    if (!s->use_cache) s->n_cached = 0;
    while (s->n_cached < s->n) {
        int64_t left = s->n - s->n_cached;
        ML_TRY(run_chunk(s, left < CHUNK ? left : CHUNK, err));
    }
    return ML_OK;
}

const float *ml_session_logits(const ml_session *s)
{
    return s->has_logits ? s->logits : NULL;
}

void ml_session_truncate(ml_session *s, int64_t n)
{
    if (n < 0 || n >= s->n) return;
    s->n = n;
    if (s->n_cached > n) s->n_cached = n;
    s->has_logits = false;
}

int64_t ml_session_count(const ml_session *s)
{
    return s->n;
}

int64_t ml_session_capacity(const ml_session *s)
{
    return s->capacity;
}

const int32_t *ml_session_ids(const ml_session *s)
{
    return s->id;
}
