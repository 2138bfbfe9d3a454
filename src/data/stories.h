/* Children's stories in simple English, from a grammar of our own: text to learn from that needs no download.
 *
 * A story is a plan and its telling.  The plan says who and what: theme, hero, friend, grown-up, place, and the
 * subject of the theme (which toy is lost, which skill is learnt).  The telling walks the theme's beats (opening,
 * wish, trouble, help, ending) and picks a wording of each with a generator seeded by the plan.  Story `index` of
 * `seed` is always the same text, and any index can be made at once, so threads need not follow one another.
 *
 * Hero and friend have different pronouns, so "he" and "she" never leave a doubt; a grown-up is never a pronoun.
 *
 * Three names in four are composed ("Brenna", "Twilor"): there are so many that few come twice, and whoever tells the
 * story on has to look the name up.  Half of the stories begin with a line that says what comes in them, which they
 * then keep; three in four of their kinds and traits are composed too ("a flundish stoarock").  A fifth of the kinds
 * and traits of the lists and of the composed names are held out: no plan that is drawn has them.
 *
 * How many stories: every telling contains, word for word, the hero's trait, kind and name, the friend's trait, kind
 * and name, the place and the subject.  Plans that differ in one of them are different texts (but for the few
 * composed words that can be composed in two ways), so the number of plans of a theme bounds its number of stories from
 * below, wordings not counted (ml_story_count_plans; more than 10^19 for every theme). */
#ifndef ML_DATA_STORIES_H
#define ML_DATA_STORIES_H

#include "data/story_vocabulary.h"

enum {
    ML_STORY_MAX = 4096, /* bytes of the longest story with its final 0 */
    ML_STORY_SENTENCES = 20,
    ML_STORY_DETAIL_MAX = 2,
};

/* Subjects of a theme, and the words by which subject i shows in the story. */
size_t ml_story_n_subject(size_t theme);
const char *ml_story_subject(size_t theme, size_t i);

typedef struct {
    uint16_t theme, subject;         /* subject: of the theme */
    uint8_t hero_is_she;             /* the friend is then he, and the other way round */
    uint8_t announced;               /* it begins with what comes in it */
    uint8_t described;               /* "the kind owl" now and then stands for its name */
    uint32_t hero_name, friend_name; /* below ml_story_n_name of their pronoun */
    uint32_t hero_kind, hero_trait;  /* below ml_story_n_word */
    uint32_t friend_kind, friend_trait;
    uint16_t grownup, place, color, baby;
    uint8_t detail;   /* 0 .. ML_STORY_DETAIL_MAX: how much of what the plot can do without is told */
    uint64_t wording; /* seeds the choice among wordings */
} ml_story_plan;

/* The plan of story `index` of `seed`. */
void ml_story_plan_draw(uint64_t seed, uint64_t index, ml_story_plan *plan);
/* Tell it: plain text without a final newline; paragraphs are split by one newline.  Returns the length.  A telling of
 * more than ML_STORY_SENTENCES sentences is told again in other words, at last without details.  Every
 * index must be in its list (or, of names, kinds and traits, a composed one) and the two kinds (unless both are the
 * child) and traits differ. */
size_t ml_story_tell(const ml_story_plan *plan, char out[ML_STORY_MAX]);
/* Sentences end in . ! or ?, perhaps with a quotation mark, before a capital letter, a quotation mark or the end:
 * "Stop!" said Tom.  is one. */
int ml_story_count_sentences(const char *text);
/* Plans of one theme that can be drawn, with composed names but no composed kinds and traits, not counting color, baby,
 * grown-up, detail, announcement and wording. */
double ml_story_count_plans(size_t theme);

#endif
