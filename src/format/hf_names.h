/* What Hugging Face's classes call a weight.  Ours are DeepSeek's names; one class calls the router's bias
 * differently. */
#ifndef ML_FORMAT_HF_NAMES_H
#define ML_FORMAT_HF_NAMES_H

#include "model/model.h"

typedef struct {
    char name[ML_WEIGHT_NAME_MAX + 16];
    int n_dim;
    int64_t dim[2];
} ml_hf_tensor;

/* A weight of at most two dimensions in the files of a class. */
ml_hf_tensor ml_hf_stored_as(const char *class_name, const char *name, int n_dim, const int64_t *dim);
/* Published classes whose router has a bias want the tensor even where ours is not used: zeros then. */
bool ml_hf_class_has_bias(const char *class_name);

#endif
