/* Grading: answers per second on one thread (the best pass), and the time that hostile answers take (best of 20).
 *
 *   bench_reward [math500.jsonl [SECONDS]]      default ../shared/data/math/math500.jsonl, 1 second each
 *
 * Every label is graded in a response of a few lines against: the same string with other marks around it, the same
 * value written as another expression, and another value. */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "reward/reward.h"

#include <stdlib.h>
#include <string.h>

enum { N_MAX = 1024 };

static json_t *rows[N_MAX];
static const char *labels[N_MAX];
static int n_labels;

static int fail(const ml_error *err)
{
    fprintf(stderr, "bench_reward: %s\n", err->message);
    return 1;
}

static ml_status load(const char *path, ml_error *err)
{
    char *text, *rest;
    ML_TRY(ml_file_read(path, &text, NULL, err));
    ml_status status = ML_OK;
    for (char *line = strtok_r(text, "\n", &rest); line && n_labels < N_MAX; line = strtok_r(NULL, "\n", &rest)) {
        status = ml_json_parse(line, strlen(line), path, &rows[n_labels], err);
        if (status == ML_OK) status = ml_json_text(rows[n_labels], "answer", path, &labels[n_labels], err);
        if (status != ML_OK) break;
        n_labels++;
    }
    ml_free(text);
    return status;
}

static double score(const char *response, const char *label, ml_error *err)
{
    double reward;
    if (ml_reward_score(ML_REWARD_MATH, ml_span_of(response), ml_span_of(label), &reward, err) != ML_OK)
        exit(fail(err));
    return reward;
}

static void measure(const char *what, const char *format, double seconds, ml_error *err)
{
    static char responses[N_MAX][1024];
    static const char *const prose =
        "First we simplify the expression, then we substitute $x = \\boxed{0}$ and compute "
        "each of the terms by itself.\nTherefore the answer is ";
    for (int i = 0; i < n_labels; i++) {
        int n = snprintf(responses[i], sizeof responses[i], "%s\\boxed{", prose);
        snprintf(responses[i] + n, sizeof responses[i] - (size_t)n, format, labels[i]);
        strcat(responses[i], "}.");
    }
    int n_right = 0;
    double begin = ml_clock_seconds(), best = 1e30;
    do {
        double start = ml_clock_seconds();
        n_right = 0;
        for (int i = 0; i < n_labels; i++) n_right += score(responses[i], labels[i], err) == 1;
        double took = ml_clock_seconds() - start;
        if (took < best) best = took;
    } while (ml_clock_seconds() - begin < seconds);
    printf("%-34s %8.0f answers/s, %5.2f us each, %d of %d right\n", what, (double)n_labels / best,
           1e6 * best / (double)n_labels, n_right, n_labels);
}

static void measure_hostile(ml_error *err)
{
    static const char *const hostile[] = {
        "9^9^9^9",
        "(x+1)^{100000}",
        "(1+\\sqrt{2})^{100000}",
        "1000000!",
        "(x+y+z+w)^{40}",
        "((((x+1)^9+y)^9+z)^9+w)^9",
        "(x+y)^{90}(x-y)^{90}",
        "\\sqrt{300!+1}",
        "\\sqrt{2+\\sqrt{2+\\sqrt{2+\\sqrt{2+\\sqrt{2+\\sqrt{2+\\sqrt{2}}}}}}}^{100}+1",
        "(1+\\sqrt2+\\sqrt3+\\sqrt5+\\sqrt7+\\sqrt{11}+\\sqrt{13})^{30}",
    };
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        char response[256];
        snprintf(response, sizeof response, "\\boxed{%s}", hostile[i]);
        double best = 1e30;
        for (int k = 0; k < 20; k++) {
            double start = ml_clock_seconds();
            if (score(response, "1", err) != 0) exit(1);
            double took = ml_clock_seconds() - start;
            if (took < best) best = took;
        }
        printf("%8.1f us  %s\n", 1e6 * best, hostile[i]);
    }
}

int main(int argc, char **argv)
{
    ml_error err;
    const char *path = argc > 1 ? argv[1] : "../shared/data/math/math500.jsonl";
    double seconds = argc > 2 ? atof(argv[2]) : 1;
    if (load(path, &err) != ML_OK) return fail(&err);
    measure("the label, written otherwise", "$ %s $.", seconds, &err);
    measure("an expression of equal value", "%s+1-1", seconds, &err);
    measure("another value", "%s+1", seconds, &err);
    measure_hostile(&err);
    for (int i = 0; i < n_labels; i++) json_decref(rows[i]);
    return 0;
}
