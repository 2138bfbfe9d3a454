/* Tensors of a model's files that are none of its weights: files of more layers than the configuration says, heads that
 * this program has no use for, another model's.
 *
 * What the model's weights or its configuration stand for is known and not counted: scales of FP8, frequencies of
 * rotary embeddings, a head stored beside the embedding that it is tied to, zeros for a router bias that the model does
 * not have. */
#ifndef ML_FORMAT_UNUSED_H
#define ML_FORMAT_UNUSED_H

#include "model/model.h"

typedef struct {
    size_t n;
    char names[400]; /* of the first ones: "a, b, c, ..." */
} ml_unused;

/* Of the folder or GGUF file that `source` was opened from; of another source, none.  `m` has the source's
 * configuration, and with it the list of weights; whether it has weights of its own makes no difference. */
ml_status ml_unused_find(const ml_model *m, const ml_weight_source *source, ml_unused *out, ml_error *err);

#endif
