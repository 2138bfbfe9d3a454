#include "serve/counters.h"

const double ml_bucket_ends[ML_N_BUCKET] = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60 };

void ml_histogram_add(ml_histogram *h, double seconds)
{
    int i = 0;
    while (i < ML_N_BUCKET && seconds > ml_bucket_ends[i]) i++;
    h->bucket[i]++;
    h->microseconds += (int64_t)(seconds * 1e6);
}
