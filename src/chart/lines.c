#include "chart/frame.h"

#include "base/alloc.h"

#include <math.h>

/* A point, or a step of the range, narrower than this is not seen. */
enum { MAX_SHOWN = 1200 };

static void widen(double value, double *low, double *high)
{
    if (value < *low) *low = value;
    if (value > *high) *high = value;
}

static void find_range(ml_chart_canvas *c, const ml_chart_lines *p)
{
    c->x0 = c->y0 = INFINITY;
    c->x1 = c->y1 = -INFINITY;
    for (size_t i = 0; i < p->n_line; i++) {
        const ml_chart_line *line = &p->line[i];
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
    if (!(c->y1 > c->y0)) c->y1 = c->y0 + (c->y0 == 0 ? 1 : fabs(c->y0));
}

static ml_chart_key key_of(const ml_chart_line *line)
{
    return (ml_chart_key){ .name = line->name, .colour = line->colour, .faint = line->faint, .dashed = line->dashed };
}

static bool is_drawn(const ml_chart_line *line, size_t i)
{
    return isfinite(line->x[i]) && isfinite(line->y[i]);
}

/* Of a bucket [begin, end) of points the lowest and the highest, in their order: peaks stay. */
static void put_bucket(const ml_chart_canvas *c, const ml_chart_line *line, size_t begin, size_t end, bool *down)
{
    size_t low = end, high = end;
    bool gap = false;
    for (size_t i = begin; i < end; i++) {
        if (!is_drawn(line, i)) {
            gap = true;
            continue;
        }
        if (low == end || line->y[i] < line->y[low]) low = i;
        if (high == end || line->y[i] > line->y[high]) high = i;
    }
    if (low != end) {
        size_t first = low < high ? low : high, last = low < high ? high : low;
        for (size_t i = first; i <= last; i += last > first ? last - first : 1) {
            fprintf(c->out, "%c%.1f %.1f", *down ? 'L' : 'M', ml_chart_x(c, line->x[i]), ml_chart_y(c, line->y[i]));
            *down = true;
        }
    }
    if (gap) *down = false;
}

/* A point that its neighbours leave alone has no segment; a dot shows it. */
static void draw_single(const ml_chart_canvas *c, const ml_chart_line *line)
{
    for (size_t i = 0; i < line->n; i++) {
        bool before = i > 0 && is_drawn(line, i - 1), after = i + 1 < line->n && is_drawn(line, i + 1);
        if (!is_drawn(line, i) || before || after || line->faint) continue;
        fprintf(c->out, "<circle class=\"f%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"/>\n", line->colour % ML_CHART_N_COLOUR,
                ml_chart_x(c, line->x[i]), ml_chart_y(c, line->y[i]));
    }
}

static void draw_line(const ml_chart_canvas *c, const ml_chart_line *line)
{
    ml_chart_key key = key_of(line);
    size_t bucket = (line->n + MAX_SHOWN - 1) / MAX_SHOWN;
    bool down = false;
    fputs("<path", c->out);
    ml_chart_put_stroke(c, &key);
    fputs(" d=\"", c->out);
    for (size_t i = 0; i < line->n; i += bucket) {
        put_bucket(c, line, i, i + bucket < line->n ? i + bucket : line->n, &down);
    }
    fputs("\"/>\n", c->out);
    if (bucket == 1) draw_single(c, line);
}

void ml_chart_write_lines(const ml_chart_lines *p, FILE *out)
{
    ml_chart_canvas c = { 0 };
    ml_chart_key *key = ml_calloc(p->n_line + 1, sizeof *key);
    size_t n_key = key ? p->n_line : 0; /* without memory, without a legend */
    for (size_t i = 0; i < n_key; i++) key[i] = key_of(&p->line[i]);
    find_range(&c, p);
    ml_chart_begin(&c, &p->frame, key, n_key, NULL, out);
    ml_chart_draw_x_ticks(&c);
    ml_chart_draw_y_ticks(&c);
    ml_chart_draw_axes(&c);
    /* An inner <svg> clips, without an id that another chart of the page could also have. */
    fprintf(out, "<svg x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" viewBox=\"%.1f %.1f %.1f %.1f\">\n", c.left,
            c.top - 2, c.right - c.left, c.bottom - c.top + 4, c.left, c.top - 2, c.right - c.left,
            c.bottom - c.top + 4);
    for (size_t i = 0; i < p->n_line; i++) draw_line(&c, &p->line[i]);
    fputs("</svg>\n", out);
    ml_chart_draw_legend(&c, key, n_key);
    ml_chart_end(&c);
    ml_free(key);
}
