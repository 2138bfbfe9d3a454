/* The report: one HTML page that needs nothing else, about one or several runs side by side.
 *
 *   runs (run.h) + answers of their checkpoints (probe.h) -> figures (figures.h) -> page
 *
 * What runs and models wrote is text on the page, whatever it contains. */
#ifndef ML_REPORT_REPORT_H
#define ML_REPORT_REPORT_H

#include "report/probe.h"
#include "report/run.h"

typedef struct {
    ml_report_run *run; /* [n_run] */
    size_t n_run;
    /* What the checkpoints of a run said: probe[i][k] of run[i].checkpoint[k]; probe NULL: no model was asked. */
    ml_report_probe **probe;
    ml_report_probe_config asked; /* how they were */
} ml_report;

/* How a figure gets into other files than the page. */
typedef struct {
    const char *folder; /* NULL: it does not */
    /* From the SVG text in memory to a PNG file. */
    ml_status (*write_png)(const char *svg, size_t n_bytes, const char *path, ml_error *err);
} ml_report_export;

/* Write the page, replacing `path` at once; and every figure as NAME.svg and NAME.png into the folder, which is made.
 * *n_figure (may be NULL): how many there are. */
ml_status ml_report_write(const ml_report *report, const char *path, const ml_report_export *export, size_t *n_figure,
                          ml_error *err);

#endif
