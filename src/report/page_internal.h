/* What the files that write the page share. */
#ifndef ML_REPORT_PAGE_INTERNAL_H
#define ML_REPORT_PAGE_INTERNAL_H

#include "report/report.h"

#include <stdio.h>

/* The runs as the head of a table: one <th> each. */
void ml_report_page_put_run_names(const ml_report *report, FILE *out);

/* page_scores.c: what evaluations found.  A row for each measure, a column for each run; nothing when no run has any,
 * or no memory is left for the list. */
void ml_report_page_put_scores(const ml_report *report, FILE *out);

/* page_samples.c: what checkpoints answered for this report (asked only with a probe), and what training wrote. */
void ml_report_page_put_answers(const ml_report *report, FILE *out);
bool ml_report_page_has_samples(const ml_report *report);
/* Nothing when there are none. */
void ml_report_page_put_history(const ml_report *report, FILE *out);

#endif
