/* The program: picks the verb, prints help and errors, turns a status into an exit status. */
#include "base/columns.h"
#include "base/cpu.h"
#include "base/nearest.h"
#include "cli/cli.h"

#include <string.h>

typedef struct {
    const char *words, *arguments, *open_section, *help;
    ml_status (*run)(int argc, char **argv, ml_error *err);
} verb;

static const verb verbs[] = {
#define ML_VERB(function, words, arguments, open_section, help)                                                        \
    { words, arguments, open_section, help, ml_cli_##function },
#include "cli/verbs.def"
#undef ML_VERB
    { 0 },
};

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, HELP_COLUMN = 34 };

static void print_verb(const verb *v, FILE *out)
{
    int n = fprintf(out, "  %s%s%s", v->words, *v->arguments ? " " : "", v->arguments);
    fprintf(out, "%*s", HELP_COLUMN - n, "");
    ml_columns_print(out, v->help, HELP_COLUMN, HELP_COLUMN, ml_columns_of(out));
}

/* Verbs whose words begin with `prefix`; "" for all.  How many there are. */
static int print_verbs(const char *prefix, FILE *out)
{
    size_t n = strlen(prefix);
    int count = 0;
    for (const verb *v = verbs; v->words; v++) {
        if (n && (strncmp(v->words, prefix, n) != 0 || v->words[n] != ' ')) continue;
        if (count++ == 0) fputs("\nVerbs:\n", out);
        print_verb(v, out);
    }
    return count;
}

static void print_help(FILE *out)
{
    fprintf(out,
            "moonlight %s: the whole life of Mixture-of-Experts language models\n\n"
            "usage: moonlight VERB [ARGUMENTS] [--option value ...]\n"
            "       moonlight VERB --help        what the verb takes\n"
            "       moonlight --version\n",
            ml_version());
    print_verbs("", out);
}

static int fail(const char *verb_words, const ml_error *err)
{
    const char *kind = err->code == ML_ECANCEL ? "" : "error: "; /* what was stopped says so itself */
    fflush(stdout);
    fprintf(stderr, "moonlight%s%s: %s%s\n", verb_words ? " " : "", verb_words ? verb_words : "", kind, err->message);
    return err->code == ML_EINVAL ? EXIT_USAGE : EXIT_FAILED;
}

static int print_verb_help(const verb *v)
{
    char scope[64];
    ml_error err = { 0 };
    ml_options *o;
    ml_cli_scope(v->words, scope, sizeof scope);
    if (ml_options_make(ml_cli_rows, ml_cli_n_rows, scope, v->open_section, &o, &err) != ML_OK) {
        return fail(v->words, &err);
    }
    printf("usage: moonlight %s%s%s [--option value ...]\n\n", v->words, *v->arguments ? " " : "", v->arguments);
    ml_columns_print(stdout, v->help, 0, 0, ml_columns_of(stdout));
    fputs("\nOptions:\n", stdout);
    ml_options_print_help(o, stdout);
    ml_options_free(o);
    return EXIT_DONE;
}

/* The verb that argv begins with, the longest match first; *n_words is how many arguments name it. */
static const verb *find_verb(int argc, char **argv, int *n_words)
{
    const verb *found = NULL;
    for (const verb *v = verbs; v->words; v++) {
        size_t n = strcspn(v->words, " ");
        if (strncmp(argv[0], v->words, n) != 0 || argv[0][n]) continue;
        if (!v->words[n] && !found) {
            found = v;
            *n_words = 1;
        } else if (v->words[n] && argc > 1 && strcmp(argv[1], v->words + n + 1) == 0) {
            *n_words = 2;
            return v;
        }
    }
    return found;
}

static int fail_unknown_verb(int argc, char **argv)
{
    char typed[64];
    ml_error err = { .code = ML_EINVAL };
    if (argv[0][0] != '-' && print_verbs(argv[0], stderr) > 0) {
        ml_fail(&err, ML_EINVAL, "expected one of the verbs above, found %s%s%.40s", argv[0], argc > 1 ? " " : "",
                argc > 1 ? argv[1] : "");
        return fail(NULL, &err);
    }
    ml_nearest nearest = ml_nearest_begin(argv[0]), nearest2 = ml_nearest_begin(typed);
    snprintf(typed, sizeof typed, "%s %s", argv[0], argc > 1 ? argv[1] : "");
    for (const verb *v = verbs; v->words; v++) ml_nearest_offer(strchr(v->words, ' ') ? &nearest2 : &nearest, v->words);
    const char *best = nearest.best ? nearest.best : nearest2.best;
    ml_fail(&err, ML_EINVAL, "unknown verb %.40s%s%s%s (moonlight --help lists them)", argv[0],
            best ? "; did you mean " : "", best ? best : "", best ? "?" : "");
    return fail(NULL, &err);
}

static bool asks_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    }
    return false;
}

static int run(int argc, char **argv)
{
    if (argc < 1) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
        print_help(stdout);
        return EXIT_DONE;
    }
    if (strcmp(argv[0], "--version") == 0) {
        printf("moonlight %s\n", ml_version());
        return EXIT_DONE;
    }
    int n_words = 0;
    const verb *v = find_verb(argc, argv, &n_words);
    if (!v && asks_help(argc, argv) && print_verbs(argv[0], stdout) > 0) return EXIT_DONE;
    if (!v) return fail_unknown_verb(argc, argv);
    if (asks_help(argc - n_words, argv + n_words)) return print_verb_help(v);
    ml_error err = { 0 };
    if (ml_cpu_check_wish(&err) != ML_OK) return fail(v->words, &err);
    return v->run(argc - n_words, argv + n_words, &err) == ML_OK ? EXIT_DONE : fail(v->words, &err);
}

int main(int argc, char **argv)
{
    int status = run(argc - 1, argv + 1);
    /* A full disk behind standard output must not look like success. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == EXIT_DONE) {
        fprintf(stderr, "moonlight: error: standard output could not be written\n");
        status = EXIT_FAILED;
    }
    return status;
}
