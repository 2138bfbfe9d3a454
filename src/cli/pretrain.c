/* moonlight pretrain RECIPE, and what sft and dpo share with it: the library's trainer, with its words on standard
 * error and its work as bars.
 */
#include "cli/pretrain.h"

#include "cli/cli.h"
#include "cli/sweep.h"
#include "format/run.h"
#include "recipe/recipe.h"

#include <math.h>
#include <string.h>

static void show_message(void *arg, bool is_warning, const char *text)
{
    (void)arg;
    if (is_warning)
        ml_log_warn("%s", text);
    else
        ml_log_info("%s", text);
}

static void show_progress(void *arg, const ml_trainer_progress *p)
{
    ml_progress **bar = arg;
    switch (p->phase) {
    case ML_PROGRESS_BEGIN: *bar = ml_progress_begin(p->task, p->unit, p->total); break;
    case ML_PROGRESS_UPDATE: ml_progress_update(*bar, p->done, p->note); break;
    case ML_PROGRESS_END:
        ml_progress_end(*bar);
        *bar = NULL;
        break;
    }
}

ml_listener ml_cli_listener(ml_progress **bar)
{
    return (ml_listener){ .arg = bar, .message = show_message, .progress = show_progress };
}

ml_status ml_cli_train_run(const char *stage, const ml_options *o, const char *run, bool resume, double *best_loss,
                           ml_error *err)
{
    ml_trainer *t = NULL;
    ml_progress *bar = NULL;
    char **set;
    size_t n_set;
    ML_TRY(ml_options_list_overrides(o, &set, &n_set, err));
    ml_trainer_config config = { .stage = stage,
                                 .recipe = ml_options_positional(o, 0),
                                 .set = (const char *const *)set,
                                 .n_set = n_set,
                                 .run_folder = run,
                                 .resume = resume,
                                 .device = ml_options_text(o, "device"),
                                 .arg = &bar,
                                 .on_progress = show_progress,
                                 .on_message = show_message };
    ml_status status = ml_trainer_open(&config, &t, err);
    ml_options_free_overrides(set, n_set);
    if (status == ML_OK) status = ml_trainer_run(t, err);
    if (status == ML_OK && best_loss) *best_loss = ml_trainer_get_result(t).best_loss;
    ml_trainer_free(t);
    return status;
}

ml_status ml_cli_pretrain_run(const ml_options *o, const char *run, bool resume, double *best_loss, ml_error *err)
{
    return ml_cli_train_run("pretrain", o, run, resume, best_loss, err);
}

static void say_done(const ml_options *o, const char *stage, const char *loss, const char *run)
{
    bool has_adapter = strcmp(stage, "pretrain") && strcmp(ml_options_text(o, "adapter.kind"), "none");
    const char *from = has_adapter ? ml_options_text(o, "init.from") : run;
    ml_log_info("done%s.  Try: moonlight generate --model %s%s%s --prompt \"Once upon a time\"", loss, from,
                has_adapter ? " --adapter " : "", has_adapter ? run : "");
}

static void add(char *line, size_t size, const char *text)
{
    size_t n = strlen(line);
    snprintf(line + n, size - n, "%s", text);
}

/* A word as a shell reads it. */
static void add_word(char *line, size_t size, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:,=+@%";
    if (*word && !word[strspn(word, plain)]) {
        add(line, size, word);
        return;
    }
    add(line, size, "'");
    for (const char *p = word; *p; p++) add(line, size, *p == '\'' ? "'\\''" : (char[]){ *p, 0 });
    add(line, size, "'");
}

/* The command that goes on: with the options of this one, since those of the recipe would count again. */
static void say_stopped(const ml_options *o, const char *stage, const char *run)
{
    char line[4000] = "", folder[ML_PATH_MAX];
    char **set;
    size_t n_set;
    int64_t step;
    ml_error ignored;
    if (ml_run_find(run, ML_RUN_LATEST, folder, &step, &ignored) != ML_OK) {
        ml_log_info("stopped before the first step: the same command begins where it was");
        return;
    }
    if (ml_options_list_overrides(o, &set, &n_set, &ignored) != ML_OK) return;
    add(line, sizeof line, stage);
    add(line, sizeof line, " ");
    add_word(line, sizeof line, ml_options_positional(o, 0));
    add(line, sizeof line, " --run ");
    add_word(line, sizeof line, run);
    add(line, sizeof line, " --resume");
    for (size_t i = 0; i < n_set; i++) {
        add(line, sizeof line, " --");
        add_word(line, sizeof line, set[i]);
    }
    if (ml_options_overridden(o, "device")) {
        add(line, sizeof line, " --device ");
        add_word(line, sizeof line, ml_options_text(o, "device"));
    }
    ml_options_free_overrides(set, n_set);
    ml_log_info("saved; continue with: moonlight %s", line);
}

static ml_status run_recipe(const char *stage, const ml_options *o, ml_error *err)
{
    const char *run = ml_options_text(o, "run");
    double best;
    ml_status status = ml_cli_train_run(stage, o, run, ml_options_flag(o, "resume"), &best, err);
    if (status == ML_ECANCEL) {
        say_stopped(o, stage, run);
    } else if (status == ML_OK) {
        char loss[64] = "";
        if (!isnan(best)) snprintf(loss, sizeof loss, "; best validation loss %.4f", best);
        say_done(o, stage, loss, run);
    }
    return status;
}

ml_status ml_cli_train(const char *stage, int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse(stage, "model", argc, argv, 1, 1, "a recipe file or the name of a built-in recipe", &o, err));
    ml_status status = ml_recipe_read(o, ml_options_positional(o, 0), err);
    ml_stop_install();
    if (status == ML_OK) status = ml_recipe_is_sweep(o) ? ml_cli_sweep(o, argc, argv, err) : run_recipe(stage, o, err);
    ml_options_free(o);
    return status;
}

ml_status ml_cli_pretrain(int argc, char **argv, ml_error *err)
{
    return ml_cli_train("pretrain", argc, argv, err);
}
