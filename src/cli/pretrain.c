/* moonlight pretrain RECIPE.ini: data, model, training, in that order. */
#include "cli/pretrain.h"

#include "cli/cli.h"
#include "cli/prepare.h"
#include "cli/sweep.h"
#include "cli/train_setup.h"
#include "train/pretrain.h"

#include <string.h>

typedef struct {
    const ml_options *o;
    const char *run;
    bool resume;
    ml_train_config train;
    ml_dataset *data;
    ml_tokenizer *tokenizer;
    ml_config config;
    ml_model *model;
    ml_pretrain *stage;
    ml_train_hooks hooks;
    ml_trainer *trainer;
} job;

static void say(void *arg, const char *text)
{
    (void)arg;
    ml_log_info("%s", text);
}

/* A run that cannot be is refused before hours of data preparation. */
static ml_status check_first(job *j, ml_error *err)
{
    ML_TRY(ml_trainer_check_folder(j->run, j->resume, err));
    if (j->resume) ML_TRY(ml_cli_check_resume(j->o, j->run, err));
    ML_TRY(ml_cli_train_config(j->o, &j->train, err));
    ML_TRY(ml_cli_model_config(j->o, NULL, &j->config, err));
    ML_TRY(ml_trainer_check_config(&j->train, &j->config, err));
    ml_cli_print_steps(&j->train, &j->config);
    return ml_cli_check_memory(&j->train, &j->config, err);
}

static ml_status make_stage(job *j, ml_error *err)
{
    ml_pretrain_config config = { .batch = j->train.batch,
                                  .seq = j->train.seq,
                                  .cross_documents = ml_options_flag(j->o, "data.cross_documents"),
                                  .seed = j->train.seed,
                                  .eval_windows = ml_options_int(j->o, "eval.windows") };
    ML_TRY(ml_pretrain_make(j->data, &config, &j->stage, err));
    int64_t n_window = ml_pretrain_n_window(j->stage);
    ml_log_info("%.2f passes over %lld windows", ml_cli_count_sequences(&j->train) / (double)n_window,
                (long long)n_window);
    return ML_OK;
}

static ml_status write_options(const job *j, ml_error *err)
{
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, j->run, "options.ini", err));
    return ml_options_write_ini(j->o, path, err);
}

static ml_status set_up(job *j, ml_error *err)
{
    ML_TRY(check_first(j, err));
    ML_TRY(ml_cli_prepare_data(j->o, &j->data, &j->tokenizer, err));
    ML_TRY(ml_cli_model_config(j->o, j->tokenizer, &j->config, err));
    ML_TRY(make_stage(j, err));
    ML_TRY(ml_model_make(&j->config, ML_F32, true, &j->model, err));
    if (!j->resume) ml_model_init(j->model, j->train.seed);
    j->hooks = (ml_train_hooks){ .line = say };
    ML_TRY(ml_trainer_make(&j->train, j->run, j->resume, j->model, ml_pretrain_stage(j->stage), j->tokenizer, &j->hooks,
                           &j->trainer, err));
    ml_cli_print_groups(ml_trainer_optimizer(j->trainer));
    return write_options(j, err);
}

static ml_status train(job *j, ml_error *err)
{
    ml_progress *progress = ml_progress_begin("train", "steps", (double)j->train.schedule.steps);
    ml_trainer_set_progress(j->trainer, progress);
    ml_status status = ml_trainer_run(j->trainer, err);
    ml_progress_end(progress);
    return status;
}

static void free_job(job *j)
{
    ml_trainer_free(j->trainer);
    ml_model_free(j->model);
    ml_pretrain_free(j->stage);
    ml_dataset_free(j->data);
    ml_tokenizer_free(j->tokenizer);
}

ml_status ml_cli_pretrain_run(const ml_options *o, const char *run, bool resume, double *best_loss, ml_error *err)
{
    job j = { .o = o, .run = run, .resume = resume };
    ml_status status = set_up(&j, err);
    if (status == ML_OK) status = train(&j, err);
    if (status == ML_OK && best_loss) *best_loss = ml_trainer_best_loss(j.trainer);
    free_job(&j);
    return status;
}

static ml_status run_recipe(const ml_options *o, ml_error *err)
{
    const char *run = ml_options_text(o, "run");
    double best;
    ml_status status = ml_cli_pretrain_run(o, run, ml_options_flag(o, "resume"), &best, err);
    if (status == ML_ECANCEL) {
        ml_log_info("saved; continue with: moonlight pretrain %s --run %s --resume", ml_options_positional(o, 0), run);
    } else if (status == ML_OK) {
        ml_log_info(
            "done; best validation loss %.4f.  Try: moonlight generate --model %s --prompt \"Once upon a time\"", best,
            run);
    }
    return status;
}

ml_status ml_cli_pretrain(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("pretrain", "model", argc, argv, 1, 1, "a recipe file", &o, err));
    ml_status status = ml_options_parse_ini(o, ml_options_positional(o, 0), err);
    ml_stop_install();
    if (status == ML_OK) status = ml_cli_is_sweep(o) ? ml_cli_sweep(o, argc, argv, err) : run_recipe(o, err);
    ml_options_free(o);
    return status;
}
