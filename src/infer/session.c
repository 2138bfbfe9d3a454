#include "infer/session.h"

#include "base/alloc.h"
#include "infer/runner.h"

#include <string.h>

/* Tokens of a pass: bounds the activations, and changes no bit of the result.  Latent attention makes keys and values
 * of all positions before it once per pass, so on the processor passes grow with the depth, from this many on. */
enum { CHUNK = 512 };

struct ml_session {
    ml_model *model;
    bool use_cache;
    ml_runner *runner;
    int32_t *id;     /* [capacity] */
    bool *generated; /* [capacity] the phase of each token */
    int64_t n, capacity;
    int64_t n_cached; /* tokens whose keys and values are in the cache */
    int64_t longest_pass;
    int32_t *pos, *seq; /* [longest_pass] */
    float *logits;      /* [vocab_size] */
    bool has_logits;
};

static ml_runner_config configure(int64_t capacity, int64_t longest_pass, ml_dtype kv_dtype)
{
    return (ml_runner_config){ .n_seq = 1, .capacity = capacity, .max_token = longest_pass, .kv_dtype = kv_dtype };
}

int64_t ml_session_plan_device(const ml_config *config, int64_t capacity, int64_t widest_bytes)
{
    int64_t longest = capacity < ML_DEVICE_PROMPT_PASS ? capacity : ML_DEVICE_PROMPT_PASS;
    ml_runner_config c = configure(capacity, longest, ML_SESSION_KV);
    return ml_runner_plan_device(config, &c, widest_bytes);
}

ml_status ml_session_make_as(ml_model *model, int64_t capacity, bool use_cache, ml_dtype kv_dtype, ml_session **out,
                             ml_error *err)
{
    *out = NULL;
    ml_session *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "a session");
    s->model = model;
    s->use_cache = use_cache;
    s->capacity = capacity;
    s->longest_pass = ml_runner_choose_pass(model, capacity, kv_dtype);
    ml_runner_config config = configure(capacity, s->longest_pass, kv_dtype);
    ml_status status = ml_runner_make(model, &config, &s->runner, err);
    if (status == ML_OK) {
        size_t n_vocab = (size_t)model->config.vocab_size;
        s->id = ml_calloc((size_t)capacity, sizeof *s->id);
        s->generated = ml_calloc((size_t)capacity, sizeof *s->generated);
        s->pos = ml_calloc((size_t)s->longest_pass, sizeof *s->pos);
        s->seq = ml_calloc((size_t)s->longest_pass, sizeof *s->seq);
        s->logits = ml_runner_alloc_logits(model, n_vocab);
        if (!s->id || !s->generated || !s->pos || !s->seq || !s->logits) {
            status = ml_fail_memory(err, n_vocab * sizeof *s->logits, "a session");
        }
    }
    if (status != ML_OK) {
        ml_session_free(s);
        return status;
    }
    *out = s;
    return ML_OK;
}

ml_status ml_session_make(ml_model *model, int64_t capacity, bool use_cache, ml_session **out, ml_error *err)
{
    return ml_session_make_as(model, capacity, use_cache, ML_SESSION_KV, out, err);
}

ml_status ml_session_make_typed(ml_model *model, int64_t capacity, bool use_cache, const char *kv_type,
                                ml_session **out, ml_error *err)
{
    ml_dtype dtype;
    *out = NULL;
    if (!ml_dtype_parse(kv_type, &dtype)) {
        return ml_fail(err, ML_EINVAL, "there is no type %s for keys and values: expected f16, bf16, f32 or q8_0",
                       kv_type);
    }
    return ml_session_make_as(model, capacity, use_cache, dtype, out, err);
}

void ml_session_free(ml_session *s)
{
    if (!s) return;
    ml_runner_free(s->runner);
    ml_free(s->id);
    ml_free(s->generated);
    ml_free(s->pos);
    ml_free(s->seq);
    ml_runner_free_logits(s->model, s->logits);
    ml_free(s);
}

/* Tokens from n_cached on that are in one phase, as many as fit into a pass, into the cache; logits when they are the
 * last ones. */
static ml_status run_chunk(ml_session *s, ml_error *err)
{
    int64_t n = 0, most = s->n_cached < CHUNK ? CHUNK : s->n_cached;
    bool generated = s->generated[s->n_cached];
    if (most > s->longest_pass || s->model->device) most = s->longest_pass;
    while (n < most && s->n_cached + n < s->n && s->generated[s->n_cached + n] == generated) {
        s->pos[n] = (int32_t)(s->n_cached + n);
        s->seq[n++] = 0;
    }
    ML_TRY(ml_runner_forward(s->runner, n, generated ? n : 0, s->id + s->n_cached, s->pos, s->seq, err));
    bool last = s->n_cached + n == s->n;
    if (last) ML_TRY(ml_runner_logits(s->runner, 1, (int32_t[]){ (int32_t)n - 1 }, s->logits, err));
    s->n_cached += n;
    s->has_logits = last;
    return ML_OK;
}

static ml_status append(ml_session *s, const int32_t *id, int64_t n, bool generated, ml_error *err)
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
    for (int64_t i = 0; i < n; i++) s->generated[s->n + i] = generated;
    s->n += n;
    if (!s->use_cache) s->n_cached = 0;
    bool room = ml_pages_reserve(ml_runner_pages(s->runner), 0, s->n);
    if (!room) return ml_fail(err, ML_ENOMEM, "the cache has no page for token %lld", (long long)s->n);
    while (s->n_cached < s->n) ML_TRY(run_chunk(s, err));
    return ML_OK;
}

ml_status ml_session_append(ml_session *s, const int32_t *id, int64_t n, ml_error *err)
{
    return append(s, id, n, false, err);
}

ml_status ml_session_append_generated(ml_session *s, int32_t id, ml_error *err)
{
    return append(s, &id, 1, true, err);
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
    ml_pages_truncate(ml_runner_pages(s->runner), 0, n);
}

void ml_session_set_adapter(ml_session *s, const ml_adapter *adapter)
{
    ml_session_truncate(s, 0);
    ml_runner_set_adapter(s->runner, 0, adapter);
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
