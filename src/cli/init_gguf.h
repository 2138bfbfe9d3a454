/* moonlight init ... --quant: fresh weights in a GGUF file. */
#ifndef ML_CLI_INIT_GGUF_H
#define ML_CLI_INIT_GGUF_H

#include "base/options.h"
#include "model/config.h"

ml_status ml_cli_init_gguf(const ml_options *o, const ml_config *config, const char *path, ml_error *err);

#endif
