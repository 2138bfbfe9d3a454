/* The option table: precedence, errors, ranges, lists, the open section, options.ini and back, help. */
#include "base/alloc.h"
#include "base/nearest.h"
#include "base/options.h"
#include "base/rng.h"
#include "support/support.h"

#include <math.h>
#include <string.h>

static ml_error err;
static char folder[ML_PATH_MAX], recipe[ML_PATH_MAX];

static const ml_option_row rows[] = {
    { "*", "", "threads", ML_OPTION_INT, 0, 1024, NULL, "0", NULL, "threads to use" },
    { "train", "", "model", ML_OPTION_TEXT, 0, 0, NULL, NULL, "M", "model folder" },
    { "train", "", "json", ML_OPTION_FLAG, 0, 0, NULL, "off", NULL, "print JSON" },
    { "data:synth", "", "json", ML_OPTION_FLAG, 0, 0, NULL, "off", NULL, "the same of another verb" },
    { "report", "", "o", ML_OPTION_TEXT, 0, 0, NULL, "report.html", "FILE", "where to write" },
    { "train", "model", "preset", ML_OPTION_TEXT, 0, 0, NULL, "nano", NULL, "a row in the open section" },
    { "train", "train", "steps", ML_OPTION_INT, 1, 1e12, NULL, "100", NULL, "optimizer steps" },
    { "train", "train", "batch", ML_OPTION_INT, 1, INFINITY, NULL, "8", NULL, "sequences per micro-step" },
    { "train", "optim", "lr", ML_OPTION_REAL, 0, 1, NULL, "3e-4", NULL, "learning rate" },
    { "train", "optim", "name", ML_OPTION_CHOICE, 0, 0, "adamw|muon", "muon", NULL, "optimizer" },
    { "train data:build", "data", "source", ML_OPTION_LIST, 0, 0, NULL, "default:1", NULL, "sources" },
    { "train", "data", "dir", ML_OPTION_TEXT, 0, 0, NULL, NULL, "DIR", "folder" },
    { "train", "data", "cross_documents", ML_OPTION_FLAG, 0, 0, NULL, "off", NULL, "no borders" },
};

static ml_options *make(const char *verb)
{
    ml_options *o;
    assert_ok(ml_options_make(rows, sizeof rows / sizeof *rows, verb, "model", &o, &err));
    return o;
}

static ml_status parse(ml_options *o, int argc, const char *const *argv)
{
    return ml_options_parse_args(o, argc, (char **)(uintptr_t)argv, &err);
}

#define PARSE(o, ...)                                                                                                  \
    parse(o, (int)(sizeof(const char *[]){ __VA_ARGS__ } / sizeof(char *)), (const char *[]){ __VA_ARGS__ })

static const char *write_recipe(const char *text)
{
    assert_ok(ml_file_replace(recipe, text, strlen(text), &err));
    return recipe;
}

static void test_defaults_recipe_command_line(void **state)
{
    (void)state;
    write_recipe("# a comment\n[train]\nsteps = 20 ; why\n  batch: 4\n[optim]\nlr=0.5\nname = adamw\n");
    for (int recipe_first = 0; recipe_first < 2; recipe_first++) {
        ml_options *o = make("train");
        if (recipe_first) assert_ok(ml_options_parse_ini(o, recipe, &err));
        assert_ok(PARSE(o, "--train.steps", "30", "--optim.lr=0.25"));
        if (!recipe_first) assert_ok(ml_options_parse_ini(o, recipe, &err));
        assert_int_equal(ml_options_int(o, "train.steps"), 30);
        assert_int_equal(ml_options_int(o, "train.batch"), 4);
        assert_true(ml_options_real(o, "optim.lr") == 0.25);
        assert_string_equal(ml_options_text(o, "optim.name"), "adamw");
        assert_null(ml_options_text(o, "data.dir"));
        assert_true(ml_options_given(o, "train.batch"));
        assert_false(ml_options_given(o, "threads"));
        ml_options_free(o);
    }
}

static void test_arguments(void **state)
{
    (void)state;
    ml_options *o = make("train");
    assert_ok(
        PARSE(o, "a.ini", "--json", "7", "--data.cross_documents", "on", "--model", "-m", "-5", "-", "--", "--x"));
    assert_true(ml_options_flag(o, "json"));
    assert_true(ml_options_flag(o, "data.cross_documents"));
    assert_string_equal(ml_options_text(o, "model"), "-m");
    const char *expected[] = { "a.ini", "7", "-5", "-", "--x" };
    assert_int_equal(ml_options_positional_count(o), 5);
    for (size_t i = 0; i < 5; i++) assert_string_equal(ml_options_positional(o, i), expected[i]);
    assert_ok(PARSE(o, "--json=0", "--model=--odd=name", "--threads", "2", "--threads", "3"));
    assert_false(ml_options_flag(o, "json"));
    assert_string_equal(ml_options_text(o, "model"), "--odd=name");
    assert_int_equal(ml_options_int(o, "threads"), 3);
    assert_ok(ml_options_set(o, "train", "steps", "2k", &err));
    assert_int_equal(ml_options_int(o, "train.steps"), 2000);
    assert_fails(PARSE(o, "--train.steps"), ML_EINVAL, "--train.steps needs a value");
    assert_fails(PARSE(o, "--model", "--json"), ML_EINVAL, "--model=VALUE");
    assert_fails(PARSE(o, "-threads", "2"), ML_EINVAL, "--threads");
    ml_options_free(o);
    o = make("report");
    assert_ok(PARSE(o, "-o", "x.html"));
    assert_string_equal(ml_options_text(o, "o"), "x.html");
    ml_options_free(o);
}

static void test_unknown_names_suggest(void **state)
{
    (void)state;
    ml_options *o = make("train");
    assert_fails(PARSE(o, "--train.stpes", "3"), ML_EINVAL,
                 "unknown option --train.stpes; did you mean --train.steps?");
    assert_fails(PARSE(o, "--steps", "3"), ML_EINVAL, "did you mean --train.steps?");
    assert_fails(PARSE(o, "--optim.batch=3"), ML_EINVAL, "did you mean --train.batch?");
    assert_fails(PARSE(o, "--treads", "3"), ML_EINVAL, "did you mean --threads?");
    assert_fails(PARSE(o, "--zzzzzz"), ML_EINVAL, "--help");
    assert_fails(PARSE(o, "-o", "x"), ML_EINVAL, "these have it: report");
    ml_options_free(o);
    o = make("report");
    assert_fails(PARSE(o, "--train.steps", "3"), ML_EINVAL, "not an option of this verb; these have it: train");
    assert_fails(PARSE(o, "--json"), ML_EINVAL, "these have it: train, data synth");
    assert_fails(PARSE(o, "--data.source", "x"), ML_EINVAL, "these have it: train, data build");
    ml_options_free(o);
}

static void assert_recipe_fails(const char *text, const char *where, const char *part)
{
    char place[ML_PATH_MAX + 32];
    ml_options *o = make("train");
    snprintf(place, sizeof place, "%s:%s: ", recipe, where);
    assert_fails(ml_options_parse_ini(o, write_recipe(text), &err), ML_EINVAL, place);
    assert_non_null(strstr(err.message, part));
    ml_options_free(o);
}

static void test_recipe_errors_name_the_line(void **state)
{
    (void)state;
    assert_recipe_fails("\n\n[train]\nstep = 1\n", "4", "unknown option train.step; did you mean train.steps?");
    assert_recipe_fails("[train]\nsteps = 0\nstep = 2\n", "2",
                        "train.steps: expected an integer from 1 to 1000000000000, found \"0\"");
    assert_recipe_fails("[optim]\nname = sgd\n", "2", "one of adamw|muon");
    assert_recipe_fails("threads = 3\n", "1", "belong on the command line");
    assert_recipe_fails("[train]\nsteps = 1\nbatch = 2\nsteps = 3", "4", "is given twice; the first is at");
    assert_recipe_fails("[model]\na = 1\na = 2\n", "3", "given twice");
    assert_recipe_fails("[train]\nsteps\n", "2", "expected [section] or name = value");
    assert_recipe_fails("[train\nsteps = 1\n", "1", "expected [section]");
    assert_recipe_fails("[data]\ndir = \"half\n", "2", "double quotes");
    assert_recipe_fails("[data]\ndir = \"a\\q\"\n", "2", "double quotes");
    assert_recipe_fails("[report]\no = x\n", "2", "unknown option");
    ml_options *o = make("train");
    assert_fails(ml_options_parse_ini(o, "/nonexistent/r.ini", &err), ML_EIO, "/nonexistent/r.ini");
    assert_ok(ml_file_replace(recipe, "a\0b", 3, &err));
    assert_fails(ml_options_parse_ini(o, recipe, &err), ML_EFORMAT, "binary file");
    ml_options_free(o);
}

static void test_long_lines(void **state)
{
    (void)state;
    char text[1024], value[256];
    ml_options *o = make("train");
    memset(value, 'x', sizeof value);
    value[192] = 0; /* "dir = " and 192 letters: the longest line */
    snprintf(text, sizeof text, "; %s %s\n[data]\ndir = %s   \n", value, value, value);
    assert_ok(ml_options_parse_ini(o, write_recipe(text), &err));
    assert_string_equal(ml_options_text(o, "data.dir"), value);
    ml_options_free(o);
    snprintf(text, sizeof text, "[data]\ndir = %sx\n", value);
    assert_recipe_fails(text, "2", "expected a line of a recipe, of at most 198 bytes, found 199");
}

static void test_numbers_and_ranges(void **state)
{
    (void)state;
    const struct {
        const char *text;
        int64_t value; /* -1: an error */
    } ints[] = { { "1", 1 },
                 { "+7", 7 },
                 { "3k", 3000 },
                 { "2m", 2000000 },
                 { "5g", 5000000000 },
                 { "1000g", 1000000000000 },
                 { "1001g", -1 },
                 { "0", -1 },
                 { "-1", -1 },
                 { "", -1 },
                 { "k", -1 },
                 { "1.5k", -1 },
                 { "9999999999g", -1 },
                 { "1kk", -1 },
                 { "0x10", -1 },
                 { " 1", -1 },
                 { "99999999999999999999", -1 } };
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        ml_options *o = make("train");
        ml_status status = ml_options_set(o, "train", "steps", ints[i].text, &err);
        assert_int_equal(status, ints[i].value < 0 ? ML_EINVAL : ML_OK);
        assert_true(ml_options_int(o, "train.steps") == (ints[i].value < 0 ? 100 : ints[i].value));
        ml_options_free(o);
    }
    ml_options *o = make("train");
    assert_ok(ml_options_set(o, "train", "batch", "9223372036854775807", &err));
    assert_fails(ml_options_set(o, "train", "batch", "9223372036854775808", &err), ML_EINVAL, "of at least 1");
    assert_fails(ml_options_set(o, "optim", "lr", "nan", &err), ML_EINVAL, "a number from 0 to 1, found \"nan\"");
    assert_fails(ml_options_set(o, "optim", "lr", "1.5", &err), ML_EINVAL, "--optim.lr: expected");
    assert_fails(ml_options_set(o, "optim", "lr", "1x", &err), ML_EINVAL, "found \"1x\"");
    assert_fails(ml_options_set(o, "optim", "name", "ada", &err), ML_EINVAL, "adamw|muon");
    assert_fails(ml_options_set(o, "data", "cross_documents", "maybe", &err), ML_EINVAL, "on or off");
    ml_options_free(o);
}

static void test_lists_start_anew_in_a_stronger_origin(void **state)
{
    (void)state;
    const char *const *items;
    ml_options *o = make("data:build");
    assert_int_equal(ml_options_list(o, "data.source", &items), 1);
    assert_string_equal(items[0], "default:1");
    assert_ok(ml_options_parse_ini(o, write_recipe("[data]\nsource = a:0.3\nsource = b:0.7\n"), &err));
    assert_int_equal(ml_options_list(o, "data.source", &items), 2);
    assert_string_equal(items[1], "b:0.7");
    assert_ok(PARSE(o, "--data.source", "c", "--data.source=d", "--data.source", "e"));
    assert_int_equal(ml_options_list(o, "data.source", &items), 3);
    assert_string_equal(items[0], "c");
    assert_string_equal(items[2], "e");
    ml_options_free(o);
}

static void test_open_section(void **state)
{
    (void)state;
    const char *name, *value;
    ml_options *o = make("train");
    assert_ok(PARSE(o, "--model", "folder", "--model.hidden_size", "896"));
    assert_ok(ml_options_parse_ini(o, write_recipe("[model]\nn_layer = 4\nhidden_size = 64\n"), &err));
    assert_string_equal(ml_options_text(o, "model"), "folder");
    assert_int_equal(ml_options_open_count(o), 2);
    ml_options_open_item(o, 0, &name, &value);
    assert_string_equal(name, "hidden_size");
    assert_string_equal(value, "896");
    ml_options_open_item(o, 1, &name, &value);
    assert_string_equal(name, "n_layer");
    /* A row of the table is no open key, and the written file holds both under one heading. */
    assert_ok(PARSE(o, "--model.preset", "small"));
    assert_string_equal(ml_options_text(o, "model.preset"), "small");
    assert_int_equal(ml_options_open_count(o), 2);
    char *text;
    assert_ok(ml_options_write_ini(o, recipe, &err));
    assert_ok(ml_file_read(recipe, &text, NULL, &err));
    assert_non_null(strstr(text, "\n[model]\n; command line\npreset = small\n; command line\nhidden_size = 896\n"));
    ml_free(text);
    ml_options_free(o);
}

static void count_difference(void *arg, const char *section, const char *name, const char *old_value,
                             const char *new_value)
{
    char *text = arg;
    sprintf(text + strlen(text), "%s.%s: %s -> %s\n", section, name, old_value, new_value);
}

static void test_written_options_read_back_the_same(void **state)
{
    (void)state;
    const char *odd = " blanks ; \"quoted\" \\ back\nline\x01 caf\xc3\xa9 ";
    ml_options *o = make("train"), *back = make("train");
    assert_ok(ml_options_parse_ini(o, write_recipe("[train]\nsteps = 2k\n[optim]\nlr = 0.1\n"), &err));
    assert_ok(PARSE(o, "--data.source", odd, "--data.source", "", "--data.dir", "=a:b", "--model.k", "v;w", "--json"));
    char path[ML_PATH_MAX], differences[1024] = "";
    assert_ok(ml_path_join(path, folder, "options.ini", &err));
    assert_ok(ml_options_write_ini(o, path, &err));
    assert_ok(ml_options_parse_ini(back, path, &err));
    assert_int_equal(ml_options_int(back, "train.steps"), 2000);
    assert_string_equal(ml_options_text(back, "data.dir"), "=a:b");
    const char *const *items;
    assert_int_equal(ml_options_list(back, "data.source", &items), 2);
    assert_string_equal(items[0], odd);
    assert_string_equal(items[1], "");
    assert_false(ml_options_flag(back, "json")); /* an argument of the verb is a comment */
    assert_ok(ml_options_compare_ini(o, path, count_difference, differences, &err));
    assert_string_equal(differences, "");
    char *text;
    assert_ok(ml_file_read(path, &text, NULL, &err));
    char origin[ML_PATH_MAX + 64];
    snprintf(origin, sizeof origin, "; %s:2\nsteps = 2k\n; default\nbatch = 8\n", recipe);
    assert_non_null(strstr(text, origin));
    assert_non_null(strstr(text, "; command line\ndir = =a:b\n"));
    assert_non_null(strstr(text, "; --json on\n"));
    ml_free(text);
    assert_ok(
        PARSE(o, "--train.steps", "2000", "--optim.lr", "1e-1", "--train.batch", "9", "--model.k=z", "--model.n=1"));
    assert_ok(ml_options_compare_ini(o, path, count_difference, differences, &err));
    assert_string_equal(differences, "train.batch: 8 -> 9\nmodel.k: v;w -> z\nmodel.n: (not set) -> 1\n");
    char longest[300];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_ok(ml_options_set(o, "data", "dir", longest, &err));
    assert_fails(ml_options_write_ini(o, path, &err), ML_EINVAL, "data.dir is too long");
    ml_options_free(o);
    ml_options_free(back);
}

/* What the command line gave, as texts, gives another set the same values: also with '=', blanks, lists and nothing. */
static void test_overrides_travel_as_texts(void **state)
{
    (void)state;
    static const char *const expected[] = { "train.steps=2k", "data.source=a=b;c", "data.source=", "data.dir=two words",
                                            "model.hidden_size=896" };
    ml_options *o = make("train"), *copy = make("train");
    char **items, path[ML_PATH_MAX], differences[1024] = "";
    size_t n;
    write_recipe("[train]\nbatch = 4\nsteps = 7\n[model]\nn = 1\n");
    assert_ok(ml_options_parse_ini(o, recipe, &err));
    assert_ok(PARSE(o, "--model.hidden_size=896", "--data.source", "a=b;c", "--data.source=", "--data.dir", "two words",
                    "--train.steps", "2k", "--json"));
    assert_true(ml_options_overridden(o, "train.steps") && !ml_options_overridden(o, "train.batch"));
    assert_false(ml_options_overridden(o, "optim.lr"));
    assert_ok(ml_options_list_overrides(o, &items, &n, &err));
    assert_int_equal(n, sizeof expected / sizeof expected[0]);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(items[i], expected[i]);
        assert_ok(ml_options_assign(copy, items[i], &err));
    }
    ml_options_free_overrides(items, n);
    assert_ok(ml_options_parse_ini(copy, recipe, &err));
    assert_ok(ml_path_join(path, folder, "options.ini", &err));
    assert_ok(ml_options_write_ini(o, path, &err));
    assert_ok(ml_options_compare_ini(copy, path, count_difference, differences, &err));
    assert_string_equal(differences, "");
    assert_fails(ml_options_assign(copy, "train.steps", &err), ML_EINVAL,
                 "expected section.key=value, found \"train.steps\"");
    assert_fails(ml_options_assign(copy, "steps=3.5", &err), ML_EINVAL, "found \"steps=3.5\"");
    assert_fails(ml_options_assign(copy, "train.steps=0", &err), ML_EINVAL, "train.steps: expected an integer from 1");
    assert_fails(ml_options_assign(copy, "train.step=1", &err), ML_EINVAL, "did you mean --train.steps?");
    ml_options_free(o);
    ml_options_free(copy);
}

static void test_one_section_is_written(void **state)
{
    (void)state;
    ml_options *o = make("train"), *back = make("train");
    char path[ML_PATH_MAX], *text;
    assert_ok(ml_path_join(path, folder, "data.ini", &err));
    assert_ok(PARSE(o, "--data.dir", "d", "--train.steps", "3"));
    assert_ok(ml_options_write_section(o, "data", "About data.", path, &err));
    assert_ok(ml_file_read(path, &text, NULL, &err));
    assert_string_equal(text, "; About data.\n\n[data]\n; default\nsource = default:1\n; command line\ndir = d\n"
                              "; default\ncross_documents = off\n");
    assert_ok(ml_options_parse_ini_text(back, "a name", text, strlen(text), &err));
    assert_string_equal(ml_options_text(back, "data.dir"), "d");
    assert_int_equal(ml_options_int(back, "train.steps"), 100);
    assert_fails(ml_options_parse_ini_text(back, "a name", "[train]\nsteps = x\n", 18, &err), ML_EINVAL, "a name:2: ");
    ml_free(text);
    ml_options_free(o);
    ml_options_free(back);
}

static void test_help_lists_what_the_verb_accepts(void **state)
{
    (void)state;
    char text[4096] = "";
    FILE *out = fmemopen(text, sizeof text, "w");
    ml_options *o = make("train");
    ml_options_print_help(o, out);
    fclose(out);
    ml_options_free(o);
    assert_non_null(strstr(text, "  --model M                     model folder\n"));
    assert_non_null(strstr(text, "--optim.name adamw|muon"));
    assert_non_null(strstr(text, "(default: 3e-4)"));
    assert_null(strstr(text, "report.html"));
    assert_true(strstr(text, "--threads") < strstr(text, "Section [train]"));
}

static void test_bad_default_is_refused(void **state)
{
    (void)state;
    const ml_option_row bad[] = { { "*", "a", "b", ML_OPTION_INT, 1, 2, NULL, "3", NULL, "" } };
    ml_options *o;
    assert_fails(ml_options_make(bad, 1, "x", NULL, &o, &err), ML_EINVAL, "default of a.b");
    assert_null(o);
}

/* Every allocation in turn fails: an error each time, nothing leaked, and in the end success. */
static void test_out_of_memory(void **state)
{
    (void)state;
    write_recipe("[train]\nsteps = 2\n[data]\nsource = a\nsource = b\n[model]\nx = 1\n");
    int64_t n_live = ml_alloc_get_stats().n_live;
    ml_status status = ML_ENOMEM;
    int n = 0;
    for (; status != ML_OK; n++) {
        assert_true(n < 1000);
        ml_options *o = NULL;
        ml_alloc_fail_after(n);
        status = ml_options_make(rows, sizeof rows / sizeof *rows, "train", "model", &o, &err);
        if (status == ML_OK) status = ml_options_parse_ini(o, recipe, &err);
        if (status == ML_OK) status = PARSE(o, "x", "--model.y", "2", "--data.source", "c");
        ml_alloc_fail_after(-1);
        if (status != ML_OK) assert_int_equal(status, ML_ENOMEM);
        ml_options_free(o);
        assert_int_equal(ml_alloc_get_stats().n_live, n_live);
    }
    assert_true(n > 20);
}

static void test_nearest(void **state)
{
    (void)state;
    assert_int_equal(ml_nearest_distance("kitten", "sitting"), 3);
    assert_int_equal(ml_nearest_distance("", "abc"), 3);
    assert_int_equal(ml_nearest_distance("ca", "ac"), 1);
    assert_int_equal(ml_nearest_distance("ca", "abc"), 3); /* optimal string alignment, not full Damerau */
    ml_nearest n = ml_nearest_begin("pretrian");
    ml_nearest_offer(&n, "report");
    assert_null(n.best);
    ml_nearest_offer(&n, "train");
    ml_nearest_offer(&n, "pretrain");
    assert_string_equal(n.best, "pretrain");
}

/* What is offered is kept when the whole distance says so: nearer than the last that was kept, and few enough letters.
 */
static void test_nearest_agrees_with_distances(void **state)
{
    (void)state;
    ml_rng rng = ml_rng_make(5, 1);
    int64_t n_kept = 0;
    for (int k = 0; k < 20000; k++) {
        char typed[12], word[4][12];
        ml_nearest n = ml_nearest_begin(typed);
        const char *best = NULL;
        int distance = 0;
        for (int w = -1; w < 4; w++) {
            char *text = w < 0 ? typed : word[w];
            size_t length = ml_rng_below(&rng, sizeof typed);
            for (size_t i = 0; i < length; i++) text[i] = (char)('a' + ml_rng_below(&rng, 3));
            text[length] = 0;
            if (w < 0) continue;
            int found = ml_nearest_distance(typed, text), allowed = (int)length / 3 > 2 ? (int)length / 3 : 2;
            if (allowed >= (int)length) allowed = (int)length - 1;
            if (found <= allowed && (!best || found < distance)) {
                best = text;
                distance = found;
            }
            ml_nearest_offer(&n, text);
        }
        assert_ptr_equal(n.best, best);
        if (best) assert_int_equal(n.distance, distance);
        n_kept += best != NULL;
    }
    assert_in_range(n_kept, 1000, 19000);
}

static int set_up(void **state)
{
    (void)state;
    strcpy(folder, test_make_folder());
    return ml_path_join(recipe, folder, "recipe.ini", &err) != ML_OK;
}

static int tear_down(void **state)
{
    (void)state;
    test_remove_folder(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_recipe_command_line),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_unknown_names_suggest),
        cmocka_unit_test(test_recipe_errors_name_the_line),
        cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_numbers_and_ranges),
        cmocka_unit_test(test_lists_start_anew_in_a_stronger_origin),
        cmocka_unit_test(test_open_section),
        cmocka_unit_test(test_written_options_read_back_the_same),
        cmocka_unit_test(test_overrides_travel_as_texts),
        cmocka_unit_test(test_one_section_is_written),
        cmocka_unit_test(test_help_lists_what_the_verb_accepts),
        cmocka_unit_test(test_bad_default_is_refused),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_nearest_agrees_with_distances),
    };
    return cmocka_run_group_tests_name("options", tests, set_up, tear_down);
}
