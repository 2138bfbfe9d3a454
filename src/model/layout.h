/* The layout of the weights in memory: which tensors a configuration has, and where each lies.  model.c uses it. */
#ifndef ML_MODEL_LAYOUT_H
#define ML_MODEL_LAYOUT_H

#include "model/model.h"

/* One walk over the model, done twice: first only counting, then placing. */
typedef struct {
    ml_model *m;
    bool placing;
    size_t n_bytes;      /* of the model's own memory */
    size_t stored_bytes; /* that stay where the source has them */
    size_t n_weight, n_param, name_bytes, n_part;
    ml_upload_sizes *sizes; /* NULL, or filled while counting */
    char *names;            /* of the parameters */
    ml_status status;       /* first failure of the source */
    ml_error *err;
} ml_model_layout;

void ml_model_walk(ml_model_layout *l);

/* inv_freq, rope_magnitude and softmax_scale of the configuration (rope.c). */
void ml_model_make_rope(ml_model *m);

#endif
