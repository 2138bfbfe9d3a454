#include "cli/eval_constraints.h"

#include "base/alloc.h"
#include "base/file.h"
#include "cli/cli.h"
#include "cli/lines.h"
#include "data/row_make.h"
#include "data/synth_constraints.h"
#include "infer/answer.h"
#include "infer/sampler.h"

#include <stdlib.h>
#include <string.h>

/* A prompt and what it demands. */
typedef struct {
    char *text;
    ml_constraints constraints;
} demand;

typedef struct {
    const ml_options *o;
    ml_loaded *m;
    ml_row_maker maker;
    demand *demand; /* [n] */
    ml_answer *item;
    size_t n, demand_capacity, item_capacity;
} evaluation;

/* How many stories ... */
typedef struct {
    size_t satisfied, protagonist, required, banned, sentences, ended;
    size_t n_phrase, n_phrase_there;
} counts;

/* ---- reading ---- */

static ml_status add_demand(void *arg, const char *where, json_t *object, ml_error *err)
{
    evaluation *e = arg;
    const char *text;
    json_t *wanted;
    demand d = { 0 };
    ML_TRY(ml_json_text(object, "prompt", where, &text, err));
    ML_TRY(ml_json_object(object, "constraints", where, &wanted, err));
    ML_TRY(ml_constraints_from_json(wanted, where, &d.constraints, err));
    ML_TRY(ml_grow((void **)&e->demand, &e->demand_capacity, e->n + 1, sizeof *e->demand, err));
    ML_TRY(ml_grow((void **)&e->item, &e->item_capacity, e->n + 1, sizeof *e->item, err));
    d.text = ml_strdup(text);
    if (!d.text) return ml_fail_memory(err, strlen(text) + 1, "a prompt");
    e->demand[e->n] = d;
    e->item[e->n] = (ml_answer){ 0 };
    ml_turn turn = { ML_ROLE_USER, { d.text, strlen(d.text) } };
    return ml_row_make_prompt(&e->maker, &turn, 1, &e->item[e->n++].prompt, err);
}

static ml_status read_demands(evaluation *e, const char *path, const char *text, size_t n_bytes, ml_error *err)
{
    ML_TRY(ml_cli_each_object(path, text, n_bytes, ml_options_int(e->o, "limit"), add_demand, e, NULL, err));
    if (e->n == 0) return ml_fail(err, ML_EINVAL, "%s: expected prompts with constraints, found none", path);
    return ML_OK;
}

/* ---- counting ---- */

static ml_status decode(const evaluation *e, const ml_answer *a, ml_chars *out, ml_error *err)
{
    ML_TRY(ml_tokenizer_decode_answer(e->m->tokenizer, &a->prompt, a->answer.id, a->answer.n, out, err));
    ML_TRY(ml_chars_append(out, "", 1, err));
    out->n = strlen(out->data); /* a 0 in it would end it for people too */
    return ML_OK;
}

static void count_story(counts *c, const demand *d, const ml_answer *a, const char *story)
{
    ml_constraint_verdict v = ml_constraints_check(&d->constraints, story);
    c->satisfied += ml_constraints_satisfied(&v);
    c->protagonist += v.protagonist;
    c->required += v.required;
    c->banned += v.banned;
    c->sentences += v.sentences;
    c->ended += a->finish == ML_FINISH_STOP;
    c->n_phrase += d->constraints.n_required;
    c->n_phrase_there += (size_t)v.n_required;
}

static json_t *story_to_json(const demand *d, const char *story)
{
    ml_constraint_verdict v = ml_constraints_check(&d->constraints, story);
    return json_pack("{s:s, s:s, s:o, s:b, s:b, s:b, s:b, s:b, s:i}", "prompt", d->text, "text", story, "constraints",
                     ml_constraints_to_json(&d->constraints), "satisfied", ml_constraints_satisfied(&v),
                     "protagonist_ok", v.protagonist, "required_ok", v.required, "banned_ok", v.banned, "sentences_ok",
                     v.sentences, "sentence_count", v.n_sentence);
}

/* One line of --out. */
static ml_status write_story(ml_file_writer *out, const json_t *story, ml_error *err)
{
    char *line = json_dumps(story, JSON_COMPACT);
    ml_status status = line ? ml_file_printf(out, err, "%s\n", line) : ml_fail_memory(err, 0, "a story");
    free(line);
    return status;
}

/* To --out and for --json, where they are wanted. */
static ml_status keep_story(const demand *d, const char *text, ml_file_writer *out, json_t *stories, ml_error *err)
{
    if (!out->file && !stories) return ML_OK;
    json_t *story = story_to_json(d, text);
    if (!story) return ml_fail_memory(err, 0, "a story");
    ml_status status = out->file ? write_story(out, story, err) : ML_OK;
    if (stories) json_array_append(stories, story);
    json_decref(story);
    return status;
}

static ml_status report(const evaluation *e, const counts *c, json_t *stories, ml_eval_scores *scores, ml_error *err)
{
    double n = (double)e->n;
    const struct {
        const char *name;
        size_t n, of;
    } rows[] = { { "satisfied", c->satisfied, e->n },           { "protagonist right", c->protagonist, e->n },
                 { "all phrases there", c->required, e->n },    { "nothing banned", c->banned, e->n },
                 { "number of sentences", c->sentences, e->n }, { "ended by itself", c->ended, e->n },
                 { "phrases", c->n_phrase_there, c->n_phrase } };
    const size_t n_row = sizeof rows / sizeof rows[0];
    for (size_t i = 0; i < n_row; i++) {
        if (rows[i].of) ml_eval_scores_add_count(scores, rows[i].name, rows[i].n, rows[i].of);
    }
    if (stories) {
        return ml_cli_print_json(
            json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "task", "constraints", "stories",
                      (json_int_t)e->n, "satisfied_count", (json_int_t)c->satisfied, "satisfied",
                      (double)c->satisfied / n, "protagonist", (double)c->protagonist / n, "required",
                      (double)c->required / n, "banned", (double)c->banned / n, "sentences", (double)c->sentences / n,
                      "ended", (double)c->ended / n, "phrases",
                      c->n_phrase ? (double)c->n_phrase_there / (double)c->n_phrase : 1, "results", stories),
            err);
    }
    for (size_t i = 0; i < n_row; i++) {
        double share = rows[i].of ? 100 * (double)rows[i].n / (double)rows[i].of : 100;
        printf("%-20s %5zu of %zu  %5.1f %%\n", rows[i].name, rows[i].n, rows[i].of, share);
    }
    return ML_OK;
}

static ml_status measure(const evaluation *e, ml_file_writer *out, ml_eval_scores *scores, ml_error *err)
{
    counts c = { 0 };
    ml_chars text = { 0 };
    ml_status status = ML_OK;
    json_t *stories = ml_options_flag(e->o, "json") ? json_array() : NULL;
    for (size_t i = 0; i < e->n && status == ML_OK; i++) {
        status = decode(e, &e->item[i], &text, err);
        if (status != ML_OK) break;
        count_story(&c, &e->demand[i], &e->item[i], text.data);
        status = keep_story(&e->demand[i], text.data, out, stories, err);
    }
    ml_chars_free(&text);
    if (status == ML_OK && out->file) status = ml_file_commit(out, err);
    if (status == ML_OK) return report(e, &c, stories, scores, err);
    json_decref(stories);
    return status;
}

/* ---- the task ---- */

static ml_status answer(evaluation *e, ml_error *err)
{
    ml_answer_config c = { .sampling = ml_sampling_default(),
                           .max_tokens =
                               ml_options_given(e->o, "max-tokens") ? ml_options_int(e->o, "max-tokens") : 400,
                           .stop_id = e->m->ends.id,
                           .n_stop = (int64_t)e->m->ends.n,
                           .n_valid = ml_tokenizer_vocab_size(e->m->tokenizer),
                           .parallel = ml_options_int(e->o, "parallel"),
                           .kv_dtype = ml_cli_kv_dtype(e->o) };
    c.sampling.temperature = ml_options_real(e->o, "temperature");
    c.sampling.seed = (uint64_t)ml_options_int(e->o, "seed");
    c.progress = ml_progress_begin("stories", "stories", (double)e->n);
    ml_status status = ml_answer_all(e->m->model, &c, e->item, e->n, err);
    ml_progress_end(c.progress);
    return status;
}

ml_status ml_cli_eval_constraints(const ml_options *o, ml_loaded *m, const char *path, const char *text, size_t n_bytes,
                                  ml_eval_scores *scores, ml_error *err)
{
    evaluation e = { .o = o, .m = m };
    ml_file_writer out = { 0 };
    const char *out_path = ml_options_text(o, "out");
    ml_status status = ml_row_maker_init(&e.maker, m->tokenizer, ML_ROW_PROMPT, NULL, INT32_MAX, err);
    if (status == ML_OK) status = read_demands(&e, path, text, n_bytes, err);
    if (status == ML_OK && out_path) status = ml_file_begin(&out, out_path, err);
    if (status == ML_OK) status = answer(&e, err);
    if (status == ML_OK) status = measure(&e, &out, scores, err);
    ml_file_abandon(&out);
    for (size_t i = 0; i < e.n; i++) {
        ml_free(e.demand[i].text);
        ml_ids_free(&e.item[i].prompt);
        ml_ids_free(&e.item[i].answer);
    }
    ml_free(e.demand);
    ml_free(e.item);
    return status;
}
