/* Options of sampling, shared by the verbs that generate. */
#ifndef ML_CLI_SAMPLING_H
#define ML_CLI_SAMPLING_H

#include "base/options.h"
#include "infer/sampler.h"

ml_sampling ml_cli_sampling(const ml_options *o);

#endif
