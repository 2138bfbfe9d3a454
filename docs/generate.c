/* Writes the reference pages that come from tables: docs/cli.md (verbs and options), docs/ops.md (operators).
 *
 *   generate_docs FOLDER           writes them there
 *   generate_docs --check FOLDER   fails when those there are not what it would write */
#include "base/alloc.h"
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *words, *arguments, *open_section, *help;
} verb_line;

static const verb_line verbs[] = {
#define ML_VERB(function, words, arguments, open_section, help) { words, arguments, open_section, help },
#include "cli/verbs.def"
#undef ML_VERB
    { 0 },
};

/* Text in a cell of a Markdown table: '|' would end the cell. */
static void put_cell(const char *text, FILE *out)
{
    for (; *text; text++) fprintf(out, "%s%c", *text == '|' ? "\\" : "", *text);
}

static void put_row(const ml_option_row *row, bool with_scope, FILE *out)
{
    char name[160], accepts[512];
    ml_option_print_name(row, name, sizeof name);
    ml_option_describe(row, accepts, sizeof accepts);
    fputs("| `", out);
    put_cell(name, out);
    fputs("` | ", out);
    put_cell(row->help, out);
    fputs(" | ", out);
    put_cell(accepts, out);
    fprintf(out, " | %s%s%s |", row->default_value ? "`" : "", row->default_value ? row->default_value : "",
            row->default_value ? "`" : "");
    if (with_scope) {
        fputc(' ', out);
        put_cell(strcmp(row->scope, "*") == 0 ? "all" : row->scope, out);
        fputs(" |", out);
    }
    fputc('\n', out);
}

static bool has_verb(const ml_option_row *row, const char *words)
{
    char scope[64];
    ml_cli_scope(words, scope, sizeof scope);
    return strcmp(row->scope, "*") != 0 && ml_option_in_scope(row, scope);
}

static void put_arguments(const verb_line *v, FILE *out)
{
    int n = 0;
    for (size_t i = 0; i < ml_cli_n_rows; i++) {
        const ml_option_row *row = &ml_cli_rows[i];
        if (*row->section || !has_verb(row, v->words)) continue;
        if (n++ == 0) fputs("\n| argument | meaning | accepts | default |\n|---|---|---|---|\n", out);
        put_row(row, false, out);
    }
}

static void put_verbs(FILE *out)
{
    for (const verb_line *v = verbs; v->words; v++) {
        fprintf(out, "\n## moonlight %s\n\n    moonlight %s%s%s [--option value ...]\n\n%s.\n", v->words, v->words,
                *v->arguments ? " " : "", v->arguments, v->help);
        put_arguments(v, out);
        if (v->open_section) {
            fprintf(out, "\nSection `[%s]` takes any key of a model's config.json.\n", v->open_section);
        }
    }
}

static bool section_seen(size_t i)
{
    for (size_t k = 0; k < i; k++) {
        if (strcmp(ml_cli_rows[k].section, ml_cli_rows[i].section) == 0) return true;
    }
    return false;
}

static void put_sections(FILE *out)
{
    for (size_t i = 0; i < ml_cli_n_rows; i++) {
        const char *section = ml_cli_rows[i].section;
        if (!*section || section_seen(i)) continue;
        fprintf(out, "\n## Section [%s]\n\n| option | meaning | accepts | default | verbs |\n|---|---|---|---|---|\n",
                section);
        for (size_t k = i; k < ml_cli_n_rows; k++) {
            if (strcmp(ml_cli_rows[k].section, section) == 0) put_row(&ml_cli_rows[k], true, out);
        }
    }
}

static void put_cli(FILE *out)
{
    fputs("<!-- Written by `cmake --build --preset release --target docs` from cli/options.c, cli/verbs.def, "
          "recipe/options.def. -->\n"
          "# The command line\n\n"
          "Options are `--name value` or `--name=value`; the names with a dot are also the keys of a recipe, where\n"
          "`--train.steps 100` is the line `steps = 100` of section `[train]`. The command line wins over the recipe, "
          "the\n"
          "recipe over the default. Integers take the suffixes k, m and g (10^3, 10^6, 10^9).\n"
          "Exit status: 0 done, 1 failed, 2 wrong usage.\n\n"
          "## Every verb\n\n| argument | meaning | accepts | default |\n|---|---|---|---|\n",
          out);
    for (size_t i = 0; i < ml_cli_n_rows; i++) {
        if (!*ml_cli_rows[i].section && strcmp(ml_cli_rows[i].scope, "*") == 0) put_row(&ml_cli_rows[i], false, out);
    }
    put_verbs(out);
    put_sections(out);
}

static void put_op(const char *name, bool differentiable, double forward, double backward, const char *inputs,
                   const char *outputs, const char *summary, FILE *out)
{
    fprintf(out, "| `%s` | %s | `%s` | `%s` | %g | ", name, summary, inputs, outputs, forward);
    if (differentiable)
        fprintf(out, "%g |\n", backward);
    else
        fputs("no gradient |\n", out);
}

static void put_ops(FILE *out)
{
    fputs("<!-- Written by `cmake --build --preset release --target docs` from src/ops/ops.def. -->\n"
          "# The operators\n\n"
          "All that a forward pass is made of; src/ops/ops.h has shapes and equations. `?` marks an input that may be\n"
          "absent. The last columns are the largest difference from the double-precision reference that the tests\n"
          "accept, relative to the largest magnitude in the compared tensor.\n\n"
          "| operator | what | inputs | outputs | forward | backward |\n|---|---|---|---|---|---|\n",
          out);
#define ML_OP(name, differentiable, forward, backward, inputs, outputs, summary)                                       \
    put_op(#name, differentiable, forward, backward, inputs, outputs, summary, out);
#include "ops/ops.def"
#undef ML_OP
}

static ml_status make_page(const char *folder, const char *name, void (*put)(FILE *out), bool check, ml_error *err)
{
    char path[ML_PATH_MAX], *text = NULL, *old = NULL;
    size_t size;
    ML_TRY(ml_path_join(path, folder, name, err));
    FILE *out = open_memstream(&text, &size);
    if (!out) return ml_fail_memory(err, 0, name);
    put(out);
    ml_status status = ML_OK;
    if (fclose(out) != 0)
        status = ml_fail_memory(err, size, name);
    else if (!check)
        status = ml_file_replace(path, text, size, err);
    else
        status = ml_file_read(path, &old, NULL, err);
    if (old && strcmp(old, text) != 0) {
        status = ml_fail(err, ML_EFORMAT,
                         "%s is not what the tables say; cmake --build --preset release --target docs "
                         "writes it anew",
                         path);
    }
    ml_free(old);
    free(text);
    return status;
}

int main(int argc, char **argv)
{
    bool check = argc == 3 && strcmp(argv[1], "--check") == 0;
    if (argc != 2 && !check) {
        fprintf(stderr, "usage: generate_docs [--check] FOLDER\n");
        return 2;
    }
    ml_error err;
    ml_status status = make_page(argv[argc - 1], "cli.md", put_cli, check, &err);
    if (status == ML_OK) status = make_page(argv[argc - 1], "ops.md", put_ops, check, &err);
    if (status != ML_OK) fprintf(stderr, "generate_docs: %s\n", err.message);
    return status != ML_OK;
}
