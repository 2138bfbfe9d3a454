/* A model's weights and architecture, whatever the file. */
#ifndef ML_FORMAT_SOURCE_H
#define ML_FORMAT_SOURCE_H

#include "model/config.h"
#include "model/source.h"

/* `path` is a model folder (config.json and safetensors), a .safetensors file beside its config.json, or a GGUF file
 * (any of a split set).  Files are told by their first bytes.  ML_EIO: missing; ML_EFORMAT: damaged; ML_EINVAL: none
 * of these, or an architecture that this program does not run. */
ml_status ml_weight_source_open(const char *path, ml_config *config, ml_weight_source **out, ml_error *err);

/* The same file or folder for a reader of tokenizers: true when `path` is a GGUF file, which holds its own. */
bool ml_weight_source_is_gguf(const char *path);

#endif
