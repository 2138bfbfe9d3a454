/* moonlight inspect: what its files share. */
#ifndef ML_CLI_INSPECT_H
#define ML_CLI_INSPECT_H

#include "base/json.h"
#include "base/options.h"
#include "cli/amount.h"
#include "model/config.h"

/* Each finds out about one kind of thing, prints it for a person, or with --json adds to `object`. */
typedef struct {
    const ml_options *o;
    bool json;
    json_t *object;
    const char *weights; /* NULL, or the file or folder that has the model's weights */
} ml_inspection;

/* ML_EINVAL when --svg was given: only an architecture can be drawn. */
ml_status ml_cli_inspect_refuse_svg(const ml_inspection *x, const char *path, ml_error *err);
/* A model: `name` as title, its architecture, and the folder its weights and tokenizer are in (NULL: none). */
ml_status ml_cli_inspect_model(ml_inspection *x, const char *name, const ml_config *config, const char *folder,
                               ml_error *err);
/* How a model would lie on a GPU for inference; with --json "inference_gpu" in `memory`. */
ml_status ml_cli_inspect_gpu(const ml_inspection *x, const ml_config *config, json_t *memory, ml_error *err);
/* A .safetensors file, or an index of several: every tensor. */
ml_status ml_cli_inspect_tensors(ml_inspection *x, const char *path, ml_error *err);
/* A GGUF file (architecture, tensors, metadata) and a PyTorch checkpoint (tensors, architecture where it is known). */
ml_status ml_cli_inspect_gguf(ml_inspection *x, const char *path, ml_error *err);
ml_status ml_cli_inspect_pt(ml_inspection *x, const char *path, ml_error *err);

/* A table of tensors, one by one, then a summary by type; with --json "tensors", "n_elements", "n_bytes", "dtypes". */
typedef struct {
    ml_inspection *x;
    json_t *list, *dtypes;
    int64_t n_element, n_bytes;
} ml_tensor_table;

ml_tensor_table ml_cli_table_begin(ml_inspection *x);
void ml_cli_table_add(ml_tensor_table *table, const char *name, const char *dtype, int n_dim, const int64_t *shape,
                      int64_t n_element, int64_t n_bytes);
void ml_cli_table_end(ml_tensor_table *table);

ml_status ml_cli_inspect_tokenizer(ml_inspection *x, const char *path, ml_error *err);

#endif
