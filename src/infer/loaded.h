/* What a path to a model names, ready for inference: weights, tokenizer, and the ids that end a text.
 * ml_model_open_on is declared in moonlight.h. */
#ifndef ML_INFER_LOADED_H
#define ML_INFER_LOADED_H

#include "infer/open.h"
#include "model/adapter.h"
#include "model/model.h"
#include "token/tokenizer.h"

/* Start zeroed. */
typedef struct {
    ml_model *model;
    ml_tokenizer *tokenizer;
    ml_ids ends;          /* ids that end a text */
    ml_adapter **adapter; /* [n_adapter] side by side */
    char **adapter_name;  /* [n_adapter] */
    size_t n_adapter;
} ml_loaded;

/* Open the weights of a model folder, a file, or a run folder (its best checkpoint) within a budget of memory.
 * repack: "on", "off", or "auto": when there is room for the weights a second time; for the processor only.  Memory
 * that cannot be had fails "on" alone.
 * With budget->device the weights go there: `auto` takes the processor when there is no GPU or the model does not fit
 * on it; model->device_choice says which and why. */
ml_status ml_loaded_open_weights(const char *path, const char *repack, const ml_memory_budget *budget, ml_model **model,
                                 ml_error *err);
/* How the weights of an open model lie, for a person: "repacked, 10.0 GB", "mapped in place (9.7 GB), repacking would
 * not fit".  Whether they are so large, a gigabyte or more, that it is worth a line. */
bool ml_loaded_describe_weights(const ml_model *m, const char *repack, char *out, size_t size);
/* ml_loaded_open_weights with its tokenizer.  ML_EINVAL when the tokenizer has more ids than the model. */
ml_status ml_loaded_open(const char *path, const char *repack, const ml_memory_budget *budget, ml_loaded *out,
                         ml_error *err);
/* Say, a line each, what a person should know of a model opened here: tensors of its files that it does not use, and
 * memory for repacking that was not to be had. */
void ml_loaded_tell(const ml_model *m, void (*say)(const char *format, ...) __attribute__((format(printf, 1, 2))));
void ml_loaded_free(ml_loaded *m);

#endif
