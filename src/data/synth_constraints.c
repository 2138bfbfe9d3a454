#include "data/synth_constraints.h"

#include "base/rng.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { N_TRY = 3, BANNED_PERCENT = 15 };

const char *ml_synth_fault_name(ml_synth_fault fault)
{
    static const char *const names[ML_N_SYNTH_FAULT] = { "kept",        "protagonist", "required phrase",
                                                         "banned word", "sentences",   "rejected story",
                                                         "cut short",   "empty" };
    return names[fault];
}

/* ---- prompts ---- */

/* One way to ask: a sentence for each demand. */
typedef struct {
    const char *about, *theme, *phrases, *banned, *sentences;
} wording;

static const wording asked_in_training[] = {
    { "Write a story about %s.", "It is about %s.", "Use the words: %s.", "Do not use the word %s.",
      "Write %d to %d sentences." },
    { "Please write a story of %s.", "The story teaches %s.", "It has these words: %s.", "It never says %s.",
      "It has %d to %d sentences." },
    { "I want a story about %s.", "Its lesson is %s.", "Put in: %s.", "Leave out: %s.", "From %d to %d sentences." },
    { "Can you write about %s?", "The lesson is %s.", "The words to use are: %s.", "The word %s is not allowed.",
      "Use %d to %d sentences." },
    { "Make up a story with %s in it.", "Let it be about %s.", "Use: %s.", "Do not say %s.",
      "It should have %d to %d sentences." },
    { "Story: %s.", "Lesson: %s.", "Words: %s.", "Not: %s.", "Sentences: %d to %d." },
};

static const wording asked_in_validation[] = {
    { "Tell me a story about %s.", "It should teach %s.", "Make sure to use: %s.", "You must not use %s.",
      "Tell it in %d to %d sentences." },
    { "Here is a story for you to write: it is about %s.", "The story is about %s.", "These words are in it: %s.",
      "The word %s is not in it.", "There are %d to %d sentences." },
};

static size_t put(char *out, size_t n, const char *format, const char *value)
{
    assert(n + strlen(format) + strlen(value) + 2 < ML_PROMPT_MAX); /* texts are ours; a test draws many */
    return n + (size_t)snprintf(out + n, ML_PROMPT_MAX - n, format, value);
}

static void write_prompt(const ml_constraints *c, const wording *w, char out[ML_PROMPT_MAX])
{
    char list[ML_CONSTRAINT_PHRASES * (ML_CONSTRAINT_TEXT + 2)] = "";
    for (size_t i = 0; i < c->n_required; i++) {
        if (i) strcat(list, ", ");
        strcat(list, c->required[i]);
    }
    size_t n = put(out, 0, w->about, c->protagonist);
    n = put(out, put(out, n, " ", ""), w->theme, c->theme);
    n = put(out, put(out, n, " ", ""), w->phrases, list);
    if (*c->banned) n = put(out, put(out, n, " ", ""), w->banned, c->banned);
    out[n++] = ' ';
    n += (size_t)snprintf(out + n, ML_PROMPT_MAX - n, w->sentences, c->min_sentences, c->max_sentences);
    snprintf(out + n, ML_PROMPT_MAX - n, "\n");
}

/* ---- who and what ---- */

static uint32_t pick(ml_rng *rng, ml_story_list list, bool held_out)
{
    size_t i;
    do i = (size_t)ml_rng_below(rng, ml_story_list_size(list));
    while (ml_story_is_held_out(list, i) != held_out);
    return (uint32_t)i;
}

/* A word of the protagonist.  Half of those of training are composed: known words are soon told from their first
 * letters, whereas these have to be copied to the end, as those of validation have. */
static uint32_t pick_protagonist(ml_rng *rng, ml_story_list list, ml_data_split split)
{
    if (split == ML_SPLIT_VAL || ml_rng_below(rng, 2)) return pick(rng, list, split == ML_SPLIT_VAL);
    return ml_story_word_compose(rng, list);
}

/* A plan whose protagonist and names no training text has (validation), or of words of training. */
static void draw_plan(ml_rng *rng, ml_data_split split, ml_story_plan *p)
{
    bool held_out = split == ML_SPLIT_VAL;
    ml_story_plan_draw(ml_rng_u64(rng), 0, p);
    p->announced = false; /* the prompt says it */
    p->hero_trait = pick_protagonist(rng, ML_STORY_TRAIT, split);
    p->hero_kind = pick_protagonist(rng, ML_STORY_KIND, split);
    p->hero_name = ml_story_name_draw(rng, p->hero_is_she, held_out);
    p->friend_name = ml_story_name_draw(rng, !p->hero_is_she, held_out);
    do p->friend_trait = pick(rng, ML_STORY_TRAIT, false);
    while (p->friend_trait == p->hero_trait);
    do p->friend_kind = pick(rng, ML_STORY_KIND, false);
    while (p->friend_kind == p->hero_kind);
}

/* "a kind owl" */
static void describe(uint32_t trait, uint32_t kind, bool she, char out[ML_CONSTRAINT_TEXT])
{
    char adjective[ML_STORY_NAME_MAX], noun[ML_STORY_NAME_MAX];
    ml_story_word(ML_STORY_TRAIT, trait, adjective);
    ml_story_word(ML_STORY_KIND, kind, noun);
    if (kind == 0) strcpy(noun, she ? "girl" : "boy");
    snprintf(out, ML_CONSTRAINT_TEXT, "%s %s %s", strchr("aeiou", adjective[0]) ? "an" : "a", adjective, noun);
}

/* What a story of this plan may be asked to have. */
static size_t list_phrases(const ml_story_plan *p, char out[ML_CONSTRAINT_PHRASES][ML_CONSTRAINT_TEXT])
{
    bool she = p->hero_is_she;
    size_t n = 0;
    snprintf(out[n++], ML_CONSTRAINT_TEXT, "%s", ml_story_list_word(ML_STORY_PLACE, p->place));
    snprintf(out[n++], ML_CONSTRAINT_TEXT, "%s", ml_story_subject(p->theme, p->subject));
    ml_story_name(she, p->hero_name, out[n++]);
    ml_story_name(!she, p->friend_name, out[n++]);
    describe(p->friend_trait, p->friend_kind, !she, out[n++]);
    snprintf(out[n++], ML_CONSTRAINT_TEXT, "%s", ml_story_list_word(ML_STORY_GROWNUP, p->grownup));
    return n;
}

static void draw_phrases(ml_rng *rng, const ml_story_plan *p, ml_constraints *c)
{
    char phrase[ML_CONSTRAINT_PHRASES][ML_CONSTRAINT_TEXT];
    size_t n = list_phrases(p, phrase), wanted = 2 + (size_t)ml_rng_below(rng, 3);
    while (c->n_required < wanted) {
        size_t i = (size_t)ml_rng_below(rng, n--);
        strcpy(c->required[c->n_required++], phrase[i]);
        memmove(phrase[i], phrase[n], ML_CONSTRAINT_TEXT);
    }
}

static void draw_constraints(ml_rng *rng, const ml_story_plan *p, ml_constraints *c)
{
    static const ml_story_list bannable[] = { ML_STORY_COLOR, ML_STORY_BABY, ML_STORY_GROWNUP };
    *c = (ml_constraints){ 0 };
    describe(p->hero_trait, p->hero_kind, p->hero_is_she, c->protagonist);
    snprintf(c->theme, ML_CONSTRAINT_TEXT, "%s", ml_story_list_word(ML_STORY_THEME, p->theme));
    draw_phrases(rng, p, c);
    if (ml_rng_below(rng, 100) < BANNED_PERCENT) {
        ml_story_list list = bannable[ml_rng_below(rng, sizeof bannable / sizeof bannable[0])];
        size_t i = (size_t)ml_rng_below(rng, ml_story_list_size(list));
        snprintf(c->banned, ML_CONSTRAINT_TEXT, "%s", ml_story_list_word(list, i));
    }
    c->min_sentences = 12 + (int)ml_rng_below(rng, 5);
    c->max_sentences = c->min_sentences + 2 + (int)ml_rng_below(rng, 3);
}

/* ---- stories ---- */

static ml_synth_fault find_fault(const ml_constraint_verdict *v)
{
    if (!v->protagonist) return ML_SYNTH_NO_PROTAGONIST;
    if (!v->required) return ML_SYNTH_NO_PHRASE;
    if (!v->banned) return ML_SYNTH_BANNED;
    return v->sentences ? ML_SYNTH_KEPT : ML_SYNTH_SENTENCES;
}

/* Half of the composed words become one that is spelled almost the same, and half of the others another of the list: as
 * many are composed as before. */
static uint32_t pick_other(ml_rng *rng, ml_story_list list, ml_data_split split, uint32_t word)
{
    if (ml_rng_below(rng, 2)) return pick_protagonist(rng, list, split);
    return word >= ml_story_list_size(list) ? ml_story_word_vary(rng, list, word)
                                            : pick(rng, list, split == ML_SPLIT_VAL);
}

/* Another trait, another kind, or both, of the words of the split: which of two is right must not show without the
 * prompt. */
static void change_protagonist(ml_rng *rng, ml_data_split split, ml_story_plan *p)
{
    uint64_t what = ml_rng_below(rng, 3);
    uint32_t trait = p->hero_trait, kind = p->hero_kind;
    while (what != 0 && (p->hero_trait == trait || p->hero_trait == p->friend_trait)) {
        p->hero_trait = pick_other(rng, ML_STORY_TRAIT, split, trait);
    }
    while (what != 1 && (p->hero_kind == kind || p->hero_kind == p->friend_kind)) {
        p->hero_kind = pick_other(rng, ML_STORY_KIND, split, kind);
    }
}

/* The story of the plan with the wrong protagonist: all else is kept. */
static ml_synth_fault tell_wrong(ml_rng *rng, ml_data_split split, const ml_story_plan *plan, ml_constraint_example *x)
{
    ml_story_plan other = *plan;
    change_protagonist(rng, split, &other);
    ml_story_tell(&other, x->wrong);
    ml_constraint_verdict v = ml_constraints_check(&x->constraints, x->wrong);
    return !v.protagonist && v.required && v.banned ? ML_SYNTH_KEPT : ML_SYNTH_NOT_WRONG;
}

/* Who and what, what is demanded of it, and how it is asked for. */
static const wording *draw_prompt(ml_rng *rng, ml_data_split split, ml_story_plan *plan, ml_constraints *c,
                                  char prompt[ML_PROMPT_MAX])
{
    const wording *w = split == ML_SPLIT_VAL ? asked_in_validation : asked_in_training;
    size_t n = split == ML_SPLIT_VAL ? sizeof asked_in_validation / sizeof *w : sizeof asked_in_training / sizeof *w;
    draw_plan(rng, split, plan);
    draw_constraints(rng, plan, c);
    w += ml_rng_below(rng, n);
    write_prompt(c, w, prompt);
    return w;
}

static ml_rng begin_draw(uint64_t seed, uint64_t index, ml_data_split split, bool pair)
{
    uint64_t use = 2 * (uint64_t)split + pair; /* neither prompts of both splits nor of both uses come twice */
    return ml_rng_make(ml_rng_mix(seed + 0x9e3779b97f4a7c15u) ^ ml_rng_mix(index + 1), 2 + use);
}

void ml_constraint_draw_order(uint64_t seed, uint64_t index, ml_data_split split, bool pair, ml_constraint_order *x)
{
    ml_rng rng = begin_draw(seed, index, split, pair);
    ml_story_plan plan;
    const wording *w = draw_prompt(&rng, split, &plan, &x->constraints, x->prompt);
    change_protagonist(&rng, split, &plan);
    x->wrong = x->constraints;
    describe(plan.hero_trait, plan.hero_kind, plan.hero_is_she, x->wrong.protagonist);
    write_prompt(&x->wrong, w, x->wrong_prompt);
}

ml_synth_fault ml_constraint_draw(uint64_t seed, uint64_t index, ml_data_split split, bool pair,
                                  ml_constraint_example *x)
{
    ml_rng rng = begin_draw(seed, index, split, pair);
    ml_story_plan plan;
    draw_prompt(&rng, split, &plan, &x->constraints, x->prompt);
    /* A wrong protagonist that is told of again and again would teach that it is wrong to keep to what was said. */
    plan.described = !pair;
    ml_synth_fault fault = ML_SYNTH_KEPT;
    *x->wrong = 0;
    for (int i = 0; i < N_TRY; i++) {
        ml_story_tell(&plan, x->story);
        ml_constraint_verdict v = ml_constraints_check(&x->constraints, x->story);
        fault = find_fault(&v);
        if (fault == ML_SYNTH_KEPT && pair) fault = tell_wrong(&rng, split, &plan, x);
        if (fault == ML_SYNTH_KEPT) break;
        plan.wording = ml_rng_u64(&rng);
        plan.detail = (uint8_t)ml_rng_below(&rng, ML_STORY_DETAIL_MAX + 1);
    }
    return fault;
}

/* ---- the file ---- */

static json_t *to_json(const ml_synth_constraints_config *c, uint64_t index, const ml_constraint_example *x)
{
    char id[96];
    ml_constraint_verdict v = ml_constraints_check(&x->constraints, x->story);
    snprintf(id, sizeof id, "%s-%s-%llu-%llu", c->pairs ? "preference" : "constraint", ml_dataset_split_name(c->split),
             (unsigned long long)c->seed, (unsigned long long)index);
    json_t *j = json_pack("{s:s, s:s, s:s}", "id", id, "prompt", x->prompt, c->pairs ? "chosen" : "response", x->story);
    if (!j) return NULL;
    if (c->pairs) json_object_set_new(j, "rejected", json_string(x->wrong));
    json_object_set_new(j, "constraints", ml_constraints_to_json(&x->constraints));
    json_object_set_new(j, "sentence_count", json_integer(v.n_sentence));
    json_object_set_new(j, "sentence_ok", json_boolean(v.sentences));
    json_object_set_new(j, "provenance", json_string("built-in story generator"));
    return j;
}

static ml_status write_example(const ml_synth_constraints_config *c, uint64_t index, const ml_constraint_example *x,
                               ml_file_writer *file, uint64_t *n_bytes, ml_error *err)
{
    json_t *j = to_json(c, index, x);
    char *line = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (!line) return ml_fail_memory(err, sizeof *x, "an example");
    *n_bytes += strlen(line) + 1;
    ml_status status = ml_file_printf(file, err, "%s\n", line);
    free(line);
    return status;
}

ml_status ml_data_synth_constraints(const ml_synth_constraints_config *c, ml_synth_constraints_result *result,
                                    ml_error *err)
{
    ml_file_writer file = { 0 };
    ml_constraint_example x;
    ml_status status;
    memset(result, 0, sizeof *result);
    ML_TRY(ml_file_begin(&file, c->out, err));
    uint64_t n_done = 0;
    for (uint64_t index = 0; n_done < c->n_document; index++) {
        ml_synth_fault fault = ml_constraint_draw(c->seed, index, c->split, c->pairs, &x);
        if (fault != ML_SYNTH_KEPT) {
            result->n_reject[fault]++;
            continue;
        }
        ML_TRY_GOTO(write_example(c, index, &x, &file, &result->n_bytes, err));
        ml_progress_update(c->progress, (double)++n_done, NULL);
        if (n_done < c->n_document && ml_progress_stopped(c->progress)) {
            status = ml_fail(err, ML_ECANCEL, "%s: stopped before it was complete; nothing was written", c->out);
            goto done;
        }
    }
    status = ml_file_commit(&file, err);
done:
    ml_file_abandon(&file);
    return status;
}
