/* The table of what evaluations found, on the page of a report. */
#ifndef ML_REPORT_PAGE_SCORES_H
#define ML_REPORT_PAGE_SCORES_H

#include "report/report.h"

#include <stdio.h>

/* A row for each measure, a column for each run; nothing when no run has any, or no memory is left for the list. */
void ml_report_page_put_scores(const ml_report *report, FILE *out);

#endif
