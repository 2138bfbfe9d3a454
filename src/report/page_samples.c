#include "report/page_internal.h"

#include "base/markup.h"
#include "infer/generate.h"

static void put_answer(const ml_report_run *r, const ml_report_checkpoint *c, const ml_report_answer *a, FILE *out)
{
    fputs("<article>\n<h4>", out);
    ml_markup_put_text(out, r->name);
    fprintf(out, ", step %lld%s</h4>\n<p class=\"answer\">", (long long)c->step, c->is_best ? " (best)" : "");
    ml_markup_put_bytes(out, a->text, a->n_bytes);
    fprintf(out, "</p>\n<p class=\"note\">%lld tokens, %s</p>\n</article>\n", (long long)a->n_token,
            a->finish == ML_FINISH_STOP ? "ended by itself" : "cut there");
}

void ml_report_page_put_answers(const ml_report *report, FILE *out)
{
    const ml_report_probe_config *c = &report->asked;
    fputs("<section id=\"samples\">\n<h2>Samples</h2>\n", out);
    fprintf(
        out,
        "<p class=\"note\">Every checkpoint answers the same prompts: at most %lld tokens, temperature %g, top-p %g, "
        "seed %llu.</p>\n",
        (long long)c->max_tokens, c->temperature, c->top_p, (unsigned long long)c->seed);
    for (size_t p = 0; p < c->n_prompt; p++) {
        fprintf(out, "<h3>Prompt %zu</h3>\n<p class=\"prompt\">", p + 1);
        ml_markup_put_text(out, c->prompt[p]);
        fputs("</p>\n<div class=\"answers\">\n", out);
        for (size_t i = 0; i < report->n_run; i++) {
            for (size_t k = 0; k < report->run[i].n_checkpoint; k++) {
                const ml_report_probe *probe = &report->probe[i][k];
                if (p < probe->n_prompt) {
                    put_answer(&report->run[i], &report->run[i].checkpoint[k], &probe->answer[p], out);
                }
            }
        }
        fputs("</div>\n", out);
    }
    fputs("</section>\n", out);
}

bool ml_report_page_has_samples(const ml_report *report)
{
    for (size_t i = 0; i < report->n_run; i++) {
        if (json_array_size(report->run[i].samples)) return true;
    }
    return false;
}

static void put_json_text(const json_t *object, const char *key, FILE *out)
{
    const json_t *value = json_object_get(object, key);
    if (json_is_string(value)) ml_markup_put_bytes(out, json_string_value(value), json_string_length(value));
}

static void put_history_of(const ml_report_run *r, FILE *out)
{
    size_t n = json_array_size(r->samples);
    if (!n) return;
    fputs("<details><summary>", out);
    ml_markup_put_text(out, r->name);
    fprintf(out, ": %zu samples</summary>\n<div class=\"answers\">\n", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *sample = json_array_get(r->samples, i);
        fprintf(out, "<article>\n<h4>step %lld</h4>\n<p class=\"answer\"><strong>",
                (long long)json_integer_value(json_object_get(sample, "step")));
        put_json_text(sample, "prompt", out);
        fputs("</strong>", out);
        put_json_text(sample, "text", out);
        fputs("</p>\n</article>\n", out);
    }
    fputs("</div></details>\n", out);
}

void ml_report_page_put_history(const ml_report *report, FILE *out)
{
    if (!ml_report_page_has_samples(report)) return;
    fputs("<section id=\"history\">\n<h2>Samples while training</h2>\n", out);
    for (size_t i = 0; i < report->n_run; i++) put_history_of(&report->run[i], out);
    fputs("</section>\n", out);
}
