/* How many parameters a model has, where they are, and the bytes they take: from the configuration alone. */
#ifndef ML_MODEL_COUNT_H
#define ML_MODEL_COUNT_H

#include "model/config.h"

typedef struct {
    int64_t total;             /* every stored element, router biases included */
    int64_t without_embedding; /* total without embedding and head */
    int64_t active;            /* those one token meets: top_k of the routed experts */
    int64_t active_without_embedding;
} ml_param_counts;

ml_param_counts ml_model_count(const ml_config *config);

/* The same elements by what they are part of. */
typedef struct {
    int64_t embedding; /* also the head when tied to it */
    int64_t attention; /* with its inner norms and biases */
    int64_t dense;     /* MLPs of layers without experts */
    int64_t router;    /* with the correction bias */
    int64_t experts;   /* all routed ones */
    int64_t shared;
    int64_t norms; /* two a layer, and the final one */
    int64_t head;  /* untied head; bias of the head */
} ml_param_groups;

enum { ML_N_PARAM_GROUP = 8 };

/* All layers and the two ends. */
ml_param_groups ml_model_count_groups(const ml_config *config);
/* One layer: embedding and head are 0. */
ml_param_groups ml_model_count_layer(const ml_config *config, int64_t layer_id);
/* One routed expert. */
int64_t ml_model_count_expert(const ml_config *config);
int64_t ml_param_groups_total(const ml_param_groups *g);
/* Group i in the order of the struct: its name in words ("routed experts") and its count. */
const char *ml_param_groups_get(const ml_param_groups *g, int i, int64_t *count);

/* Bytes of the weights when matrices are kept in `dtype`; norms, biases and the router are fp32. */
int64_t ml_model_weight_bytes(const ml_config *config, ml_dtype dtype);

#endif
