/* The library's trainer (moonlight.h): the course of a run that all stages share. */
#include "base/memory.h"
#include "format/run.h"
#include "recipe/recipe.h"
#include "recipe/setup.h"
#include "recipe/stage.h"

#include <math.h>
#include <string.h>

static const ml_recipe_stage *const stages[] = { &ml_recipe_pretrain, &ml_recipe_sft, &ml_recipe_dpo };

struct ml_trainer {
    ml_trainer_config config; /* its functions and `arg`, once open */
    char run_folder[ML_PATH_MAX];
    bool resume;
    ml_options *o;
    const ml_recipe_stage *stage;
    atomic_bool stop;
    ml_listener listener;
    ml_recipe_run run;
    ml_train_plan plan;
    ml_param_counts n_params;
    int64_t available; /* bytes, where the plan's memory is taken */
    ml_device *device; /* NULL: the processor */
    char device_name[32];
    ml_loop *loop; /* from the first ml_trainer_run that came so far */
    bool is_done, has_failed;
    ml_status finish;
    char best[ML_PATH_MAX], latest[ML_PATH_MAX];
};

/* ---- who is told ---- */

static void tell_line(void *arg, const char *text)
{
    ml_trainer *t = arg;
    ml_listener_say(&t->listener, "%s", text);
}

static void tell_step(void *arg, const ml_train_step *s, double tokens_s)
{
    ml_trainer *t = arg;
    if (!t->config.on_step) return;
    ml_trainer_step step = { .step = s->step,
                             .n_step = t->run.train.schedule.steps,
                             .tokens = s->tokens,
                             .loss = s->ce,
                             .grad_norm = s->grad_norm,
                             .lr = s->lr,
                             .tokens_per_second = tokens_s,
                             .seconds = s->seconds,
                             .skipped = s->skipped };
    t->config.on_step(t->config.arg, &step);
}

static void tell_evaluation(void *arg, int64_t step, double loss)
{
    ml_trainer *t = arg;
    if (t->config.on_evaluation) t->config.on_evaluation(t->config.arg, step, loss);
}

/* ---- opening ---- */

static ml_status find_stage(ml_trainer *t, ml_error *err)
{
    const char *name = t->config.stage ? t->config.stage : stages[0]->name;
    char names[128] = "";
    for (size_t i = 0; i < sizeof stages / sizeof stages[0]; i++) {
        if (!strcmp(stages[i]->name, name)) t->stage = stages[i];
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", stages[i]->name);
    }
    if (t->stage) return ML_OK;
    return ml_fail(err, ML_EINVAL, "there is no stage \"%.40s\": expected one of: %s", name, names);
}

static ml_status read_options(ml_trainer *t, const ml_trainer_config *c, ml_error *err)
{
    if (!c->recipe || !c->run_folder) {
        return ml_fail(err, ML_EINVAL, "a trainer needs a recipe and a run folder, found %s%s%s",
                       c->recipe ? "" : "no recipe", !c->recipe && !c->run_folder ? " and " : "",
                       c->run_folder ? "" : "no run folder");
    }
    if (strlen(c->run_folder) >= sizeof t->run_folder) {
        return ml_fail(err, ML_EINVAL, "run folder: expected a path of at most %zu bytes, found %zu",
                       sizeof t->run_folder - 1, strlen(c->run_folder));
    }
    strcpy(t->run_folder, c->run_folder);
    ML_TRY(find_stage(t, err));
    ML_TRY(ml_options_make(ml_recipe_rows, ml_recipe_n_rows, t->stage->name, "model", &t->o, err));
    for (size_t i = 0; i < c->n_set; i++) ML_TRY(ml_options_assign(t->o, c->set[i], err));
    ML_TRY(ml_recipe_read(t->o, c->recipe, err));
    if (!ml_recipe_is_sweep(t->o)) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "%s: section sweep trains several times: `moonlight %s` does that; set sweep.run= to train once",
                   c->recipe, t->stage->name);
}

/* Bytes of a model's weights as they are stored. */
static int64_t count_weight_bytes(const ml_model *m)
{
    int64_t n_bytes = 0;
    for (size_t i = 0; i < m->n_weight; i++) {
        n_bytes += (int64_t)ml_dtype_row_bytes(m->weight[i].dtype, ml_weight_count(&m->weight[i]));
    }
    return n_bytes;
}

static ml_device_plan_choice get_choice(const ml_train_config *c)
{
    return (ml_device_plan_choice){ .precision = c->precision, .placing = c->placing, .moments = c->moments };
}

static ml_status plan_adapter(ml_trainer *t, ml_error *err)
{
    const ml_recipe_run *r = &t->run;
    const ml_adapter_config *a = &r->adapter_config;
    int64_t n_param, n_bytes = count_weight_bytes(r->model), n_token = r->train.batch * r->train.seq;
    ML_TRY(ml_adapter_plan(a, &r->config, &n_param, err));
    if (t->device) {
        ml_device_plan_choice choice = get_choice(&r->train);
        ml_adapter_facts facts = { .n_param = n_param, .rank = a->rank, .weight_bytes = n_bytes, .dora = a->dora };
        t->plan = ml_train_make_adapter_device_plan(&r->config, n_token, &r->train.optim, r->train.recompute, &choice,
                                                    &facts);
    } else {
        ml_train_plan_adapter(&t->plan, &r->config, n_param, n_bytes, a->dora, n_token, r->train.recompute);
    }
    ml_listener_say(&t->listener, "%s of rank %lld: %lld numbers are trained, beside %.1f MB of weights that stay",
                    a->dora ? "dora" : "lora", (long long)a->rank, (long long)n_param, (double)n_bytes / 1e6);
    return ML_OK;
}

static ml_status choose_device(ml_trainer *t, ml_error *err)
{
    char choice[256];
    const char *wanted = t->config.device ? t->config.device : "cpu";
    bool is_cpu = !strcmp(wanted, "cpu");
    ML_TRY(ml_device_choose(wanted, &t->device, choice, err));
    if (t->device)
        snprintf(t->device_name, sizeof t->device_name, "cuda:%d", ml_device_get_info(t->device).index);
    else
        snprintf(t->device_name, sizeof t->device_name, "cpu");
    if (!is_cpu) ml_listener_say(&t->listener, "device: %s", choice);
    t->run.train.device = t->device;
    return ML_OK;
}

static int64_t memory_available(const ml_trainer *t)
{
    if (!t->device) return ml_memory_available();
    /* Weights that stay may lie there already. */
    bool is_there = t->run.has_adapter && t->run.model && t->run.model->device;
    return ml_device_get_info(t->device).free_bytes + (is_there ? count_weight_bytes(t->run.model) : 0);
}

static ml_status make_run_plan(ml_trainer *t, ml_error *err)
{
    ml_train_config *c = &t->run.train;
    int64_t tokens = c->batch * c->seq;
    const char *way;
    ML_TRY(ml_recipe_device_config(t->o, &t->run.config, t->run.has_adapter, 4 * t->run.n_frozen, c, &way, err));
    if (!t->device) {
        t->plan = ml_train_make_plan(&t->run.config, tokens, c->optim.name == ML_OPTIM_MUON, c->recompute);
        return ML_OK;
    }
    ml_device_plan_choice choice = get_choice(c);
    t->plan = ml_train_make_device_plan(&t->run.config, tokens, &c->optim, c->recompute, &choice);
    ml_listener_say(&t->listener, "products in %s, moments in %s, train.memory %s",
                    c->precision == ML_PRECISION_BF16 ? "bf16" : "f32", c->moments.bf16 ? "bf16" : "f32", way);
    return ML_OK;
}

static ml_status make_plan(ml_trainer *t, ml_error *err)
{
    char text[512];
    ML_TRY(make_run_plan(t, err));
    if (t->run.has_adapter) ML_TRY(plan_adapter(t, err));
    t->plan.weights += 4 * t->run.n_frozen;
    t->plan.total += 4 * t->run.n_frozen;
    if (t->device) t->plan.host += 4 * t->run.n_frozen; /* where it came from */
    if (t->device) t->plan.samples = ml_train_plan_samples(&t->run.train, &t->run.config);
    t->plan.total += t->plan.samples;
    t->n_params = ml_model_count(&t->run.config);
    t->available = memory_available(t);
    ml_train_format_plan(&t->plan, text, sizeof text);
    ml_listener_say(&t->listener, "%s: %lld parameters, %lld active per token", ml_config_class_name(&t->run.config),
                    (long long)t->n_params.total, (long long)t->n_params.active);
    ml_listener_say(&t->listener, "%s", text);
    return ML_OK;
}

/* A run that cannot be is refused before hours of data preparation. */
static ml_status check(ml_trainer *t, ml_error *err)
{
    ml_recipe_run *r = &t->run;
    ML_TRY(ml_loop_check_folder(t->run_folder, t->resume, err));
    if (t->resume) ML_TRY(ml_recipe_check_resume(t->o, &t->listener, t->run_folder, err));
    ML_TRY(ml_recipe_train_config(t->o, &t->listener, &r->train, err));
    if (t->stage != &ml_recipe_pretrain) {
        ML_TRY(ml_recipe_adapter_config(t->o, &r->has_adapter, &r->adapter_config, err));
        if (r->has_adapter) r->train.optim.lora_b_ratio = ml_options_real(t->o, "adapter.lr_ratio");
    }
    ML_TRY(choose_device(t, err));
    ML_TRY(t->stage->check(r, err));
    ML_TRY(ml_loop_check_config(&r->train, &r->config, err));
    ml_config said = r->config;
    if (r->has_adapter) said.bias_update_rate = 0; /* the model stays as it is */
    ml_recipe_say_steps(&r->train, &said, &t->listener);
    return make_plan(t, err);
}

ml_status ml_trainer_open(const ml_trainer_config *config, ml_trainer **out, ml_error *err)
{
    *out = NULL;
    ml_trainer *t = ml_calloc(1, sizeof *t);
    if (!t) return ml_fail_memory(err, sizeof *t, "a trainer");
    t->config = *config;
    t->resume = config->resume;
    t->listener = (ml_listener){
        .arg = config->arg, .message = config->on_message, .progress = config->on_progress, .stop = &t->stop
    };
    ml_status status = read_options(t, config, err);
    t->run = (ml_recipe_run){ .o = t->o, .listener = &t->listener };
    if (status == ML_OK) status = check(t, err);
    if (status != ML_OK) {
        ml_trainer_free(t);
        return status;
    }
    t->config.stage = t->config.recipe = t->config.run_folder = t->config.device = NULL;
    t->config.set = NULL;
    *out = t;
    return ML_OK;
}

void ml_trainer_free(ml_trainer *t)
{
    if (!t) return;
    ml_loop_free(t->loop);
    ml_adapter_free(t->run.adapter);
    ml_model_free(t->run.model);
    if (t->stage) t->stage->free(&t->run);
    ml_device_close(t->device);
    ml_options_free(t->o);
    ml_free(t);
}

ml_trainer_plan ml_trainer_get_plan(const ml_trainer *t)
{
    const ml_train_config *c = &t->run.train;
    return (ml_trainer_plan){ .class_name = ml_config_class_name(&t->run.config),
                              .n_params = t->n_params.total,
                              .n_params_active = t->n_params.active,
                              .n_step = c->schedule.steps,
                              .tokens_per_step = c->batch * c->accumulate * c->seq,
                              .weights_bytes = t->plan.weights,
                              .gradients_bytes = t->plan.gradients,
                              .optimizer_bytes = t->plan.optimizer,
                              .activations_bytes = t->plan.activations,
                              .activation_gradients_bytes = t->plan.activation_gradients,
                              .total_bytes = t->plan.total,
                              .available_bytes = t->available,
                              .device = t->device_name,
                              .host_bytes = t->plan.host };
}

/* ---- running ---- */

static ml_status write_options(const ml_trainer *t, ml_error *err)
{
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, t->run_folder, "options.ini", err));
    return ml_options_write_ini(t->o, path, err);
}

/* What is trained, with the values that a fresh run begins with. */
static ml_status make_model(ml_trainer *t, ml_error *err)
{
    ml_recipe_run *r = &t->run;
    if (r->has_adapter) {
        ml_adapter_free(r->adapter);
        ML_TRY(ml_adapter_make(&r->adapter_config, r->model, r->train.seed, &r->adapter, err));
        r->train.adapter = r->adapter;
        return ML_OK;
    }
    ml_model_free(r->model);
    r->model = NULL;
    ML_TRY(ml_model_make(&r->config, ML_F32, true, &r->model, err));
    return t->resume ? ML_OK : t->stage->init(r, err);
}

static ml_status check_memory(const ml_trainer *t, ml_error *err)
{
    const ml_train_config *c = &t->run.train;
    ml_device_plan_choice choice = get_choice(c);
    if (!t->device) return ml_train_check_plan(&t->plan, t->available, c->batch, c->recompute, err);
    return ml_train_check_device_plan(&t->plan, t->available, ml_memory_available(), c->batch, c->recompute, &choice,
                                      err);
}

/* Everything that the loop needs, and the loop.  After a failure it is done again from the beginning. */
static ml_status set_up(ml_trainer *t, ml_error *err)
{
    ml_recipe_run *r = &t->run;
    ml_train_hooks hooks = { .arg = t, .line = tell_line, .step = tell_step, .eval = tell_evaluation };
    t->available = memory_available(t);
    ML_TRY(check_memory(t, err));
    ML_TRY(t->stage->prepare(r, err));
    ML_TRY(make_model(t, err));
    ML_TRY(ml_loop_make(&r->train, t->run_folder, t->resume, r->model, r->stage, r->tokenizer, &hooks, &t->loop, err));
    ml_recipe_say_groups(ml_loop_optimizer(t->loop), &t->listener);
    ml_status status = write_options(t, err);
    if (status == ML_OK) return ML_OK;
    ml_loop_free(t->loop);
    t->loop = NULL;
    return status;
}

static ml_status train(ml_trainer *t, ml_error *err)
{
    ml_progress *progress;
    double n_step = (double)t->run.train.schedule.steps;
    ML_TRY(ml_progress_begin_for(&t->listener, "train", "steps", n_step, &progress, err));
    ml_loop_set_progress(t->loop, progress);
    ml_status status = ml_loop_run(t->loop, err);
    ml_progress_end(progress);
    ml_loop_set_progress(t->loop, NULL);
    return status;
}

ml_status ml_trainer_run(ml_trainer *t, ml_error *err)
{
    if (t->is_done) return ML_OK;
    if (t->has_failed) {
        return ml_fail(err, ML_EINVAL, "%s: this run has failed: open another trainer that resumes it", t->run_folder);
    }
    t->finish = t->loop ? ML_OK : set_up(t, err);
    if (t->finish == ML_OK) {
        t->finish = train(t, err);
        t->is_done = t->finish == ML_OK;
        t->has_failed = !t->is_done && t->finish != ML_ECANCEL;
    }
    if (t->finish == ML_ECANCEL) atomic_store(&t->stop, false);
    return t->finish;
}

void ml_trainer_stop(ml_trainer *t)
{
    atomic_store(&t->stop, true);
}

/* ---- the result ---- */

static const char *find_checkpoint(const ml_trainer *t, ml_run_which which, char path[ML_PATH_MAX])
{
    ml_error ignored; /* none yet: no path */
    return ml_run_find(t->run_folder, which, path, NULL, &ignored) == ML_OK ? path : NULL;
}

ml_trainer_result ml_trainer_get_result(ml_trainer *t)
{
    ml_trainer_result r = { .finish = t->finish, .n_step = t->run.train.schedule.steps, .best_loss = NAN };
    if (!t->loop) return r;
    double best = ml_loop_best_loss(t->loop);
    r.step = ml_loop_steps_done(t->loop);
    r.tokens = ml_loop_tokens_done(t->loop);
    if (isfinite(best)) r.best_loss = best;
    r.best = find_checkpoint(t, ML_RUN_BEST, t->best);
    r.latest = find_checkpoint(t, ML_RUN_LATEST, t->latest);
    return r;
}
