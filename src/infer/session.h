/* A session is one growing sequence of tokens and the model's state for it.
 *
 * Its logits after n tokens do not depend on how those tokens were handed over (one by one, in chunks), nor on the
 * number of threads, bit for bit.  Without the cache every call computes the whole sequence again: the same bits,
 * slower, which is what the switch is there to show. */
#ifndef ML_INFER_SESSION_H
#define ML_INFER_SESSION_H

#include "model/model.h"

/* The type in which a session keeps keys and values. */
#define ML_SESSION_KV ML_F32

typedef struct ml_session ml_session;

/* Room for `capacity` tokens (at most the model's positions).  The model must outlive the session. */
ml_status ml_session_make(ml_model *model, int64_t capacity, bool use_cache, ml_session **out, ml_error *err);
void ml_session_free(ml_session *s);

/* Run the model over n more tokens.  ML_EINVAL when they do not fit or an id is outside the vocabulary. */
ml_status ml_session_append(ml_session *s, const int32_t *id, int64_t n, ml_error *err);
/* Logits [vocab_size] after the last token; valid until the next append.  NULL before the first. */
const float *ml_session_logits(const ml_session *s);
/* Forget all but the first n tokens; logits are gone until the next append. */
void ml_session_truncate(ml_session *s, int64_t n);

int64_t ml_session_count(const ml_session *s);
int64_t ml_session_capacity(const ml_session *s);
const int32_t *ml_session_ids(const ml_session *s);

#endif
