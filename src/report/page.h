/* The HTML of a report. */
#ifndef ML_REPORT_PAGE_H
#define ML_REPORT_PAGE_H

#include "report/figures.h"

/* Write the whole page.  Well-formed XML too.  Failures to write show in ferror(out). */
void ml_report_write_page(const ml_report *report, const ml_report_figures *figures, FILE *out);

#endif
