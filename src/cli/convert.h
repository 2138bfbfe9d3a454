/* What convert and merge share. */
#ifndef ML_CLI_CONVERT_H
#define ML_CLI_CONVERT_H

#include "cli/cli.h"

/* Write the model `from`, with an adapter merged in unless that is NULL, to `to` as --to, --dtype, --quant, --rule and
 * --tokenizer say, and print what was written. */
ml_status ml_cli_convert_model(const ml_options *o, const char *from, const char *adapter, const char *to,
                               ml_error *err);

#endif
