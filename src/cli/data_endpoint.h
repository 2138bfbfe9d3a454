/* moonlight data synth constraints|preferences --endpoint URL: asked of a language model instead of generated. */
#ifndef ML_CLI_DATA_ENDPOINT_H
#define ML_CLI_DATA_ENDPOINT_H

#include "base/options.h"

ml_status ml_cli_synth_endpoint(const ml_options *o, bool pairs, ml_error *err);

#endif
