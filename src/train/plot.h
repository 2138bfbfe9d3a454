/* Line charts as self-contained SVG: axes with round ticks, a grid, a legend at the right. */
#ifndef ML_TRAIN_PLOT_H
#define ML_TRAIN_PLOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Points that are not finite break the line. */
typedef struct {
    const char *name;    /* in the legend; NULL: not listed, e.g. the single seeds behind a mean */
    const double *x, *y; /* [n] */
    size_t n;
    int colour; /* index into the palette; beyond its end colours come again, dashed */
    bool faint; /* thin and pale */
} ml_plot_line;

typedef struct {
    const char *title, *x_label, *y_label;
    const ml_plot_line *line; /* [n_line], drawn in order */
    size_t n_line;
    double y_min, y_max; /* shown range, lines are clipped to it; equal: that of the points */
} ml_plot;

/* Write one <svg> element.  A chart without points has axes from 0 to 1.  Failures to write show in ferror(out). */
void ml_plot_write_svg(const ml_plot *plot, FILE *out);

/* A tick distance of 1, 2 or 5 times a power of ten that cuts a range into at most `n` parts. */
double ml_plot_tick_step(double range, int n);

#endif
