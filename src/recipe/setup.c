#include "recipe/setup.h"

#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static ml_status parse_kinds(const ml_options *o, const char *name, ml_param_kinds *kinds, ml_error *err)
{
    if (ml_optim_parse_kinds(ml_options_text(o, name), kinds, err) == ML_OK) return ML_OK;
    return ml_fail_prefix(err, "%s", name);
}

static ml_status optim_config(const ml_options *o, ml_optim_config *out, ml_error *err)
{
    *out = ml_optim_default_config(!strcmp(ml_options_text(o, "optim.name"), "muon") ? ML_OPTIM_MUON : ML_OPTIM_ADAMW);
    out->beta1 = ml_options_real(o, "optim.beta1");
    out->beta2 = ml_options_real(o, "optim.beta2");
    out->eps = ml_options_real(o, "optim.eps");
    out->weight_decay = ml_options_real(o, "optim.weight_decay");
    out->momentum = ml_options_real(o, "optim.momentum");
    out->nesterov = ml_options_flag(o, "optim.nesterov");
    out->ns_steps = (int)ml_options_int(o, "optim.ns_steps");
    out->rms_scale = ml_options_real(o, "optim.rms_scale");
    ML_TRY(parse_kinds(o, "optim.muon", &out->muon, err));
    return parse_kinds(o, "optim.no_decay", &out->no_decay, err);
}

static int64_t shrink(const char *name, int64_t steps, double share, const ml_listener *listener)
{
    int64_t taken = (int64_t)(share * (double)steps);
    if (steps > 0) ml_listener_warn(listener, "  %s %lld becomes %lld", name, (long long)steps, (long long)taken);
    return taken;
}

/* A recipe tried out with a few steps (--train.steps 20) gets stages that fit into them: half of the steps, shared in
 * proportion.  Said, since the learning rate is then another. */
static void shrink_stages(ml_schedule *s, const ml_listener *listener)
{
    bool last_stage = s->kind == ML_SCHEDULE_WSD || s->kind == ML_SCHEDULE_MOONLIGHT;
    int64_t warmup = s->warmup, decay = last_stage ? s->decay : 0;
    if (warmup <= s->steps && decay <= s->steps - warmup && s->bias_rest <= s->steps) return;
    double share = 0.5 * (double)s->steps / fmax((double)warmup + (double)decay, (double)s->bias_rest);
    ml_listener_warn(listener,
                     "the stages do not fit into %lld steps and are shortened in proportion:", (long long)s->steps);
    s->warmup = shrink("optim.warmup", s->warmup, share, listener);
    if (last_stage) s->decay = shrink("optim.decay", s->decay, share, listener);
    if (s->kind == ML_SCHEDULE_MOONLIGHT) s->rewarm = shrink("optim.rewarm", s->rewarm, share, listener);
    s->bias_rest = shrink("train.bias_rest", s->bias_rest, share, listener);
    for (int i = 0; i < s->n_ramp; i++) s->ramp[i].step = shrink("train.ramp", s->ramp[i].step, share, listener);
}

static ml_status read_ramp(const ml_options *o, ml_schedule *s, ml_error *err)
{
    const char *const *item;
    size_t n = ml_options_list(o, "train.ramp", &item);
    if (n > ML_MAX_RAMP) {
        return ml_fail(err, ML_EINVAL, "train.ramp is given %zu times, expected at most %d", n, ML_MAX_RAMP);
    }
    for (size_t i = 0; i < n; i++) {
        if (ml_schedule_parse_ramp(item[i], &s->ramp[i], err) != ML_OK) return ml_fail_prefix(err, "train.ramp");
    }
    s->n_ramp = (int)n;
    return ML_OK;
}

ml_status ml_recipe_schedule(const ml_options *o, const ml_listener *listener, int64_t steps, ml_schedule *out,
                             ml_error *err)
{
    double share = ml_options_real(o, "optim.warmup_share");
    *out = (ml_schedule){ .lr = ml_options_real(o, "optim.lr"),
                          .lr_min = ml_options_real(o, "optim.lr_min"),
                          .warmup = ml_options_int(o, "optim.warmup"),
                          .steps = steps,
                          .decay = ml_options_int(o, "optim.decay"),
                          .rewarm = ml_options_int(o, "optim.rewarm"),
                          .rewarm_lr = ml_options_real(o, "optim.rewarm_lr"),
                          .bias_rest = ml_options_int(o, "train.bias_rest") };
    if (share > 0) out->warmup = (int64_t)(share * (double)steps);
    ML_TRY(ml_schedule_parse_kind(ml_options_text(o, "optim.schedule"), &out->kind, err));
    ML_TRY(read_ramp(o, out, err));
    shrink_stages(out, listener);
    return ml_schedule_check(out, err);
}

ml_status ml_recipe_adapter_config(const ml_options *o, bool *has_adapter, ml_adapter_config *out, ml_error *err)
{
    static const char *const keys[] = { "target", "rank", "alpha", "dropout", "lr_ratio" };
    const char *kind = ml_options_text(o, "adapter.kind");
    *has_adapter = strcmp(kind, "none") != 0;
    *out = (ml_adapter_config){ .rank = ml_options_int(o, "adapter.rank"),
                                .alpha = ml_options_real(o, "adapter.alpha"),
                                .dropout = ml_options_real(o, "adapter.dropout"),
                                .dora = !strcmp(kind, "dora") };
    out->n_target = ml_options_list(o, "adapter.target", &out->target);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0] && !*has_adapter; i++) {
        char path[32];
        snprintf(path, sizeof path, "adapter.%s", keys[i]);
        if (!ml_options_given(o, path)) continue;
        return ml_fail(err, ML_EINVAL, "%s is set, but adapter.kind is none: choose lora or dora, or leave it out",
                       path);
    }
    return ML_OK;
}

ml_status ml_recipe_train_config(const ml_options *o, const ml_listener *listener, ml_train_config *out, ml_error *err)
{
    *out = (ml_train_config){ .batch = ml_options_int(o, "train.batch"),
                              .accumulate = ml_options_int(o, "train.accumulate"),
                              .seq = ml_options_int(o, "train.seq"),
                              .recompute = ml_train_parse_recompute(ml_options_text(o, "train.recompute")),
                              .seed = (uint64_t)ml_options_int(o, "train.seed"),
                              .clip = ml_options_real(o, "optim.clip"),
                              .guard_deviations = ml_options_real(o, "guard.deviations"),
                              .guard_patience = ml_options_int(o, "guard.patience"),
                              .eval_every = ml_options_int(o, "eval.every"),
                              .eval_patience = ml_options_int(o, "eval.patience"),
                              .save_every = ml_options_int(o, "checkpoint.every"),
                              .keep = ml_options_int(o, "checkpoint.keep"),
                              .milestone = ml_options_int(o, "checkpoint.milestone"),
                              .sample_every = ml_options_int(o, "sample.every"),
                              .sample_tokens = ml_options_int(o, "sample.tokens") };
    out->n_prompt = ml_options_list(o, "sample.prompt", &out->prompt);
    if (!ml_dtype_parse(ml_options_text(o, "checkpoint.dtype"), &out->save_dtype)) out->save_dtype = ML_F32;
    ML_TRY(optim_config(o, &out->optim, err));
    return ml_recipe_schedule(o, listener, ml_options_int(o, "train.steps"), &out->schedule, err);
}

/* Only a GPU has choices. */
static ml_status check_processor(const ml_options *o, ml_error *err)
{
    static const char *const keys[][2] = { { "train.precision", "bf16" },
                                           { "train.memory", "plain" },
                                           { "train.memory", "split" },
                                           { "train.memory", "host" },
                                           { "optim.moments", "bf16" } };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (strcmp(ml_options_text(o, keys[i][0]), keys[i][1])) continue;
        return ml_fail(err, ML_EINVAL,
                       "%s is %s, which is for GPUs, and the processor was chosen: leave it out, or give --device cuda",
                       keys[i][0], keys[i][1]);
    }
    return ML_OK;
}

/* What stays beside an adapter has neither gradients nor moments: there is one way. */
static ml_status place_adapter(const char *memory, bool bf16_moments, ml_train_config *train, const char **way,
                               ml_error *err)
{
    *way = "plain";
    train->placing = ML_PLACE_F32;
    train->moments = (ml_optim_storage){ .bf16 = bf16_moments };
    if (!strcmp(memory, "auto") || !strcmp(memory, "plain")) return ML_OK;
    return ml_fail(
        err, ML_EINVAL,
        "train.memory %s is for whole models: an adapter's weights stay as they are, and its own numbers are "
        "few: leave it out",
        memory);
}

ml_status ml_recipe_device_config(const ml_options *o, const ml_config *config, bool has_adapter, int64_t taken,
                                  ml_train_config *train, const char **way, ml_error *err)
{
    *way = "";
    if (!train->device) return check_processor(o, err);
    const char *memory = ml_options_text(o, "train.memory");
    bool bf16_moments = !strcmp(ml_options_text(o, "optim.moments"), "bf16");
    int64_t tokens = train->batch * train->seq;
    train->precision = strcmp(ml_options_text(o, "train.precision"), "f32") ? ML_PRECISION_BF16 : ML_PRECISION_F32;
    if (has_adapter) return place_adapter(memory, bf16_moments, train, way, err);
    if (!strcmp(memory, "split") && train->precision == ML_PRECISION_F32) {
        return ml_fail(err, ML_EINVAL,
                       "train.memory split keeps no fp32 weights, which train.precision f32 reads: set it to plain or "
                       "host, or train.precision to bf16");
    }
    ml_device_plan_choice choice =
        ml_train_choose_place(config, tokens, &train->optim, train->recompute, train->precision, bf16_moments,
                              ml_device_get_info(train->device).free_bytes - taken, ml_memory_available() - taken);
    for (int i = 0; i < ML_N_PLACE_WAY; i++) {
        if (!strcmp(memory, ml_train_place_way_name(i))) choice = ml_train_place_way(i, train->precision, bf16_moments);
    }
    train->placing = choice.placing;
    train->moments = choice.moments;
    *way = choice.moments.here ? "host" : choice.placing == ML_PLACE_SPLIT ? "split" : "plain";
    return ML_OK;
}

static ml_status check_vocab_size(const ml_options *o, const ml_tokenizer *tokenizer, int64_t found, ml_error *err)
{
    if (tokenizer && found < ml_tokenizer_vocab_size(tokenizer)) {
        return ml_fail(err, ML_EINVAL,
                       "model.vocab_size %lld is smaller than the tokenizer's vocabulary of %d: leave it "
                       "out, or make it at least that",
                       (long long)found, ml_tokenizer_vocab_size(tokenizer));
    }
    if (!tokenizer && found < ml_options_int(o, "data.vocab_size")) {
        return ml_fail(err, ML_EINVAL,
                       "model.vocab_size %lld is smaller than data.vocab_size %lld, the vocabulary of the tokenizer to "
                       "be trained: leave it out, make it at least that, or lower data.vocab_size",
                       (long long)found, (long long)ml_options_int(o, "data.vocab_size"));
    }
    return ML_OK;
}

ml_status ml_recipe_model_config(const ml_options *o, const ml_tokenizer *tokenizer, ml_config *out, ml_error *err)
{
    ML_TRY(ml_config_preset(ml_options_text(o, "model.preset"), out, err));
    bool vocab_given = false;
    if (tokenizer) {
        out->vocab_size = ml_tokenizer_vocab_size(tokenizer);
        out->bos_token_id = ml_tokenizer_bos(tokenizer);
        out->eos_token_id = ml_tokenizer_eos(tokenizer);
        out->pad_token_id = ml_tokenizer_pad(tokenizer);
    } else { /* which it will have is not known yet */
        if (ml_options_given(o, "data.vocab_size")) out->vocab_size = ml_options_int(o, "data.vocab_size");
        out->bos_token_id = out->eos_token_id = out->pad_token_id = -1;
    }
    for (size_t i = 0; i < ml_options_open_count(o); i++) {
        const char *name, *value;
        ml_options_open_item(o, i, &name, &value);
        ML_TRY(ml_config_set(out, name, value, "options", err));
        if (!strcmp(name, "vocab_size")) vocab_given = true;
    }
    if (vocab_given) ML_TRY(check_vocab_size(o, tokenizer, out->vocab_size, err));
    return ml_config_check(out, "options", err);
}

double ml_recipe_count_sequences(const ml_train_config *train)
{
    return (double)ml_schedule_count_batches(&train->schedule, train->schedule.steps) * (double)train->accumulate *
           (double)train->batch;
}

void ml_recipe_say_steps(const ml_train_config *train, const ml_config *model, const ml_listener *listener)
{
    const ml_schedule *s = &train->schedule;
    ml_listener_say(listener, "%lld steps of %lld x %lld x %lld tokens, %.0f in all", (long long)s->steps,
                    (long long)(train->accumulate * ml_schedule_get_factor(s, 0)), (long long)train->batch,
                    (long long)train->seq, ml_recipe_count_sequences(train) * (double)train->seq);
    for (int i = 0; i < s->n_ramp; i++) {
        if (s->ramp[i].step == 0 || s->ramp[i].step >= s->steps) continue;
        ml_listener_say(listener, "from step %lld on %lld x %lld x %lld tokens", (long long)s->ramp[i].step,
                        (long long)(train->accumulate * s->ramp[i].factor), (long long)train->batch,
                        (long long)train->seq);
    }
    if (!(model->bias_update_rate > 0)) return;
    if (s->bias_rest == 0) {
        ml_listener_say(listener, "the router's bias moves by %g a step", model->bias_update_rate);
    } else {
        ml_listener_say(listener, "the router's bias moves by %g a step, and rests from step %lld on",
                        model->bias_update_rate, (long long)(s->steps - s->bias_rest));
    }
}

typedef struct {
    const ml_listener *listener;
    bool refused;
    char first[256];
} resume_check;

/* Options that decide what is computed from which data: another value would make it another run. */
static bool decides_the_run(const char *section, const char *name)
{
    if (!strcmp(section, "model")) return true;
    if (!strcmp(section, "adapter")) return strcmp(name, "lr_ratio") != 0;
    if (!strcmp(section, "data")) return strcmp(name, "dir") != 0; /* the same data may have moved */
    static const char *const train[] = { "batch", "accumulate", "ramp", "seq", "seed" };
    for (size_t i = 0; i < sizeof train / sizeof train[0]; i++) {
        if (!strcmp(section, "train") && !strcmp(name, train[i])) return true;
    }
    return !strcmp(section, "optim") && !strcmp(name, "name");
}

static void report_difference(void *arg, const char *section, const char *name, const char *old_value,
                              const char *new_value)
{
    resume_check *check = arg;
    if (!strcmp(section, "sweep")) return; /* what other runs there are */
    bool refused = decides_the_run(section, name);
    ml_listener_say(check->listener, "%s%s%s: was %s, now %s%s", section, *section ? "." : "", name,
                    old_value ? old_value : "(unset)", new_value ? new_value : "(unset)", refused ? " (refused)" : "");
    if (refused && !check->refused) {
        check->refused = true;
        snprintf(check->first, sizeof check->first, "%s.%s", section, name);
    }
}

ml_status ml_recipe_check_resume(const ml_options *o, const ml_listener *listener, const char *run_folder,
                                 ml_error *err)
{
    char path[ML_PATH_MAX];
    resume_check check = { .listener = listener };
    ML_TRY(ml_path_join(path, run_folder, "options.ini", err));
    ML_TRY(ml_options_compare_ini(o, path, report_difference, &check, err));
    if (!check.refused) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "%s decides the model or the order of the data and differs from the run's %s: resume "
                   "with the old value, or start a new run",
                   check.first, path);
}

void ml_recipe_say_groups(const ml_optimizer *optimizer, const ml_listener *listener)
{
    /* One line per (kind, group): the names of a few thousand tensors would tell nobody anything. */
    int64_t n_tensor[ML_N_PARAM_KIND][ML_N_OPTIM_GROUP] = { 0 }, n_element[ML_N_PARAM_KIND][ML_N_OPTIM_GROUP] = { 0 };
    for (int64_t i = 0; i < ml_optimizer_n_row(optimizer); i++) {
        ml_optim_row row = ml_optimizer_get_row(optimizer, i);
        n_tensor[row.param->kind][row.group] += row.param->n_matrix;
        n_element[row.param->kind][row.group] += ml_param_count(row.param);
    }
    for (int kind = 0; kind < ML_N_PARAM_KIND; kind++) {
        for (int group = 0; group < ML_N_OPTIM_GROUP; group++) {
            if (!n_tensor[kind][group]) continue;
            int64_t n = n_tensor[kind][group];
            ml_listener_say(listener, "%-9s %6lld %-7s %12lld elements: %s", ml_param_kind_name((ml_param_kind)kind),
                            (long long)n, n == 1 ? "tensor" : "tensors", (long long)n_element[kind][group],
                            ml_optim_group_name((ml_optim_group)group));
        }
    }
}
