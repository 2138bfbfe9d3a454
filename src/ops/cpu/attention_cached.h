/* What the files attention_cached*.c share: the problem, and where cached rows are. */
#ifndef ML_OPS_CPU_ATTENTION_CACHED_H
#define ML_OPS_CPU_ATTENTION_CACHED_H

#include "ops/cached_heads.h"

static inline int64_t ml_kv_row(const ml_kv_view *kv, int64_t seq, int64_t pos)
{
    int64_t page = kv->page_table[seq * kv->pages_per_seq + pos / kv->page_size];
    return page * kv->page_size + pos % kv->page_size;
}

/* Cached numbers of a position from `column` on. */
static inline const char *ml_kv_k_at(const ml_kv_view *kv, int64_t seq, int64_t pos, int64_t column)
{
    return kv->k + ml_kv_row(kv, seq, pos) * kv->k_row_bytes + ml_dtype_row_bytes(kv->dtype, column);
}

static inline const char *ml_kv_v_at(const ml_kv_view *kv, int64_t seq, int64_t pos, int64_t column)
{
    return kv->v + ml_kv_row(kv, seq, pos) * kv->v_row_bytes + ml_dtype_row_bytes(kv->dtype, column);
}

/* A page for every position. */
ml_status ml_cached_check(ml_ctx *ctx, const ml_kv_view *kv, const int32_t *seq, const int32_t *pos, int64_t n);

/* ---- decode ---- */

enum { ML_DECODE_SPAN = 256 }; /* keys that have a running softmax of their own, at least */

/* Queries ready for the kernels of attention_kernel_rows.h, and where their results go. */
typedef struct {
    const ml_kv_view *kv;
    const int32_t *seq_of_token, *pos; /* [n_token] */
    int64_t n_token;
    const float *q; /* [n_token, n_head, ml_rows_pad(d_qk)], times the scale, zeros behind d_qk */
    float *y;       /* [n_token, n_head * d_v], rows y_stride apart */
    int64_t y_stride;
    int64_t n_head, n_group; /* n_group heads after one another share a key head */
    int64_t d_qk, d_v;
    int64_t k_step, v_step; /* columns from one key head to the next; 0: all read the same row */
    bool v_is_k;            /* MLA: values are the first columns of the key row */
} ml_cached_decode;

ml_status ml_cached_decode_run(ml_ctx *ctx, const ml_cached_decode *d);

/* ---- prefill ---- */

enum {
    ML_PREFILL_KEYS = 64,    /* positions of a block: ML_ATTENTION_KEYS */
    ML_PREFILL_WINDOW = 512, /* positions that are made fp32 at once */
    ML_PREFILL_HEADS = 16,   /* key heads that are */
};

/* fp32 keys and values of one window of one sequence, made by `fill` for key heads g0 .. g0 + n_g - 1.
 * Block b (64 positions) of head g0 + i begins at i * head_floats + b * block_floats; in it key p has column c at
 *   k[p * k_row + c * k_column], c < d_qk - d_shared, and its value column c at v_at + p * v_row + c * v_column.
 * shared: column c of the part that all heads share is shared[(64 * b + p) * d_shared + c]. */
typedef struct {
    float *data, *shared;
    int64_t head_floats, block_floats;
    int64_t k_row, k_column, v_at, v_row, v_column;
    int64_t d_shared;
} ml_prefill_window;

typedef struct ml_cached_prefill ml_cached_prefill;
struct ml_cached_prefill {
    ml_cached_heads heads;
    int64_t token0, n_token; /* of the batch */
    ml_prefill_window window;
    /* Positions first .. first + n - 1 of sequence seq into the window, on all threads. */
    void (*fill)(const ml_cached_prefill *p, int64_t seq, int64_t first, int64_t n, int64_t g0, int64_t n_g);
    const void *arg; /* of fill */
};

ml_status ml_cached_prefill_run(ml_ctx *ctx, const ml_cached_prefill *p);

#endif
