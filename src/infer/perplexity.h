/* How well a model predicts a text, and how far its predictions are from those of another model. */
#ifndef ML_INFER_PERPLEXITY_H
#define ML_INFER_PERPLEXITY_H

#include "model/model.h"

typedef struct {
    const int32_t *id; /* [n_id] the text */
    int64_t n_id;
    int64_t window;     /* the text is cut into windows of so many tokens, which do not see each other */
    int64_t batch;      /* tokens of a pass: several windows */
    int32_t bos;        /* begins each window; -1: none, and then a window's first token is not scored */
    int64_t max_window; /* 0: all */
    ml_dtype kv_dtype;  /* of the model's cache; that of `base` has the usual type */
    ml_model *base;     /* NULL, or a model of the same vocabulary to compare with */
    void (*on_window)(void *arg, int64_t n_done, int64_t n_window, double nll_per_token);
    void *arg;
} ml_perplexity_config;

typedef struct {
    int64_t n_token, n_window; /* scored */
    double nll, nll_error;     /* nats per token, and its standard error over the tokens */
    double base_nll;           /* of `base` */
    double kl, kl_error;       /* mean over tokens of KL(base || model), in nats */
    double same_top;           /* share of tokens where both have the same likeliest token */
} ml_perplexity;

/* Windows that the text is cut into, or the most of them; 0 when a window has no room for text. */
int64_t ml_perplexity_count_windows(const ml_perplexity_config *config);

/* Prompt-phase forward passes in fast mode: what generation computes.  ML_EINVAL when a window is out of range, the
 * text has too few tokens, or the vocabularies differ; ML_ECANCEL when the user stops it. */
ml_status ml_perplexity_measure(ml_model *model, const ml_perplexity_config *config, ml_perplexity *out, ml_error *err);

#endif
