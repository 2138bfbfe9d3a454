/* What the parts of the optimizer share: config.c holds the configuration, muon.c and adamw.c compute updates,
 * optimizer.c owns the moments and makes a step of both. */
#ifndef ML_OPTIM_OPTIMIZER_INTERNAL_H
#define ML_OPTIM_OPTIMIZER_INTERNAL_H

#include "optim/optimizer.h"

/* Elements of one task where work is elementwise.  Sums of squares are made block by block and the blocks added in
 * order, so that they do not depend on the number of threads. */
enum { ML_OPTIM_BLOCK = 1 << 15 };

static inline int64_t ml_optim_n_block(int64_t n)
{
    return (n + ML_OPTIM_BLOCK - 1) / ML_OPTIM_BLOCK;
}

static inline double ml_optim_sum(const double *x, int64_t n)
{
    double total = 0.0;
    for (int64_t i = 0; i < n; i++) total += x[i];
    return total;
}

/* What the optimizer remembers of one parameter. */
typedef struct {
    ml_optim_group group;
    float *momentum; /* Muon; or */
    float *m, *v;    /* AdamW */
} ml_optim_moments;

/* ML_EINVAL naming the key that is out of range. */
ml_status ml_optim_check_config(const ml_optim_config *config, ml_error *err);
/* Who updates parameters of this kind, and whether they decay. */
ml_optim_group ml_optim_choose_group(const ml_optim_config *config, ml_param_kind kind);
/* What the rate is multiplied with for parameters of this kind. */
double ml_optim_get_ratio(const ml_optim_config *config, ml_param_kind kind);
bool ml_optim_is_muon(ml_optim_group group);
/* config->weight_decay, or 0 for a group that does not decay. */
double ml_optim_get_decay(const ml_optim_config *config, ml_optim_group group);

#endif
