/* What /metrics counts. */
#ifndef ML_SERVE_COUNTERS_H
#define ML_SERVE_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

enum { ML_N_BUCKET = 12 };
/* Upper ends, in seconds; one more bucket has the rest. */
extern const double ml_bucket_ends[ML_N_BUCKET];

typedef struct {
    _Atomic int64_t bucket[ML_N_BUCKET + 1];
    _Atomic int64_t microseconds; /* the sum */
} ml_histogram;

typedef struct {
    _Atomic int64_t replies[6]; /* by hundreds of the status */
    _Atomic int64_t prompt_tokens, completion_tokens, answers, cancelled;
    ml_histogram first_token, whole;
} ml_counters;

void ml_histogram_add(ml_histogram *h, double seconds);

#endif
