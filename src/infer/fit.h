/* Whether a model fits in memory for inference, and which quantisation of it would. */
#ifndef ML_INFER_FIT_H
#define ML_INFER_FIT_H

#include "infer/open.h"

/* What running a model takes, in bytes. */
typedef struct {
    int64_t stored; /* weights that stay in mapped files */
    int64_t copied; /* weights that are converted into memory: FP8, norms, what is not aligned */
    int64_t cache;  /* keys and values */
    int64_t work;   /* activations and logits, at most */
    int64_t total;
} ml_fit_plan;

/* Of a model whose weights take so much, with a cache of n_token tokens (0: its positions, up to 8192). */
ml_fit_plan ml_fit_make_plan(const ml_config *config, int64_t stored, int64_t copied, int64_t n_token,
                             ml_dtype kv_dtype);
/* The mix (quant/choose.h) that keeps most bits of those whose GGUF file fits into `available` bytes with cache and
 * work, and the bytes of its tensors; NULL when none does, or no GGUF file can hold the model. */
const char *ml_fit_find_mix(const ml_config *config, int64_t available, int64_t n_token, ml_dtype kv_dtype,
                            int64_t *mix_bytes);
/* Bytes of the tensors of a GGUF file in that mix.  ML_EINVAL where no such file can hold the model. */
ml_status ml_fit_measure_mix(const ml_config *config, const char *mix, int64_t *bytes, ml_error *err);
/* ML_OK when the weights of the source fit into the budget, on a device with experts in this machine's memory where
 * that helps; `path` is for messages. */
ml_status ml_fit_check(const char *path, const ml_config *config, ml_weight_source *source,
                       const ml_memory_budget *budget, ml_error *err);
/* What may be taken: of the device's memory (budget->on), where there is one. */
int64_t ml_fit_memory(const ml_memory_budget *budget);

/* How a model lies for inference on a device, in bytes (fit_device.c).  What opens a model goes by this. */
typedef struct {
    int64_t available;       /* of the device's memory */
    int64_t cache, work;     /* there: keys and values; activations, logits and what products want beside, at most */
    int64_t adapters;        /* there: the budget's */
    int64_t weights_room;    /* there: what is left */
    int64_t all;             /* all weights */
    int64_t least;           /* those that must be there */
    int64_t weights, host;   /* there, and experts that stay in this machine's memory */
    int64_t n_layer_in_host; /* whose */
    bool fits;
} ml_fit_device_plan;

/* Of a source's weights (NULL: matrices in `dtype`), with the budget's cache and adapters and `available` bytes of a
 * device.  Fails where an adapter is not to be read. */
ml_status ml_fit_plan_device(const ml_config *config, ml_dtype dtype, ml_weight_source *source,
                             const ml_memory_budget *budget, int64_t available, ml_fit_device_plan *out, ml_error *err);
/* The same of the GGUF file that a mix (quant/choose.h) makes of the model; ML_EINVAL when none can hold it. */
ml_status ml_fit_plan_device_mix(const ml_config *config, const char *mix, const ml_memory_budget *budget,
                                 int64_t available, ml_fit_device_plan *out, ml_error *err);
/* What computing takes of a device's memory, at most. */
int64_t ml_fit_device_work(const ml_config *config);

/* ML_OK when the keys and values of n_token tokens fit beside an open model; `remedy` says what would make them fewer,
 * e.g. "fewer --max-tokens". */
ml_status ml_fit_check_cache(const ml_model *m, int64_t n_token, const ml_memory_budget *budget, const char *remedy,
                             ml_error *err);

#endif
