/* Keys and values of the tokens already seen, per layer, so that a new token costs one token.
 *
 * GQA keeps the rotated keys and the values of its key heads; MLA the compressed row that both are made from
 * (arXiv:2405.04434): kv_lora_rank normed columns, then the rotated key columns that all heads share. */
#ifndef ML_MODEL_KV_CACHE_H
#define ML_MODEL_KV_CACHE_H

#include "model/config.h"
#include "ops/cached.h"

typedef struct ml_kv_cache ml_kv_cache;

/* Whether a cache can be of that type: f32, f16, bf16 or q8_0.  ML_EINVAL for another, and when a head's columns are
 * not whole blocks of q8_0. */
ml_status ml_kv_cache_check(const ml_config *config, ml_dtype dtype, ml_error *err);
/* Room for `capacity` tokens, on a device (NULL: here).  Fails as ml_kv_cache_check and ml_device_alloc. */
ml_status ml_kv_cache_make(const ml_config *config, int64_t capacity, ml_dtype dtype, ml_device *device,
                           ml_kv_cache **out, ml_error *err);
void ml_kv_cache_free(ml_kv_cache *cache);
/* Whose the rows are: pages of page_size tokens, page_table [sequences, pages_per_seq] (of the caller, where the cache
 * is). */
void ml_kv_cache_set_pages(ml_kv_cache *cache, const int32_t *page_table, int32_t page_size, int64_t pages_per_seq);
/* Where a layer's rows are. */
ml_kv_view ml_kv_cache_view(const ml_kv_cache *cache, int64_t layer_id);
/* Bytes one token takes over all layers, of a type that ml_kv_cache_check takes. */
int64_t ml_kv_cache_token_bytes(const ml_config *config, ml_dtype dtype);

#endif
