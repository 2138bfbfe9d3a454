/* What the two ways to compute a layer of experts share: experts.c has the products of training, and
 * experts_inference.c those of inference. */
#ifndef ML_OPS_CPU_EXPERTS_LAYER_H
#define ML_OPS_CPU_EXPERTS_LAYER_H

#include "ops/cpu/rowops.h"

typedef struct ml_experts_adapter ml_experts_adapter;

/* The accepted (token, k) pairs sorted by expert: "rows".  Expert e owns rows offset[e] .. offset[e + 1]. */
typedef struct {
    int64_t n_row, n_expert, top_k, d, f;
    const int32_t *offset; /* [n_expert + 1] */
    const int32_t *flat;   /* [n_row] token * top_k + k */
    const int32_t *token;  /* [n_row] */
    float *pre;            /* [n_row, n_col] */
    int64_t n_col;         /* f, or 2 f: gate | up */
    float *a;              /* [n_row, f] */
    const ml_tensor *x, *prob, *gate, *up, *down, *y;
    const float *dy;
    int64_t dy_stride;
    float *dprob; /* NULL: not wanted */
    ml_activation activation;
    const ml_row_ops *row_ops;
    int64_t tile_rows;
    int32_t *first_tile;               /* [n_expert + 1] tiles of the experts before */
    const ml_experts_adapter *adapter; /* NULL, or low-rank terms (ops/cpu/experts_lora.h) */
} ml_experts_layer;

/* Rows of one expert. */
typedef struct {
    int64_t expert, begin, n;
} ml_experts_tile;

static inline ml_experts_tile ml_experts_find_tile(const ml_experts_layer *l, int64_t i)
{
    int64_t low = 0, high = l->n_expert; /* first_tile[low] <= i < first_tile[high] */
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (l->first_tile[middle] <= i) {
            low = middle;
        } else {
            high = middle;
        }
    }
    int64_t begin = l->offset[low] + (i - l->first_tile[low]) * l->tile_rows, end = l->offset[low + 1];
    return (ml_experts_tile){ low, begin, end - begin < l->tile_rows ? end - begin : l->tile_rows };
}

static inline float ml_experts_prob(const ml_experts_layer *l, int64_t row)
{
    int64_t flat = l->flat[row];
    return ml_f32(l->prob)[flat / l->top_k * l->prob->stride + flat % l->top_k];
}

/* Fills a and y (which is zero) with the products of ops/cpu/weight.h: weights of any type, mapped or repacked. */
ml_status ml_experts_run_inference(ml_ctx *ctx, const ml_experts_layer *l);

/* The products of down with a (and its low-rank term), before magnitudes, shown block by block: n_row rows from `row`
 * on of an expert, columns [column, column + n), as u [n_row, n].  Blocks of the same columns come in the order of
 * the rows, on one thread. */
typedef void ml_experts_see_fn(void *arg, int64_t column, int64_t n, int64_t expert, int64_t row, int64_t n_row,
                               const float *u);
ml_status ml_experts_run_down(ml_ctx *ctx, const ml_experts_layer *l, ml_experts_see_fn *see, void *arg);

#endif
