#include "model/kv_cache.h"

struct ml_kv_cache {
    ml_config config;
    ml_dtype dtype;
    int64_t capacity;
    int64_t k_row_bytes, v_row_bytes;
    ml_arena memory; /* [layer][k rows, v rows] */
    ml_device *device;
    const int32_t *page_table;
    int32_t page_size;
    int64_t pages_per_seq;
};

static void row_bytes(const ml_config *c, ml_dtype dtype, int64_t *k, int64_t *v)
{
    if (c->attention == ML_ATTENTION_MLA) {
        *k = (int64_t)ml_dtype_row_bytes(dtype, c->kv_lora_rank + c->qk_rope_head_dim);
        *v = 0;
    } else {
        *k = *v = (int64_t)ml_dtype_row_bytes(dtype, c->num_key_value_heads * c->head_dim);
    }
}

/* What is stored in one piece must be whole blocks: c_kv and k_pe, or every head. */
ml_status ml_kv_cache_check(const ml_config *c, ml_dtype dtype, ml_error *err)
{
    if (!ml_kv_dtype_is_valid(dtype)) {
        return ml_fail(err, ML_EINVAL, "a key/value cache of %s: expected f32, f16, bf16 or q8_0",
                       ml_dtype_name(dtype));
    }
    bool latent = c->attention == ML_ATTENTION_MLA;
    int64_t first = latent ? c->kv_lora_rank : c->head_dim, second = latent ? c->qk_rope_head_dim : c->head_dim;
    int64_t length = ml_dtype_block_length(dtype);
    if (first % length == 0 && second % length == 0) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "a %s cache stores blocks of %lld numbers, and this model's %s are %lld and %lld wide: use "
                   "--kv-cache-type f16",
                   ml_dtype_name(dtype), (long long)length, latent ? "latent and rotary rows" : "keys and values",
                   (long long)first, (long long)second);
}

int64_t ml_kv_cache_token_bytes(const ml_config *config, ml_dtype dtype)
{
    int64_t k, v;
    row_bytes(config, dtype, &k, &v);
    return config->num_hidden_layers * (k + v);
}

/* Here it is address space: rows cost memory when they are first written. */
static ml_status allocate(ml_kv_cache *cache, size_t n_bytes, ml_error *err)
{
    if (!cache->device) return ml_arena_init(&cache->memory, n_bytes, err);
    void *base;
    ML_TRY(ml_device_alloc(cache->device, n_bytes, "keys and values", &base, err));
    cache->memory = (ml_arena){ .base = base, .capacity = n_bytes };
    return ML_OK;
}

ml_status ml_kv_cache_make(const ml_config *config, int64_t capacity, ml_dtype dtype, ml_device *device,
                           ml_kv_cache **out, ml_error *err)
{
    *out = NULL;
    ML_TRY(ml_kv_cache_check(config, dtype, err));
    ml_kv_cache *cache = ml_calloc(1, sizeof *cache);
    if (!cache) return ml_fail_memory(err, sizeof *cache, "a key/value cache");
    cache->config = *config;
    cache->dtype = dtype;
    cache->capacity = capacity;
    row_bytes(config, dtype, &cache->k_row_bytes, &cache->v_row_bytes);
    cache->device = device;
    ml_status status = allocate(cache, (size_t)(ml_kv_cache_token_bytes(config, dtype) * capacity), err);
    if (status != ML_OK) {
        ml_kv_cache_free(cache);
        return status;
    }
    *out = cache;
    return ML_OK;
}

void ml_kv_cache_free(ml_kv_cache *cache)
{
    if (!cache) return;
    if (cache->device) {
        ml_device_release(cache->device, cache->memory.base);
    } else {
        ml_arena_free(&cache->memory);
    }
    ml_free(cache);
}

void ml_kv_cache_set_pages(ml_kv_cache *cache, const int32_t *page_table, int32_t page_size, int64_t pages_per_seq)
{
    cache->page_table = page_table;
    cache->page_size = page_size;
    cache->pages_per_seq = pages_per_seq;
}

ml_kv_view ml_kv_cache_view(const ml_kv_cache *cache, int64_t layer_id)
{
    char *base = cache->memory.base + layer_id * cache->capacity * (cache->k_row_bytes + cache->v_row_bytes);
    return (ml_kv_view){ .dtype = cache->dtype,
                         .k = base,
                         .v = cache->v_row_bytes ? base + cache->capacity * cache->k_row_bytes : NULL,
                         .k_row_bytes = cache->k_row_bytes,
                         .v_row_bytes = cache->v_row_bytes,
                         .page_size = cache->page_size,
                         .page_table = cache->page_table,
                         .pages_per_seq = cache->pages_per_seq };
}
