/* The last routing traces, by id: what /api/trace tells. */
#ifndef ML_SERVE_TRACES_H
#define ML_SERVE_TRACES_H

#include "serve/answer.h"

enum { ML_TRACE_ID_BYTES = 40 };

typedef struct ml_traces ml_traces;

ml_status ml_traces_make(ml_traces **out, ml_error *err);
void ml_traces_free(ml_traces *t);
/* Take over the trace of an answer that is done; the oldest one goes. */
ml_status ml_traces_keep(ml_traces *t, ml_choice *c, char id[ML_TRACE_ID_BYTES], ml_error *err);

/* Handlers. */
ml_status ml_api_trace_get(ml_web *h, ml_error *err);
ml_status ml_api_trace_make(ml_web *h, ml_error *err);

#endif
