/* What the experts do: their load while training, and what checkpoints showed when they were asked. */
#include "report/figures_internal.h"

#include <math.h>
#include <string.h>

enum { MAX_COLUMN = 48, MAX_SERIES = 8 };

/* Number of the run's first layer with experts. */
static int64_t first_layer(const ml_report_run *r)
{
    return r->has_config ? r->config.first_k_dense_replace : 0;
}

/* Means over equal parts of the steps: value [n_layer, n_part]. */
static void fill_parts(const ml_report_table *t, const char *name, size_t n_layer, size_t n_part, double *value)
{
    for (size_t l = 0; l < n_layer; l++) {
        char column[64];
        snprintf(column, sizeof column, "%s.%zu", name, l);
        const double *y = ml_report_find(t, column);
        for (size_t p = 0; p < n_part; p++) {
            double sum = 0, n = 0;
            for (size_t i = t->n_row * p / n_part; i < t->n_row * (p + 1) / n_part; i++) {
                if (!isfinite(y[i])) continue;
                sum += y[i];
                n++;
            }
            value[l * n_part + p] = n > 0 ? sum / n : NAN;
        }
    }
}

typedef struct {
    const char *column, *name, *title, *value_name, *caption;
    double low; /* of the scale */
    bool has_low;
} layer_map;

static ml_status add_layer_map(ml_report_figures *f, const ml_report_run *r, const layer_map *m, ml_error *err)
{
    const ml_report_table *t = &r->log.step;
    size_t n_layer = ml_report_count(t, m->column), n_part = t->n_row < MAX_COLUMN ? t->n_row : MAX_COLUMN;
    const double *step = ml_report_find(t, "step");
    if (!n_layer || !step) return ML_OK;
    double *value = ml_report_figure_alloc(f, n_layer * n_part, sizeof *value, err), high = -INFINITY;
    const char *title = ml_report_figure_text(f, err, "%s: %s", m->title, r->name);
    if (!value || !title) return ML_ENOMEM;
    fill_parts(t, m->column, n_layer, n_part, value);
    for (size_t i = 0; i < n_layer * n_part; i++) high = fmax(high, value[i]);
    ml_report_figure *figure = ml_report_figure_add(f, ML_REPORT_EXPERTS, m->name, r->name, m->caption, err);
    if (!figure) return ML_ENOMEM;
    figure->kind = ML_FIGURE_HEAT;
    double span = step[t->n_row - 1] - step[0] + 1;
    figure->chart.heat = (ml_chart_heat){ .frame = { .title = title, .x_label = "step", .y_label = "layer" },
                                          .value = value,
                                          .n_row = n_layer,
                                          .n_column = n_part,
                                          .row_first = first_layer(r),
                                          .column_first = step[0] - 1 + round(span / (double)n_part),
                                          .column_step = span / (double)n_part,
                                          .low = m->has_low ? m->low : 0,
                                          .high = m->has_low ? fmax(high, m->low + 0.5) : 0,
                                          .value_name = m->value_name };
    return ML_OK;
}

/* ---- of checkpoints ---- */

static ml_status add_usage(ml_report_figures *f, const ml_report_run *r, const ml_report_checkpoint *checkpoint,
                           const ml_report_probe *p, ml_error *err)
{
    if (!p->n_layer) return ML_OK;
    const char *title = ml_report_figure_text(f, err, "Expert usage: %s, step %lld%s", r->name,
                                              (long long)checkpoint->step, checkpoint->is_best ? " (best)" : "");
    const char *caption = ml_report_figure_text(
        f, err, "Choices of each expert over the mean of its layer, in %lld tokens: the prompts below and the answers.",
        (long long)p->n_token);
    const char *of = ml_report_figure_text(f, err, "%.9s-%lld", r->name, (long long)checkpoint->step);
    if (!title || !caption || !of) return ML_ENOMEM;
    ml_report_figure *figure = ml_report_figure_add(f, ML_REPORT_EXPERTS, "expert-usage", of, caption, err);
    if (!figure) return ML_ENOMEM;
    figure->kind = ML_FIGURE_HEAT;
    double high = 2;
    for (int64_t i = 0; i < p->n_layer * p->n_expert; i++) high = fmax(high, p->load[i]);
    figure->chart.heat = (ml_chart_heat){ .frame = { .title = title, .x_label = "expert", .y_label = "layer" },
                                          .value = p->load,
                                          .n_row = (size_t)p->n_layer,
                                          .n_column = (size_t)p->n_expert,
                                          .row_first = p->first_layer,
                                          .column_step = 1,
                                          .high = high,
                                          .value_name = "load over mean" };
    return ML_OK;
}

/* The probe of a run's best checkpoint; NULL when there is none. */
static const ml_report_probe *best_probe(const ml_report *report, size_t i)
{
    for (size_t k = 0; report->probe && k < report->run[i].n_checkpoint; k++) {
        if (report->run[i].checkpoint[k].is_best) return &report->probe[i][k];
    }
    return NULL;
}

static ml_status add_confidence(const ml_report *report, ml_report_figures *f, ml_error *err)
{
    const char **bin = ml_report_figure_alloc(f, ML_REPORT_N_BIN, sizeof *bin, err);
    const char **series = ml_report_figure_alloc(f, MAX_SERIES, sizeof *series, err);
    double *value = ml_report_figure_alloc(f, (size_t)ML_REPORT_N_BIN * MAX_SERIES, sizeof *value, err);
    if (!bin || !series || !value) return ML_ENOMEM;
    const ml_report_probe *chosen[MAX_SERIES];
    size_t n = 0;
    for (size_t i = 0; i < report->n_run && n < MAX_SERIES; i++) {
        const ml_report_probe *p = best_probe(report, i);
        if (!p || !p->n_layer) continue;
        series[n] = report->run[i].name;
        chosen[n++] = p;
    }
    if (!n) return ML_OK;
    for (int b = 0; b < ML_REPORT_N_BIN; b++) {
        /* Every fourth has a number: the others would touch it. */
        bin[b] = b % 4 ? "" : ml_report_figure_text(f, err, "%.1f", (double)b / ML_REPORT_N_BIN);
        if (!bin[b]) return ML_ENOMEM;
        for (size_t s = 0; s < n; s++) value[(size_t)b * n + s] = 100 * chosen[s]->confidence[b];
    }
    ml_report_figure *figure = ml_report_figure_add(
        f, ML_REPORT_EXPERTS, "routing-confidence", NULL,
        "Highest router probability of a token in a layer; all tokens and layers, best checkpoint of each run.", err);
    if (!figure) return ML_ENOMEM;
    figure->kind = ML_FIGURE_BARS;
    figure->chart.bars = (ml_chart_bars){ .frame = { .title = "Routing confidence",
                                                     .x_label = "highest probability, from",
                                                     .y_label = "% of tokens and layers" },
                                          .group = bin,
                                          .n_group = ML_REPORT_N_BIN,
                                          .series = series,
                                          .n_series = n,
                                          .value = value };
    return ML_OK;
}

ml_status ml_report_add_experts(const ml_report *report, ml_report_figures *f, ml_error *err)
{
    static const layer_map load = { .column = "max_load",
                                    .name = "load",
                                    .title = "Load per layer",
                                    .value_name = "busiest over mean",
                                    .caption = "Load of each layer's busiest expert over the mean load while training; "
                                               "1 is even.",
                                    .low = 1,
                                    .has_low = true };
    static const layer_map entropy = { .column = "router_entropy",
                                       .name = "entropy",
                                       .title = "Router entropy",
                                       .value_name = "nats",
                                       .caption = "Mean entropy of the routers' probabilities while training: high "
                                                  "where a token could go to many experts." };
    for (size_t i = 0; i < report->n_run; i++) {
        ML_TRY(add_layer_map(f, &report->run[i], &load, err));
        ML_TRY(add_layer_map(f, &report->run[i], &entropy, err));
    }
    for (size_t i = 0; report->probe && i < report->n_run; i++) {
        for (size_t k = 0; k < report->run[i].n_checkpoint; k++) {
            ML_TRY(add_usage(f, &report->run[i], &report->run[i].checkpoint[k], &report->probe[i][k], err));
        }
    }
    return add_confidence(report, f, err);
}

ml_status ml_report_add_cache_speed(const ml_report *report, ml_report_figures *f, ml_error *err)
{
    static const char *const series[] = { "cache on", "cache off" };
    const char **group = ml_report_figure_alloc(f, report->n_run, sizeof *group, err);
    double *value = ml_report_figure_alloc(f, 2 * report->n_run, sizeof *value, err);
    double *spread = ml_report_figure_alloc(f, 2 * report->n_run, sizeof *spread, err);
    if (!group || !value || !spread) return ML_ENOMEM;
    size_t n = 0;
    bool is_equal = true;
    int64_t n_gen = 0;
    for (size_t i = 0; i < report->n_run; i++) {
        const ml_report_probe *p = best_probe(report, i);
        if (!p || !p->n_gen) continue;
        group[n] = report->run[i].name;
        value[2 * n] = p->cached.mean;
        value[2 * n + 1] = p->uncached.mean;
        spread[2 * n] = p->cached.sd;
        spread[2 * n++ + 1] = p->uncached.sd;
        is_equal = is_equal && p->is_equal;
        n_gen = p->n_gen;
    }
    if (!n) return ML_OK;
    const char *caption = ml_report_figure_text(
        f, err,
        "Greedy decoding of %lld tokens behind the first prompt, by the best checkpoint of each run, on the "
        "machine that made this report; whiskers: standard deviation of three. The answers with and without the cache "
        "are %s.",
        (long long)n_gen, is_equal ? "equal" : "NOT equal");
    ml_report_figure *figure =
        caption ? ml_report_figure_add(f, ML_REPORT_SPEED, "kv-cache", NULL, caption, err) : NULL;
    if (!figure) return ML_ENOMEM;
    figure->kind = ML_FIGURE_BARS;
    figure->chart.bars = (ml_chart_bars){ .frame = { .title = "KV cache on and off", .y_label = "tokens per second" },
                                          .group = group,
                                          .n_group = n,
                                          .series = series,
                                          .n_series = 2,
                                          .value = value,
                                          .spread = spread };
    return ML_OK;
}
