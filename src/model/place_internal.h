/* What model.c asks of place.c. */
#ifndef ML_MODEL_PLACE_INTERNAL_H
#define ML_MODEL_PLACE_INTERNAL_H

#include "model/model.h"

/* Clear the gradients of a model that is used on its device. */
void ml_place_zero_grads(const ml_model *m);

#endif
