/* What `moonlight eval` found of the runs' checkpoints (evals.jsonl; cli/eval_scores.h has its format), side by side.
 * Of several evaluations of a run with the same task and data the last one counts. */
#ifndef ML_REPORT_SCORES_H
#define ML_REPORT_SCORES_H

#include "report/report.h"

/* A task, its data, and one of the names under which scores were kept; the texts are the runs'. */
typedef struct {
    const char *task, *data, *name;
} ml_report_measure;

typedef struct {
    long long step;
    long long count, of; /* of > 0: so many of so many */
    double value, error; /* otherwise; error 0: not known */
} ml_report_score;

/* All measures that a run has, in the order in which they came up; those of one task and data follow one another.
 * ml_free(*out). */
ml_status ml_report_measures_list(const ml_report *report, ml_report_measure **out, size_t *n, ml_error *err);
/* False when the run has none. */
bool ml_report_score_find(const ml_report_run *r, const ml_report_measure *m, ml_report_score *out);
/* Do two belong to one evaluation? */
bool ml_report_measure_is_beside(const ml_report_measure *a, const ml_report_measure *b);

#endif
