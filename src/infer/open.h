/* Opening a model from what a person names: a model folder or file, or a run folder, of which the best checkpoint is
 * meant. ml_model_open, ml_model_get_device and ml_model_get_info are declared in moonlight.h. */
#ifndef ML_INFER_OPEN_H
#define ML_INFER_OPEN_H

#include "base/file.h"
#include "model/adapter.h"

/* The model that `path` means, for ml_weight_source_open: a file or folder as it is, of a run folder the best
 * checkpoint. */
ml_status ml_model_find(const char *path, char model[ML_PATH_MAX], ml_error *err);

/* Memory that a model may take. */
typedef struct {
    int64_t available;   /* bytes; 0: what the system has left (base/memory.h) */
    int64_t cache_token; /* tokens that the cache will hold; 0: the model's positions, up to 8192 */
    ml_dtype kv_dtype;
    /* Run it even when its mapped weights do not fit: the system then drops them and reads them from the disk again,
     * once for each pass over the layers.  What is not mapped must fit all the same. */
    bool stream;
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

/* An adapter of `m` that `path` means: a folder as PEFT writes it, or a run folder, of which the best checkpoint.
 * Placed where the model's weights are. */
ml_status ml_adapter_open(const char *path, const ml_model *m, ml_adapter **out, ml_error *err);
/* The same without a place, which ml_adapter_place gives it when nobody else queues work of the device. */
ml_status ml_adapter_read(const char *path, const ml_model *m, ml_adapter **out, ml_error *err);
/* Bytes that it will take on a device. */
ml_status ml_adapter_measure_files(const char *path, const ml_config *config, int64_t *n_bytes, ml_error *err);
/* Of what --adapter says. */
const char *ml_adapter_path_of(const char *given);
/* What --adapter says: "NAME=PATH", or a path alone, whose last name is then its own.  ml_free(*name). */
ml_status ml_adapter_split_name(const char *given, char **name, const char **path, ml_error *err);

#endif
