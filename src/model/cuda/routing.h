/* Routing statistics and the router's bias on a device; a build without CUDA never comes here. */
#ifndef ML_MODEL_CUDA_ROUTING_H
#define ML_MODEL_CUDA_ROUTING_H

#include "model/model.h"

#ifdef MOONLIGHT_CUDA

/* Add one layer's routing to the statistics there.  loss: NULL, or the router's losses. */
void ml_cuda_count_routing(ml_ctx *ctx, const ml_router_stats *stats, int64_t layer, const ml_routing *routing,
                           const ml_tensor *loss);
/* As ml_model_update_router_bias, by the counts there; nothing where *use, in device memory, is 0. */
void ml_cuda_update_router_bias(const ml_model *m, const ml_router_stats *stats, double rate, const int32_t *use);

#else

static inline void ml_cuda_count_routing(ml_ctx *ctx, const ml_router_stats *stats, int64_t layer,
                                         const ml_routing *routing, const ml_tensor *loss)
{
    (void)ctx;
    (void)stats;
    (void)layer;
    (void)routing;
    (void)loss;
}

static inline void ml_cuda_update_router_bias(const ml_model *m, const ml_router_stats *stats, double rate,
                                              const int32_t *use)
{
    (void)m;
    (void)stats;
    (void)rate;
    (void)use;
}

#endif
#endif
