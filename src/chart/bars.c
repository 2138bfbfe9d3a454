#include "chart/frame.h"

#include "base/markup.h"

#include <math.h>

enum { MAX_SERIES = 16 };

static double highest(const ml_chart_bars *b)
{
    double most = 0;
    for (size_t i = 0; i < b->n_group * b->n_series; i++) {
        double spread = b->spread && isfinite(b->spread[i]) ? b->spread[i] : 0;
        if (isfinite(b->value[i])) most = fmax(most, b->value[i] + spread);
    }
    return most > 0 ? most : 1;
}

static void draw_whisker(const ml_chart_canvas *c, double x, double value, double spread)
{
    fprintf(c->out, "<path class=\"whisker\" d=\"M%.1f %.1f V%.1f M%.1f %.1f h8 M%.1f %.1f h8\"/>\n", x,
            ml_chart_y(c, fmax(0, value - spread)), ml_chart_y(c, value + spread), x - 4,
            ml_chart_y(c, fmax(0, value - spread)), x - 4, ml_chart_y(c, value + spread));
}

static void draw_group(const ml_chart_canvas *c, const ml_chart_bars *b, size_t group)
{
    double room = (c->right - c->left) / (double)b->n_group, at = c->left + room * (double)group;
    double wide = room * 0.8 / (double)b->n_series;
    for (size_t s = 0; s < b->n_series; s++) {
        double value = b->value[group * b->n_series + s], x = at + room * 0.1 + wide * (double)s;
        if (!isfinite(value)) continue;
        double y = ml_chart_y(c, fmax(0, value));
        fprintf(c->out, "<rect class=\"f%d\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\"><title>",
                (int)(s % ML_CHART_N_COLOUR), x, y, fmax(0.5, wide - 1), c->bottom - y);
        ml_markup_put_text(c->out, b->series ? b->series[s] : "");
        fprintf(c->out, ": %.6g</title></rect>\n", value);
        double spread = b->spread ? b->spread[group * b->n_series + s] : 0;
        if (isfinite(spread) && spread > 0) draw_whisker(c, x + wide / 2, value, spread);
    }
    fprintf(c->out, "<text x=\"%.1f\" y=\"%.1f\" class=\"mid\">", at + room / 2, c->bottom + 18);
    ml_markup_put_text(c->out, b->group[group]);
    fputs("</text>\n", c->out);
}

void ml_chart_write_bars(const ml_chart_bars *b, FILE *out)
{
    ml_chart_canvas c = { .x0 = 0, .x1 = 1, .y0 = 0, .y1 = highest(b) };
    ml_chart_key key[MAX_SERIES];
    size_t n_key = b->series && b->n_series <= MAX_SERIES ? b->n_series : 0;
    for (size_t i = 0; i < n_key; i++) {
        key[i] = (ml_chart_key){ .name = b->series[i], .colour = (int)i, .filled = true };
    }
    ml_chart_begin(&c, &b->frame, key, n_key, NULL, out);
    ml_chart_draw_y_ticks(&c);
    for (size_t g = 0; g < b->n_group; g++) draw_group(&c, b, g);
    ml_chart_draw_axes(&c);
    ml_chart_draw_legend(&c, key, n_key);
    ml_chart_end(&c);
}
