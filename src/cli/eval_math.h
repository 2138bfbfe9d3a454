/* moonlight eval --task math: generated answers to problems, graded. */
#ifndef ML_CLI_EVAL_MATH_H
#define ML_CLI_EVAL_MATH_H

#include "base/options.h"
#include "cli/eval_scores.h"
#include "cli/load.h"

/* `path`: a file of problems (data/problems.h).  Prints the share of right answers (pass@1, the mean over samples)
 * and adds it to *scores. */
ml_status ml_cli_eval_math(const ml_options *o, ml_loaded *m, const char *path, ml_eval_scores *scores, ml_error *err);

#endif
