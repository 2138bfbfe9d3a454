/* Attention over a key/value cache, for inference: no backward, no line in ops.def.
 *
 * There are two ways to compute it, and the caller says for each token which: the first `n_decode` tokens of a batch
 * are being generated (decode), the others are prompt (prefill).  Decoding walks the cache once for all heads of a
 * token; prefill makes fp32 keys and values of a stretch of positions and shares them among all tokens of the call.
 * With MLA decoding is the absorbed form and prefill the decompressed one.  Both are exact up to fp32 rounding, which
 * differs: the phase belongs to the token, not to the call.
 *
 * On a device decoding is the same, in fp32.  Prefill in ML_PRECISION_BF16 is attention in tiles on the matrix unit:
 * queries, keys and values, the weights of keys, and with MLA latent rows and kv_b are rounded to bf16; sums, the
 * softmax and what is kept between windows of keys are fp32.  In ML_PRECISION_F32 prefill walks the keys as decoding
 * does.
 *
 * The result for a token depends on its phase, its query, its position and the cached rows it sees, and on nothing
 * else: not on the other tokens of the batch, how a prompt was cut into chunks, the number of threads, how many keys a
 * device has at a time, or where the pages lie, bit for bit.  Keys are walked in blocks and spans aligned to position
 * 0, and summed in their order. */
#ifndef ML_OPS_CACHED_H
#define ML_OPS_CACHED_H

#include "ops/token_terms.h"

/* One layer's cache.  A token's row holds all its key heads (k) and all its value heads (v); with MLA there is one
 * row in k, the normed c_kv followed by the rotated k_pe, and v is NULL.  The row of position p of sequence s is
 *   page_table[s * pages_per_seq + p / page_size] * page_size + p % page_size
 * rows after the base. */
typedef struct {
    ml_dtype dtype; /* of both: f32, f16, bf16 or q8_0 (tensor/blocks.h) */
    char *k, *v;
    int64_t k_row_bytes, v_row_bytes; /* from one cached token to the next */
    int32_t page_size;                /* tokens in a page */
    const int32_t *page_table;        /* [sequences, pages_per_seq] */
    int64_t pages_per_seq;
} ml_kv_view;

/* May a cache have this type? */
bool ml_kv_dtype_is_valid(ml_dtype dtype);

/* Write the rows of new tokens, each value rounded once: token t is position pos[t] of sequence seq_of_token[t].
 *   k [tokens, n], k_tail [tokens, m] or NULL: written after k in the same row (MLA: c_kv, then k_pe)
 *   v [tokens, n_v], or NULL with MLA;  all fp32, column views are welcome;  seq_of_token, pos [tokens] i32
 * ML_EINVAL when a row is shorter than what is stored in it, a position has no page, a part is not whole blocks of
 * q8_0, or a value is too large for f16 or q8_0. */
ml_status ml_kv_store(ml_ctx *ctx, const ml_kv_view *kv, ml_tensor *k, ml_tensor *k_tail, ml_tensor *v,
                      ml_tensor *seq_of_token, ml_tensor *pos);

/* What prefill on a device takes at most beside its result and copies of kv_b: keys and values of as many positions as
 * fit into the first at a time, and what tokens keep between windows of a sequence longer than that.  (Heads so many
 * that 64 positions or 128 tokens do not fit take those.) */
enum { ML_PROMPT_WINDOW_BYTES = 96 << 20, ML_PROMPT_STATE_BYTES = 96 << 20 };

/* Token t attends to positions 0 .. pos[t] of sequence seq_of_token[t], whose rows must be in the cache (its own too).
 * Tokens of a sequence lie best together: on a device each stretch of neighbouring prompt tokens packs its keys anew.
 *   q [tokens, n_head * d_qk]; param as in ml_attention, d_shared = 0, steps in columns of a cached row
 *   -> y [tokens, n_head * d_v] */
ml_tensor *ml_attention_cached(ml_ctx *ctx, ml_tensor *q, const ml_kv_view *kv, ml_tensor *seq_of_token, ml_tensor *pos,
                               int64_t n_decode, const ml_attention_param *param);

typedef struct {
    int64_t n_head;
    int64_t d_nope, n_rot; /* a query head is [d_nope | n_rot], the latter already rotated */
    int64_t d_v;
    int64_t kv_lora_rank;
    float scale; /* multiplies q.k */
} ml_mla_param;

/* A low-rank term of kv_b (an adapter's): row j of kv_b becomes factor[j] * (w_j + scale * b_j a).
 *   a [rank, kv_lora_rank], b [n_head * (d_nope + d_v), rank], factor [n_head * (d_nope + d_v)] or NULL: 1 */
typedef struct {
    const float *a, *b, *factor;
    int64_t rank;
    float scale;
} ml_mla_term;

/* What makes keys and values of a latent row: kv_b, or both others.  Any float or block type whose rows divide, each
 * tensor its own.  Products with them are fp32: nothing but the weight itself is rounded; but for prefill in
 * ML_PRECISION_BF16, which rounds both operands.
 *   kv_b [n_head * (d_nope + d_v), kv_lora_rank]   W_uk[h] then W_uv[h] for each head (Hugging Face)
 *   k_b  [n_head, kv_lora_rank, d_nope]            W_uk[h] transposed (GGUF)
 *   v_b  [n_head, d_v, kv_lora_rank]               W_uv[h] (GGUF);  leading dimensions may be merged into one */
typedef struct {
    const ml_tensor *kv_b;
    const ml_tensor *k_b, *v_b;
    const ml_mla_term *const *term; /* NULL, or of each sequence: NULL or what is added to its products */
    /* On a device `term` is of prompts in ML_PRECISION_BF16 (with pointers that lie there), and this, NULL or of each
     * token, of all others, which are computed in the compressed space; n_in is kv_lora_rank. */
    const ml_token_terms *token_term;
} ml_mla_weights;

/* Multi-head latent attention on the compressed cache (DeepSeek-V2, arXiv:2405.04434, section 2.1.2).
 *   decode, absorbed:   q_abs[t,h] = q_nope[t,h] W_uk[h];  score = scale * (q_abs . c_kv + q_pe . k_pe);
 *                       y[t,h] = W_uv[h] sum(p c_kv)
 *   prefill:            k_nope[s,h] = W_uk[h] c_kv[s], v[s,h] = W_uv[h] c_kv[s];
 *                       score = scale * (q_nope . k_nope + q_pe . k_pe);  y[t,h] = sum(p v)
 *   q [tokens, n_head * (d_nope + n_rot)]
 *   kv: rows of kv_lora_rank + n_rot
 *   -> y [tokens, n_head * d_v] */
ml_tensor *ml_attention_cached_mla(ml_ctx *ctx, ml_tensor *q, const ml_mla_weights *weights, const ml_kv_view *kv,
                                   ml_tensor *seq_of_token, ml_tensor *pos, int64_t n_decode,
                                   const ml_mla_param *param);

#endif
