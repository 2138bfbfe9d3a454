/* A weight source with an adapter merged in: W becomes (m / norm) * (W + scale * B A) as it is read. */
#ifndef ML_QUANT_MERGED_SOURCE_H
#define ML_QUANT_MERGED_SOURCE_H

#include "model/source.h"

/* `inner` is that of the model at `from` and has kv_b in one matrix.  The result owns it when this succeeds.  A merged
 * weight has the type it had, though not as bytes: only read_f32 gives it.  ML_EINVAL when the adapter is another
 * model's (format/find.h). */
ml_status ml_merged_source_make(ml_weight_source *inner, const char *from, const char *adapter, ml_weight_source **out,
                                ml_error *err);

#endif
