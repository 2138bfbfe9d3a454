/* Curves over steps: losses, rates, speed. */
#include "report/figures_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What one chart shows of every run that has it. */
typedef struct {
    const char *name, *title, *y_label, *caption;
    const char *column; /* of the steps; NULL: none */
    const char *eval;   /* of the evaluations; NULL: none */
    const char *stage;  /* only runs of this one; NULL: all */
    double scale;       /* what values are multiplied with; 0: 1 */
    bool smooth;        /* a mean over neighbours, the single steps pale behind it */
    bool from_zero;     /* the axis begins at 0 and leaves out the highest hundredth */
    bool skip_start;    /* the axis leaves out what only the first tenth of the steps reaches */
    ml_report_section section;
} curve;

/* ---- data ---- */

/* Mean over a window of neighbours: a fortieth of the steps. */
static void smooth(const double *y, size_t n, double *out)
{
    size_t half = n / 80;
    for (size_t i = 0; i < n; i++) {
        size_t begin = i > half ? i - half : 0, end = i + half + 1 < n ? i + half + 1 : n;
        double sum = 0, count = 0;
        for (size_t k = begin; k < end; k++) {
            if (!isfinite(y[k])) continue;
            sum += y[k];
            count++;
        }
        out[i] = count > 0 && isfinite(y[i]) ? sum / count : NAN;
    }
}

static bool has_values(const double *y, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (isfinite(y[i])) return true;
    }
    return false;
}

static const double *scaled(ml_report_figures *f, const double *y, size_t n, double scale, ml_error *err)
{
    if (scale == 0 || scale == 1) return y;
    double *out = ml_report_figure_alloc(f, n, sizeof *out, err);
    for (size_t i = 0; out && i < n; i++) out[i] = y[i] * scale;
    return out;
}

static bool is_shown(const ml_report_run *r, const curve *c)
{
    return !c->stage || !strcmp(r->stage, c->stage);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value that all but a hundredth of the points are below. */
static double high_percentile(const ml_chart_lines *chart)
{
    size_t n = 0;
    for (size_t i = 0; i < chart->n_line; i++) n += chart->line[i].n;
    double *all = ml_alloc((n + 1) * sizeof *all);
    size_t count = 0;
    for (size_t i = 0; all && i < chart->n_line; i++) {
        for (size_t k = 0; k < chart->line[i].n; k++) {
            if (isfinite(chart->line[i].y[k])) all[count++] = chart->line[i].y[k];
        }
    }
    if (count) qsort(all, count, sizeof *all, compare);
    double result = count ? all[(count - 1) * 99 / 100] : 0;
    ml_free(all);
    return result;
}

static void choose_range(ml_chart_lines *chart, const curve *c)
{
    double low = INFINITY, high = -INFINITY;
    if (c->from_zero) {
        chart->y_max = 1.1 * high_percentile(chart);
        return;
    }
    for (size_t i = 0; i < chart->n_line && c->skip_start; i++) {
        const ml_chart_line *line = &chart->line[i];
        for (size_t k = line->n / 10; k < line->n; k++) {
            if (!isfinite(line->y[k])) continue;
            low = fmin(low, line->y[k]);
            high = fmax(high, line->y[k]);
        }
    }
    if (!(high > low)) return;
    chart->y_min = low - 0.04 * (high - low);
    chart->y_max = high + 0.04 * (high - low);
}

/* ---- lines ---- */

typedef struct {
    ml_chart_line *line;
    size_t n;
} lines;

static ml_status add_steps(ml_report_figures *f, const ml_report_run *r, const curve *c, int colour, bool is_named,
                           lines *out, ml_error *err)
{
    const ml_report_table *t = &r->log.step;
    const double *x = ml_report_find(t, "step"), *y = c->column ? ml_report_find(t, c->column) : NULL;
    if (!x || !y || !has_values(y, t->n_row)) return ML_OK;
    y = scaled(f, y, t->n_row, c->scale, err);
    if (!y) return ML_ENOMEM;
    bool is_smooth = c->smooth && t->n_row >= 80;
    out->line[out->n++] = (ml_chart_line){ .name = is_smooth || !is_named ? NULL : r->name,
                                           .x = x,
                                           .y = y,
                                           .n = t->n_row,
                                           .colour = colour,
                                           .faint = is_smooth };
    if (!is_smooth) return ML_OK;
    double *mean = ml_report_figure_alloc(f, t->n_row, sizeof *mean, err);
    if (!mean) return ML_ENOMEM;
    smooth(y, t->n_row, mean);
    out->line[out->n++] =
        (ml_chart_line){ .name = is_named ? r->name : NULL, .x = x, .y = mean, .n = t->n_row, .colour = colour };
    return ML_OK;
}

static void add_evaluations(const ml_report_run *r, const curve *c, int colour, bool is_dashed, lines *out)
{
    const ml_report_table *t = &r->log.eval;
    const double *x = ml_report_find(t, "step"), *y = c->eval ? ml_report_find(t, c->eval) : NULL;
    if (!x || !y || !has_values(y, t->n_row)) return;
    out->line[out->n++] =
        (ml_chart_line){ .name = r->name, .x = x, .y = y, .n = t->n_row, .colour = colour, .dashed = is_dashed };
}

/* The chart, unless no run has anything to show in it. */
static ml_status add_chart(ml_report_figures *f, const curve *c, const char *x_label, const lines *l, ml_error *err)
{
    if (!l->n) return ML_OK;
    ml_report_figure *figure = ml_report_figure_add(f, c->section, c->name, c->stage, c->caption, err);
    if (!figure) return ML_ENOMEM;
    figure->kind = ML_FIGURE_LINES;
    figure->chart.lines = (ml_chart_lines){ .frame = { .title = c->title, .x_label = x_label, .y_label = c->y_label },
                                            .line = l->line,
                                            .n_line = l->n };
    choose_range(&figure->chart.lines, c);
    return ML_OK;
}

static ml_status add_curve(const ml_report *report, ml_report_figures *f, const curve *c, ml_error *err)
{
    lines l = { .line = ml_report_figure_alloc(f, 3 * report->n_run, sizeof(ml_chart_line), err) };
    if (!l.line) return ML_ENOMEM;
    for (size_t i = 0; i < report->n_run; i++) {
        const ml_report_run *r = &report->run[i];
        if (!is_shown(r, c)) continue;
        size_t before = l.n;
        ML_TRY(add_steps(f, r, c, (int)i, !c->eval, &l, err));
        bool has_steps = l.n > before;
        add_evaluations(r, c, (int)i, false, &l);
        if (has_steps && c->eval && l.n > before) { /* the steps step back behind the evaluations */
            for (size_t k = before; k + 1 < l.n; k++) l.line[k].faint = true;
            if (!l.line[l.n - 1].name) l.line[l.n - 1].name = r->name;
        }
    }
    return add_chart(f, c, "step", &l, err);
}

/* ---- curves that are computed ---- */

/* Mean of the training loss over the steps since the evaluation before. */
static double mean_between(const double *step, const double *loss, size_t n, double after, double until)
{
    double sum = 0, count = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(step[i] > after && step[i] <= until) || !isfinite(loss[i])) continue;
        sum += loss[i];
        count++;
    }
    return count > 0 ? sum / count : NAN;
}

static ml_status add_gap_line(ml_report_figures *f, const ml_report_run *r, int colour, lines *out, ml_error *err)
{
    const ml_report_table *steps = &r->log.step, *evals = &r->log.eval;
    const double *step = ml_report_find(steps, "step"), *loss = ml_report_find(steps, "ce");
    const double *at = ml_report_find(evals, "step"), *val = ml_report_find(evals, "val_loss");
    if (!step || !loss || !at || !val) return ML_OK;
    double *gap = ml_report_figure_alloc(f, evals->n_row, sizeof *gap, err);
    if (!gap) return ML_ENOMEM;
    for (size_t i = 0; i < evals->n_row; i++) {
        gap[i] = val[i] - mean_between(step, loss, steps->n_row, i ? at[i - 1] : -1, at[i]);
    }
    out->line[out->n++] = (ml_chart_line){ .name = r->name, .x = at, .y = gap, .n = evals->n_row, .colour = colour };
    return ML_OK;
}

static ml_status add_gap(const ml_report *report, ml_report_figures *f, const char *stage, const char *title,
                         const char *y_label, ml_error *err)
{
    curve c = { .name = "generalisation-gap",
                .title = title,
                .y_label = y_label,
                .stage = stage,
                .section = ML_REPORT_LEARNING,
                .caption = "Validation loss less the mean training loss of the steps since the evaluation before. It "
                           "rises when a model learns its training data by heart." };
    lines l = { .line = ml_report_figure_alloc(f, report->n_run, sizeof(ml_chart_line), err) };
    if (!l.line) return ML_ENOMEM;
    for (size_t i = 0; i < report->n_run; i++) {
        if (is_shown(&report->run[i], &c)) ML_TRY(add_gap_line(f, &report->run[i], (int)i, &l, err));
    }
    return add_chart(f, &c, "step", &l, err);
}

/* Hours of steps that an evaluation had behind it. */
static ml_status add_time_line(ml_report_figures *f, const ml_report_run *r, int colour, lines *out, ml_error *err)
{
    const ml_report_table *steps = &r->log.step, *evals = &r->log.eval;
    const double *step = ml_report_find(steps, "step"), *seconds = ml_report_find(steps, "seconds");
    const double *at = ml_report_find(evals, "step"), *val = ml_report_find(evals, "val_loss");
    if (!step || !seconds || !at || !val) return ML_OK;
    double *minutes = ml_report_figure_alloc(f, evals->n_row, sizeof *minutes, err), sum = 0;
    if (!minutes) return ML_ENOMEM;
    for (size_t i = 0, k = 0; i < evals->n_row; i++) {
        for (; k < steps->n_row && step[k] <= at[i]; k++) sum += isfinite(seconds[k]) ? seconds[k] : 0;
        minutes[i] = sum / 60;
    }
    out->line[out->n++] =
        (ml_chart_line){ .name = r->name, .x = minutes, .y = val, .n = evals->n_row, .colour = colour };
    return ML_OK;
}

static ml_status add_time(const ml_report *report, ml_report_figures *f, const char *stage, const char *title,
                          const char *y_label, ml_error *err)
{
    curve c = { .name = "loss-over-time",
                .title = title,
                .y_label = y_label,
                .stage = stage,
                .section = ML_REPORT_SPEED,
                .caption = "The time is that of the optimizer steps; evaluations, samples and saving are not in it.",
                .skip_start = true };
    lines l = { .line = ml_report_figure_alloc(f, report->n_run, sizeof(ml_chart_line), err) };
    if (!l.line) return ML_ENOMEM;
    for (size_t i = 0; i < report->n_run; i++) {
        if (is_shown(&report->run[i], &c)) ML_TRY(add_time_line(f, &report->run[i], (int)i, &l, err));
    }
    return add_chart(f, &c, "minutes", &l, err);
}

/* ---- stages ---- */

static const char *loss_unit(const char *stage)
{
    return !strcmp(stage, "dpo") ? "loss" : "nats per token";
}

static ml_status add_losses(const ml_report *report, ml_report_figures *f, const char *stage, ml_error *err)
{
    const char *unit = loss_unit(stage);
    const char *titles[] = { ml_report_figure_text(f, err, "Training loss (%s)", stage),
                             ml_report_figure_text(f, err, "Validation loss (%s)", stage),
                             ml_report_figure_text(f, err, "Generalisation gap (%s)", stage),
                             ml_report_figure_text(f, err, "Validation loss over time (%s)", stage) };
    for (int i = 0; i < 4; i++) {
        if (!titles[i]) return ML_ENOMEM;
    }
    bool is_dpo = !strcmp(stage, "dpo");
    curve train = { .name = "training-loss",
                    .title = titles[0],
                    .y_label = unit,
                    .column = "ce",
                    .stage = stage,
                    .smooth = true,
                    .skip_start = !is_dpo,
                    .section = ML_REPORT_LEARNING,
                    .caption = "Without auxiliary losses. Single steps are pale, the line is a mean over neighbours; "
                               "the first tenth of the steps may lie above the frame." };
    curve val = { .name = "validation-loss",
                  .title = titles[1],
                  .y_label = unit,
                  .eval = "val_loss",
                  .stage = stage,
                  .skip_start = !is_dpo,
                  .section = ML_REPORT_LEARNING,
                  .caption = "On the same held-out data each time." };
    ML_TRY(add_curve(report, f, &train, err));
    ML_TRY(add_curve(report, f, &val, err));
    ML_TRY(add_gap(report, f, stage, titles[2], unit, err));
    return add_time(report, f, stage, titles[3], unit, err);
}

static bool is_first_of_stage(const ml_report *report, size_t i)
{
    for (size_t k = 0; k < i; k++) {
        if (!strcmp(report->run[k].stage, report->run[i].stage)) return false;
    }
    return true;
}

/* Columns that every stage has; others are figures of a stage's own. */
static bool is_common(const char *name)
{
    static const char *const names[] = { "step",      "tokens",     "loss", "ce",  "aux",    "z",       "lr",
                                         "grad_norm", "update_rms", "tps",  "mfu", "mem_mb", "seconds", "skipped" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!strcmp(name, names[i])) return true;
    }
    return strchr(name, '.') != NULL; /* of an array */
}

static ml_status add_stage_figures(const ml_report *report, ml_report_figures *f, size_t i, ml_error *err)
{
    const ml_report_run *r = &report->run[i];
    for (size_t k = 0; k < r->log.step.n_column; k++) {
        const char *name = r->log.step.column[k].name;
        if (is_common(name)) continue;
        char *title = (char *)(uintptr_t)ml_report_figure_text(f, err, "%s (%s)", name, r->stage);
        if (!title) return ML_ENOMEM;
        for (char *p = title; *p; p++) *p = *p == '_' ? ' ' : *p;
        if (*title >= 'a' && *title <= 'z') *title = (char)(*title - 'a' + 'A');
        curve c = { .name = name,
                    .title = title,
                    .column = name,
                    .eval = name,
                    .stage = r->stage,
                    .section = ML_REPORT_LEARNING,
                    .caption = "Pale: batches of training; lines: the held-out data." };
        ML_TRY(add_curve(report, f, &c, err));
    }
    return ML_OK;
}

static const curve common[] = {
    { .name = "balance-loss",
      .title = "Loss parts: balance",
      .column = "aux",
      .smooth = true,
      .section = ML_REPORT_LEARNING,
      .caption = "Of the routers, without its coefficient: the lower, the more even the load." },
    { .name = "z-loss",
      .title = "Loss parts: z",
      .column = "z",
      .smooth = true,
      .section = ML_REPORT_LEARNING,
      .caption = "Mean of the squared log-sum-exp of the routers' logits, without its coefficient." },
    { .name = "learning-rate", .title = "Learning rate", .column = "lr", .section = ML_REPORT_OPTIMISATION },
    { .name = "gradient-norm",
      .title = "Gradient norm",
      .column = "grad_norm",
      .smooth = true,
      .from_zero = true,
      .section = ML_REPORT_OPTIMISATION,
      .caption = "Before clipping. The highest hundredth of the steps may lie above the frame." },
    { .name = "update-rms",
      .title = "Size of updates",
      .y_label = "RMS, times learning rate",
      .column = "update_rms",
      .smooth = true,
      .section = ML_REPORT_OPTIMISATION,
      .caption = "Root mean square of what a step adds to the weights, before the learning rate." },
    { .name = "throughput",
      .title = "Throughput",
      .y_label = "tokens per second",
      .column = "tps",
      .smooth = true,
      .from_zero = true,
      .section = ML_REPORT_SPEED,
      .caption = "Tokens of a step over its seconds." },
    { .name = "utilisation",
      .title = "Share of the machine's arithmetic",
      .y_label = "%",
      .column = "mfu",
      .scale = 100,
      .smooth = true,
      .from_zero = true,
      .section = ML_REPORT_SPEED,
      .caption = "Of 6 operations per active parameter and token, against this machine's fp32 matrix product." },
    { .name = "memory",
      .title = "Memory of the process",
      .y_label = "MB",
      .column = "mem_mb",
      .from_zero = true,
      .section = ML_REPORT_SPEED },
};

ml_status ml_report_add_curves(const ml_report *report, ml_report_figures *f, ml_error *err)
{
    for (size_t i = 0; i < report->n_run; i++) {
        if (!is_first_of_stage(report, i)) continue;
        ML_TRY(add_losses(report, f, report->run[i].stage, err));
        ML_TRY(add_stage_figures(report, f, i, err));
    }
    for (size_t i = 0; i < sizeof common / sizeof *common; i++) ML_TRY(add_curve(report, f, &common[i], err));
    return ML_OK;
}
