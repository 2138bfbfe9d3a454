#include "chart/frame.h"

#include "base/markup.h"

#include <math.h>
#include <string.h>

enum { WIDTH = 860, HEIGHT = 480, MARGIN_LEFT = 68, MARGIN_TOP = 44, MARGIN_BOTTOM = 56, MARGIN_RIGHT = 24 };
enum { LEGEND_LINE = 19, LETTER = 8, SAMPLE = 24, SAMPLE_GAP = 7, KEY_GAP = 22 };

/* Distinct also for most colour-blind readers (after Okabe and Ito, darkened where pale on white, lightened where deep
 * on black). */
static const char *const palette[2][ML_CHART_N_COLOUR] = {
    { "#0072b2", "#d55e00", "#009e73", "#b8489a", "#56a5d8", "#c79100", "#7a4fc0", "#4d4d4d", "#8fae1b", "#a0522d" },
    { "#56b4e9", "#ff8c42", "#3fcf9f", "#e58fc9", "#9fd0f0", "#f0c419", "#b79bf0", "#c8c8c8", "#c3dd5a", "#d99a77" },
};

double ml_chart_tick_step(double range, int n)
{
    double power = pow(10, floor(log10(range / n)));
    static const double steps[] = { 1, 2, 5, 10 };
    for (size_t i = 0; i < 4; i++) {
        if (range / (power * steps[i]) <= n * (1 + 1e-9)) return power * steps[i];
    }
    return power * 10;
}

int ml_chart_decimals(double step)
{
    int n = (int)ceil(-log10(step) - 1e-9);
    return n < 0 ? 0 : n;
}

double ml_chart_x(const ml_chart_canvas *c, double x)
{
    return c->left + (x - c->x0) / (c->x1 - c->x0) * (c->right - c->left);
}

double ml_chart_y(const ml_chart_canvas *c, double y)
{
    return c->bottom - (y - c->y0) / (c->y1 - c->y0) * (c->bottom - c->top);
}

/* ---- style ---- */

void ml_chart_write_style(bool dark, FILE *out)
{
    static const char *const ink[2] = { "#333", "#ddd" }, *const axis[2] = { "#888", "#888" },
                             *const grid[2] = { "#e6e6e6", "#3a3a3a" };
    fprintf(out,
            ".chart{fill:%s;font-family:system-ui,sans-serif;font-size:13px}.chart .mid{text-anchor:middle}"
            ".chart .end{text-anchor:end}.chart .title{font-size:16px;font-weight:600}"
            ".chart .grid{stroke:%s;fill:none}.chart .axis{stroke:%s;fill:none}"
            ".chart .line{fill:none;stroke-width:2.2;stroke-linejoin:round}"
            ".chart .faint{fill:none;stroke-width:1;opacity:.35}.chart .whisker{stroke:%s;fill:none;stroke-width:1.5}",
            ink[dark], grid[dark], axis[dark], ink[dark]);
    for (int i = 0; i < ML_CHART_N_COLOUR; i++) {
        fprintf(out, ".chart .s%d{stroke:%s}.chart .f%d{fill:%s}", i, palette[dark][i], i, palette[dark][i]);
    }
    fputc('\n', out);
}

void ml_chart_put_stroke(const ml_chart_canvas *c, const ml_chart_key *key)
{
    bool dashed = key->dashed || key->colour / ML_CHART_N_COLOUR % 2;
    fprintf(c->out, " class=\"%s s%d\"%s", key->faint ? "faint" : "line", key->colour % ML_CHART_N_COLOUR,
            dashed ? " stroke-dasharray=\"7 4\"" : "");
}

/* ---- beginning and end ---- */

static double key_width(const ml_chart_key *key)
{
    return SAMPLE + SAMPLE_GAP + LETTER * (double)strlen(key->name);
}

/* Lines that the legend takes below the frame. */
static int legend_rows(const ml_chart_canvas *c, const ml_chart_key *key, size_t n_key)
{
    int n = 0;
    double x = INFINITY;
    for (size_t i = 0; i < n_key; i++) {
        if (!key[i].name) continue;
        if (x + key_width(&key[i]) > c->width - MARGIN_RIGHT) {
            n++;
            x = MARGIN_RIGHT;
        }
        x += key_width(&key[i]) + KEY_GAP;
    }
    return n;
}

/* Room for the longest name of the legend. */
static double frame_right(const ml_chart_canvas *c, const ml_chart_key *key, size_t n_key)
{
    double longest = 0;
    for (size_t i = 0; i < n_key; i++) {
        if (key[i].name) longest = fmax(longest, key_width(&key[i]) + 16);
    }
    if (longest == 0 || c->frame->legend_below) return c->width - MARGIN_RIGHT;
    return fmax(c->width / 2.0, c->width - MARGIN_RIGHT - longest);
}

void ml_chart_begin(ml_chart_canvas *c, const ml_chart_frame *frame, const ml_chart_key *key, size_t n_key,
                    const char *row_name, FILE *out)
{
    c->frame = frame;
    c->out = out;
    c->width = frame->width ? frame->width : WIDTH;
    c->height = frame->height ? frame->height : HEIGHT;
    c->left = row_name ? fmin(c->width / 3.0, 30 + LETTER * (double)strlen(row_name)) : MARGIN_LEFT;
    c->top = frame->title && *frame->title ? MARGIN_TOP : MARGIN_TOP / 2;
    c->bottom = c->height - MARGIN_BOTTOM;
    c->right = frame_right(c, key, n_key);
    if (frame->legend_below) c->height += LEGEND_LINE * legend_rows(c, key, n_key);
    fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 %d %d\" ", c->width,
            c->height);
    if (frame->embedded) {
        fputs("role=\"img\" aria-label=\"", out);
        ml_markup_put_text(out, frame->title ? frame->title : "");
        fputs("\">\n", out);
        return;
    }
    fprintf(out, "width=\"%d\" height=\"%d\">\n<style>", c->width, c->height);
    ml_chart_write_style(false, out);
    fprintf(out, "</style>\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", c->width, c->height);
}

void ml_chart_end(ml_chart_canvas *c)
{
    fputs("</svg>\n", c->out);
}

/* ---- axes ---- */

void ml_chart_draw_x_ticks(const ml_chart_canvas *c)
{
    double room = (c->right - c->left) / 75;
    double step = ml_chart_tick_step(c->x1 - c->x0, room < 3 ? 3 : room > 8 ? 8 : (int)room);
    for (double x = ceil(c->x0 / step - 1e-9) * step; x <= c->x1 + step * 1e-9; x += step) {
        double at = ml_chart_x(c, x);
        fprintf(c->out,
                "<path class=\"grid\" d=\"M%.1f %.0f V%.1f\"/><text x=\"%.1f\" y=\"%.1f\" class=\"mid\">%.*f</text>\n",
                at, c->top, c->bottom, at, c->bottom + 18, ml_chart_decimals(step), x + 0.0);
    }
}

/* As few characters as there is room for left of the axis: 20k, 3M, 1e+10, 2e-06. */
static void put_y_number(const ml_chart_canvas *c, double y, double step)
{
    if (step >= 1e9 || step < 1e-4) {
        fprintf(c->out, "%.3g", y + 0.0);
    } else if (step >= 1e3 && y != 0) {
        double unit = step >= 1e6 ? 1e6 : 1e3;
        fprintf(c->out, "%.*f%s", ml_chart_decimals(step / unit), y / unit, step >= 1e6 ? "M" : "k");
    } else {
        fprintf(c->out, "%.*f", ml_chart_decimals(step), y + 0.0);
    }
}

void ml_chart_draw_y_ticks(const ml_chart_canvas *c)
{
    double room = (c->bottom - c->top) / 36;
    double step = ml_chart_tick_step(c->y1 - c->y0, room < 3 ? 3 : room > 8 ? 8 : (int)room);
    for (double y = ceil(c->y0 / step - 1e-9) * step; y <= c->y1 + step * 1e-9; y += step) {
        double at = ml_chart_y(c, y), shown = fabs(y) < step * 1e-6 ? 0 : y;
        fprintf(c->out, "<path class=\"grid\" d=\"M%.0f %.1f H%.1f\"/><text x=\"%.0f\" y=\"%.1f\" class=\"end\">",
                c->left, at, c->right, c->left - 8, at + 4);
        put_y_number(c, shown, step);
        fputs("</text>\n", c->out);
    }
}

void ml_chart_draw_axes(const ml_chart_canvas *c)
{
    FILE *out = c->out;
    const ml_chart_frame *f = c->frame;
    fprintf(out, "<path class=\"axis\" d=\"M%.0f %.0f V%.1f H%.1f\"/>\n", c->left, c->top, c->bottom, c->right);
    if (f->x_label) {
        fprintf(out, "<text x=\"%.1f\" y=\"%.0f\" class=\"mid\">", (c->left + c->right) / 2, c->bottom + 42);
        ml_markup_put_text(out, f->x_label);
        fputs("</text>\n", out);
    }
    if (f->y_label) {
        fprintf(out, "<text transform=\"translate(18 %.1f) rotate(-90)\" class=\"mid\">", (c->top + c->bottom) / 2);
        ml_markup_put_text(out, f->y_label);
        fputs("</text>\n", out);
    }
    if (f->title && *f->title) {
        fprintf(out, "<text x=\"%d\" y=\"26\" class=\"title\">", f->width && f->width < WIDTH ? 12 : (int)c->left);
        ml_markup_put_text(out, f->title);
        fputs("</text>\n", out);
    }
}

/* ---- legend ---- */

static void draw_key(const ml_chart_canvas *c, const ml_chart_key *key, double x, double y)
{
    if (key->filled) {
        fprintf(c->out, "<rect class=\"f%d\" x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"12\"/>",
                key->colour % ML_CHART_N_COLOUR, x, y - 6, SAMPLE);
    } else {
        fputs("<path", c->out);
        ml_chart_put_stroke(c, key);
        fprintf(c->out, " d=\"M%.1f %.1f h%d\"/>", x, y, SAMPLE);
    }
    fprintf(c->out, "<text x=\"%.1f\" y=\"%.1f\">", x + SAMPLE + SAMPLE_GAP, y + 4);
    ml_markup_put_text(c->out, key->name);
    fputs("</text>\n", c->out);
}

void ml_chart_draw_legend(const ml_chart_canvas *c, const ml_chart_key *key, size_t n_key)
{
    bool below = c->frame->legend_below;
    double x = below ? INFINITY : c->right + 16;
    double y = below ? c->bottom + MARGIN_BOTTOM - LEGEND_LINE + 8 : c->top + 8;
    for (size_t i = 0; i < n_key; i++) {
        if (!key[i].name) continue;
        if (below && x + key_width(&key[i]) > c->width - MARGIN_RIGHT) {
            x = MARGIN_RIGHT;
            y += LEGEND_LINE;
        }
        draw_key(c, &key[i], x, y);
        if (below) {
            x += key_width(&key[i]) + KEY_GAP;
        } else {
            y += LEGEND_LINE;
        }
    }
}
