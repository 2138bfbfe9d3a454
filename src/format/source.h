/* A model's weights and architecture, whatever the file. */
#ifndef ML_FORMAT_SOURCE_H
#define ML_FORMAT_SOURCE_H

#include "model/config.h"
#include "model/source.h"

typedef enum { ML_SOURCE_HF, ML_SOURCE_GGUF, ML_SOURCE_PT } ml_source_kind;

/* Files are told by their first bytes; folders, and what is neither of the other two, are ML_SOURCE_HF.  Fails as
 * ml_file_read_head. */
ml_status ml_weight_source_find_kind(const char *path, ml_source_kind *kind, ml_error *err);
/* The same of what is to be opened anyway: ML_SOURCE_HF also for what cannot be read. */
ml_source_kind ml_weight_source_kind(const char *path);

/* `path` is a model folder (config.json and safetensors), a .safetensors file beside its config.json, a GGUF file (any
 * of a split set), or a PyTorch checkpoint (format/pt_source.h).  ML_EIO: missing; ML_EFORMAT: damaged; ML_EINVAL: an
 * architecture that this program does not run. */
ml_status ml_weight_source_open(const char *path, ml_config *config, ml_weight_source **out, ml_error *err);

#endif
