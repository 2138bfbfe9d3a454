/* What the files that make figures share. */
#ifndef ML_REPORT_FIGURES_INTERNAL_H
#define ML_REPORT_FIGURES_INTERNAL_H

#include "report/figures.h"

/* A figure with its name made of `name` and, when it is not NULL, `of`; NULL, with *err, without memory. */
ml_report_figure *ml_report_figure_add(ml_report_figures *f, ml_report_section section, const char *name,
                                       const char *of, const char *caption, ml_error *err);
/* Zeroed memory that lives as long as the figures. */
void *ml_report_figure_alloc(ml_report_figures *f, size_t n, size_t size, ml_error *err);
const char *ml_report_figure_text(ml_report_figures *f, ml_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Curves over steps: figures_curves.c; scores of evaluations: figures_scores.c; loads and answers: figures_experts.c.
 */
ml_status ml_report_add_curves(const ml_report *report, ml_report_figures *f, ml_error *err);
ml_status ml_report_add_scores(const ml_report *report, ml_report_figures *f, ml_error *err);
ml_status ml_report_add_experts(const ml_report *report, ml_report_figures *f, ml_error *err);
ml_status ml_report_add_cache_speed(const ml_report *report, ml_report_figures *f, ml_error *err);

#endif
