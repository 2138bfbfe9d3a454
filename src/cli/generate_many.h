/* moonlight generate --prompts FILE. */
#ifndef ML_CLI_GENERATE_MANY_H
#define ML_CLI_GENERATE_MANY_H

#include "cli/cli.h"
#include "cli/load.h"

/* How the verb turns a prompt into ids. */
typedef ml_status (*ml_cli_encode_fn)(void *arg, const char *text, ml_ids *out, ml_error *err);

/* Answer every prompt of the file, several at a time, and print the answers in its order.  A line of JSON may name the
 * adapter that answers it. */
ml_status ml_cli_generate_many(const ml_options *o, const ml_loaded *m, ml_cli_encode_fn encode, void *arg,
                               const int32_t *stop_id, int64_t n_stop, ml_error *err);

#endif
