/* The tables behind stories.h: words, and the beats of each theme. */
#ifndef ML_DATA_STORY_WORDS_H
#define ML_DATA_STORY_WORDS_H

#include <stddef.h>

typedef struct {
    const char *const *word;
    size_t n;
} ml_story_words;

extern const ml_story_words ml_story_names_he, ml_story_names_she, ml_story_kinds, ml_story_traits, ml_story_grownups,
    ml_story_places, ml_story_colors, ml_story_babies;
/* A composed name, kind or trait is onset, vowel, middle, link and ending.  The first onset, link and ending of kinds
 * and traits is none. */
extern const ml_story_words ml_story_name_onsets, ml_story_name_vowels, ml_story_name_middles, ml_story_name_links,
    ml_story_ends_he, ml_story_ends_she;
extern const ml_story_words ml_story_word_onsets, ml_story_word_vowels, ml_story_word_middles, ml_story_word_links,
    ml_story_kind_ends, ml_story_trait_ends;

enum { ML_STORY_N_COMMON = 40 }; /* kinds, traits: the first are words of the plots too, so none of them is held out */
enum { ML_STORY_N_COLUMN = 4, ML_STORY_N_BEAT = 12 };

/* What a theme is about, in the forms its beats need ({0} .. {3}). */
typedef struct {
    const char *column[ML_STORY_N_COLUMN];
} ml_story_subject_row;

/* Beats are templates:
 *   [a|b|c]  one of the alternatives, which may be empty and may nest
 *   {N}      the value of a key; keys are listed in stories.c.  {a key} puts "a" or "an" before it
 *   <...>    a detail: left out of short tellings
 * A beat that begins with '/' opens a paragraph.  A template writes its own capital letters. */
typedef struct {
    const char *name;
    const ml_story_subject_row *subject;
    size_t n_subject;
    const char *beat[ML_STORY_N_BEAT]; /* NULL after the last */
} ml_story_theme;

extern const ml_story_theme ml_story_themes[];
extern const size_t ml_story_n_theme;
/* Alternatives that every theme shares: {announce} says before the story what comes in it, {open} and {meet} name hero,
 * friend and place, {day} begins the action. */
extern const char ml_story_announce[], ml_story_open[], ml_story_meet[], ml_story_day[], ml_story_end[];

#endif
