/* moonlight eval: how good a model is, by a number. */
#include "cli/cli.h"
#include "cli/eval_constraints.h"
#include "cli/eval_facts.h"
#include "cli/eval_math.h"
#include "cli/eval_scores.h"
#include "cli/lines.h"
#include "cli/load.h"

#include "base/file.h"
#include "base/log.h"
#include "infer/continuation.h"
#include "infer/perplexity.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

enum { BATCH = 2048 }; /* tokens of a pass */

typedef struct {
    const ml_options *o;
    ml_loaded m, base;
    ml_progress *progress;
    ml_ids prefix; /* what stands before each text */
    char *text;    /* of --data */
    size_t n_bytes;
    ml_eval_scores scores;
} job;

/* ---- perplexity ---- */

static void show_window(void *arg, int64_t n_done, int64_t n_window, double nll)
{
    (void)n_window;
    job *j = arg;
    char note[64];
    snprintf(note, sizeof note, "perplexity %.4f", exp(nll));
    ml_progress_update(j->progress, (double)n_done, note);
}

/* --base: the model to compare with must read the same ids. */
static ml_status load_base(job *j, ml_error *err)
{
    const char *path = ml_options_text(j->o, "base");
    if (!path) return ML_OK;
    ml_memory_budget budget = ml_cli_budget(j->o);
    ML_TRY(ml_loaded_open(path, "off", &budget, &j->base, err));
    ml_loaded_tell(j->base.model, ml_log_warn);
    if (strcmp(ml_tokenizer_fingerprint(j->m.tokenizer), ml_tokenizer_fingerprint(j->base.tokenizer)) == 0)
        return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s has another vocabulary than the model: their predictions cannot be compared",
                   path);
}

static ml_status report_perplexity(job *j, const ml_perplexity *p, ml_error *err)
{
    ml_eval_scores_add_value(&j->scores, "perplexity", exp(p->nll), exp(p->nll) * p->nll_error);
    if (j->base.model) ml_eval_scores_add_value(&j->scores, "divergence from base", p->kl, p->kl_error);
    if (ml_options_flag(j->o, "json")) {
        json_t *object =
            json_pack("{s:s, s:o, s:o, s:o, s:I, s:I}", "task", "perplexity", "perplexity", ml_json_number(exp(p->nll)),
                      "nll", ml_json_number(p->nll), "nll_error", ml_json_number(p->nll_error), "tokens",
                      (json_int_t)p->n_token, "windows", (json_int_t)p->n_window);
        if (j->base.model) {
            json_object_update_new(object, json_pack("{s:o, s:o, s:o, s:f}", "base_perplexity",
                                                     ml_json_number(exp(p->base_nll)), "kl", ml_json_number(p->kl),
                                                     "kl_error", ml_json_number(p->kl_error), "same_top", p->same_top));
        }
        return ml_cli_print_json(object, err);
    }
    printf("perplexity  %.4f +- %.4f over %lld tokens in %lld windows\n", exp(p->nll), exp(p->nll) * p->nll_error,
           (long long)p->n_token, (long long)p->n_window);
    if (!j->base.model) return ML_OK;
    printf("of base     %.4f\n", exp(p->base_nll));
    printf("divergence  %.6f +- %.6f nats a token from base's predictions\n", p->kl, p->kl_error);
    printf("same top    %.2f %% of tokens have the same likeliest next token\n", 100 * p->same_top);
    return ML_OK;
}

static ml_status run_perplexity(job *j, ml_error *err)
{
    ML_TRY(load_base(j, err));
    ml_ids ids = { 0 };
    ml_perplexity result;
    int64_t window = ml_options_int(j->o, "window"), most = j->m.model->config.max_position_embeddings;
    ml_perplexity_config config = { .kv_dtype = ml_cli_kv_dtype(j->o),
                                    .window = window < most ? window : most,
                                    .batch = BATCH,
                                    .bos = j->prefix.n ? j->prefix.id[0] : -1,
                                    .max_window = ml_options_int(j->o, "limit"),
                                    .base = j->base.model,
                                    .on_window = show_window,
                                    .arg = j };
    ml_status status = ml_tokenizer_encode(j->m.tokenizer, j->text, j->n_bytes, false, &ids, err);
    if (status == ML_OK) {
        config.id = ids.id;
        config.n_id = (int64_t)ids.n;
        double n = (double)ml_perplexity_count_windows(&config);
        j->progress = ml_progress_begin("perplexity", "windows", n);
        status = ml_perplexity_measure(j->m.model, &config, &result, err);
        ml_progress_end(j->progress);
    }
    if (status == ML_OK) status = report_perplexity(j, &result, err);
    ml_ids_free(&ids);
    return status;
}

/* ---- multiple choice ---- */

typedef struct {
    size_t first, n; /* its continuations */
    int64_t answer;
} question;

typedef struct {
    ml_continuation *item;
    size_t n_item, item_capacity;
    size_t *choice_bytes; /* [n_item] */
    size_t bytes_capacity;
    question *question;
    size_t n_question, question_capacity;
} quiz;

static const char *text_of(const json_t *j, const char *const *keys)
{
    for (; *keys; keys++) {
        const char *text = json_string_value(json_object_get(j, *keys));
        if (text) return text;
    }
    return NULL;
}

/* The right choice: an index from 0, or a letter. */
static int64_t answer_of(const json_t *j, size_t n)
{
    static const char *const keys[] = { "answer", "label", "gold", NULL };
    for (const char *const *key = keys; *key; key++) {
        const json_t *value = json_object_get(j, *key);
        const char *text = json_string_value(value);
        int64_t i = json_is_integer(value) ? json_integer_value(value) : -1;
        if (text && text[0] && !text[1]) i = isdigit((unsigned char)*text) ? *text - '0' : toupper(*text) - 'A';
        if (i >= 0 && i < (int64_t)n) return i;
    }
    return -1;
}

/* The tokens of context and choice, encoded as one text; those that differ from the context's alone are scored. */
static ml_status add_choice(const job *j, quiz *q, const char *context, const char *choice, ml_error *err)
{
    ML_TRY(ml_grow((void **)&q->item, &q->item_capacity, q->n_item + 1, sizeof *q->item, err));
    ML_TRY(ml_grow((void **)&q->choice_bytes, &q->bytes_capacity, q->n_item + 1, sizeof *q->choice_bytes, err));
    ml_ids whole = { 0 }, part = { 0 };
    ml_chars text = { 0 };
    ml_status status = ml_chars_append(&text, context, strlen(context), err);
    if (status == ML_OK) status = ml_chars_append(&text, choice, strlen(choice), err);
    if (status == ML_OK) status = ml_ids_append(&whole, j->prefix.id, j->prefix.n, err);
    if (status == ML_OK) status = ml_tokenizer_encode(j->m.tokenizer, text.data, text.n, false, &whole, err);
    if (status == ML_OK) status = ml_ids_append(&part, j->prefix.id, j->prefix.n, err);
    if (status == ML_OK) status = ml_tokenizer_encode(j->m.tokenizer, context, strlen(context), false, &part, err);
    size_t same = 0;
    while (same < part.n && same + 1 < whole.n && part.id[same] == whole.id[same]) same++;
    q->choice_bytes[q->n_item] = strlen(choice);
    if (status == ML_OK) {
        q->item[q->n_item++] = (ml_continuation){ whole.id, (int64_t)whole.n, (int64_t)(same ? same : 1), 0, false };
    } else {
        ml_ids_free(&whole);
    }
    ml_ids_free(&part);
    ml_chars_free(&text);
    return status;
}

typedef struct {
    const job *j;
    quiz *q;
} reading;

static ml_status add_question(void *arg, const char *where, json_t *object, ml_error *err)
{
    const job *j = ((reading *)arg)->j;
    quiz *q = ((reading *)arg)->q;
    static const char *const context_keys[] = { "context", "prompt", "question", "query", NULL };
    const char *context = text_of(object, context_keys);
    json_t *choices;
    ML_TRY(ml_json_array(object, "choices", where, &choices, err));
    size_t n = json_array_size(choices);
    int64_t answer = answer_of(object, n);
    if (!context || n < 2 || answer < 0) {
        return ml_fail(err, ML_EFORMAT,
                       "%s: expected \"context\" (or \"prompt\", \"question\"), \"choices\" of two texts or more, and "
                       "\"answer\", the index or letter of one of them",
                       where);
    }
    ML_TRY(ml_grow((void **)&q->question, &q->question_capacity, q->n_question + 1, sizeof *q->question, err));
    question *last = &q->question[q->n_question];
    *last = (question){ q->n_item, n, answer };
    for (size_t i = 0; i < n; i++) {
        const char *choice = json_string_value(json_array_get(choices, i));
        if (!choice || !*choice) return ml_fail(err, ML_EFORMAT, "%s: choice %zu is no text", where, i);
        ML_TRY(add_choice(j, q, context, choice, err));
    }
    q->n_question++;
    return ML_OK;
}

static ml_status read_quiz(const job *j, quiz *q, ml_error *err)
{
    const char *path = ml_options_text(j->o, "data");
    reading r = { j, q };
    ML_TRY(ml_cli_each_object(path, j->text, j->n_bytes, ml_options_int(j->o, "limit"), add_question, &r, NULL, err));
    if (q->n_question == 0) return ml_fail(err, ML_EINVAL, "%s: expected one question or more, found none", path);
    return ML_OK;
}

/* Questions whose right choice scores highest: by the sum, or by the sum over the choice's bytes. */
static size_t count_right(const quiz *q, bool per_byte)
{
    size_t n_right = 0;
    for (size_t i = 0; i < q->n_question; i++) {
        const question *x = &q->question[i];
        size_t best = 0;
        double most = -INFINITY;
        for (size_t k = 0; k < x->n; k++) {
            double score = q->item[x->first + k].logprob;
            if (per_byte) score /= (double)q->choice_bytes[x->first + k];
            if (score > most) {
                most = score;
                best = k;
            }
        }
        n_right += (int64_t)best == x->answer;
    }
    return n_right;
}

static void show_item(void *arg, int64_t n_done)
{
    job *j = arg;
    ml_progress_update(j->progress, (double)n_done, NULL);
}

static ml_status report_choice(job *j, const quiz *q, ml_error *err)
{
    size_t n_plain = count_right(q, false), n_per_byte = count_right(q, true);
    double n = (double)q->n_question, plain = (double)n_plain / n, per_byte = (double)n_per_byte / n;
    ml_eval_scores_add_count(&j->scores, "right", n_plain, q->n_question);
    ml_eval_scores_add_count(&j->scores, "right by length in bytes", n_per_byte, q->n_question);
    double error = sqrt(plain * (1 - plain) / n), byte_error = sqrt(per_byte * (1 - per_byte) / n);
    if (ml_options_flag(j->o, "json")) {
        return ml_cli_print_json(json_pack("{s:s, s:f, s:f, s:f, s:f, s:I}", "task", "choice", "accuracy", plain,
                                           "accuracy_error", error, "accuracy_per_byte", per_byte,
                                           "accuracy_per_byte_error", byte_error, "questions",
                                           (json_int_t)q->n_question),
                                 err);
    }
    printf("accuracy           %.2f +- %.2f %% of %zu questions\n", 100 * plain, 100 * error, q->n_question);
    printf("by length in bytes %.2f +- %.2f %%\n", 100 * per_byte, 100 * byte_error);
    return ML_OK;
}

static ml_status run_choice(job *j, ml_error *err)
{
    quiz q = { 0 };
    ml_status status = read_quiz(j, &q, err);
    if (status == ML_OK) {
        j->progress = ml_progress_begin("choices", "choices", (double)q.n_item);
        status = ml_continuation_score(j->m.model, q.item, (int64_t)q.n_item, BATCH, ml_cli_kv_dtype(j->o), show_item,
                                       j, err);
        ml_progress_end(j->progress);
    }
    if (status == ML_OK) status = report_choice(j, &q, err);
    for (size_t i = 0; i < q.n_item; i++) ml_free((void *)(uintptr_t)q.item[i].id);
    ml_free(q.item);
    ml_free(q.choice_bytes);
    ml_free(q.question);
    return status;
}

/* An option of other tasks would do nothing. */
static ml_status check_options(const ml_options *o, const char *task, ml_error *err)
{
    static const struct {
        const char *option, *tasks;
    } rows[] = { { "window", "perplexity" },
                 { "base", "perplexity" },
                 { "samples", "math" },
                 { "grader", "math" },
                 { "instruction", "math" },
                 { "out", "math constraints" },
                 { "parallel", "math constraints facts" },
                 { "max-tokens", "math constraints facts" },
                 { "temperature", "math constraints facts" },
                 { "seed", "math constraints facts" } };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (!ml_options_given(o, rows[i].option) || strstr(rows[i].tasks, task)) continue;
        return ml_fail(err, ML_EINVAL, "--%s says nothing to --task %s: it is for %s", rows[i].option, task,
                       rows[i].tasks);
    }
    return ML_OK;
}

static ml_status eval(job *j, ml_error *err)
{
    const char *path, *data, *task;
    ML_TRY(ml_cli_require(j->o, "model", &path, err));
    ML_TRY(ml_cli_require(j->o, "data", &data, err));
    ML_TRY(ml_cli_require(j->o, "task", &task, err));
    ML_TRY(check_options(j->o, task, err));
    bool is_math = !strcmp(task, "math"); /* which reads records by itself */
    if (!is_math) ML_TRY(ml_file_read(data, &j->text, &j->n_bytes, err));
    ml_memory_budget budget = ml_cli_budget_with_adapters(j->o);
    ML_TRY(ml_loaded_open(path, ml_options_text(j->o, "repack"), &budget, &j->m, err));
    ml_cli_say_opened(j->o, j->m.model);
    ML_TRY(ml_cli_load_adapters(j->o, &j->m, err));
    if (is_math) return ml_cli_eval_math(j->o, &j->m, data, &j->scores, err);
    ML_TRY(ml_tokenizer_append_prefix(j->m.tokenizer, &j->prefix, err));
    if (!strcmp(task, "constraints")) {
        return ml_cli_eval_constraints(j->o, &j->m, data, j->text, j->n_bytes, &j->scores, err);
    }
    if (!strcmp(task, "facts")) return ml_cli_eval_facts(j->o, &j->m, data, j->text, j->n_bytes, &j->scores, err);
    return strcmp(task, "choice") ? run_perplexity(j, err) : run_choice(j, err);
}

ml_status ml_cli_eval(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("eval", NULL, argc, argv, 0, 0, "", &o, err));
    ml_stop_install();
    job j = { .o = o };
    ml_status status = eval(&j, err);
    if (status == ML_OK) ml_eval_scores_record(&j.scores, o);
    ml_free(j.text);
    ml_ids_free(&j.prefix);
    ml_loaded_free(&j.m);
    ml_loaded_free(&j.base);
    ml_options_free(o);
    return status;
}
