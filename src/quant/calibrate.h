/* Importance (quant/importance.h) from a text: the model reads it, and what its weights are multiplied with is noted.
 */
#ifndef ML_QUANT_CALIBRATE_H
#define ML_QUANT_CALIBRATE_H

#include "model/model.h"
#include "quant/importance.h"

typedef struct {
    const int32_t *id; /* [n_id] */
    int64_t n_id;
    int64_t window; /* tokens that see each other; at most the model's positions */
    int32_t bos;    /* begins every window; -1: none */
    /* Told after every window; may be NULL. */
    void (*progress)(void *arg, int64_t n_done, int64_t n_id);
    void *arg;
} ml_calibration;

/* An entry for every tensor of the GGUF file that `layout` describes whose input is seen: not the embedding, and not
 * k_b, whose columns are not those of a product in the model as it is read here.  Sums run in a fixed order.
 * ML_ECANCEL when ml_stop_requested. */
ml_status ml_calibrate(ml_model *m, const ml_gguf_layout *layout, const ml_calibration *c, ml_importance *out,
                       ml_error *err);

#endif
