#include "chart/frame.h"

#include "base/markup.h"

#include <math.h>
#include <string.h>

enum { SCALE_WIDTH = 14, SCALE_ROOM = 74, N_SHADE = 8 };

/* Least and most opaque: also the lowest value is told from none. */
static const double palest = 0.06, deepest = 0.95;

static void find_range(const ml_chart_heat *h, double *low, double *high)
{
    *low = h->low;
    *high = h->high;
    if (*high > *low) return;
    *low = INFINITY;
    *high = -INFINITY;
    for (size_t i = 0; i < h->n_row * h->n_column; i++) {
        if (!isfinite(h->value[i])) continue;
        *low = fmin(*low, h->value[i]);
        *high = fmax(*high, h->value[i]);
    }
    if (!(*high >= *low)) *low = 0, *high = 1;
    if (!(*high > *low)) *high = *low + 1;
}

static double shade(double value, double low, double high)
{
    double share = fmin(1, fmax(0, (value - low) / (high - low)));
    return palest + (deepest - palest) * share;
}

static const char *row_name(const ml_chart_heat *h, size_t row, char *text, size_t size)
{
    if (h->row_name) return h->row_name[row];
    snprintf(text, size, "%lld", (long long)(h->row_first + (int64_t)row));
    return text;
}

/* Columns of more than one unit each have whole numbers. */
static double column_number(const ml_chart_heat *h, size_t column)
{
    double x = h->column_first + h->column_step * (double)column;
    return h->column_step >= 1 ? round(x) : x;
}

static void draw_cells(const ml_chart_canvas *c, const ml_chart_heat *h, double low, double high)
{
    double wide = (c->right - c->left) / (double)h->n_column, tall = (c->bottom - c->top) / (double)h->n_row;
    char text[32];
    for (size_t r = 0; r < h->n_row; r++) {
        const char *name = row_name(h, r, text, sizeof text);
        for (size_t k = 0; k < h->n_column; k++) {
            double value = h->value[r * h->n_column + k];
            if (!isfinite(value)) continue;
            fprintf(c->out,
                    "<rect class=\"f0\" fill-opacity=\"%.3f\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\">"
                    "<title>",
                    shade(value, low, high), c->left + wide * (double)k, c->top + tall * (double)r,
                    wide > 4 ? wide - 1 : wide, tall > 4 ? tall - 1 : tall);
            ml_markup_put_text(c->out, name);
            fprintf(c->out, ", %.9g: %.6g</title></rect>\n", column_number(h, k), value);
        }
        if (tall < 12 && r % (size_t)ceil(12 / tall)) continue;
        fprintf(c->out, "<text x=\"%.0f\" y=\"%.1f\" class=\"end\">", c->left - 8,
                c->top + tall * ((double)r + 0.5) + 4);
        ml_markup_put_text(c->out, name);
        fputs("</text>\n", c->out);
    }
}

static void draw_column_numbers(const ml_chart_canvas *c, const ml_chart_heat *h)
{
    double wide = (c->right - c->left) / (double)h->n_column;
    char text[32];
    snprintf(text, sizeof text, "%.9g", column_number(h, h->n_column - 1));
    double most = (c->right - c->left) / (9.0 * (double)strlen(text) + 12);
    size_t every = (size_t)ceil((double)h->n_column / fmax(1, most));
    for (size_t k = 0; k < h->n_column; k += every) {
        fprintf(c->out, "<text x=\"%.1f\" y=\"%.1f\" class=\"mid\">%.9g</text>\n", c->left + wide * ((double)k + 0.5),
                c->bottom + 18, column_number(h, k));
    }
}

static void draw_scale(const ml_chart_canvas *c, const ml_chart_heat *h, double low, double high)
{
    double x = c->right + 16, tall = (c->bottom - c->top) / N_SHADE;
    for (int i = 0; i < N_SHADE; i++) {
        double value = high - (high - low) * i / (N_SHADE - 1);
        fprintf(c->out,
                "<rect class=\"f0\" fill-opacity=\"%.3f\" x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%.1f\"/>\n",
                shade(value, low, high), x, c->top + tall * i, SCALE_WIDTH, tall);
    }
    fprintf(c->out, "<text x=\"%.1f\" y=\"%.1f\">%.3g</text><text x=\"%.1f\" y=\"%.1f\">%.3g</text>\n",
            x + SCALE_WIDTH + 4, c->top + 10, high, x + SCALE_WIDTH + 4, c->bottom, low);
    if (!h->value_name) return;
    fprintf(c->out, "<text transform=\"translate(%.1f %.1f) rotate(-90)\" class=\"mid\">", x + SCALE_WIDTH + 18,
            (c->top + c->bottom) / 2);
    ml_markup_put_text(c->out, h->value_name);
    fputs("</text>\n", c->out);
}

void ml_chart_write_heat(const ml_chart_heat *h, FILE *out)
{
    ml_chart_canvas c = { .x0 = 0, .x1 = 1, .y0 = 0, .y1 = 1 };
    double low, high;
    const char *longest = h->row_name ? "" : NULL;
    for (size_t r = 0; h->row_name && r < h->n_row; r++) {
        if (strlen(h->row_name[r]) > strlen(longest)) longest = h->row_name[r];
    }
    find_range(h, &low, &high);
    ml_chart_begin(&c, &h->frame, NULL, 0, longest, out);
    c.right -= SCALE_ROOM - 24;
    if (h->n_row && h->n_column) {
        draw_cells(&c, h, low, high);
        draw_column_numbers(&c, h);
    }
    ml_chart_draw_axes(&c);
    draw_scale(&c, h, low, high);
    ml_chart_end(&c);
}
