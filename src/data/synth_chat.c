#include "data/synth_chat.h"

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "data/stories.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- what can be said ---- */

enum { N_SAY = 4, N_TRAINED = 3 }; /* the last wording of each is for validation */

/* A kind of fact: ways to say it, to ask for it, and to answer. */
typedef struct {
    const char *say[N_SAY], *ask[N_SAY], *answer[2];
    ml_story_list list[2]; /* its values; the second list goes on where the first ends */
    int n_list;
    size_t first;       /* values of the list before it are none, ... */
    const char *except; /* ... nor is this one, which questions contain */
} fact_kind;

static const fact_kind kinds[] = {
    { { "My name is %s.", "I am called %s.", "I am %s.", "People call me %s." },
      { "What is my name?", "Do you know my name?", "What am I called?", "Can you tell me my name?" },
      { "Your name is %s.", "You are called %s." },
      { ML_STORY_NAME_HE, ML_STORY_NAME_SHE },
      2,
      0,
      NULL },
    { { "My best friend is %s.", "I have a friend called %s.", "My friend is %s.", "I often play with my friend %s." },
      { "Who is my friend?", "What is the name of my friend?", "Do you know my friend?",
        "Who is it that I play with?" },
      { "Your friend is %s.", "It is your friend %s." },
      { ML_STORY_NAME_SHE, ML_STORY_NAME_HE },
      2,
      0,
      NULL },
    { { "I have a dog called %s.", "My dog is called %s.", "I have a dog. Its name is %s.",
        "There is a dog at home, and it is called %s." },
      { "What is my dog called?", "What is the name of my dog?", "Do you know my dog?", "How do I call my dog?" },
      { "Your dog is called %s.", "The name of your dog is %s." },
      { ML_STORY_NAME_HE, ML_STORY_NAME_SHE },
      2,
      0,
      NULL },
    { { "I like the color %s.", "My favorite color is %s.", "The color I love is %s.",
        "The best color is %s, I think." },
      { "Which color do I like?", "What is my favorite color?", "Do you know the color I love?",
        "What color is best for me?" },
      { "You like the color %s.", "Your color is %s." },
      { ML_STORY_COLOR, ML_STORY_COLOR },
      1,
      0,
      NULL },
    { { "I live %s.", "My house is %s.", "My home is %s.", "You can find me %s." },
      { "Where do I live?", "Where is my house?", "Where is my home?", "Where can you find me?" },
      { "You live %s.", "Your home is %s." },
      { ML_STORY_PLACE, ML_STORY_PLACE },
      1,
      0,
      NULL },
    { { "The animal I like best is the %s.", "I like to draw the %s.", "My toy is the %s.",
        "The animal on my shirt is the %s." },
      { "Which animal do I like?", "What do I like to draw?", "What is my toy?", "Which animal is on my shirt?" },
      { "It is the %s.", "That is the %s." },
      { ML_STORY_KIND, ML_STORY_KIND },
      1,
      1, /* the first is the child */
      "dog" },
};
enum { N_KIND = sizeof kinds / sizeof *kinds };

static const char *const hello[] = { "Hello!", "Hi!", "Good day!", "Hey there!" };
static const char *const noted[] = { "Nice to meet you. I will keep that in mind.", "Hello! Thank you for telling me.",
                                     "How nice! I will not forget it.", "That is good to know." };
static const char *const thanks[] = { "Thank you.", "That is kind of you.", "Good.", "I am glad." };
static const char *const welcome[] = { "You are welcome.", "What else can I do for you?", "I am happy to help." };
static const char *const systems[] = { "You are a kind helper.", "You listen well and answer in one sentence.",
                                       "You are a friend of children.", "You remember what you are told." };

/* ---- drawing ---- */

static size_t count_values(const fact_kind *k)
{
    size_t n = 0;
    for (int i = 0; i < k->n_list; i++) n += ml_story_list_size(k->list[i]);
    return n - k->first - (k->except != NULL);
}

/* Every fifth word of a list, the same whatever it is the name of. */
static bool is_held_out(const fact_kind *k, size_t i)
{
    size_t n = ml_story_list_size(k->list[0]);
    return (i < n ? i : i - n) % 5 == 4;
}

static const char *draw_value(ml_rng *rng, const fact_kind *k, bool held_out)
{
    size_t i, n = ml_story_list_size(k->list[0]), n_all = count_values(k) + (k->except != NULL);
    const char *value;
    do {
        i = k->first + (size_t)ml_rng_below(rng, n_all);
        value = i < n ? ml_story_list_word(k->list[0], i) : ml_story_list_word(k->list[1], i - n);
    } while (is_held_out(k, i) != held_out || (k->except && strcmp(value, k->except) == 0));
    return value;
}

/* One of n wordings, of which the last is for validation alone. */
static size_t draw_wording(ml_rng *rng, size_t n, ml_data_split split)
{
    return split == ML_SPLIT_VAL ? n - 1 : (size_t)ml_rng_below(rng, n - 1);
}

#define DRAW(rng, list, split) list[draw_wording(rng, sizeof list / sizeof *list, split)]

static void add(char text[ML_CHAT_TEXT], const char *format, const char *value)
{
    size_t n = strlen(text);
    assert(n + strlen(format) + strlen(value) + 2 < ML_CHAT_TEXT); /* texts are ours; a test draws many */
    if (n) text[n++] = ' ';
    snprintf(text + n, ML_CHAT_TEXT - n, format, value);
}

typedef struct {
    const fact_kind *kind;
    const char *value;
    bool held_out;
    size_t wording; /* asked as it was said: a toy is not a drawing */
} said;

static void ask(ml_rng *rng, const said *s, size_t message, ml_chat_example *x)
{
    const fact_kind *k = s->kind;
    add(x->text[message], "%s", k->ask[s->wording]);
    add(x->text[message + 1], k->answer[ml_rng_below(rng, 2)], s->value);
    x->fact[x->n_fact] = (ml_chat_fact){ .message = message + 1, .among = count_values(k), .held_out = s->held_out };
    snprintf(x->fact[x->n_fact++].value, sizeof x->fact->value, "%s", s->value);
    if (x->n_message < message + 2) x->n_message = message + 2;
}

static void say_two(ml_rng *rng, ml_data_split split, said s[2], char text[ML_CHAT_TEXT])
{
    size_t a = (size_t)ml_rng_below(rng, N_KIND), b;
    do b = (size_t)ml_rng_below(rng, N_KIND);
    while (b == a);
    for (int i = 0; i < 2; i++) {
        s[i].kind = &kinds[i ? b : a];
        s[i].wording = split == ML_SPLIT_VAL ? N_TRAINED : (size_t)ml_rng_below(rng, N_TRAINED);
        s[i].held_out = split == ML_SPLIT_VAL && ml_rng_below(rng, 2);
        do s[i].value = draw_value(rng, s[i].kind, s[i].held_out);
        while (i == 1 && strcmp(s[0].value, s[1].value) == 0);
        add(text, s[i].kind->say[s[i].wording], s[i].value);
    }
}

void ml_chat_draw(uint64_t seed, uint64_t index, ml_data_split split, bool single, ml_chat_example *x)
{
    uint64_t use = 2 * (uint64_t)split + single;
    ml_rng rng = ml_rng_make(ml_rng_mix(seed + 0x9e3779b97f4a7c15u) ^ ml_rng_mix(index + 1), 16 + use);
    said s[2];
    *x = (ml_chat_example){ .has_system = ml_rng_below(&rng, 2) };
    if (x->has_system) add(x->text[0], "%s", DRAW(&rng, systems, split));
    size_t at = x->has_system;
    if (ml_rng_below(&rng, 2)) add(x->text[at], "%s", DRAW(&rng, hello, split));
    say_two(&rng, split, s, x->text[at]);
    size_t first = (size_t)ml_rng_below(&rng, 2);
    if (single) {
        ask(&rng, &s[first], at, x);
        return;
    }
    add(x->text[at + 1], "%s", DRAW(&rng, noted, split));
    at += 2;
    if (ml_rng_below(&rng, 4) == 0) {
        add(x->text[at], "%s", DRAW(&rng, thanks, split));
        add(x->text[at + 1], "%s", welcome[ml_rng_below(&rng, sizeof welcome / sizeof *welcome)]);
        at += 2;
    }
    ask(&rng, &s[first], at, x);
    if (ml_rng_below(&rng, 2)) ask(&rng, &s[1 - first], at + 2, x);
}

const char *ml_chat_example_role(const ml_chat_example *x, size_t message)
{
    if (x->has_system && message == 0) return "system";
    return (message - x->has_system) % 2 ? "assistant" : "user";
}

/* ---- the file ---- */

static json_t *to_json(const ml_synth_chat_config *c, uint64_t index, const ml_chat_example *x)
{
    char id[96];
    json_t *messages = json_array(), *facts = json_array();
    snprintf(id, sizeof id, "%s-%s-%llu-%llu", c->single ? "question" : "chat", ml_dataset_split_name(c->split),
             (unsigned long long)c->seed, (unsigned long long)index);
    for (size_t i = 0; i < x->n_message; i++) {
        json_array_append_new(messages,
                              json_pack("{s:s, s:s}", "role", ml_chat_example_role(x, i), "content", x->text[i]));
    }
    for (size_t i = 0; i < x->n_fact; i++) {
        const ml_chat_fact *f = &x->fact[i];
        json_array_append_new(facts, json_pack("{s:I, s:s, s:I, s:b}", "message", (json_int_t)f->message, "value",
                                               f->value, "among", (json_int_t)f->among, "held_out", f->held_out));
    }
    return json_pack("{s:s, s:o, s:o, s:s}", "id", id, "messages", messages, "facts", facts, "provenance",
                     "built-in conversations");
}

static ml_status write_example(const ml_synth_chat_config *c, uint64_t index, ml_file_writer *file, uint64_t *n_bytes,
                               ml_error *err)
{
    ml_chat_example x;
    ml_chat_draw(c->seed, index, c->split, c->single, &x);
    json_t *j = to_json(c, index, &x);
    char *line = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (!line) return ml_fail_memory(err, sizeof x, "a conversation");
    *n_bytes += strlen(line) + 1;
    ml_status status = ml_file_printf(file, err, "%s\n", line);
    free(line);
    return status;
}

ml_status ml_data_synth_chat(const ml_synth_chat_config *c, uint64_t *n_bytes, ml_error *err)
{
    ml_file_writer file = { 0 };
    *n_bytes = 0;
    ML_TRY(ml_file_begin(&file, c->out, err));
    ml_status status = ML_OK;
    for (uint64_t i = 0; i < c->n_document && status == ML_OK; i++) {
        status = write_example(c, i, &file, n_bytes, err);
        if (i % 256 == 0) ml_progress_update(c->progress, (double)i, NULL);
        if (status == ML_OK && ml_progress_stopped(c->progress))
            status = ml_fail(err, ML_ECANCEL, "%s: stopped before it was complete; nothing was written", c->out);
    }
    if (status == ML_OK) status = ml_file_commit(&file, err);
    ml_file_abandon(&file);
    return status;
}
