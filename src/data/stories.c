#include "data/stories.h"

#include "base/rng.h"
#include "data/story_words.h"

#include <assert.h>
#include <ctype.h>
#include <stdbool.h>
#include <string.h>

/* ---- tables ---- */

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

size_t ml_story_n_subject(size_t theme)
{
    assert(theme < ml_story_n_theme);
    return ml_story_themes[theme].n_subject;
}

const char *ml_story_subject(size_t theme, size_t i)
{
    assert(i < ml_story_n_subject(theme));
    return ml_story_themes[theme].subject[i].column[0];
}

uint64_t ml_story_count_plans(size_t theme)
{
    uint64_t names = ml_story_names_he.n * ml_story_names_she.n;
    uint64_t kinds = ml_story_kinds.n * ml_story_kinds.n - (ml_story_kinds.n - 1);
    uint64_t traits = ml_story_traits.n * (ml_story_traits.n - 1);
    /* hero he and friend she, or the other way round */
    return 2 * names * kinds * traits * ml_story_places.n * ml_story_n_subject(theme);
}

/* ---- plan ---- */

static uint16_t pick(ml_rng *rng, size_t n)
{
    return (uint16_t)ml_rng_below(rng, n);
}

static uint16_t pick_other(ml_rng *rng, size_t n, uint16_t taken)
{
    uint16_t i = pick(rng, n - 1);
    return (uint16_t)(i < taken ? i : i + 1);
}

/* A third of all characters are children, the rest animals. */
static uint16_t pick_kind(ml_rng *rng)
{
    return (uint16_t)(ml_rng_below(rng, 3) == 0 ? 0 : 1 + ml_rng_below(rng, ml_story_kinds.n - 1));
}

void ml_story_plan_draw(uint64_t seed, uint64_t index, ml_story_plan *plan)
{
    ml_rng rng = ml_rng_make(ml_rng_mix(seed + 0x9e3779b97f4a7c15u) ^ ml_rng_mix(index + 1), 0);
    memset(plan, 0, sizeof *plan);
    plan->theme = pick(&rng, ml_story_n_theme);
    plan->subject = pick(&rng, ml_story_n_subject(plan->theme));
    plan->hero_is_she = (uint8_t)(ml_rng_u32(&rng) & 1);
    const ml_story_words *hero = plan->hero_is_she ? &ml_story_names_she : &ml_story_names_he;
    const ml_story_words *friend = plan->hero_is_she ? &ml_story_names_he : &ml_story_names_she;
    plan->hero_name = pick(&rng, hero->n);
    plan->friend_name = pick(&rng, friend->n);
    plan->hero_kind = pick_kind(&rng);
    do plan->friend_kind = pick_kind(&rng);
    while (plan->friend_kind && plan->friend_kind == plan->hero_kind);
    plan->hero_trait = pick(&rng, ml_story_traits.n);
    plan->friend_trait = pick_other(&rng, ml_story_traits.n, plan->hero_trait);
    plan->grownup = pick(&rng, ml_story_grownups.n);
    plan->place = pick(&rng, ml_story_places.n);
    plan->color = pick(&rng, ml_story_colors.n);
    plan->baby = pick(&rng, ml_story_babies.n);
    plan->detail = (uint8_t)pick(&rng, ML_STORY_DETAIL_MAX + 1);
    plan->wording = ml_rng_u64(&rng);
}

/* ---- telling ---- */

typedef struct {
    const ml_story_plan *plan;
    ml_rng rng;
    uint64_t detail; /* out of 4 details, how many are told */
    char *out;
    size_t n;
} teller;

static void tell(teller *t, const char *text, const char *end);

static void put(teller *t, char c)
{
    assert(t->n + 1 < ML_STORY_MAX); /* tests tell the longest variants */
    /* An alternative may be empty: never two blanks, and none at the start of a line. */
    if (c == ' ' && (t->n == 0 || t->out[t->n - 1] == ' ' || t->out[t->n - 1] == '\n')) return;
    t->out[t->n++] = c;
}

/* The pronoun of hero or friend in the form of the key, or NULL when the key is none. */
static const char *pronoun(const char *key, bool she)
{
    static const char *const form[][2] = { { "he", "she" }, { "him", "her" }, { "his", "her" } };
    for (size_t i = 0; i < sizeof form / sizeof form[0]; i++) {
        if (strcmp(key, form[i][0]) == 0) return form[i][she];
    }
    return NULL;
}

static const char *kind_word(uint16_t kind, bool she)
{
    if (kind == 0) return she ? "girl" : "boy";
    return ml_story_kinds.word[kind];
}

/* What a key stands for.  Keys are in lower case but for the names N (hero), F (friend) and G (grown-up);
 * an 'f' before a pronoun, "kind" or "trait" means the friend's. */
static const char *value_of(const teller *t, const char *key)
{
    const ml_story_plan *p = t->plan;
    bool she = p->hero_is_she;
    const ml_story_theme *theme = &ml_story_themes[p->theme];
    if (key[0] >= '0' && key[0] < '0' + ML_STORY_N_COLUMN && !key[1]) {
        return theme->subject[p->subject].column[key[0] - '0'];
    }
    const struct {
        const char *key, *value;
    } table[] = {
        { "N", (she ? ml_story_names_she : ml_story_names_he).word[p->hero_name] },
        { "F", (she ? ml_story_names_he : ml_story_names_she).word[p->friend_name] },
        { "G", ml_story_grownups.word[p->grownup] },
        { "kind", kind_word(p->hero_kind, she) },
        { "fkind", kind_word(p->friend_kind, !she) },
        { "trait", ml_story_traits.word[p->hero_trait] },
        { "ftrait", ml_story_traits.word[p->friend_trait] },
        { "at", ml_story_places.word[p->place] },
        { "color", ml_story_colors.word[p->color] },
        { "baby", ml_story_babies.word[p->baby] },
        { "open", ml_story_open },
        { "meet", ml_story_meet },
        { "day", ml_story_day },
        { "end", ml_story_end },
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(key, table[i].key) == 0) return table[i].value;
    }
    const char *word = pronoun(key, she);
    if (!word && key[0] == 'f') word = pronoun(key + 1, !she);
    return word;
}

/* {key}, {Key} with a capital first letter, {a key} and {A key} with the article. */
static void tell_key(teller *t, const char *text, size_t n)
{
    char key[16];
    bool article = n > 2 && text[1] == ' ';
    bool capital = isupper((unsigned char)text[0]) && n > 1;
    const char *name = article ? text + 2 : text;
    size_t n_name = article ? n - 2 : n;
    assert(n_name < sizeof key);
    memcpy(key, name, n_name);
    key[n_name] = 0;
    if (n_name > 1) key[0] = (char)tolower((unsigned char)key[0]);
    const char *value = value_of(t, key);
    assert(value); /* the templates are ours */
    if (article) {
        put(t, capital ? 'A' : 'a');
        if (strchr("aeiou", value[0])) put(t, 'n');
        put(t, ' ');
    }
    size_t at = t->n;
    tell(t, value, value + strlen(value));
    if (capital && !article) t->out[at] = (char)toupper((unsigned char)t->out[at]);
}

/* The end of the bracket whose inside begins at `text`, and how many alternatives it has. */
static const char *bracket_end(const char *text, size_t *n_alternative)
{
    int depth = 0;
    *n_alternative = 1;
    for (;; text++) {
        assert(*text);
        if (*text == '[') depth++;
        if (*text == ']' && depth-- == 0) return text;
        if (*text == '|' && depth == 0) ++*n_alternative;
    }
}

static void tell_choice(teller *t, const char *text, const char *end, size_t n_alternative)
{
    uint64_t chosen = ml_rng_below(&t->rng, n_alternative);
    int depth = 0;
    const char *begin = text;
    for (; text < end; text++) {
        if (*text == '[') depth++;
        if (*text == ']') depth--;
        if (*text != '|' || depth) continue;
        if (chosen-- == 0) break;
        begin = text + 1;
    }
    tell(t, begin, text);
}

static void tell(teller *t, const char *text, const char *end)
{
    while (text < end) {
        if (*text == '{') {
            const char *close = strchr(text, '}');
            assert(close && close < end);
            tell_key(t, text + 1, (size_t)(close - text - 1));
            text = close + 1;
        } else if (*text == '[') {
            size_t n_alternative;
            const char *close = bracket_end(text + 1, &n_alternative);
            tell_choice(t, text + 1, close, n_alternative);
            text = close + 1;
        } else if (*text == '<') {
            const char *close = strchr(text, '>');
            assert(close && close < end);
            if (ml_rng_below(&t->rng, 4) < t->detail) tell(t, text + 1, close);
            text = close + 1;
        } else {
            put(t, *text++);
        }
    }
}

int ml_story_count_sentences(const char *text)
{
    int n = 0;
    for (const char *p = text; *p; p++) {
        if (*p != '.' && *p != '!' && *p != '?') continue;
        const char *q = p[1] == '"' ? p + 2 : p + 1;
        n += !*q || (isspace((unsigned char)*q) && (isupper((unsigned char)q[1]) || q[1] == '"'));
    }
    return n;
}

static size_t tell_beats(teller *t)
{
    const ml_story_theme *theme = &ml_story_themes[t->plan->theme];
    t->n = 0;
    for (size_t i = 0; i < ML_STORY_N_BEAT && theme->beat[i]; i++) {
        const char *beat = theme->beat[i];
        bool paragraph = *beat == '/';
        while (t->n && t->out[t->n - 1] == ' ') t->n--;
        if (t->n) put(t, paragraph ? '\n' : ' ');
        tell(t, beat + paragraph, beat + strlen(beat));
    }
    while (t->n && t->out[t->n - 1] == ' ') t->n--;
    t->out[t->n] = 0;
    return t->n;
}

size_t ml_story_tell(const ml_story_plan *plan, char out[ML_STORY_MAX])
{
    assert(plan->theme < ml_story_n_theme && plan->subject < ml_story_n_subject(plan->theme));
    teller t = { plan, ml_rng_make(plan->wording, 1), plan->detail, out, 0 };
    for (int attempt = 0; attempt < 32; attempt++) {
        if (attempt == 4) t.detail = 0;
        tell_beats(&t);
        if (ml_story_count_sentences(out) <= ML_STORY_SENTENCES) break;
    }
    return t.n;
}
