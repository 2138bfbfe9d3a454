/* What a person names: a model folder or file, or a run folder, of which the best checkpoint is meant; adapters
 * likewise. */
#ifndef ML_FORMAT_FIND_H
#define ML_FORMAT_FIND_H

#include "base/file.h"
#include "model/adapter.h"

/* The model that `path` means, for ml_weight_source_open: a file or folder as it is, of a run folder the best
 * checkpoint.  ML_EINVAL where nothing is, or what is there is an adapter or a folder without a checkpoint. */
ml_status ml_model_find(const char *path, char model[ML_PATH_MAX], ml_error *err);

/* An adapter of `m` that `path` means: a folder as PEFT writes it, or a run folder, of which the best checkpoint.
 * Placed where the model's weights are.  Errors as of ml_peft_load (format/peft.h) and ml_adapter_place. */
ml_status ml_adapter_open(const char *path, const ml_model *m, ml_adapter **out, ml_error *err);
/* The same without a place, which ml_adapter_place gives it when nobody else queues work of the device. */
ml_status ml_adapter_read(const char *path, const ml_model *m, ml_adapter **out, ml_error *err);
/* Bytes of a device's memory that it will take beside a model of this architecture; errors likewise. */
ml_status ml_adapter_measure_files(const char *path, const ml_config *config, int64_t *n_bytes, ml_error *err);
/* What --adapter says is "NAME=PATH", or a path alone, whose last name is then its own.  The path, a part of `given`.
 */
const char *ml_adapter_path_of(const char *given);
/* Both; ml_free(*name), *path is a part of `given`.  ML_EINVAL for an empty one, and for the name none. */
ml_status ml_adapter_split_name(const char *given, char **name, const char **path, ml_error *err);

#endif
