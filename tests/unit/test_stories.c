/* The story grammar and the arithmetic problems. */
#include "base/alloc.h"
#include "data/arithmetic.h"
#include "data/stories.h"
#include "support/support.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t story(uint64_t seed, uint64_t index, ml_story_plan *plan, char out[ML_STORY_MAX])
{
    ml_story_plan_draw(seed, index, plan);
    return ml_story_tell(plan, out);
}

static void test_a_story_depends_on_seed_and_index_alone(void **state)
{
    (void)state;
    char a[ML_STORY_MAX], b[ML_STORY_MAX], other[ML_STORY_MAX];
    ml_story_plan plan;
    for (uint64_t i = 0; i < 100; i++) {
        story(7, 99 - i, &plan, other);
        size_t n = story(7, i, &plan, a);
        assert_int_equal(n, strlen(a));
        story(8, i, &plan, other);
        story(7, i, &plan, b);
        assert_string_equal(a, b);
        assert_string_not_equal(a, other);
    }
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void test_stories_are_distinct(void **state)
{
    (void)state;
    enum { N = 100000 };
    uint64_t *hash = ml_alloc(N * sizeof *hash);
    char text[ML_STORY_MAX];
    ml_story_plan plan;
    for (uint64_t i = 0; i < N; i++) {
        story(1, i, &plan, text);
        uint64_t h = 0xcbf29ce484222325u; /* FNV-1a: different hashes prove different texts */
        for (const char *p = text; *p; p++) h = (h ^ (uint8_t)*p) * 0x100000001b3u;
        hash[i] = h;
    }
    qsort(hash, N, sizeof *hash, compare_u64);
    for (int i = 1; i < N; i++) assert_true(hash[i] != hash[i - 1]);
    ml_free(hash);
}

/* Sentences end in . ! or ?, perhaps a quote, and then the text ends or a capital or quote follows. */
static int count_sentences(const char *text)
{
    int n = 0;
    for (const char *p = text; *p; p++) {
        if (!strchr(".!?", *p)) continue;
        const char *q = p + 1;
        if (*q == '"') q++;
        if (!*q || (isspace((unsigned char)*q) && (isupper((unsigned char)q[1]) || q[1] == '"'))) n++;
    }
    return n;
}

static bool has_article_before(const char *text, const char *article, bool vowel)
{
    size_t n = strlen(article);
    for (const char *p = strstr(text, article); p; p = strstr(p + 1, article)) {
        bool word = p == text || !isalpha((unsigned char)p[-1]);
        if (word && !strchr("aeiou", tolower((unsigned char)p[n])) == vowel) return true;
    }
    return false;
}

/* "kind owl" */
static void describe(uint32_t trait, uint32_t kind, bool she, char out[2 * ML_STORY_NAME_MAX])
{
    ml_story_word(ML_STORY_TRAIT, trait, out);
    size_t n = strlen(out);
    out[n++] = ' ';
    ml_story_word(ML_STORY_KIND, kind, out + n);
    if (kind == 0) strcpy(out + n, she ? "girl" : "boy");
}

static int count_of(const char *text, const char *what)
{
    int n = 0;
    for (const char *p = strstr(text, what); p; p = strstr(p + 1, what)) n++;
    return n;
}

static void check_story(const ml_story_plan *plan, const char *text)
{
    size_t n = strlen(text);
    int n_quote = 0;
    assert_true(isupper((unsigned char)text[0]));
    assert_non_null(strchr(".!?\"", text[n - 1]));
    if (strpbrk(text, "{}[]|/_#<>") || strstr(text, "  ") || strstr(text, " .") || strstr(text, " ,") ||
        strstr(text, "..") || strstr(text, " \n") || strstr(text, "\n ")) {
        fail_msg("template signs or blanks left in: %s", text);
    }
    for (const char *p = text; *p; p++) {
        n_quote += *p == '"';
        bool starts = p[0] == '\n' || (strchr(".!?", p[0]) && p[1] == ' ');
        const char *first = p[0] == '\n' ? p + 1 : p + 2;
        if (starts && !isupper((unsigned char)*first) && *first != '"') fail_msg("small letter at \"%.30s\"", p);
        if (*p == '\n' && n_quote % 2) fail_msg("open quote in: %s", text);
    }
    assert_int_equal(n_quote % 2, 0);
    if (has_article_before(text, "a ", false) || has_article_before(text, "an ", true) ||
        has_article_before(text, "A ", false)) {
        fail_msg("wrong article in: %s", text);
    }
    int n_sentence = count_sentences(text);
    assert_int_equal(n_sentence, ml_story_count_sentences(text));
    if (n_sentence < 5 || n_sentence > 20) fail_msg("%d sentences in: %s", n_sentence, text);
    char name[2 * ML_STORY_NAME_MAX];
    ml_story_name(plan->hero_is_she, plan->hero_name, name);
    int n_mention = count_of(text, name);
    describe(plan->hero_trait, plan->hero_kind, plan->hero_is_she, name);
    n_mention += count_of(text, name);
    if (n_mention < 4) fail_msg("the hero %s is mentioned %d times in: %s", name, n_mention, text);
}

static void test_stories_are_well_formed(void **state)
{
    (void)state;
    char text[ML_STORY_MAX];
    ml_story_plan plan;
    int seen[64] = { 0 };
    for (uint64_t i = 0; i < 30000; i++) {
        story(3, i, &plan, text);
        check_story(&plan, text);
        seen[plan.theme]++;
    }
    /* each theme has 1/13 of 30,000 = 2308 +- 46 (one standard deviation) */
    for (size_t i = 0; i < ml_story_list_size(ML_STORY_THEME); i++) assert_in_range(seen[i], 2000, 2600);
}

static bool contains_word(const char *text, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = strstr(text, word); p; p = strstr(p + 1, word)) {
        if ((p == text || !isalpha((unsigned char)p[-1])) && !isalpha((unsigned char)p[n])) return true;
    }
    return false;
}

static void expect_word(const char *text, const char *word)
{
    if (!contains_word(text, word)) fail_msg("\"%s\" is missing from: %s", word, text);
}

/* The claim of stories.h: a plan can be read off its text, so different plans are different stories. */
static void test_every_choice_of_the_plan_is_told(void **state)
{
    (void)state;
    char text[ML_STORY_MAX], want[2 * ML_STORY_NAME_MAX], name[ML_STORY_NAME_MAX];
    ml_story_plan p;
    for (uint64_t i = 0; i < 5000; i++) {
        story(11, i, &p, text);
        describe(p.hero_trait, p.hero_kind, p.hero_is_she, want);
        expect_word(text, want);
        describe(p.friend_trait, p.friend_kind, !p.hero_is_she, want);
        expect_word(text, want);
        ml_story_name(p.hero_is_she, p.hero_name, name);
        expect_word(text, name);
        ml_story_name(!p.hero_is_she, p.friend_name, name);
        expect_word(text, name);
        expect_word(text, ml_story_list_word(ML_STORY_PLACE, p.place));
        expect_word(text, ml_story_subject(p.theme, p.subject));
    }
}

/* ---- words kept out ---- */

static void test_held_out_words_are_in_no_story(void **state)
{
    (void)state;
    char text[ML_STORY_MAX];
    ml_story_plan p;
    for (uint64_t i = 0; i < 2000; i++) {
        story(5, i, &p, text);
        assert_false(ml_story_name_is_held_out(p.hero_is_she, p.hero_name));
        assert_false(ml_story_name_is_held_out(!p.hero_is_she, p.friend_name));
        for (ml_story_list list = 0; list < ML_STORY_N_LIST; list++) {
            for (size_t k = 0; k < ml_story_list_size(list); k++) {
                if (!ml_story_is_held_out(list, k) || !contains_word(text, ml_story_list_word(list, k))) continue;
                fail_msg("\"%s\" is held out, but it is in: %s", ml_story_list_word(list, k), text);
            }
        }
    }
}

/* A fifth of n with so many standard deviations to spare that only a wrong share misses it. */
static void assert_a_fifth(size_t n_held_out, size_t n)
{
    double deviation = sqrt((double)n * 0.2 * 0.8);
    assert_true(fabs((double)n_held_out - 0.2 * (double)n) < 4 * deviation);
}

static void test_how_many_words_are_held_out(void **state)
{
    (void)state;
    for (ml_story_list list = 0; list < ML_STORY_N_LIST; list++) {
        size_t n = ml_story_list_size(list), n_held_out = 0;
        bool open = list == ML_STORY_KIND || list == ML_STORY_TRAIT;
        for (size_t i = 0; i < n; i++) n_held_out += ml_story_is_held_out(list, i);
        if (open)
            assert_a_fifth(n_held_out, n - 40);
        else
            assert_int_equal(n_held_out, 0);
        for (size_t i = 0; open && i < 40; i++) assert_false(ml_story_is_held_out(list, i));
    }
    for (int she = 0; she < 2; she++) {
        size_t n_held_out = 0;
        for (uint32_t i = 0; i < ml_story_n_name(she); i++) n_held_out += ml_story_name_is_held_out(she, i);
        assert_a_fifth(n_held_out, ml_story_n_name(she) - 32);
    }
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* Of 20,000 composed kinds or traits few come twice; a sixth begins with a vowel; some are short, some are long. */
static void test_composed_words_are_many(void **state)
{
    (void)state;
    enum { N = 20000 };
    static char word[N][ML_STORY_NAME_MAX];
    ml_rng rng = ml_rng_make(8, 0);
    for (ml_story_list list = ML_STORY_KIND; list <= ML_STORY_TRAIT; list++) {
        int n_twice = 0, n_vowel = 0, n_short = 0, n_long = 0;
        for (size_t i = 0; i < ml_story_list_size(list); i++) {
            ml_story_word(list, (uint32_t)i, word[0]);
            assert_string_equal(word[0], ml_story_list_word(list, i));
        }
        for (size_t i = 0; i < N; i++) {
            ml_story_word(list, ml_story_word_compose(&rng, list), word[i]);
            for (const char *p = word[i]; *p; p++) assert_true(islower((unsigned char)*p));
            n_vowel += strchr("aeiou", word[i][0]) != NULL;
            n_short += strlen(word[i]) <= 5;
            n_long += strlen(word[i]) >= 10;
        }
        qsort(word, N, sizeof *word, compare_text);
        for (size_t i = 1; i < N; i++) n_twice += strcmp(word[i - 1], word[i]) == 0;
        assert_true(n_twice < N / 20);
        assert_in_range(n_vowel, N / 6, N / 4);
        assert_true(n_short > N / 10 && n_long > N / 10);
    }
}

static void test_composed_words_are_no_listed_ones(void **state)
{
    (void)state;
    char word[ML_STORY_NAME_MAX];
    ml_rng rng = ml_rng_make(3, 0);
    for (int k = 0; k < 20000; k++) {
        ml_story_list of = k % 2 ? ML_STORY_KIND : ML_STORY_TRAIT;
        ml_story_word(of, ml_story_word_compose(&rng, of), word);
        for (ml_story_list list = ML_STORY_KIND; list < ML_STORY_N_LIST; list++) {
            for (size_t i = 0; i < ml_story_list_size(list); i++)
                assert_string_not_equal(word, ml_story_list_word(list, i));
        }
    }
}

/* One part, so that what is before or behind it is as it was; and not always the same part. */
static void test_words_vary_in_one_part(void **state)
{
    (void)state;
    char word[ML_STORY_NAME_MAX], other[ML_STORY_NAME_MAX];
    ml_rng rng = ml_rng_make(4, 0);
    int n_begin = 0, n_end = 0;
    for (int k = 0; k < 20000; k++) {
        ml_story_list list = k % 2 ? ML_STORY_KIND : ML_STORY_TRAIT;
        uint32_t i = ml_story_word_compose(&rng, list), j = ml_story_word_vary(&rng, list, i);
        assert_true(j != i && j >= ml_story_list_size(list) && j < ml_story_n_word(list));
        ml_story_word(list, i, word);
        ml_story_word(list, j, other);
        assert_string_not_equal(word, other);
        size_t n = strlen(word), m = strlen(other), same = 0, same_end = 0;
        while (word[same] && word[same] == other[same]) same++;
        while (same_end < n && same_end < m && word[n - 1 - same_end] == other[m - 1 - same_end]) same_end++;
        assert_true(same > 0 || same_end > 0);
        n_begin += same == 0;
        n_end += same_end == 0;
    }
    assert_true(n_begin > 1000 && n_end > 1000);
}

/* No two composed names are one, and none could be of both. */
static void test_names_are_distinct(void **state)
{
    (void)state;
    size_t n = 0, most = ml_story_n_name(false) + ml_story_n_name(true);
    char(*name)[ML_STORY_NAME_MAX] = ml_alloc(most * sizeof *name);
    for (int she = 0; she < 2; she++) {
        for (uint32_t i = 32; i < ml_story_n_name(she); i++) {
            ml_story_name(she, i, name[n]);
            assert_true(isupper((unsigned char)name[n][0]) && strlen(name[n]) >= 4);
            for (const char *p = name[n] + 1; *p; p++) assert_true(islower((unsigned char)*p));
            n++;
        }
    }
    assert_true(n > 40000);
    qsort(name, n, sizeof *name, compare_text);
    for (size_t i = 1; i < n; i++) assert_string_not_equal(name[i - 1], name[i]);
    ml_free(name);
}

/* "the kind owl" in place of its name: after the first paragraph, where nobody is spoken to, with a capital letter
 * where a sentence begins. */
static void test_descriptions_stand_for_names(void **state)
{
    (void)state;
    char text[ML_STORY_MAX], word[2 * ML_STORY_NAME_MAX], the[8 + sizeof word], The[8 + sizeof word];
    ml_story_plan p;
    int n_the = 0, n_The = 0;
    for (uint64_t i = 0; i < 5000; i++) {
        story(21, i, &p, text);
        describe(p.hero_trait, p.hero_kind, p.hero_is_she, word);
        snprintf(the, sizeof the, "the %s", word);
        snprintf(The, sizeof The, "The %s", word);
        char *rest = strchr(text, '\n');
        if (p.announced) rest = strchr(rest + 1, '\n');
        n_the += count_of(rest, the);
        n_The += count_of(rest, The);
        for (const char *at = strstr(rest, The); at; at = strstr(at + 1, The)) {
            assert_true(at[-1] == '\n' || (at[-1] == ' ' && strchr(".!?\"", at[-2])));
        }
        for (const char *at = strstr(rest, the); at; at = strstr(at + 1, the)) assert_false(strchr(".!?\n", at[-2]));
    }
    assert_in_range(n_the + n_The, 5000, 15000); /* of four to fifteen mentions one in four */
    assert_true(n_the > 2000 && n_The > 2000);
}

/* Three quarters of the names are composed, what half of the stories announce is in the story that follows, and of
 * their traits three quarters are composed. */
static void test_names_and_announcements(void **state)
{
    (void)state;
    enum { N = 5000 };
    char text[ML_STORY_MAX], want[2 * ML_STORY_NAME_MAX];
    ml_story_plan p;
    int n_composed = 0, n_announced = 0, n_composed_trait = 0;
    for (uint64_t i = 0; i < N; i++) {
        story(9, i, &p, text);
        n_composed += p.hero_name >= 32;
        n_announced += p.announced;
        if (!p.announced) assert_true(p.hero_trait < ml_story_list_size(ML_STORY_TRAIT));
        if (!p.announced) continue;
        n_composed_trait += p.hero_trait >= ml_story_list_size(ML_STORY_TRAIT);
        describe(p.hero_trait, p.hero_kind, p.hero_is_she, want);
        const char *rest = strchr(text, '\n');
        assert_true(contains_word(rest, want));
        text[rest - text] = 0;
        assert_true(contains_word(text, want));
    }
    assert_in_range(n_composed, N * 3 / 4 - 150, N * 3 / 4 + 150); /* one standard deviation is 31 */
    assert_in_range(n_announced, N / 2 - 170, N / 2 + 170);        /* 35 */
    assert_in_range(n_composed_trait, n_announced * 3 / 4 - 110, n_announced * 3 / 4 + 110); /* 22 */
}

static void assert_distinct(const char *const *word, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < i; k++) assert_string_not_equal(word[i], word[k]);
    }
}

static double count_drawn(ml_story_list list)
{
    double n = 0;
    for (size_t i = 0; i < ml_story_list_size(list); i++) n += !ml_story_is_held_out(list, i);
    return n;
}

static double count_composed_drawn(bool she)
{
    double n = 0;
    for (uint32_t i = 32; i < ml_story_n_name(she); i++) n += !ml_story_name_is_held_out(she, i);
    return n;
}

static void test_number_of_stories(void **state)
{
    (void)state;
    const char *word[256];
    for (int list = 0; list < ML_STORY_N_LIST; list++) {
        size_t n = ml_story_list_size((ml_story_list)list);
        for (size_t i = 0; i < n; i++) word[i] = ml_story_list_word((ml_story_list)list, i);
        assert_distinct(word, n);
    }
    double names = count_composed_drawn(false) * count_composed_drawn(true);
    double kinds = count_drawn(ML_STORY_KIND), traits = count_drawn(ML_STORY_TRAIT);
    for (size_t theme = 0; theme < ml_story_list_size(ML_STORY_THEME); theme++) {
        size_t n = ml_story_n_subject(theme);
        for (size_t i = 0; i < n; i++) word[i] = ml_story_subject(theme, i);
        assert_distinct(word, n);
        double plans = 2 * names * (kinds * (kinds - 1) + 1) * traits * (traits - 1) *
                       (double)ml_story_list_size(ML_STORY_PLACE) * (double)n;
        assert_true(fabs(ml_story_count_plans(theme) / plans - 1) < 1e-12); /* above 2^53: rounded */
        assert_true(plans > 1e19);
    }
}

/* ---- arithmetic ---- */

/* Value of a * b + c - d / e ..., up to '=', ',' or the end; *text moves there. */
static long evaluate(const char **text)
{
    long sum = 0, product = 0;
    char sign = '+';
    for (;;) {
        char *end;
        long v = strtol(*text, &end, 10);
        assert_true(end != *text);
        if (sign == '*')
            product *= v;
        else if (sign == '/') {
            assert_int_equal(product % v, 0);
            product /= v;
        } else {
            sum += product;
            product = sign == '-' ? -v : v;
        }
        while (*end == ' ') end++;
        *text = end;
        if (!*end || !strchr("+-*/", *end)) return sum + product;
        sign = *end;
        *text = end + 1;
    }
}

static void check_problem(const ml_problem *p)
{
    long label = strtol(p->label, NULL, 10), value = -1;
    assert_true(label >= 0);
    for (const char *at = p->work; *at;) {
        value = evaluate(&at);
        while (*at == '=') {
            at++;
            if (evaluate(&at) != value) fail_msg("wrong: %s", p->work);
        }
        while (*at && !isdigit((unsigned char)*at)) at++; /* ", so " */
    }
    if (value != label) fail_msg("%s -> %s, label %s", p->prompt, p->work, p->label);
    const char *sum = p->prompt + strcspn(p->prompt, "0123456789");
    bool plain = !strncmp(p->prompt, "What is ", 8) || !strncmp(p->prompt, "Compute ", 8) || sum == p->prompt;
    if (plain) assert_int_equal(evaluate(&sum), label);
    assert_true(strlen(p->prompt) < sizeof p->prompt - 1 && strlen(p->work) < sizeof p->work - 1);
}

static void test_arithmetic_is_right(void **state)
{
    (void)state;
    ml_problem p, again;
    int n_word = 0;
    for (uint64_t i = 0; i < 50000; i++) {
        memset(&p, 0, sizeof p);
        ml_arithmetic_draw(5, i, &p);
        check_problem(&p);
        n_word += strstr(p.prompt, "How many") != NULL;
    }
    assert_in_range(n_word, 50000 / 4, 50000 / 2);
    memset(&again, 0, sizeof again);
    ml_arithmetic_draw(5, 49999, &again);
    assert_string_equal(p.prompt, again.prompt);
    ml_arithmetic_draw(6, 49999, &again);
    assert_string_not_equal(p.prompt, again.prompt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_story_depends_on_seed_and_index_alone),
        cmocka_unit_test(test_stories_are_distinct),
        cmocka_unit_test(test_stories_are_well_formed),
        cmocka_unit_test(test_every_choice_of_the_plan_is_told),
        cmocka_unit_test(test_held_out_words_are_in_no_story),
        cmocka_unit_test(test_how_many_words_are_held_out),
        cmocka_unit_test(test_names_are_distinct),
        cmocka_unit_test(test_composed_words_are_many),
        cmocka_unit_test(test_composed_words_are_no_listed_ones),
        cmocka_unit_test(test_words_vary_in_one_part),
        cmocka_unit_test(test_descriptions_stand_for_names),
        cmocka_unit_test(test_names_and_announcements),
        cmocka_unit_test(test_number_of_stories),
        cmocka_unit_test(test_arithmetic_is_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
