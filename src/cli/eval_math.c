#include "cli/eval_math.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "cli/cli.h"
#include "cli/conversation.h"
#include "data/problems.h"
#include "infer/answer.h"
#include "infer/generate.h"
#include "infer/sampler.h"
#include "reward/reward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What became of the answers to one problem. */
typedef struct {
    ml_reward_kind kind;
    int64_t n_right;
} verdict;

typedef struct {
    const ml_options *o;
    ml_loaded *m;
    ml_cli_conversation talk;
    ml_problems problems;
    verdict *verdict; /* [problems.n] */
    ml_answer *item;  /* [n_item]: those of a problem lie together */
    size_t n_item, n_sample;
    ml_file_writer out;
    ml_chars text; /* of the answer being graded */
    char note[64];
    size_t n_done, n_right, n_cut, n_silent; /* answers: cut by the limit, and without anything to grade */
    int64_t n_token;
    double seconds;
} evaluation;

/* ---- what is asked ---- */

static ml_status choose_grader(const evaluation *e, const ml_problem *p, ml_reward_kind *kind, ml_error *err)
{
    const char *given = ml_options_text(e->o, "grader"), *text = ml_problem_text(p);
    if (strcmp(given, "auto")) return ml_reward_find(given, kind, err);
    *kind = !strstr(text, "\\boxed") && strstr(text, "Answer:") ? ML_REWARD_DAPO : ML_REWARD_MATH;
    return ML_OK;
}

/* A label without an answer is said before anything is generated. */
static ml_status prepare_problem(evaluation *e, size_t i, ml_error *err)
{
    ml_problem *p = &e->problems.problem[i];
    ml_answer *item = &e->item[i * e->n_sample];
    ml_span answer;
    ML_TRY(choose_grader(e, p, &e->verdict[i].kind, err));
    ML_TRY(ml_reward_read_label(ml_span_of(p->label), &answer, err));
    ml_cli_conversation_cut(&e->talk, 0);
    for (size_t k = 0; k < json_array_size(p->messages); k++) {
        ML_TRY(ml_cli_conversation_add(&e->talk, json_incref(json_array_get(p->messages, k)), NULL, 0, err));
    }
    ML_TRY(ml_cli_conversation_render(&e->talk, &item->prompt, err));
    for (size_t k = 1; k < e->n_sample; k++) {
        ML_TRY(ml_ids_append(&item[k].prompt, item->prompt.id, item->prompt.n, err));
    }
    return ML_OK;
}

static ml_status prepare(evaluation *e, const char *path, ml_error *err)
{
    e->n_sample = (size_t)ml_options_int(e->o, "samples");
    ML_TRY(
        ml_problems_read(path, ml_options_int(e->o, "limit"), ml_options_text(e->o, "instruction"), &e->problems, err));
    ML_TRY(ml_cli_conversation_make(e->o, ml_options_text(e->o, "model"), e->m, &e->talk, err));
    e->verdict = ml_calloc(e->problems.n, sizeof *e->verdict);
    e->item = e->verdict && ml_size_mul(e->problems.n, e->n_sample, &e->n_item) ? ml_calloc(e->n_item, sizeof *e->item)
                                                                                : NULL;
    if (!e->item) return ml_fail_memory(err, e->n_item * sizeof *e->item, "problems");
    for (size_t i = 0; i < e->problems.n; i++) {
        if (prepare_problem(e, i, err) == ML_OK) continue;
        return ml_fail_prefix(err, "%s:%llu", path, (unsigned long long)e->problems.problem[i].number);
    }
    return ML_OK;
}

/* ---- grading ---- */

static ml_status decode(evaluation *e, const ml_answer *a, ml_error *err)
{
    return ml_tokenizer_decode_answer(e->m->tokenizer, &a->prompt, a->answer.id, a->answer.n, &e->text, err);
}

static ml_status write_answer(evaluation *e, size_t i, ml_span answer, bool right, ml_error *err)
{
    const ml_problem *p = &e->problems.problem[i / e->n_sample];
    const ml_answer *a = &e->item[i];
    ml_span label = { 0 };
    ML_TRY(ml_reward_read_label(ml_span_of(p->label), &label, err));
    json_t *object =
        json_pack("{s:I, s:I, s:s, s:s%, s:s%, s:s%, s:b, s:s, s:I, s:s}", "line", (json_int_t)p->number, "sample",
                  (json_int_t)(i % e->n_sample), "prompt", ml_problem_text(p), "text", e->text.n ? e->text.data : "",
                  e->text.n, "answer", answer.n ? answer.at : "", answer.n, "label", label.at, label.n, "right", right,
                  "finish_reason", ml_finish_name(a->finish), "completion_tokens", (json_int_t)a->answer.n, "grader",
                  ml_reward_name(e->verdict[i / e->n_sample].kind));
    char *line = object ? json_dumps(object, JSON_COMPACT) : NULL;
    ml_status status = line ? ml_file_printf(&e->out, err, "%s\n", line) : ml_fail_memory(err, 0, "an answer");
    free(line);
    json_decref(object);
    return status;
}

static ml_status grade(void *arg, size_t i, ml_error *err)
{
    evaluation *e = arg;
    verdict *v = &e->verdict[i / e->n_sample];
    ml_answer *a = &e->item[i];
    double reward;
    ml_span answer = { 0 };
    ML_TRY(decode(e, a, err));
    ml_span text = { e->text.n ? e->text.data : "", e->text.n };
    ML_TRY(ml_reward_score(v->kind, text, ml_span_of(e->problems.problem[i / e->n_sample].label), &reward, err));
    bool found = ml_reward_find_answer(v->kind, text, &answer), right = reward > 0;
    v->n_right += right;
    e->n_right += right;
    e->n_done++;
    e->n_silent += !found;
    e->n_cut += a->finish == ML_FINISH_LENGTH;
    e->n_token += (int64_t)a->answer.n;
    snprintf(e->note, sizeof e->note, "%.1f %% right", 100 * (double)e->n_right / (double)e->n_done);
    if (e->out.file) ML_TRY(write_answer(e, i, answer, right, err));
    ml_ids_free(&a->answer);
    ml_ids_free(&a->prompt);
    return ML_OK;
}

/* ---- the task ---- */

static ml_status answer_all(evaluation *e, ml_error *err)
{
    int64_t max_tokens = ml_options_given(e->o, "max-tokens") ? ml_options_int(e->o, "max-tokens") : 2048;
    ml_answer_config c = { .sampling = ml_sampling_default(),
                           .max_tokens = max_tokens,
                           .stop_id = e->talk.stop.id,
                           .n_stop = (int64_t)e->talk.stop.n,
                           .n_valid = ml_tokenizer_vocab_size(e->m->tokenizer),
                           .parallel = ml_options_int(e->o, "parallel"),
                           .kv_dtype = ml_cli_kv_dtype(e->o),
                           .note = e->note,
                           .on_answer = grade,
                           .arg = e };
    c.sampling.temperature = ml_options_real(e->o, "temperature");
    c.sampling.seed = (uint64_t)ml_options_int(e->o, "seed");
    double start = ml_clock_seconds();
    c.progress = ml_progress_begin("maths", "answers", (double)e->n_item);
    ml_status status = ml_answer_all(e->m->model, &c, e->item, e->n_item, err);
    ml_progress_end(c.progress);
    e->seconds = ml_clock_seconds() - start;
    return status;
}

/* The lines are complete as far as they go, also when somebody stopped the work. */
static ml_status keep_answers(evaluation *e, ml_status status, ml_error *err)
{
    if (!e->out.file) return status;
    if (status == ML_OK) return ml_file_commit(&e->out, err);
    ml_error ignored;
    bool kept = status == ML_ECANCEL && ml_file_commit(&e->out, &ignored) == ML_OK;
    if (kept) return ml_fail(err, ML_ECANCEL, "stopped after %zu answers, which are in %s", e->n_done, e->out.path);
    return status;
}

static ml_status report(const evaluation *e, ml_eval_scores *scores, ml_error *err)
{
    double n = (double)e->problems.n, sum = 0, squares = 0;
    size_t n_solved = 0;
    for (size_t i = 0; i < e->problems.n; i++) {
        double share = (double)e->verdict[i].n_right / (double)e->n_sample;
        sum += share;
        squares += share * share;
        n_solved += e->verdict[i].n_right > 0;
    }
    double accuracy = sum / n, variance = n > 1 ? fmax(squares - sum * accuracy, 0) / (n - 1) : 0;
    double error = sqrt(variance / n), all = (double)e->n_item;
    ml_eval_scores_add_count(scores, "right", e->n_right, e->n_item);
    if (e->n_sample > 1) ml_eval_scores_add_count(scores, "solved at least once", n_solved, e->problems.n);
    ml_eval_scores_add_count(scores, "cut short", e->n_cut, e->n_item);
    ml_eval_scores_add_count(scores, "no answer", e->n_silent, e->n_item);
    if (ml_options_flag(e->o, "json")) {
        return ml_cli_print_json(
            json_pack("{s:s, s:f, s:f, s:f, s:I, s:I, s:f, s:f, s:f, s:f}", "task", "math", "accuracy", accuracy,
                      "accuracy_error", error, "solved", (double)n_solved / n, "problems", (json_int_t)e->problems.n,
                      "samples", (json_int_t)e->n_sample, "truncated", (double)e->n_cut / all, "no_answer",
                      (double)e->n_silent / all, "mean_tokens", (double)e->n_token / all, "seconds", e->seconds),
            err);
    }
    printf("right        %.2f +- %.2f %% of %zu problems, %zu answers to each\n", 100 * accuracy, 100 * error,
           e->problems.n, e->n_sample);
    if (e->n_sample > 1) printf("solved       %.2f %% at least once\n", 100 * (double)n_solved / n);
    printf("cut short    %.2f %% of the answers\n", 100 * (double)e->n_cut / all);
    printf("no answer    %.2f %%\n", 100 * (double)e->n_silent / all);
    printf("length       %.1f tokens\n", (double)e->n_token / all);
    return ML_OK;
}

ml_status ml_cli_eval_math(const ml_options *o, ml_loaded *m, const char *path, ml_eval_scores *scores, ml_error *err)
{
    evaluation e = { .o = o, .m = m };
    const char *out = ml_options_text(o, "out");
    ml_status status = prepare(&e, path, err);
    if (status == ML_OK && out) status = ml_file_begin(&e.out, out, err);
    if (status == ML_OK) status = keep_answers(&e, answer_all(&e, err), err);
    if (status == ML_OK) status = report(&e, scores, err);
    ml_file_abandon(&e.out);
    for (size_t i = 0; e.item && i < e.n_item; i++) {
        ml_ids_free(&e.item[i].prompt);
        ml_ids_free(&e.item[i].answer);
    }
    ml_free(e.item);
    ml_free(e.verdict);
    ml_chars_free(&e.text);
    ml_problems_free(&e.problems);
    ml_cli_conversation_free(&e.talk);
    return status;
}
