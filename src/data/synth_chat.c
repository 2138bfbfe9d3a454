#include "data/synth_chat.h"

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "data/stories.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- what can be said ---- */

/* Ways to put something, in an array of N_WORDING: the last N_OWN are validation's, the others training's. */
enum { N_WORDING = 13, N_OWN = 3 };

/* A kind of fact: ways to say it, to ask for it, and to answer. */
typedef struct {
    const char *say[N_WORDING], *ask[N_WORDING], *answer[2];
    ml_story_list list[2]; /* its values; the second list goes on where the first ends */
    int n_list;
    size_t first;       /* values of the list before it are none, ... */
    const char *except; /* ... nor is this one, which questions contain */
} fact_kind;

static const fact_kind kinds[] = {
    { { "My name is %s.", "I am called %s.", "I am %s.", "You can call me %s.", "My friends call me %s.",
        "%s is my name.", "Mom calls me %s.", "The name I have is %s.", "It is me, %s.", "My own name is %s.",
        "People call me %s.", "They all call me %s.", "%s is what I am called." },
      { "What is my name?", "Do you know my name?", "What am I called?", "Tell me my name.", "Who am I?",
        "What was my name?", "Which name do I have?", "Say my name.", "What do my friends call me?",
        "Do you still know what I am called?", "Can you tell me my name?", "Do you remember my name?",
        "What do people call me?" },
      { "Your name is %s.", "You are called %s." },
      { ML_STORY_NAME_HE, ML_STORY_NAME_SHE },
      2,
      0,
      NULL },
    { { "My best friend is %s.", "I have a friend called %s.", "My friend is %s.", "I play with my friend %s.",
        "%s is my friend.", "The name of my friend is %s.", "I like my friend %s.", "%s is a good friend of mine.",
        "I went out with my friend %s.", "My friend next door is called %s.", "I often play with my friend %s.",
        "I have a good friend, %s.", "My dear friend is named %s." },
      { "Who is my friend?", "What is the name of my friend?", "Do you know my friend?", "What is my friend called?",
        "Tell me who my friend is.", "Who is my best friend?", "What was the name of my friend?",
        "Which friend do I have?", "Who is it that is my friend?", "Do you still know my friend?",
        "Can you tell me who my friend is?", "Do you remember my friend?", "What is the name that my friend has?" },
      { "Your friend is %s.", "It is your friend %s." },
      { ML_STORY_NAME_SHE, ML_STORY_NAME_HE },
      2,
      0,
      NULL },
    { { "I have a dog called %s.", "My dog is called %s.", "I have a dog. Its name is %s.", "The name of my dog is %s.",
        "%s is my dog.", "My dog is %s.", "I go out with my dog %s.", "I call my dog %s.", "We have a dog, %s.",
        "At home there is my dog %s.", "There is a dog at home, and it is called %s.", "I like my dog %s.",
        "My little dog is named %s." },
      { "What is my dog called?", "What is the name of my dog?", "Do you know my dog?", "What do I call my dog?",
        "Tell me the name of my dog.", "Who is my dog?", "What was the name of my dog?", "Which name does my dog have?",
        "Tell me what my dog is called.", "Do you still know my dog?", "Can you tell me the name of my dog?",
        "Do you remember my dog?", "What is the name that my dog has?" },
      { "Your dog is called %s.", "The name of your dog is %s." },
      { ML_STORY_NAME_HE, ML_STORY_NAME_SHE },
      2,
      0,
      NULL },
    { { "I like the color %s.", "My favorite color is %s.", "The color I love is %s.", "My color is %s.",
        "The color %s is mine.", "The color for me is %s.", "I love the color %s.", "Of all colors I like %s.",
        "The color I like is %s.", "I like all that is %s in color.", "The best color is %s, I think.",
        "The color that I like best is %s.", "The color %s is best of all." },
      { "Which color do I like?", "What is my favorite color?", "Do you know the color I love?", "What is my color?",
        "Tell me my color.", "What was the color I like?", "Which color is mine?", "Which color do I love?",
        "What color do I like best?", "Do you still know my color?", "Can you tell me my color?",
        "Do you remember the color I like?", "What color is best for me?" },
      { "You like the color %s.", "Your color is %s." },
      { ML_STORY_COLOR, ML_STORY_COLOR },
      1,
      0,
      NULL },
    { { "I live %s.", "My house is %s.", "My home is %s.", "I have a house %s.", "My family lives %s.", "We live %s.",
        "The house of my family is %s.", "I have my home %s.", "I live in a house %s.", "My place is %s.",
        "You can find me %s.", "The home I have is %s.", "I live with Mom %s." },
      { "Where do I live?", "Where is my house?", "Where is my home?", "Do you know where I live?",
        "Tell me where I live.", "Where do we live?", "Where was my house?", "Where does my family live?",
        "Do you still know where my home is?", "Where am I at home?", "Where can you find me?",
        "Can you tell me where I live?", "Do you remember where my house is?" },
      { "You live %s.", "Your home is %s." },
      { ML_STORY_PLACE, ML_STORY_PLACE },
      1,
      0,
      NULL },
    { { "The animal I like best is the %s.", "I like the %s.", "My favorite animal is the %s.",
        "The animal I love is the %s.", "Of all animals I like the %s.", "My animal is the %s.", "The %s is my animal.",
        "The best animal is the %s.", "I love the %s more than other animals.", "The animal for me is the %s.",
        "No animal is as good as the %s.", "The %s is the animal I love.", "I think the best animal is the %s." },
      { "Which animal do I like?", "What is my favorite animal?", "Do you know the animal I love?",
        "What is my animal?", "Tell me my animal.", "What was the animal I like?", "Which animal is mine?",
        "Which animal do I love?", "What animal do I like best?", "Do you still know my animal?",
        "Can you tell me my animal?", "Do you remember the animal I like?", "What animal is best for me?" },
      { "Your animal is the %s.", "You like the %s." },
      { ML_STORY_KIND, ML_STORY_KIND },
      1,
      1, /* the first is the child */
      "dog" },
};
enum { N_KIND = sizeof kinds / sizeof *kinds };

/* What the user says beside his facts; again the last of each are validation's. */
enum { N_SMALL = 8, N_SMALL_OWN = 2 };
static const char *const hello[N_SMALL] = { "Hello!",        "Hi!",        "Good day!",  "Hello to you!",
                                            "Good morning!", "Hi, hello!", "Hey there!", "Good evening!" };
static const char *const thanks[N_SMALL] = { "Thank you.",           "That is kind of you.", "Good.",
                                             "Thank you very much.", "That is good.",        "You are kind.",
                                             "I am glad.",           "Well, thank you." };
static const char *const systems[N_SMALL] = { "You are a kind helper.",
                                              "You listen well and answer in one sentence.",
                                              "You are a friend of children.",
                                              "You know what you are told.",
                                              "You help and answer.",
                                              "You are kind and know a lot.",
                                              "You remember what you are told.",
                                              "You are a good helper of children." };
/* What the assistant says, the same in both splits: its ways are what is learned. */
static const char *const noted[] = { "Nice to meet you. I will keep that in mind.", "Hello! Thank you for telling me.",
                                     "How nice! I will not forget it.", "That is good to know." };
static const char *const welcome[] = { "You are welcome.", "What else can I do for you?", "I am happy to help." };
#define SOME(rng, list) list[ml_rng_below(rng, sizeof list / sizeof *list)]

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

/* One of n wordings, of which the last n_own are for validation alone. */
static size_t draw_wording(ml_rng *rng, size_t n, size_t n_own, ml_data_split split)
{
    if (split == ML_SPLIT_VAL) return n - n_own + (size_t)ml_rng_below(rng, n_own);
    return (size_t)ml_rng_below(rng, n - n_own);
}

static const char *draw_small(ml_rng *rng, const char *const list[N_SMALL], ml_data_split split)
{
    return list[draw_wording(rng, N_SMALL, N_SMALL_OWN, split)];
}

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
} said;

static void ask(ml_rng *rng, const said *s, size_t message, ml_data_split split, ml_chat_example *x)
{
    const fact_kind *k = s->kind;
    add(x->text[message], "%s", k->ask[draw_wording(rng, N_WORDING, N_OWN, split)]);
    add(x->text[message + 1], SOME(rng, k->answer), s->value);
    x->fact[x->n_fact] = (ml_chat_fact){ .message = message + 1, .among = count_values(k), .held_out = s->held_out };
    snprintf(x->fact[x->n_fact++].value, sizeof x->fact->value, "%s", s->value);
    if (x->n_message < message + 2) x->n_message = message + 2;
}

/* One fact, or two of different kinds.  Returns how many. */
static size_t say(ml_rng *rng, ml_data_split split, said s[2], char text[ML_CHAT_TEXT])
{
    size_t n = 1 + (size_t)ml_rng_below(rng, 2), a = (size_t)ml_rng_below(rng, N_KIND), b;
    do b = (size_t)ml_rng_below(rng, N_KIND);
    while (b == a);
    for (size_t i = 0; i < n; i++) {
        s[i].kind = &kinds[i ? b : a];
        s[i].held_out = split == ML_SPLIT_VAL && ml_rng_below(rng, 2);
        do s[i].value = draw_value(rng, s[i].kind, s[i].held_out);
        while (i == 1 && strcmp(s[0].value, s[1].value) == 0);
        add(text, s[i].kind->say[draw_wording(rng, N_WORDING, N_OWN, split)], s[i].value);
    }
    return n;
}

void ml_chat_draw(uint64_t seed, uint64_t index, ml_data_split split, bool single, ml_chat_example *x)
{
    uint64_t use = 2 * (uint64_t)split + single;
    ml_rng rng = ml_rng_make(ml_rng_mix(seed + 0x9e3779b97f4a7c15u) ^ ml_rng_mix(index + 1), 16 + use);
    said s[2];
    *x = (ml_chat_example){ .has_system = ml_rng_below(&rng, 2) };
    if (x->has_system) add(x->text[0], "%s", draw_small(&rng, systems, split));
    size_t at = x->has_system;
    if (ml_rng_below(&rng, 2)) add(x->text[at], "%s", draw_small(&rng, hello, split));
    size_t n = say(&rng, split, s, x->text[at]), first = (size_t)ml_rng_below(&rng, n);
    if (single) {
        ask(&rng, &s[first], at, split, x);
        return;
    }
    add(x->text[at + 1], "%s", SOME(&rng, noted));
    at += 2;
    if (ml_rng_below(&rng, 4) == 0) {
        add(x->text[at], "%s", draw_small(&rng, thanks, split));
        add(x->text[at + 1], "%s", SOME(&rng, welcome));
        at += 2;
    }
    ask(&rng, &s[first], at, split, x);
    if (n == 2 && ml_rng_below(&rng, 2)) ask(&rng, &s[1 - first], at + 2, split, x);
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
        if (i % 256 == 255 || i + 1 == c->n_document) ml_progress_update(c->progress, (double)(i + 1), NULL);
        if (status == ML_OK && ml_progress_stopped(c->progress))
            status = ml_fail(err, ML_ECANCEL, "%s: stopped before it was complete; nothing was written", c->out);
    }
    if (status == ML_OK) status = ml_file_commit(&file, err);
    ml_file_abandon(&file);
    return status;
}
