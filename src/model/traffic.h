/* What one token costs: bytes read and multiply-adds, for benchmarks and plans. */
#ifndef ML_MODEL_TRAFFIC_H
#define ML_MODEL_TRAFFIC_H

#include "model/model.h"

typedef struct {
    double weight_bytes; /* of the weights that one token meets: top_k experts, the head, a row of the embedding */
    double cache_bytes;  /* of the cached keys and values it sees */
    double weight_macs;  /* multiply-adds with weights */
    double attention_macs;
} ml_token_traffic;

/* A token generated after `depth` others, whose cache takes cache_token_bytes a token. */
ml_token_traffic ml_model_traffic(const ml_model *m, int64_t depth, int64_t cache_token_bytes);

/* A pass that generates a token for each of n_token sequences, all after `depth` others: weights are read once, of the
 * experts as many as n_token even choices meet. */
ml_token_traffic ml_model_pass_traffic(const ml_model *m, int64_t n_token, int64_t depth, int64_t cache_token_bytes);

#endif
