#include "data/stories.h"

#include "data/story_words.h"

#include <assert.h>
#include <ctype.h>
#include <stdlib.h>
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

/* Every fifth, but in no order that a word's place could tell; another choice for each `list`. */
static bool is_fifth(uint64_t list, uint64_t i)
{
    return ml_rng_mix(list << 32 | i) % 5 == 0;
}

bool ml_story_is_held_out(ml_story_list list, size_t i)
{
    return (list == ML_STORY_KIND || list == ML_STORY_TRAIT) && i >= ML_STORY_N_COMMON && is_fifth(list, i);
}

static double count_drawn(ml_story_list list)
{
    double n = 0;
    for (size_t i = 0; i < ml_story_list_size(list); i++) n += !ml_story_is_held_out(list, i);
    return n;
}

/* ---- names ---- */

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

static double count_composed_drawn(bool she)
{
    double n = 0;
    for (uint32_t i = (uint32_t)ml_story_list_size(names_of(she)); i < ml_story_n_name(she); i++)
        n += !ml_story_name_is_held_out(she, i);
    return n;
}

double ml_story_count_plans(size_t theme)
{
    double n_kind = count_drawn(ML_STORY_KIND), n_trait = count_drawn(ML_STORY_TRAIT);
    double names = count_composed_drawn(false) * count_composed_drawn(true);
    double kinds = n_kind * n_kind - (n_kind - 1); /* two children, or different */
    /* hero he and friend she, or the other way round */
    return 2 * names * kinds * n_trait * (n_trait - 1) * (double)ml_story_places.n * (double)ml_story_n_subject(theme);
}

/* ---- plan ---- */

static uint16_t pick(ml_rng *rng, size_t n)
{
    return (uint16_t)ml_rng_below(rng, n);
}

/* One that is not held out; where they may be, three times in four a composed one. */
static uint32_t pick_drawn(ml_rng *rng, ml_story_list list, size_t first, bool composed)
{
    size_t i;
    if (composed && ml_rng_below(rng, 4)) return ml_story_word_compose(rng, list);
    do i = first + (size_t)ml_rng_below(rng, ml_story_list_size(list) - first);
    while (ml_story_is_held_out(list, i));
    return (uint32_t)i;
}

/* A sixth of all characters are children. */
static uint32_t pick_kind(ml_rng *rng, bool composed)
{
    return ml_rng_below(rng, 6) == 0 ? 0 : pick_drawn(rng, ML_STORY_KIND, 1, composed);
}

void ml_story_plan_draw(uint64_t seed, uint64_t index, ml_story_plan *plan)
{
    ml_rng rng = ml_rng_make(ml_rng_mix(seed + 0x9e3779b97f4a7c15u) ^ ml_rng_mix(index + 1), 0);
    memset(plan, 0, sizeof *plan);
    plan->theme = pick(&rng, ml_story_n_theme);
    plan->subject = pick(&rng, ml_story_n_subject(plan->theme));
    plan->hero_is_she = (uint8_t)(ml_rng_u32(&rng) & 1);
    plan->hero_name = ml_story_name_draw(&rng, plan->hero_is_she, false);
    plan->friend_name = ml_story_name_draw(&rng, !plan->hero_is_she, false);
    plan->announced = (uint8_t)(ml_rng_u32(&rng) & 1);
    plan->described = true;
    plan->hero_kind = pick_kind(&rng, plan->announced);
    do plan->friend_kind = pick_kind(&rng, plan->announced);
    while (plan->friend_kind && plan->friend_kind == plan->hero_kind);
    plan->hero_trait = pick_drawn(&rng, ML_STORY_TRAIT, 0, plan->announced);
    do plan->friend_trait = pick_drawn(&rng, ML_STORY_TRAIT, 0, plan->announced);
    while (plan->friend_trait == plan->hero_trait);
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
    char hero[ML_STORY_NAME_MAX], friend[ML_STORY_NAME_MAX];
    char kind[ML_STORY_NAME_MAX], friend_kind[ML_STORY_NAME_MAX];
    char trait[ML_STORY_NAME_MAX], friend_trait[ML_STORY_NAME_MAX];
    char *out;
    size_t n;
    bool known, quoted; /* hero and friend have been told of; inside of quotation marks */
} teller;

static void tell(teller *t, const char *text, const char *end);

static void put(teller *t, char c)
{
    assert(t->n + 1 < ML_STORY_MAX); /* tests tell the longest variants */
    /* An alternative may be empty: never two blanks, and none at the start of a line. */
    if (c == ' ' && (t->n == 0 || t->out[t->n - 1] == ' ' || t->out[t->n - 1] == '\n')) return;
    t->quoted ^= c == '"';
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

static void write_kind(uint32_t kind, bool she, char out[ML_STORY_NAME_MAX])
{
    ml_story_word(ML_STORY_KIND, kind, out);
    if (kind == 0) strcpy(out, she ? "girl" : "boy");
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
        { "N", t->hero },
        { "F", t->friend },
        { "G", ml_story_grownups.word[p->grownup] },
        { "kind", t->kind },
        { "fkind", t->friend_kind },
        { "trait", t->trait },
        { "ftrait", t->friend_trait },
        { "at", ml_story_places.word[p->place] },
        { "color", ml_story_colors.word[p->color] },
        { "baby", ml_story_babies.word[p->baby] },
        { "theme", theme->name },
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

static bool ends_with(const teller *t, const char *end)
{
    size_t n = strlen(end);
    return t->n >= n && memcmp(t->out + t->n - n, end, n) == 0;
}

/* At the start, or behind the end of a sentence and perhaps of what somebody said. */
static bool begins_sentence(const teller *t)
{
    size_t n = t->n;
    while (n && strchr(" \n\"", t->out[n - 1])) n--;
    return n == 0 || strchr(".!?", t->out[n - 1]);
}

/* One time in four "the kind owl" stands for the name, but not where somebody calls it. */
static bool is_described(teller *t, const char *key)
{
    if (strcmp(key, "N") != 0 && strcmp(key, "F") != 0) return false;
    if (!t->plan->described || !t->known || t->quoted || ends_with(t, "named ") || ends_with(t, "called "))
        return false;
    return ml_rng_below(&t->rng, 4) == 0;
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
    if (is_described(t, key)) {
        value = *key == 'N' ? "the {trait} {kind}" : "the {ftrait} {fkind}";
        capital = begins_sentence(t);
    }
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

static void tell_beat(teller *t, const char *beat)
{
    bool paragraph = *beat == '/';
    while (t->n && t->out[t->n - 1] == ' ') t->n--;
    if (t->n && t->out[t->n - 1] != '\n') put(t, paragraph ? '\n' : ' ');
    tell(t, beat + paragraph, beat + strlen(beat));
}

static size_t tell_beats(teller *t)
{
    const ml_story_theme *theme = &ml_story_themes[t->plan->theme];
    t->n = 0;
    t->known = t->quoted = false;
    if (t->plan->announced) {
        tell_beat(t, ml_story_announce);
        put(t, '\n');
    }
    for (size_t i = 0; i < ML_STORY_N_BEAT && theme->beat[i]; i++) {
        tell_beat(t, theme->beat[i]);
        t->known = true; /* by the first beat, of every theme */
    }
    while (t->n && t->out[t->n - 1] == ' ') t->n--;
    t->out[t->n] = 0;
    return t->n;
}

size_t ml_story_tell(const ml_story_plan *plan, char out[ML_STORY_MAX])
{
    assert(plan->theme < ml_story_n_theme && plan->subject < ml_story_n_subject(plan->theme));
    teller t = { .plan = plan, .rng = ml_rng_make(plan->wording, 1), .detail = plan->detail, .out = out };
    ml_story_name(plan->hero_is_she, plan->hero_name, t.hero);
    ml_story_name(!plan->hero_is_she, plan->friend_name, t.friend);
    write_kind(plan->hero_kind, plan->hero_is_she, t.kind);
    write_kind(plan->friend_kind, !plan->hero_is_she, t.friend_kind);
    ml_story_word(ML_STORY_TRAIT, plan->hero_trait, t.trait);
    ml_story_word(ML_STORY_TRAIT, plan->friend_trait, t.friend_trait);
    for (int attempt = 0; attempt < 32; attempt++) {
        if (attempt == 4) t.detail = 0;
        tell_beats(&t);
        if (ml_story_count_sentences(out) <= ML_STORY_SENTENCES) break;
    }
    return t.n;
}
