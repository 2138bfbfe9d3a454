/* Charts as SVG: lines, bars and heat maps, each one <svg> element with a title, axes with round ticks and a legend.
 *
 * A chart is either a file of its own (colours inside, on white), or part of a page whose style sheet has the colours,
 * so that it follows a dark or light theme: ml_chart_style() is what such a page needs.  Texts are escaped.  Values
 * that are not finite are not drawn.  Failures to write show in ferror(out). */
#ifndef ML_CHART_CHART_H
#define ML_CHART_CHART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* What all kinds have. */
typedef struct {
    const char *title, *x_label, *y_label; /* NULL: none */
    int width, height;                     /* in pixels, of everything; 0: 860 x 480 */
    bool legend_below;                     /* under the frame instead of at its right; then the chart grows by it */
    bool embedded;                         /* colours by the page */
} ml_chart_frame;

/* Points that are not finite break the line. */
typedef struct {
    const char *name;    /* in the legend; NULL: not listed, e.g. the single seeds behind a mean */
    const double *x, *y; /* [n] */
    size_t n;
    int colour;  /* index into the palette; beyond its end colours come again, dashed */
    bool faint;  /* thin and pale */
    bool dashed; /* besides those */
} ml_chart_line;

typedef struct {
    ml_chart_frame frame;
    const ml_chart_line *line; /* [n_line], drawn in order */
    size_t n_line;
    double y_min, y_max; /* shown range, lines are clipped to it; equal: that of the points */
} ml_chart_lines;

/* A chart without points has axes from 0 to 1. */
void ml_chart_write_lines(const ml_chart_lines *chart, FILE *out);

/* Groups of bars from 0 upwards. */
typedef struct {
    ml_chart_frame frame;
    const char *const *group; /* [n_group] below the axis */
    size_t n_group;
    const char *const *series; /* [n_series] in the legend */
    size_t n_series;
    const double *value;  /* [n_group, n_series] */
    const double *spread; /* [n_group, n_series] drawn as a whisker both ways; NULL: none */
} ml_chart_bars;

void ml_chart_write_bars(const ml_chart_bars *chart, FILE *out);

/* Cells whose colour deepens from `low` to `high`; a cell says its value when pointed at. */
typedef struct {
    ml_chart_frame frame;
    const double *value; /* [n_row, n_column] */
    size_t n_row, n_column;
    const char *const *row_name; /* [n_row]; NULL: their numbers, from row_first on */
    int64_t row_first;
    double column_first, column_step; /* what column c stands for: first + c * step */
    double low, high;                 /* equal: the range of the values */
    const char *value_name;           /* beside the scale */
} ml_chart_heat;

void ml_chart_write_heat(const ml_chart_heat *chart, FILE *out);

/* Rules for a page that embeds charts: the names are those that the charts use; dark: light colours on a dark page. */
void ml_chart_write_style(bool dark, FILE *out);

/* A tick distance of 1, 2 or 5 times a power of ten that cuts a range into at most `n` parts. */
double ml_chart_tick_step(double range, int n);

#endif
