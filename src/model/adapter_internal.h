/* What making adapters and placing them share. */
#ifndef ML_MODEL_ADAPTER_INTERNAL_H
#define ML_MODEL_ADAPTER_INTERNAL_H

#include "model/adapter.h"

/* The terms that `choose` wants, without values: a->model->config and a->dora are set. */
ml_status ml_adapter_make_terms(ml_adapter *a, ml_adapter_choose_fn *choose, void *arg, ml_error *err);
/* Bytes of the values and norms of its terms. */
size_t ml_adapter_values_bytes(ml_adapter *a);

#endif
