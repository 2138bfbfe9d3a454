/* What evaluations counted: bars of shares, the runs beside one another. */
#include "report/figures_internal.h"
#include "report/scores.h"

#include <math.h>

enum { MAX_SERIES = 8 };

static bool is_count(const ml_report *report, const ml_report_measure *m)
{
    ml_report_score s;
    for (size_t i = 0; i < report->n_run; i++) {
        if (ml_report_score_find(&report->run[i], m, &s)) return s.of > 0;
    }
    return false;
}

/* One evaluation, measure[n]: a group of bars for each run, in it one for each measure that is a count. */
static ml_status add_bars(const ml_report *report, const ml_report_measure *measure, size_t n, ml_report_figures *f,
                          ml_error *err)
{
    const char **group = ml_report_figure_alloc(f, report->n_run, sizeof *group, err);
    const char **series = ml_report_figure_alloc(f, MAX_SERIES, sizeof *series, err);
    double *value = ml_report_figure_alloc(f, report->n_run * MAX_SERIES, sizeof *value, err);
    const char *title = ml_report_figure_text(f, err, "%.40s: %.80s", measure->task, measure->data);
    if (!group || !series || !value || !title) return ML_ENOMEM;
    const ml_report_measure *shown[MAX_SERIES];
    size_t n_series = 0;
    for (size_t m = 0; m < n && n_series < MAX_SERIES; m++) {
        if (!is_count(report, &measure[m])) continue;
        series[n_series] = measure[m].name;
        shown[n_series++] = &measure[m];
    }
    if (n_series == 0) return ML_OK;
    for (size_t i = 0; i < report->n_run; i++) {
        group[i] = report->run[i].name;
        for (size_t k = 0; k < n_series; k++) {
            ml_report_score s;
            bool found = ml_report_score_find(&report->run[i], shown[k], &s) && s.of > 0;
            value[i * n_series + k] = found ? 100 * (double)s.count / (double)s.of : (double)NAN;
        }
    }
    ml_report_figure *figure = ml_report_figure_add(f, ML_REPORT_SCORES, "scores", measure->task, NULL, err);
    if (!figure) return ML_ENOMEM;
    figure->kind = ML_FIGURE_BARS;
    figure->chart.bars = (ml_chart_bars){ .frame = { .title = title, .y_label = "% of all" },
                                          .group = group,
                                          .n_group = report->n_run,
                                          .series = series,
                                          .n_series = n_series,
                                          .value = value };
    return ML_OK;
}

ml_status ml_report_add_scores(const ml_report *report, ml_report_figures *f, ml_error *err)
{
    ml_report_measure *measure;
    size_t n;
    ML_TRY(ml_report_measures_list(report, &measure, &n, err));
    ml_status status = ML_OK;
    for (size_t i = 0, end; i < n && status == ML_OK; i = end) {
        for (end = i + 1; end < n && ml_report_measure_is_beside(&measure[i], &measure[end]);) end++;
        status = add_bars(report, measure + i, end - i, f, err);
    }
    /* The names are the runs' own texts, which outlive the figures. */
    ml_free(measure);
    return status;
}
