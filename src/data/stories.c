#include "data/stories.h"

#include "data/story_words.h"

#include <assert.h>
#include <ctype.h>
#include <string.h>

/* ---- subjects ---- */

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

/* ---- how many ---- */

static double count_drawn(ml_story_list list)
{
    double n = 0;
    for (size_t i = 0; i < ml_story_list_size(list); i++) n += !ml_story_is_held_out(list, i);
    return n;
}

static double count_composed_drawn(bool she)
{
    double n = 0;
    for (uint32_t i = (uint32_t)ml_story_list_size(she ? ML_STORY_NAME_SHE : ML_STORY_NAME_HE);
         i < ml_story_n_name(she); i++)
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
static bool draw_description(teller *t, const char *key)
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
    if (draw_description(t, key)) {
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
