/* The figures of a report: charts made of what runs logged and checkpoints said. */
#ifndef ML_REPORT_FIGURES_H
#define ML_REPORT_FIGURES_H

#include "base/alloc.h"
#include "chart/chart.h"
#include "report/report.h"

typedef enum {
    ML_REPORT_LEARNING,
    ML_REPORT_SCORES,
    ML_REPORT_OPTIMISATION,
    ML_REPORT_SPEED,
    ML_REPORT_EXPERTS,
    ML_REPORT_N_SECTION
} ml_report_section;

typedef struct {
    char name[64]; /* a file name without its end: lower case letters, digits, '-' */
    ml_report_section section;
    const char *caption; /* below the chart */
    enum { ML_FIGURE_LINES, ML_FIGURE_BARS, ML_FIGURE_HEAT } kind;
    union {
        ml_chart_lines lines;
        ml_chart_bars bars;
        ml_chart_heat heat;
    } chart;
} ml_report_figure;

/* Start zeroed. */
typedef struct {
    ml_report_figure *item;
    size_t n, capacity;
    ml_arena arena; /* what the charts point to */
} ml_report_figures;

/* All that the report has numbers for.  The report must outlive them. */
ml_status ml_report_figures_make(const ml_report *report, ml_report_figures *out, ml_error *err);
void ml_report_figures_free(ml_report_figures *f);
/* Write one <svg>: narrow, with the page's colours, or wide on its own. */
void ml_report_figure_write(const ml_report_figure *figure, bool embedded, FILE *out);

#endif
