/* Muon's part of the optimizer: the list of matrices, who works on which, and the scratch of Newton-Schulz.  The
 * equations are in optim/optimizer.h.  The same bits whatever the number of threads. */
#ifndef ML_OPTIM_MUON_H
#define ML_OPTIM_MUON_H

#include "optim/optimizer_internal.h"

typedef struct ml_muon ml_muon;

/* The matrices of those parameters whose group is Muon's.  `config`, `param` and `moments` [n_param] must outlive it.
 * ML_ENOMEM. */
ml_status ml_muon_make(const ml_optim_config *config, const ml_param *param, const ml_optim_moments *moments,
                       int64_t n_param, ml_muon **out, ml_error *err);
void ml_muon_free(ml_muon *muon);

/* Update every matrix from its gradient times grad_scale; the sum of squares of the update, lr apart, is added to
 * that of its group. */
void ml_muon_update(ml_muon *muon, double lr, double grad_scale, double squares[ML_N_OPTIM_GROUP]);

/* rms_scale * sqrt(max(rows, cols)): what the orthogonalised update is multiplied by, beside lr. */
double ml_muon_get_factor(const ml_optim_config *config, const ml_param *param);
/* Floats of scratch that ml_muon_make takes, with the present number of threads. */
int64_t ml_muon_plan_scratch(const ml_optim_config *config, const ml_param *param, int64_t n_param);

#endif
