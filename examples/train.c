/* Train as a recipe says:  train RECIPE RUN_FOLDER [section.name=value ...]
 * RECIPE is an INI file or the name of a built-in recipe ("quickstart").  Ctrl-C stops with a checkpoint; called again,
 * it goes on.  The path of the best checkpoint comes last, alone on standard output. */
#include <moonlight.h>

#include <signal.h>
#include <stdio.h>

static ml_trainer *trainer;

static void on_signal(int number)
{
    (void)number;
    ml_trainer_stop(trainer);
}

static void show_step(void *arg, const ml_trainer_step *s)
{
    (void)arg;
    fprintf(stderr, "step %lld of %lld: loss %.4f, lr %.2e, %.0f tokens/s\n", (long long)s->step, (long long)s->n_step,
            s->loss, s->lr, s->tokens_per_second);
}

static void show_message(void *arg, bool is_warning, const char *text)
{
    (void)arg;
    fprintf(stderr, "%s%s\n", is_warning ? "warning: " : "", text);
}

int main(int argc, char **argv)
{
    if (argc < 3) return fprintf(stderr, "usage: train RECIPE RUN_FOLDER [section.name=value ...]\n"), 2;
    char latest[4096];
    snprintf(latest, sizeof latest, "%s/latest", argv[2]);
    FILE *begun = fopen(latest, "r"); /* an earlier call has saved something */
    if (begun) fclose(begun);
    ml_trainer_config config = { .recipe = argv[1],
                                 .run_folder = argv[2],
                                 .set = (const char *const *)argv + 3,
                                 .n_set = (size_t)argc - 3,
                                 .resume = begun != NULL,
                                 .on_step = show_step,
                                 .on_message = show_message };
    ml_error err;
    ml_status status = ml_trainer_open(&config, &trainer, &err);
    if (status == ML_OK) {
        signal(SIGINT, on_signal);
        status = ml_trainer_run(trainer, &err);
        ml_trainer_result result = ml_trainer_get_result(trainer);
        if (status == ML_OK) fprintf(stderr, "best validation loss: %.4f\n", result.best_loss);
        if (result.best) puts(result.best);
    }
    if (status != ML_OK) fprintf(stderr, "train: %s\n", err.message);
    ml_trainer_free(trainer);
    return status == ML_OK ? 0 : 1;
}
