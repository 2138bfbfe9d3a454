/* moonlight eval --task constraints: stories to prompts, and whether they keep what the prompts demand. */
#ifndef ML_CLI_EVAL_CONSTRAINTS_H
#define ML_CLI_EVAL_CONSTRAINTS_H

#include "base/options.h"
#include "cli/eval_scores.h"
#include "cli/load.h"

/* `text` is the data: JSON lines with "prompt" and "constraints" (data/constraints.h); `path` names it in errors.
 * Prints the counts and adds them to *scores. */
ml_status ml_cli_eval_constraints(const ml_options *o, ml_loaded *m, const char *path, const char *text, size_t n_bytes,
                                  ml_eval_scores *scores, ml_error *err);

#endif
