/* What the kinds of chart share: the canvas, axes, ticks, legend, colours. */
#ifndef ML_CHART_FRAME_H
#define ML_CHART_FRAME_H

#include "chart/chart.h"

enum { ML_CHART_N_COLOUR = 10 };

typedef struct {
    const ml_chart_frame *frame;
    FILE *out;
    double x0, x1, y0, y1;           /* shown range */
    double left, top, right, bottom; /* of the frame, in pixels */
    int width, height;
} ml_chart_canvas;

/* An entry of the legend. */
typedef struct {
    const char *name;
    int colour;
    bool faint, dashed, filled; /* filled: a box, not a line */
} ml_chart_key;

/* Open the <svg>: room for the legend's names, and the range as given; `row_name` is the longest text left of the axis
 * (NULL: numbers). */
void ml_chart_begin(ml_chart_canvas *c, const ml_chart_frame *frame, const ml_chart_key *key, size_t n_key,
                    const char *row_name, FILE *out);
void ml_chart_end(ml_chart_canvas *c);

double ml_chart_x(const ml_chart_canvas *c, double x);
double ml_chart_y(const ml_chart_canvas *c, double y);

/* Ticks with their grid lines; the axes and their labels. */
void ml_chart_draw_x_ticks(const ml_chart_canvas *c);
void ml_chart_draw_y_ticks(const ml_chart_canvas *c);
void ml_chart_draw_axes(const ml_chart_canvas *c);
void ml_chart_draw_legend(const ml_chart_canvas *c, const ml_chart_key *key, size_t n_key);
/* class="..." and dashes of a stroke. */
void ml_chart_put_stroke(const ml_chart_canvas *c, const ml_chart_key *key);
/* Decimals that tell ticks so far apart from each other. */
int ml_chart_decimals(double step);

#endif
