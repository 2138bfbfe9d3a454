#include "cli/sweep_cells.h"

#include "cli/cli.h"
#include "recipe/recipe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The name before the colon; *settings is what follows it. */
static ml_status read_name(const char *line, char **name, const char **settings, ml_error *err)
{
    size_t n = strspn(line, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    const char *p = line + n + strspn(line + n, " \t");
    if (n == 0 || n > 60 || line[0] == '.' || *p != ':') {
        return ml_fail(err, ML_EINVAL,
                       "sweep.run: expected \"NAME: section.key=value ...\", the name of letters, digits, dots and "
                       "dashes, found \"%.80s\"",
                       line);
    }
    *settings = p + 1;
    *name = ml_strdup(line);
    if (!*name) return ml_fail_memory(err, n + 1, "the name of a run");
    (*name)[n] = 0;
    return ML_OK;
}

/* One "section.key=value". */
static ml_status apply_setting(ml_options *o, const char *run, const char *word, ml_error *err)
{
    int n = (int)strcspn(word, "=");
    if (!strncmp(word, "data.", 5) || !strncmp(word, "sweep.", 6) || !strncmp(word, "train.seed=", 11)) {
        return ml_fail(err, ML_EINVAL,
                       "sweep.run %s: %.*s cannot differ between the runs of a sweep: they share their data, and "
                       "sweep.seeds gives the seeds",
                       run, n, word);
    }
    ml_status status = ml_options_assign(o, word, err);
    return status == ML_OK ? ML_OK : ml_fail_prefix(err, "sweep.run %s", run);
}

static ml_status apply_settings(ml_options *o, const char *run, const char *settings, ml_error *err)
{
    char *words = ml_strdup(settings), *rest = words;
    if (!words) return ml_fail_memory(err, strlen(settings) + 1, "the settings of a run");
    ml_status status = ML_OK;
    for (char *word; status == ML_OK && (word = strsep(&rest, " \t"));) {
        if (*word) status = apply_setting(o, run, word, err);
    }
    ml_free(words);
    return status;
}

/* Effective options of a cell: the command line over the run's settings over the recipe. */
static ml_status make_options(ml_sweep_cell *c, const char *run, const char *settings, int argc, char **argv,
                              ml_error *err)
{
    char seed[24];
    snprintf(seed, sizeof seed, "%lld", (long long)c->seed);
    ML_TRY(ml_options_make(ml_cli_rows, ml_cli_n_rows, "pretrain", "model", &c->o, err));
    ML_TRY(apply_settings(c->o, run, settings, err));
    ML_TRY(ml_options_parse_args(c->o, argc, argv, err));
    ML_TRY(ml_options_set(c->o, "train", "seed", seed, err));
    ML_TRY(ml_options_set(c->o, "sweep", "run", "", err)); /* its options.ini is a recipe for this one run */
    return ml_recipe_read(c->o, ml_options_positional(c->o, 0), err);
}

static ml_status make_cell(ml_sweep *s, size_t run_id, int64_t seed, const char *settings, int argc, char **argv,
                           ml_error *err)
{
    char name[128];
    ml_sweep_cell *c = &s->cell[s->n_cell++];
    c->run_id = run_id;
    c->seed = seed;
    snprintf(name, sizeof name, "%s-seed%lld", s->name[run_id], (long long)seed);
    ML_TRY(ml_path_join(c->folder, s->folder, name, err));
    return make_options(c, s->name[run_id], settings, argc, argv, err);
}

/* "1 2 3" -> seeds; how many there are at most is the length of the text. */
static ml_status read_seeds(const char *text, int64_t *seed, size_t *n, ml_error *err)
{
    *n = 0;
    for (const char *p = text + strspn(text, " ,\t"); *p; p += strspn(p, " ,\t")) {
        char *end;
        errno = 0;
        seed[*n] = strtoll(p, &end, 10);
        if (end == p || errno || seed[*n] < 0) {
            return ml_fail(err, ML_EINVAL, "sweep.seeds: expected numbers such as 1 2 3, found \"%.40s\"", p);
        }
        for (size_t i = 0; i < *n; i++) {
            if (seed[i] == seed[*n]) {
                return ml_fail(err, ML_EINVAL, "sweep.seeds: %lld is given twice", (long long)seed[i]);
            }
        }
        ++*n;
        p = end;
    }
    return *n ? ML_OK : ml_fail(err, ML_EINVAL, "sweep.seeds: expected at least one number, found none");
}

static ml_status read_names(ml_sweep *s, const char *const *line, const char **settings, ml_error *err)
{
    size_t n = s->n_run;
    for (s->n_run = 0; s->n_run < n;) {
        char **name = &s->name[s->n_run];
        ML_TRY(read_name(line[s->n_run], name, &settings[s->n_run], err));
        for (size_t i = 0; i < s->n_run; i++) {
            if (strcmp(s->name[i], *name) != 0) continue;
            s->n_run++;
            return ml_fail(err, ML_EINVAL, "sweep.run: two runs are named %s", *name);
        }
        s->n_run++;
    }
    return ML_OK;
}

ml_status ml_sweep_read(const ml_options *o, int argc, char **argv, ml_sweep *s, ml_error *err)
{
    const char *const *line, *seeds = ml_options_text(o, "sweep.seeds"), **settings = NULL;
    int64_t *seed = ml_calloc(strlen(seeds) + 1, sizeof *seed);
    ml_status status = ML_OK;
    s->folder = ml_options_text(o, "run");
    s->n_run = ml_options_list(o, "sweep.run", &line);
    s->name = ml_calloc(s->n_run, sizeof *s->name);
    settings = ml_calloc(s->n_run, sizeof *settings);
    if (!seed || !s->name || !settings) {
        status = ml_fail_memory(err, s->n_run * sizeof *s->name, "the list of runs");
        goto done;
    }
    ML_TRY_GOTO(read_names(s, line, settings, err));
    ML_TRY_GOTO(read_seeds(seeds, seed, &s->n_seed, err));
    s->cell = ml_calloc(s->n_run * s->n_seed, sizeof *s->cell);
    if (!s->cell) {
        status = ml_fail_memory(err, s->n_run * s->n_seed * sizeof *s->cell, "the list of runs");
        goto done;
    }
    for (size_t k = 0; k < s->n_seed; k++) {
        for (size_t i = 0; i < s->n_run; i++) ML_TRY_GOTO(make_cell(s, i, seed[k], settings[i], argc, argv, err));
    }
done:
    ml_free(seed);
    ml_free(settings);
    return status;
}

void ml_sweep_free(ml_sweep *s)
{
    for (size_t i = 0; i < s->n_cell; i++) {
        ml_options_free(s->cell[i].o);
        ml_free(s->cell[i].eval_step);
        ml_free(s->cell[i].eval_loss);
    }
    for (size_t i = 0; i < s->n_run; i++) ml_free(s->name[i]);
    ml_free(s->cell);
    ml_free(s->name);
    memset(s, 0, sizeof *s);
}
