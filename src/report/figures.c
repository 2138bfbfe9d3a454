#include "report/figures_internal.h"

#include <string.h>

/* Address space, not memory. */
static const size_t ARENA_BYTES = (size_t)16 << 30;

enum { PAGE_WIDTH = 520, PAGE_HEIGHT = 320 };

void *ml_report_figure_alloc(ml_report_figures *f, size_t n, size_t size, ml_error *err)
{
    size_t n_bytes;
    void *p = ml_size_mul(n, size, &n_bytes) ? ml_arena_alloc(&f->arena, n_bytes) : NULL;
    if (p) {
        memset(p, 0, n_bytes);
    } else {
        ml_fail_memory(err, n * size, "figures");
    }
    return p;
}

const char *ml_report_figure_text(ml_report_figures *f, ml_error *err, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    char *copy = ml_report_figure_alloc(f, strlen(text) + 1, 1, err);
    if (copy) memcpy(copy, text, strlen(text) + 1);
    return copy;
}

static bool is_taken(const ml_report_figures *f, const char *name)
{
    for (size_t i = 0; i < f->n; i++) {
        if (!strcmp(f->item[i].name, name)) return true;
    }
    return false;
}

/* Lower case letters and digits stay, the rest becomes '-'; a number makes it the only one. */
static void make_name(const ml_report_figures *f, const char *name, const char *of, char out[64])
{
    char base[48];
    snprintf(base, sizeof base, "%.28s%s%.16s", name, of ? "-" : "", of ? of : "");
    for (char *p = base; *p; p++) {
        if (*p >= 'A' && *p <= 'Z') *p = (char)(*p - 'A' + 'a');
        if (!(*p >= 'a' && *p <= 'z') && !(*p >= '0' && *p <= '9')) *p = '-';
    }
    snprintf(out, 64, "%s", base);
    for (int i = 2; is_taken(f, out); i++) snprintf(out, 64, "%s-%d", base, i);
}

ml_report_figure *ml_report_figure_add(ml_report_figures *f, ml_report_section section, const char *name,
                                       const char *of, const char *caption, ml_error *err)
{
    char unique[64];
    make_name(f, name, of, unique);
    if (ml_grow((void **)&f->item, &f->capacity, f->n + 1, sizeof *f->item, err) != ML_OK) return NULL;
    ml_report_figure *figure = &f->item[f->n++];
    *figure = (ml_report_figure){ .section = section, .caption = caption };
    memcpy(figure->name, unique, sizeof unique);
    return figure;
}

ml_status ml_report_figures_make(const ml_report *report, ml_report_figures *out, ml_error *err)
{
    *out = (ml_report_figures){ 0 };
    ml_status status = ml_arena_init(&out->arena, ARENA_BYTES, err);
    if (status == ML_OK) status = ml_report_add_curves(report, out, err);
    if (status == ML_OK) status = ml_report_add_scores(report, out, err);
    if (status == ML_OK) status = ml_report_add_cache_speed(report, out, err);
    if (status == ML_OK) status = ml_report_add_experts(report, out, err);
    if (status != ML_OK) ml_report_figures_free(out);
    return status;
}

void ml_report_figures_free(ml_report_figures *f)
{
    ml_free(f->item);
    ml_arena_free(&f->arena);
    *f = (ml_report_figures){ 0 };
}

static void fit(ml_chart_frame *frame, bool embedded)
{
    frame->embedded = embedded;
    frame->legend_below = true;
    if (!embedded) return;
    frame->width = PAGE_WIDTH;
    frame->height = PAGE_HEIGHT;
}

void ml_report_figure_write(const ml_report_figure *figure, bool embedded, FILE *out)
{
    ml_report_figure copy = *figure;
    switch (copy.kind) {
    case ML_FIGURE_LINES:
        fit(&copy.chart.lines.frame, embedded);
        ml_chart_write_lines(&copy.chart.lines, out);
        break;
    case ML_FIGURE_BARS:
        fit(&copy.chart.bars.frame, embedded);
        ml_chart_write_bars(&copy.chart.bars, out);
        break;
    case ML_FIGURE_HEAT:
        fit(&copy.chart.heat.frame, embedded);
        ml_chart_write_heat(&copy.chart.heat, out);
        break;
    }
}
