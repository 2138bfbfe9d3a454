/* Opening a model from what a person names (format/find.h) within the memory that there is.  ml_model_open,
 * ml_model_get_device and ml_model_get_info are declared in moonlight.h. */
#ifndef ML_INFER_OPEN_H
#define ML_INFER_OPEN_H

#include "model/model.h"

/* Memory that a model may take. */
typedef struct {
    int64_t available;   /* bytes; 0: what the system has left (base/memory.h) */
    int64_t cache_token; /* tokens that the cache will hold; 0: the model's positions, up to 8192 */
    ml_dtype kv_dtype;
    /* Run it even when its mapped weights do not fit: the system then drops them and reads them from the disk again,
     * once for each pass over the layers.  What is not mapped must fit all the same. */
    bool stream;
    bool offers_stream; /* the caller has an option --stream: a refusal names it where it would help */
    /* Where models are to compute, as ml_device_choose takes it; NULL: on the processor.  ml_loaded_open_weights
     * chooses, ml_model_open_within opens for `on` what is then to be copied there. */
    const char *device;
    ml_device *on;
    const char *const *adapter; /* [n_adapter] "[NAME=]PATH": adapters that are to lie beside a model on a device */
    size_t n_adapter;
} ml_memory_budget;

/* ml_model_open, which has a budget of zeros with the usual cache, within another.  ML_ENOMEM, before anything is
 * allocated, for a model that does not fit: what it needs, what there is, and the quantisation that would fit.  With a
 * device the budget is of its memory. */
ml_status ml_model_open_within(const char *path, const ml_memory_budget *budget, ml_model **out, ml_error *err);

#endif
