#include "train/plot.h"

#include <math.h>
#include <string.h>

enum { WIDTH = 860, HEIGHT = 480, LEFT = 68, TOP = 44, BOTTOM = 56, RIGHT = 24, LEGEND_LINE = 19, LETTER = 8 };

/* Distinct also for most colour-blind readers (after Okabe and Ito, darkened where pale on white). */
static const char *const palette[] = { "#0072b2", "#d55e00", "#009e73", "#b8489a", "#56a5d8",
                                       "#c79100", "#7a4fc0", "#4d4d4d", "#8fae1b", "#a0522d" };
enum { N_COLOUR = sizeof palette / sizeof palette[0] };

typedef struct {
    const ml_plot *plot;
    FILE *out;
    double x0, x1, y0, y1; /* shown range */
    double right;          /* of the frame, in pixels */
} canvas;

double ml_plot_tick_step(double range, int n)
{
    double power = pow(10, floor(log10(range / n)));
    static const double steps[] = { 1, 2, 5, 10 };
    for (size_t i = 0; i < 4; i++) {
        if (range / (power * steps[i]) <= n * (1 + 1e-9)) return power * steps[i];
    }
    return power * 10;
}

static double to_x(const canvas *c, double x)
{
    return LEFT + (x - c->x0) / (c->x1 - c->x0) * (c->right - LEFT);
}

static double to_y(const canvas *c, double y)
{
    return HEIGHT - BOTTOM - (y - c->y0) / (c->y1 - c->y0) * (HEIGHT - BOTTOM - TOP);
}

static void put_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        const char *escape = *text == '<' ? "&lt;" : *text == '>' ? "&gt;" : *text == '&' ? "&amp;" : NULL;
        if (escape)
            fputs(escape, out);
        else
            fputc(*text, out);
    }
}

static void widen(double value, double *low, double *high)
{
    if (value < *low) *low = value;
    if (value > *high) *high = value;
}

static void find_range(canvas *c)
{
    const ml_plot *p = c->plot;
    c->x0 = c->y0 = INFINITY;
    c->x1 = c->y1 = -INFINITY;
    for (size_t i = 0; i < p->n_line; i++) {
        const ml_plot_line *line = &p->line[i];
        for (size_t k = 0; k < line->n; k++) {
            if (!isfinite(line->x[k]) || !isfinite(line->y[k])) continue;
            widen(line->x[k], &c->x0, &c->x1);
            widen(line->y[k], &c->y0, &c->y1);
        }
    }
    if (p->y_max > p->y_min) {
        c->y0 = p->y_min;
        c->y1 = p->y_max;
    }
    if (!(c->x1 >= c->x0)) c->x0 = c->y0 = 0;
    if (!(c->x1 > c->x0)) c->x1 = c->x0 + 1;
    if (!(c->y1 > c->y0)) c->y1 = c->y0 + 1;
}

/* Decimals that tell ticks so far apart from each other. */
static int decimals(double step)
{
    int n = (int)ceil(-log10(step) - 1e-9);
    return n < 0 ? 0 : n;
}

static void draw_axes(const canvas *c)
{
    FILE *out = c->out;
    double step = ml_plot_tick_step(c->x1 - c->x0, 8), bottom = HEIGHT - BOTTOM;
    for (double x = ceil(c->x0 / step - 1e-9) * step; x <= c->x1 + step * 1e-9; x += step) {
        fprintf(out,
                "<path class=\"grid\" d=\"M%.1f %d V%.1f\"/><text x=\"%.1f\" y=\"%.1f\" class=\"mid\">%.*f</text>\n",
                to_x(c, x), TOP, bottom, to_x(c, x), bottom + 18, decimals(step), x + 0.0);
    }
    step = ml_plot_tick_step(c->y1 - c->y0, 8);
    for (double y = ceil(c->y0 / step - 1e-9) * step; y <= c->y1 + step * 1e-9; y += step) {
        fprintf(out, "<path class=\"grid\" d=\"M%d %.1f H%.1f\"/><text x=\"%d\" y=\"%.1f\" class=\"end\">%.*f</text>\n",
                LEFT, to_y(c, y), c->right, LEFT - 8, to_y(c, y) + 4, decimals(step), y + 0.0);
    }
    fprintf(out, "<path class=\"axis\" d=\"M%d %d V%.1f H%.1f\"/>\n", LEFT, TOP, bottom, c->right);
    fprintf(out, "<text x=\"%.1f\" y=\"%d\" class=\"mid\">", (LEFT + c->right) / 2, HEIGHT - 14);
    put_text(out, c->plot->x_label);
    fprintf(out, "</text>\n<text transform=\"translate(18 %.1f) rotate(-90)\" class=\"mid\">", (TOP + bottom) / 2);
    put_text(out, c->plot->y_label);
    fprintf(out, "</text>\n<text x=\"%d\" y=\"26\" class=\"title\">", LEFT);
    put_text(out, c->plot->title);
    fputs("</text>\n", out);
}

static void put_style(FILE *out, const ml_plot_line *line)
{
    fprintf(out, " stroke=\"%s\"%s%s", palette[line->colour % N_COLOUR],
            line->colour / N_COLOUR % 2 ? " stroke-dasharray=\"7 4\"" : "",
            line->faint ? " class=\"faint\"" : " class=\"line\"");
}

static void draw_line(const canvas *c, const ml_plot_line *line)
{
    fputs("<path", c->out);
    put_style(c->out, line);
    fputs(" d=\"", c->out);
    bool down = false;
    for (size_t i = 0; i < line->n; i++) {
        bool finite = isfinite(line->x[i]) && isfinite(line->y[i]);
        if (finite) fprintf(c->out, "%c%.1f %.1f", down ? 'L' : 'M', to_x(c, line->x[i]), to_y(c, line->y[i]));
        down = finite;
    }
    fputs("\"/>\n", c->out);
}

static void draw_legend(const canvas *c)
{
    double y = TOP + 8;
    for (size_t i = 0; i < c->plot->n_line; i++) {
        const ml_plot_line *line = &c->plot->line[i];
        if (!line->name) continue;
        fputs("<path", c->out);
        put_style(c->out, line);
        fprintf(c->out, " d=\"M%.1f %.1f h24\"/><text x=\"%.1f\" y=\"%.1f\">", c->right + 16, y, c->right + 47, y + 4);
        put_text(c->out, line->name);
        fputs("</text>\n", c->out);
        y += LEGEND_LINE;
    }
}

/* Room for the longest name of the legend. */
static double frame_right(const ml_plot *p)
{
    size_t longest = 0;
    for (size_t i = 0; i < p->n_line; i++) {
        size_t n = p->line[i].name ? strlen(p->line[i].name) : 0;
        if (n > longest) longest = n;
    }
    return longest ? fmax(WIDTH / 2.0, WIDTH - RIGHT - 47.0 - (double)longest * LETTER) : WIDTH - RIGHT;
}

void ml_plot_write_svg(const ml_plot *plot, FILE *out)
{
    canvas c = { .plot = plot, .out = out, .right = frame_right(plot) };
    find_range(&c);
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
            "font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#333\">\n"
            "<style>.mid{text-anchor:middle}.end{text-anchor:end}.title{font-size:16px;font-weight:600}"
            ".grid{stroke:#e6e6e6;fill:none}.axis{stroke:#888;fill:none}"
            ".line{fill:none;stroke-width:2.2;stroke-linejoin:round}"
            ".faint{fill:none;stroke-width:1;opacity:.35}</style>\n"
            "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n"
            "<clipPath id=\"frame\"><rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/></clipPath>\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT, LEFT, TOP, c.right - LEFT, HEIGHT - TOP - BOTTOM);
    draw_axes(&c);
    fputs("<g clip-path=\"url(#frame)\">\n", out);
    for (size_t i = 0; i < plot->n_line; i++) draw_line(&c, &plot->line[i]);
    fputs("</g>\n", out);
    draw_legend(&c);
    fputs("</svg>\n", out);
}
