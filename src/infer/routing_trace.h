/* What the routers did with each token of one sequence.
 *
 * Filled while a sequence runs through the model (infer/engine.h); costs nothing where nobody asks. */
#ifndef ML_INFER_ROUTING_TRACE_H
#define ML_INFER_ROUTING_TRACE_H

#include "model/model.h"

typedef struct {
    const ml_model *model;
    int64_t capacity;    /* positions */
    int64_t first_layer; /* the expert layers are first_layer .. first_layer + n_layer - 1 */
    int64_t n_layer;     /* 0: a dense model */
    int64_t n_expert, top_k;
    int32_t *expert; /* [capacity, n_layer, top_k] by descending score */
    float *weight;   /* [capacity, n_layer, top_k] what multiplies the expert's output */
    float *margin;   /* [capacity, n_layer] score (with bias) of the last chosen over the best not chosen */
    float *entropy;  /* [capacity, n_layer] of the router's softmax, nats */
} ml_routing_trace;

ml_status ml_routing_trace_make(ml_routing_trace *t, const ml_model *model, int64_t capacity, ml_error *err);
void ml_routing_trace_free(ml_routing_trace *t);
/* Take row `row` of a layer's routing as that of position `pos`. */
void ml_routing_trace_put(ml_routing_trace *t, int64_t pos, int64_t layer, const ml_routing *routing, int64_t row);

#endif
