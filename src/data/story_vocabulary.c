#include "data/story_vocabulary.h"

#include "data/story_words.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- lists ---- */

static const ml_story_words *list_words(ml_story_list list)
{
    switch (list) {
    case ML_STORY_NAME_HE: return &ml_story_names_he;
    case ML_STORY_NAME_SHE: return &ml_story_names_she;
    case ML_STORY_KIND: return &ml_story_kinds;
    case ML_STORY_TRAIT: return &ml_story_traits;
    case ML_STORY_GROWNUP: return &ml_story_grownups;
    case ML_STORY_PLACE: return &ml_story_places;
    case ML_STORY_COLOR: return &ml_story_colors;
    case ML_STORY_BABY: return &ml_story_babies;
    default: return NULL;
    }
}

size_t ml_story_list_size(ml_story_list list)
{
    return list == ML_STORY_THEME ? ml_story_n_theme : list_words(list)->n;
}

const char *ml_story_list_word(ml_story_list list, size_t i)
{
    assert(i < ml_story_list_size(list));
    return list == ML_STORY_THEME ? ml_story_themes[i].name : list_words(list)->word[i];
}

/* Every fifth, but in no order that a word's place could tell; another choice for each `list`. */
static bool is_fifth(uint64_t list, uint64_t i)
{
    return ml_rng_mix(list << 32 | i) % 5 == 0;
}

bool ml_story_is_held_out(ml_story_list list, size_t i)
{
    return (list == ML_STORY_KIND || list == ML_STORY_TRAIT) && i >= ML_STORY_N_COMMON && is_fifth(list, i);
}

/* ---- lists and composed words ---- */

static ml_story_list names_of(bool she)
{
    return she ? ML_STORY_NAME_SHE : ML_STORY_NAME_HE;
}

enum { ONSET, VOWEL, MIDDLE, LINK, END, N_PART };

/* What words behind the list are composed of. */
static void get_parts(ml_story_list list, const ml_story_words *part[N_PART])
{
    bool name = list == ML_STORY_NAME_HE || list == ML_STORY_NAME_SHE;
    part[ONSET] = name ? &ml_story_name_onsets : &ml_story_word_onsets;
    part[VOWEL] = name ? &ml_story_name_vowels : &ml_story_word_vowels;
    part[MIDDLE] = name ? &ml_story_name_middles : &ml_story_word_middles;
    part[LINK] = name ? &ml_story_name_links : &ml_story_word_links;
    switch (list) {
    case ML_STORY_NAME_HE: part[END] = &ml_story_ends_he; return;
    case ML_STORY_NAME_SHE: part[END] = &ml_story_ends_she; return;
    case ML_STORY_KIND: part[END] = &ml_story_kind_ends; return;
    case ML_STORY_TRAIT: part[END] = &ml_story_trait_ends; return;
    default: abort(); /* no words of other lists are composed */
    }
}

static uint32_t count_composed(ml_story_list list)
{
    const ml_story_words *part[N_PART];
    size_t n = 1;
    get_parts(list, part);
    for (size_t k = 0; k < N_PART; k++) n *= part[k]->n;
    return (uint32_t)n;
}

/* Word i of the list or, behind it, a composed one. */
static void write_word(ml_story_list list, uint32_t i, char out[ML_STORY_NAME_MAX])
{
    const ml_story_words *part[N_PART];
    uint32_t n = (uint32_t)ml_story_list_size(list);
    get_parts(list, part);
    assert(i < n + count_composed(list));
    *out = 0;
    if (i < n) {
        assert(strlen(ml_story_list_word(list, i)) < ML_STORY_NAME_MAX);
        strcpy(out, ml_story_list_word(list, i));
        return;
    }
    i -= n;
    for (size_t k = 0; k < N_PART; k++) {
        assert(strlen(out) + strlen(part[k]->word[i % part[k]->n]) < ML_STORY_NAME_MAX);
        strcat(out, part[k]->word[i % part[k]->n]);
        i /= (uint32_t)part[k]->n;
    }
}

uint32_t ml_story_n_name(bool she)
{
    return (uint32_t)ml_story_list_size(names_of(she)) + count_composed(names_of(she));
}

void ml_story_name(bool she, uint32_t i, char out[ML_STORY_NAME_MAX])
{
    write_word(names_of(she), i, out);
}

uint32_t ml_story_n_word(ml_story_list list)
{
    return (uint32_t)ml_story_list_size(list) + count_composed(list);
}

void ml_story_word(ml_story_list list, uint32_t i, char out[ML_STORY_NAME_MAX])
{
    write_word(list, i, out);
}

static bool is_in_list(ml_story_list list, const char *word)
{
    for (size_t k = 0; k < ml_story_list_size(list); k++) {
        if (strcmp(word, ml_story_list_word(list, k)) == 0) return true;
    }
    return false;
}

/* "marmot", "copper" and "red" can be composed too: the first two may be held out, the third forbidden. */
static bool is_taken(ml_story_list list, uint32_t i)
{
    char word[ML_STORY_NAME_MAX];
    ml_story_word(list, i, word);
    if (strlen(word) < 4) return true; /* "an", "all" */
    for (ml_story_list other = ML_STORY_KIND; other < ML_STORY_N_LIST; other++) {
        if (is_in_list(other, word)) return true;
    }
    return false;
}

/* A part that may be none is it one time in so many; elsewhere all have the same chance. */
static uint32_t draw_composed(ml_rng *rng, const ml_story_words *const part[N_PART])
{
    static const uint64_t none[N_PART] = { [ONSET] = 6, [LINK] = 2, [END] = 4 };
    uint32_t i = 0, step = 1;
    for (size_t k = 0; k < N_PART; k++) {
        bool is_none = none[k] && ml_rng_below(rng, none[k]) == 0;
        if (!is_none) i += step * (uint32_t)ml_rng_below(rng, part[k]->n);
        step *= (uint32_t)part[k]->n;
    }
    return i;
}

uint32_t ml_story_word_compose(ml_rng *rng, ml_story_list list)
{
    const ml_story_words *part[N_PART];
    uint32_t i, n = (uint32_t)ml_story_list_size(list);
    get_parts(list, part);
    do i = n + draw_composed(rng, part);
    while (is_taken(list, i));
    return i;
}

uint32_t ml_story_word_vary(ml_rng *rng, ml_story_list list, uint32_t i)
{
    const ml_story_words *part[N_PART];
    uint32_t first = (uint32_t)ml_story_list_size(list), other;
    get_parts(list, part);
    assert(i >= first);
    do {
        uint32_t step = 1; /* from one word to that with the next part */
        size_t k = (size_t)ml_rng_below(rng, N_PART);
        for (size_t j = 0; j < k; j++) step *= (uint32_t)part[j]->n;
        uint32_t now = (i - first) / step % (uint32_t)part[k]->n;
        other = i - now * step + (uint32_t)ml_rng_below(rng, part[k]->n) * step;
    } while (other == i || is_taken(list, other));
    return other;
}

bool ml_story_name_is_held_out(bool she, uint32_t i)
{
    return i >= ml_story_list_size(names_of(she)) && is_fifth(names_of(she), i);
}

uint32_t ml_story_name_draw(ml_rng *rng, bool she, bool held_out)
{
    uint32_t i, n = (uint32_t)ml_story_list_size(names_of(she));
    if (!held_out && ml_rng_below(rng, 4) == 0) return (uint32_t)ml_rng_below(rng, n);
    do i = n + (uint32_t)ml_rng_below(rng, count_composed(names_of(she)));
    while (ml_story_name_is_held_out(she, i) != held_out);
    return i;
}
