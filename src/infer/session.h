/* A session is one growing sequence of tokens and the model's state for it.
 *
 * Its logits after n tokens do not depend on how those tokens were handed over (one by one, in chunks), nor on the
 * number of threads, bit for bit.  Without the cache every call computes the whole sequence again: the same bits,
 * slower, which is what the switch is there to show.
 *
 * Its functions are declared in moonlight.h, but for those that only the engine needs. */
#ifndef ML_INFER_SESSION_H
#define ML_INFER_SESSION_H

#include "model/model.h"

/* The type in which keys and values are kept unless another is asked for (docs/performance.md). */
#define ML_SESSION_KV ML_F16

ml_status ml_session_make_as(ml_model *model, int64_t capacity, bool use_cache, ml_dtype kv_dtype, ml_session **out,
                             ml_error *err);
/* Bytes of a device's memory that a session takes, at most (infer/runner.h: ml_runner_plan_device). */
int64_t ml_session_plan_device(const ml_config *config, int64_t capacity, int64_t widest_bytes);
/* NULL: the model's own, ml_adapter_none: none.  Forgets what the session has seen. */
void ml_session_set_adapter(ml_session *s, const ml_adapter *adapter);
int64_t ml_session_capacity(const ml_session *s);
const int32_t *ml_session_ids(const ml_session *s);

#endif
