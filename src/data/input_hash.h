/* SHA-256 of input files a piece at a time, so that it can be done while they are worked on. */
#ifndef ML_DATA_INPUT_HASH_H
#define ML_DATA_INPUT_HASH_H

#include "base/json.h"

typedef struct ml_input_hash ml_input_hash;

/* `inputs` is an array of objects with "file" and "sha256", and outlives it: an empty "sha256" is filled in when the
 * file has been read. */
ml_status ml_input_hash_begin(json_t *inputs, ml_input_hash **out, ml_error *err);
void ml_input_hash_free(ml_input_hash *h);
/* About so many bytes more; *done: all files have been hashed. */
ml_status ml_input_hash_step(ml_input_hash *h, size_t n_bytes, bool *done, ml_error *err);

#endif
