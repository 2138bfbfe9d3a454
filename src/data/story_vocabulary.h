/* Words of the stories (stories.h): lists, and composed words that nobody has. */
#ifndef ML_DATA_STORY_VOCABULARY_H
#define ML_DATA_STORY_VOCABULARY_H

#include "base/rng.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ML_STORY_NAME_MAX = 20 }; /* bytes of the longest name, kind or trait with its final 0 */

/* Word lists; each is an index of ml_story_plan. */
typedef enum {
    ML_STORY_THEME = 0, /* "sharing", ...: what the story teaches */
    ML_STORY_NAME_HE,
    ML_STORY_NAME_SHE,
    ML_STORY_KIND, /* "rabbit"; the first is the child: "boy" or "girl" */
    ML_STORY_TRAIT,
    ML_STORY_GROWNUP,
    ML_STORY_PLACE,
    ML_STORY_COLOR,
    ML_STORY_BABY, /* small animals that need help */
    ML_STORY_N_LIST,
} ml_story_list;

size_t ml_story_list_size(ml_story_list list);
/* A word as the stories write it; a place with its preposition ("in the forest"). */
const char *ml_story_list_word(ml_story_list list, size_t i);
/* Whether word i is kept out of all plans that are drawn: kinds and traits only; a fifth of those that no plot uses. */
bool ml_story_is_held_out(ml_story_list list, size_t i);

/* Kinds and traits go on after their list with composed ones ("stoarock", "flundish"): words that nobody has. */
uint32_t ml_story_n_word(ml_story_list kind_or_trait);
void ml_story_word(ml_story_list kind_or_trait, uint32_t i, char out[ML_STORY_NAME_MAX]);
/* A composed one of four letters or more that is no word of a list.  One in six begins with a vowel; they have two to
 * five syllables or, with neither link nor ending, one, so that length tells nothing.  Few come twice. */
uint32_t ml_story_word_compose(ml_rng *rng, ml_story_list kind_or_trait);
/* A composed one that differs in one part from i, which is composed. */
uint32_t ml_story_word_vary(ml_rng *rng, ml_story_list kind_or_trait, uint32_t i);

/* Names, those of the list ML_STORY_NAME_SHE or _HE first and then composed ones, in capitals as stories write them. */
uint32_t ml_story_n_name(bool she);
void ml_story_name(bool she, uint32_t i, char out[ML_STORY_NAME_MAX]);
/* A fifth of the composed ones. */
bool ml_story_name_is_held_out(bool she, uint32_t i);
/* One name that is held out or, three times in four, a composed one that is not. */
uint32_t ml_story_name_draw(ml_rng *rng, bool she, bool held_out);

#endif
