/* XXH3 of input files a piece at a time, so that it can be done while they are worked on. */
#ifndef ML_DATA_INPUT_HASH_H
#define ML_DATA_INPUT_HASH_H

#include "base/json.h"

typedef struct ml_input_hash ml_input_hash;

/* `inputs` is an array of objects with "file" and "xxh3_128", and outlives it: an empty "xxh3_128" is filled in when
 * the file has been read. */
ml_status ml_input_hash_begin(json_t *inputs, ml_input_hash **out, ml_error *err);
void ml_input_hash_free(ml_input_hash *h);
/* Until so many bytes of the files have been hashed since the begin, or a block more; *done: all have. */
ml_status ml_input_hash_until(ml_input_hash *h, uint64_t n_bytes, bool *done, ml_error *err);

#endif
