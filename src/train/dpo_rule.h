/* The arithmetic of one pair, the same here and on a device (train/dpo.h says what it is). */
#ifndef ML_TRAIN_DPO_RULE_H
#define ML_TRAIN_DPO_RULE_H

#include "base/device_code.h"

#include <math.h>

typedef enum { ML_DPO_SIGMOID, ML_DPO_IPO } ml_dpo_loss;

/* Loss of one pair, and its derivative by the difference log p(chosen) - log p(rejected). */
static inline ML_HERE_AND_THERE double ml_dpo_pair_loss(ml_dpo_loss loss, double beta, double difference,
                                                        double reference_difference, double *slope)
{
    double d = difference - reference_difference;
    if (loss == ML_DPO_IPO) {
        double miss = d - 1 / (2 * beta);
        *slope = 2 * miss;
        return miss * miss;
    }
    double m = beta * d;
    *slope = -beta / (1 + exp(m));
    return m > 0 ? log1p(exp(-m)) : log1p(exp(m)) - m; /* -log sigmoid(m), for any m */
}

#endif
