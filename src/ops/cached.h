/* Attention over a key/value cache, for inference: no backward, no line in ops.def.
 *
 * The result for a token depends on its query, its position and the cached rows it sees, and on nothing else: not on
 * the other tokens of the batch, how a prompt was cut into chunks, the number of threads or where the pages lie, bit
 * for bit.  Keys are walked in blocks and spans aligned to position 0, and summed in their order. */
#ifndef ML_OPS_CACHED_H
#define ML_OPS_CACHED_H

#include "ops/ops.h"

/* One layer's cache.  A token's row holds all its key heads (k) and all its value heads (v); with MLA there is one
 * row in k, the normed c_kv followed by the rotated k_pe, and v is NULL.  The row of position p of sequence s is
 *   page_table[s * pages_per_seq + p / page_size] * page_size + p % page_size
 * rows after the base. */
typedef struct {
    ml_dtype dtype; /* of both: f32, f16 or bf16 */
    char *k, *v;
    int64_t k_row_bytes, v_row_bytes; /* from one cached token to the next */
    int32_t page_size;                /* tokens in a page */
    const int32_t *page_table;        /* [sequences, pages_per_seq] */
    int64_t pages_per_seq;
} ml_kv_view;

/* Write the rows of new tokens: token t is position pos[t] of sequence seq_of_token[t].
 *   k [tokens, n], k_tail [tokens, m] or NULL: written after k in the same row (MLA: c_kv, then k_pe)
 *   v [tokens, n_v], or NULL with MLA;  all fp32, column views are welcome;  seq_of_token, pos [tokens] i32
 * ML_EINVAL when a row is shorter than what is stored in it or a position has no page. */
ml_status ml_kv_store(ml_ctx *ctx, const ml_kv_view *kv, ml_tensor *k, ml_tensor *k_tail, ml_tensor *v,
                      ml_tensor *seq_of_token, ml_tensor *pos);

/* Token t attends to positions 0 .. pos[t] of sequence seq_of_token[t], whose rows must be in the cache (its own too).
 *   q [tokens, n_head * d_qk]; param as in ml_attention, d_shared = 0, steps in columns of a cached row
 *   -> y [tokens, n_head * d_v]
 * Tokens of one sequence that are neighbours in the batch share the reading of the cache. */
ml_tensor *ml_attention_cached(ml_ctx *ctx, ml_tensor *q, const ml_kv_view *kv, ml_tensor *seq_of_token, ml_tensor *pos,
                               const ml_attention_param *param);

typedef struct {
    int64_t n_head;
    int64_t d_nope, n_rot; /* a query head is [d_nope | n_rot], the latter already rotated */
    int64_t d_v;
    int64_t kv_lora_rank;
    float scale; /* multiplies q.k */
} ml_mla_param;

/* Multi-head latent attention on the compressed cache (DeepSeek-V2, arXiv:2405.04434, section 2.1.2, absorbed):
 *   q_abs[t,h] = q_nope[t,h] W_uk[h];  score = scale * (q_abs . c_kv + q_pe . k_pe);  y[t,h] = W_uv[h] sum(p c_kv)
 *   q [tokens, n_head * (d_nope + n_rot)]
 *   kv_b [n_head * (d_nope + d_v), kv_lora_rank], f32, bf16 or f16: W_uk[h] then W_uv[h] for each head
 *   kv: rows of kv_lora_rank + n_rot
 *   -> y [tokens, n_head * d_v] */
ml_tensor *ml_attention_cached_mla(ml_ctx *ctx, ml_tensor *q, ml_tensor *kv_b, const ml_kv_view *kv,
                                   ml_tensor *seq_of_token, ml_tensor *pos, const ml_mla_param *param);

#endif
