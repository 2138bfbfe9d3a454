#include "report/page.h"
#include "report/page_internal.h"

#include "base/embedded.h"
#include "base/markup.h"
#include "model/count.h"

#include <math.h>
#include <string.h>
#include <time.h>

static const char *const section_name[ML_REPORT_N_SECTION] = { "Learning", "Evaluations", "Optimisation",
                                                               "Speed and memory", "Experts" };
static const char *const section_id[ML_REPORT_N_SECTION] = { "learning", "evaluations", "optimisation", "speed",
                                                             "experts" };

/* ---- head ---- */

static void put_names(const ml_report *report, FILE *out)
{
    for (size_t i = 0; i < report->n_run; i++) {
        if (i) fputs(", ", out);
        ml_markup_put_text(out, report->run[i].name);
    }
}

static void put_head(const ml_report *report, FILE *out)
{
    fputs("<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n"
          "<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
          "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
          "<title>Report: ",
          out);
    put_names(report, out);
    fputs("</title>\n<style>\n", out);
    fwrite(ml_report_files[0].data, 1, ml_report_files[0].n_bytes, out);
    ml_chart_write_style(false, out);
    fputs("@media screen and (prefers-color-scheme: dark) {\n", out);
    ml_chart_write_style(true, out);
    fputs("}\n</style>\n</head>\n<body>\n", out);
}

static void put_title(const ml_report *report, FILE *out)
{
    char text[64];
    time_t now = time(NULL);
    struct tm utc;
    strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &utc));
    fputs("<header>\n<h1>", out);
    put_names(report, out);
    fprintf(out, "</h1>\n<p>%zu run%s; %s; moonlight %s</p>\n</header>\n", report->n_run, report->n_run > 1 ? "s" : "",
            text, ml_version());
}

void ml_report_page_put_run_names(const ml_report *report, FILE *out)
{
    for (size_t i = 0; i < report->n_run; i++) {
        fputs("<th scope=\"col\">", out);
        ml_markup_put_text(out, report->run[i].name);
        fputs("</th>", out);
    }
}

/* ---- overview ---- */

static void put_count(double n, FILE *out)
{
    static const char *const unit[] = { "", " k", " M", " G", " T" };
    int i = 0;
    for (; n >= 999.5 && i < 4; i++) n /= 1000;
    fprintf(out, "%.*f%s", i == 0 || n >= 99.95 ? 0 : n >= 9.995 ? 1 : 2, n, unit[i]);
}

static void put_duration(double seconds, FILE *out)
{
    long long s = llround(seconds);
    if (s >= 3600) {
        fprintf(out, "%lld h %02lld min", s / 3600, s / 60 % 60);
    } else if (s >= 60) {
        fprintf(out, "%lld min %02lld s", s / 60, s % 60);
    } else {
        fprintf(out, "%.1f s", seconds);
    }
}

/* A row of the overview: what it says about one run. */
typedef struct {
    const char *name;
    void (*put)(const ml_report_run *r, FILE *out);
} fact;

static void put_stage(const ml_report_run *r, FILE *out)
{
    const char *preset = ml_report_run_setting(r, "model.preset"), *from = ml_report_run_setting(r, "init.from");
    ml_markup_put_text(out, r->stage);
    if (preset && *preset) {
        fputs(", ", out);
        ml_markup_put_text(out, preset);
    }
    if (from && *from) {
        fputs(" from ", out);
        ml_markup_put_text(out, from);
    }
}

static void put_parameters(const ml_report_run *r, FILE *out)
{
    if (!r->has_config) {
        fputs("no checkpoint", out);
        return;
    }
    ml_param_counts n = ml_model_count(&r->config);
    put_count((double)n.total, out);
    if (n.active == n.total) return;
    fputs(", active ", out);
    put_count((double)n.active, out);
}

static void put_experts(const ml_report_run *r, FILE *out)
{
    const ml_config *c = &r->config;
    if (!r->has_config || c->n_routed_experts == 0 || c->first_k_dense_replace >= c->num_hidden_layers) {
        fputs(r->has_config ? "none" : "", out);
        return;
    }
    fprintf(out, "%lld, %lld for a token", (long long)c->n_routed_experts, (long long)c->num_experts_per_tok);
    if (c->n_shared_experts) fprintf(out, ", %lld shared", (long long)c->n_shared_experts);
}

static void put_steps(const ml_report_run *r, FILE *out)
{
    double last = ml_report_run_last(r, "step");
    const char *planned = ml_report_run_setting(r, "train.steps"), *epochs = ml_report_run_setting(r, "train.epochs");
    bool by_epochs = epochs && strtod(epochs, NULL) > 0; /* the number of steps is then the data's */
    if (isfinite(last)) fprintf(out, "%.0f", last);
    if (planned && !by_epochs && strtod(planned, NULL) > last) {
        fputs(" of ", out);
        ml_markup_put_text(out, planned);
    }
}

static void put_tokens(const ml_report_run *r, FILE *out)
{
    double n = ml_report_run_last(r, "tokens");
    if (isfinite(n)) put_count(n, out);
}

static void put_time(const ml_report_run *r, FILE *out)
{
    put_duration(ml_report_run_sum(r, "seconds"), out);
}

static void put_best(const ml_report_run *r, FILE *out)
{
    int64_t step;
    double loss = ml_report_run_best_loss(r, &step);
    if (isfinite(loss)) fprintf(out, "%.4f at step %lld", loss, (long long)step);
}

static void put_last(const ml_report_run *r, FILE *out)
{
    double loss = ml_report_run_last(r, "ce");
    if (isfinite(loss)) fprintf(out, "%.4f", loss);
}

static void put_throughput(const ml_report_run *r, FILE *out)
{
    double tps = ml_report_run_mean(r, "tps");
    if (isfinite(tps)) fprintf(out, "%.0f tokens/s", tps);
}

static void put_memory(const ml_report_run *r, FILE *out)
{
    double mb = ml_report_run_max(r, "mem_mb");
    if (isfinite(mb)) fprintf(out, "%.0f MB", mb);
}

static void put_optimizer(const ml_report_run *r, FILE *out)
{
    const char *name = ml_report_run_setting(r, "optim.name"), *lr = ml_report_run_setting(r, "optim.lr");
    if (name) ml_markup_put_text(out, name);
    if (name && lr) fputs(", ", out);
    if (lr) ml_markup_put_text(out, lr);
}

static void put_overview(const ml_report *report, FILE *out)
{
    static const fact facts[] = {
        { "Stage", put_stage },
        { "Parameters", put_parameters },
        { "Experts in a layer", put_experts },
        { "Optimizer, rate", put_optimizer },
        { "Steps", put_steps },
        { "Tokens", put_tokens },
        { "Time of the steps", put_time },
        { "Lowest validation loss", put_best },
        { "Last training loss", put_last },
        { "Mean throughput", put_throughput },
        { "Largest memory", put_memory },
    };
    fputs("<section id=\"overview\">\n<h2>Overview</h2>\n<div class=\"scroll\"><table>\n<thead><tr><td></td>", out);
    ml_report_page_put_run_names(report, out);
    fputs("</tr></thead>\n<tbody>\n", out);
    for (size_t f = 0; f < sizeof facts / sizeof *facts; f++) {
        fprintf(out, "<tr><th scope=\"row\">%s</th>", facts[f].name);
        for (size_t i = 0; i < report->n_run; i++) {
            fputs("<td>", out);
            facts[f].put(&report->run[i], out);
            fputs("</td>", out);
        }
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div>\n</section>\n", out);
}

/* ---- figures ---- */

static bool has_section(const ml_report *report, const ml_report_figures *f, int section)
{
    for (size_t i = 0; section == ML_REPORT_SCORES && i < report->n_run; i++) {
        if (json_array_size(report->run[i].evals)) return true;
    }
    for (size_t i = 0; i < f->n; i++) {
        if ((int)f->item[i].section == section) return true;
    }
    return false;
}

static void put_section(const ml_report *report, const ml_report_figures *f, int section, FILE *out)
{
    if (!has_section(report, f, section)) return;
    fprintf(out, "<section id=\"%s\">\n<h2>%s</h2>\n", section_id[section], section_name[section]);
    if (section == ML_REPORT_SCORES) ml_report_page_put_scores(report, out);
    fputs("<div class=\"figures\">\n", out);
    for (size_t i = 0; i < f->n; i++) {
        const ml_report_figure *figure = &f->item[i];
        if ((int)figure->section != section) continue;
        fprintf(out, "<figure id=\"figure-%s\">\n", figure->name);
        ml_report_figure_write(figure, true, out);
        if (figure->caption) {
            fputs("<figcaption>", out);
            ml_markup_put_text(out, figure->caption);
            fputs("</figcaption>\n", out);
        }
        fputs("</figure>\n", out);
    }
    fputs("</div>\n</section>\n", out);
}

/* ---- settings ---- */

static bool is_same_everywhere(const ml_report *report, const char *name)
{
    const char *first = ml_report_run_setting(&report->run[0], name);
    for (size_t i = 1; i < report->n_run; i++) {
        const char *value = ml_report_run_setting(&report->run[i], name);
        if (!first || !value || strcmp(first, value) != 0) return false;
    }
    return first != NULL;
}

/* Whether a run before this one, or an earlier setting of it, has that name already. */
static bool is_shown_before(const ml_report *report, size_t run, const char *name)
{
    for (size_t i = 0; i < run; i++) {
        if (ml_report_run_setting(&report->run[i], name)) return true;
    }
    return false;
}

static bool is_given(const ml_report *report, const char *name)
{
    for (size_t i = 0; i < report->n_run; i++) {
        for (size_t k = 0; k < report->run[i].n_setting; k++) {
            const ml_report_setting *s = &report->run[i].setting[k];
            if (s->is_given && !strcmp(s->name, name)) return true;
        }
    }
    return false;
}

static void put_setting(const ml_report *report, const char *name, FILE *out)
{
    bool same = is_same_everywhere(report, name);
    fputs("<tr><th scope=\"row\">", out);
    ml_markup_put_text(out, name);
    fputs("</th>", out);
    for (size_t i = 0; i < report->n_run; i++) {
        const char *value = ml_report_run_setting(&report->run[i], name);
        fputs(same || report->n_run == 1 ? "<td>" : "<td><strong>", out);
        if (value) ml_markup_put_text(out, value);
        fputs(same || report->n_run == 1 ? "</td>" : "</strong></td>", out);
    }
    fputs("</tr>\n", out);
}

static void put_settings(const ml_report *report, FILE *out)
{
    fprintf(
        out,
        "<section id=\"settings\">\n<h2>Settings</h2>\n<p class=\"note\">What recipes and command lines said%s.</p>\n"
        "<div class=\"scroll\"><table>\n<thead><tr><td></td>",
        report->n_run > 1 ? "; what differs is bold" : "");
    ml_report_page_put_run_names(report, out);
    fputs("</tr></thead>\n<tbody>\n", out);
    for (size_t i = 0; i < report->n_run; i++) {
        for (size_t k = 0; k < report->run[i].n_setting; k++) {
            const char *name = report->run[i].setting[k].name;
            if (is_given(report, name) && !is_shown_before(report, i, name)) put_setting(report, name, out);
        }
    }
    fputs("</tbody></table></div>\n", out);
    for (size_t i = 0; i < report->n_run; i++) {
        if (!report->run[i].options) continue;
        fputs("<details><summary>", out);
        ml_markup_put_text(out, report->run[i].name);
        fputs(": options.ini</summary><pre>", out);
        ml_markup_put_text(out, report->run[i].options);
        fputs("</pre></details>\n", out);
    }
    fputs("</section>\n", out);
}

/* ---- all ---- */

static void put_navigation(const ml_report *report, const ml_report_figures *f, FILE *out)
{
    fputs("<nav aria-label=\"Sections\"><ul>\n<li><a href=\"#overview\">Overview</a></li>\n", out);
    for (int i = 0; i < ML_REPORT_N_SECTION; i++) {
        if (has_section(report, f, i))
            fprintf(out, "<li><a href=\"#%s\">%s</a></li>\n", section_id[i], section_name[i]);
    }
    if (report->probe) fputs("<li><a href=\"#samples\">Samples</a></li>\n", out);
    if (ml_report_page_has_samples(report)) fputs("<li><a href=\"#history\">While training</a></li>\n", out);
    fputs("<li><a href=\"#settings\">Settings</a></li>\n</ul></nav>\n", out);
}

void ml_report_write_page(const ml_report *report, const ml_report_figures *figures, FILE *out)
{
    put_head(report, out);
    put_title(report, out);
    put_navigation(report, figures, out);
    put_overview(report, out);
    for (int i = 0; i < ML_REPORT_N_SECTION; i++) put_section(report, figures, i, out);
    if (report->probe) ml_report_page_put_answers(report, out);
    ml_report_page_put_history(report, out);
    put_settings(report, out);
    fputs("</body>\n</html>\n", out);
}
