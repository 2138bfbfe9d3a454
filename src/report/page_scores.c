#include "report/page_internal.h"

#include "base/alloc.h"
#include "base/markup.h"
#include "report/scores.h"

#include <math.h>

static void put_score(const ml_report_run *r, const ml_report_measure *m, FILE *out)
{
    ml_report_score s;
    fputs("<td>", out);
    if (ml_report_score_find(r, m, &s)) {
        if (s.of > 0) {
            fprintf(out, "%lld of %lld (%.1f %%)", s.count, s.of, 100 * (double)s.count / (double)s.of);
        } else if (!isfinite(s.value)) {
            fputs("no number", out);
        } else {
            fprintf(out, "%.4g", s.value);
            if (s.error > 0) fprintf(out, " ± %.2g", s.error);
        }
    }
    fputs("</td>", out);
}

/* What was asked, and which checkpoint of each run. */
static void put_evaluation(const ml_report *report, const ml_report_measure *m, FILE *out)
{
    fputs("<tr><th scope=\"row\"><strong>", out);
    ml_markup_put_text(out, m->task);
    fputs("</strong>: ", out);
    ml_markup_put_text(out, m->data);
    fputs("</th>", out);
    for (size_t i = 0; i < report->n_run; i++) {
        ml_report_score s;
        fputs("<td class=\"note\">", out);
        if (ml_report_score_find(&report->run[i], m, &s)) fprintf(out, "step %lld", s.step);
        fputs("</td>", out);
    }
    fputs("</tr>\n", out);
}

static void put_rows(const ml_report *report, const ml_report_measure *measure, size_t n, FILE *out)
{
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || !ml_report_measure_is_beside(&measure[i - 1], &measure[i])) {
            put_evaluation(report, &measure[i], out);
        }
        fputs("<tr><th scope=\"row\">", out);
        ml_markup_put_text(out, measure[i].name);
        fputs("</th>", out);
        for (size_t r = 0; r < report->n_run; r++) put_score(&report->run[r], &measure[i], out);
        fputs("</tr>\n", out);
    }
}

void ml_report_page_put_scores(const ml_report *report, FILE *out)
{
    ml_report_measure *measure;
    size_t n;
    ml_error ignored;
    if (ml_report_measures_list(report, &measure, &n, &ignored) != ML_OK || n == 0) return;
    fputs("<p class=\"note\">What moonlight eval counted, the last time for each run.</p>\n"
          "<div class=\"scroll\"><table>\n<thead><tr><td></td>",
          out);
    ml_report_page_put_run_names(report, out);
    fputs("</tr></thead>\n<tbody>\n", out);
    put_rows(report, measure, n, out);
    fputs("</tbody></table></div>\n", out);
    ml_free(measure);
}
