/* What an evaluation found, kept in the run folder that its checkpoint lies in: `moonlight report` shows it.
 *
 *   evals.jsonl   {"time":"2025-01-31T12:00:00Z","step":1250,"task":"constraints","data":"orders.jsonl",
 *                  "scores":[{"name":"satisfied","count":93,"of":200},{"name":"perplexity","value":7.1,"error":0.2}]}
 */
#ifndef ML_CLI_EVAL_SCORES_H
#define ML_CLI_EVAL_SCORES_H

#include "base/options.h"

#include <stddef.h>

enum { ML_EVAL_MAX_SCORE = 16 };

typedef struct {
    const char *name;    /* static */
    size_t count, of;    /* of > 0: so many of so many */
    double value, error; /* otherwise; error, the standard error, is 0 where it is not known */
} ml_eval_score;

/* Start zeroed. */
typedef struct {
    ml_eval_score item[ML_EVAL_MAX_SCORE];
    size_t n;
} ml_eval_scores;

void ml_eval_scores_add_count(ml_eval_scores *s, const char *name, size_t count, size_t of);
void ml_eval_scores_add_value(ml_eval_scores *s, const char *name, double value, double error);

/* Append them to the run of --model or, when the model has one, of its adapter.  Nothing happens with --record off,
 * or when that is no run's checkpoint; a folder that cannot be written to is a warning, for the scores are printed. */
void ml_eval_scores_record(const ml_eval_scores *s, const ml_options *o);

#endif
