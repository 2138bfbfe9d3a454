/* moonlight convert SRC DST: a model from any format into another. */
#include "cli/convert.h"

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/amount.h"
#include "format/find.h"
#include "format/leftovers.h"
#include "quant/convert.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_RULE = 256 };

typedef struct {
    ml_convert convert;
    ml_convert_report report;
    ml_quant_rule rule[MAX_RULE];
    char from[ML_PATH_MAX];
    ml_progress *progress, *reading;
} job;

/* A name that says another format than those that are written, unless --to says which of them it is. */
static ml_status check_name(const char *path, ml_error *err)
{
    static const char *const ends[] = { ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".onnx" };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        if (!ml_text_ends_with(path, ends[i])) continue;
        return ml_fail(err, ML_EINVAL,
                       "%s: a file of that kind is not written: name a folder, which gets its weights as "
                       "model.safetensors, or a file ending in .gguf (--to hf or --to gguf writes one of that name)",
                       path);
    }
    return ML_OK;
}

/* Options that what is written has no use for. */
static ml_status check_options(const job *j, const ml_options *o, ml_error *err)
{
    static const char *const of_gguf[] = { "split-max-size", "calibrate", "imatrix" };
    const ml_convert *x = &j->convert;
    const char *to = ml_options_text(o, "to");
    if (!strcmp(to, "auto")) ML_TRY(check_name(x->to, err));
    for (size_t i = 0; !x->gguf && i < sizeof of_gguf / sizeof *of_gguf; i++) {
        bool there = i == 0 || !x->adapter; /* merge has the first alone */
        if (!there || !ml_options_given(o, of_gguf[i])) continue;
        return ml_fail(err, ML_EINVAL,
                       "--%s is for a GGUF file, and %s will be a folder: leave it out, or name a file ending in .gguf",
                       of_gguf[i], x->to);
    }
    bool quantises = ml_options_text(o, "quant") || x->plan.n_rule;
    if (!x->calibrate || x->importance || quantises) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "--calibrate: nothing is quantised with what the text says: add --quant, or --imatrix to keep it");
}

static ml_status read_types(job *j, const ml_options *o, ml_error *err)
{
    const char *quant = ml_options_text(o, "quant"), *dtype = ml_options_text(o, "dtype");
    bool given = strcmp(dtype, "as-stored") != 0;
    if (quant && given) return ml_fail(err, ML_EINVAL, "--quant and --dtype: expected one of them");
    if (quant || given) ML_TRY(ml_quant_mix_find(quant ? quant : dtype, &j->convert.plan.mix, err));
    const char *const *rules;
    size_t n = ml_options_list(o, "rule", &rules);
    if (n > MAX_RULE) return ml_fail(err, ML_EINVAL, "--rule: expected at most %d, found %zu", MAX_RULE, n);
    for (size_t i = 0; i < n; i++) ML_TRY(ml_quant_rule_parse(rules[i], &j->rule[i], err));
    j->convert.plan.rule = j->rule;
    j->convert.plan.n_rule = n;
    return ML_OK;
}

static void show(void *arg, uint64_t done, uint64_t total)
{
    job *j = arg;
    ml_progress_end(j->reading);
    j->reading = NULL;
    if (!j->progress) j->progress = ml_progress_begin("converting", "MB", (double)total / 1e6);
    ml_progress_update(j->progress, (double)done / 1e6, NULL);
}

static void show_reading(void *arg, int64_t n_done, int64_t n_token)
{
    job *j = arg;
    if (!j->reading) j->reading = ml_progress_begin("calibrating", "tokens", (double)n_token);
    ml_progress_update(j->reading, (double)n_done, NULL);
}

static ml_status set_up(job *j, const ml_options *o, const char *from, const char *adapter, const char *to_path,
                        ml_error *err)
{
    const char *to = ml_options_text(o, "to");
    ml_convert *x = &j->convert;
    ML_TRY(ml_model_find(from, j->from, err));
    x->from = j->from;
    x->adapter = adapter;
    x->to = to_path;
    x->gguf =
        strcmp(to, "auto") ? !strcmp(to, "gguf") : ml_options_text(o, "quant") || ml_text_ends_with(x->to, ".gguf");
    x->tokenizer = ml_options_text(o, "tokenizer");
    x->split_bytes = (uint64_t)ml_options_int(o, "split-max-size");
    if (!adapter) { /* a text would be read by the model as it was */
        x->importance = ml_options_text(o, "imatrix");
        x->calibrate = ml_options_text(o, "calibrate");
        x->calibrate_tokens = ml_options_int(o, "calibrate-tokens");
    }
    x->progress = show;
    x->reading = show_reading;
    x->arg = j;
    if (ml_path_exists(x->to)) {
        return ml_fail(err, ML_EINVAL, "%s exists already: choose another name, or remove it", x->to);
    }
    ML_TRY(read_types(j, o, err));
    return check_options(j, o, err);
}

static ml_status remove_leftovers(const job *j, ml_error *err)
{
    ml_leftovers left;
    ML_TRY(ml_leftovers_remove(j->convert.to, &left, err));
    if (left.n) {
        ml_log_info("%s: removed %s that a conversion to this name left when it was killed", j->convert.to,
                    ml_cli_bytes((int64_t)left.n_bytes).text);
    }
    return ML_OK;
}

/* What quantisation lost, for each class of tensors and type. */
static void print_errors(const ml_quant_errors *errors)
{
    bool any = false;
    for (int c = 0; c < ML_N_CLASS; c++) {
        for (int d = 0; d < ML_N_DTYPE; d++) {
            const ml_quant_error *e = &errors->by[c][d];
            if (!e->n_tensor || e->square == 0) continue;
            if (!any) printf("%-12s %-6s %8s %16s  %s\n", "class", "type", "tensors", "elements", "relative error");
            any = true;
            printf("%-12s %-6s %8lld %16lld  %.5f\n", ml_weight_class_name((ml_weight_class)c),
                   ml_dtype_name((ml_dtype)d), (long long)e->n_tensor, (long long)e->n_element,
                   sqrt(e->error / e->square));
        }
    }
}

/* Experts that the text did not reach are rounded as if all their columns mattered alike. */
static void tell_coverage(const ml_importance_coverage *c)
{
    if (!c->n_expert) return;
    ml_log_info("importance: %.0f to %.0f tokens for each of %lld experts, half of them have %.0f or more", c->fewest,
                c->most, (long long)c->n_expert, c->median);
    if (!c->n_unseen) return;
    ml_log_warn(
        "%lld of %lld experts got no token of the text: they are quantised without importance; a longer or more "
        "varied text reaches more",
        (long long)c->n_unseen, (long long)c->n_expert);
}

static void tell(const job *j)
{
    const ml_convert_report *r = &j->report;
    print_errors(&r->errors);
    tell_coverage(&r->coverage);
    if (r->unused.n) {
        ml_log_warn("%s: %zu tensors are none of the model's and were left out: %s", j->convert.from, r->unused.n,
                    r->unused.names);
    }
    if (!r->has_tokenizer)
        ml_log_warn("written without a tokenizer: %s",
                    *r->no_tokenizer.message ? r->no_tokenizer.message : "the source has none");
    if (r->epsilon_assumed) {
        ml_log_info("the norms inside latent attention have an epsilon of 1e-6, as that class does; the file says none "
                    "of their own");
    }
    char files[128] = "";
    if (r->n_file > 1) snprintf(files, sizeof files, " in %zu files, *-00001-of-%05zu.gguf", r->n_file, r->n_file);
    ml_log_info("%s: %s, %lld parameters, %s%s", j->convert.to, r->kind, (long long)r->n_params,
                ml_cli_bytes((int64_t)r->n_bytes).text, files);
}

ml_status ml_cli_convert_model(const ml_options *o, const char *from, const char *adapter, const char *to,
                               ml_error *err)
{
    job j = { 0 };
    ml_status status = set_up(&j, o, from, adapter, to, err);
    ml_stop_install();
    if (status == ML_OK) status = remove_leftovers(&j, err);
    if (status == ML_OK) status = ml_convert_model(&j.convert, &j.report, err);
    ml_progress_end(j.reading);
    ml_progress_end(j.progress);
    if (status == ML_OK) tell(&j);
    return status;
}

ml_status ml_cli_convert(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("convert", NULL, argc, argv, 2, 2, "a model and a folder or GGUF file to write", &o, err));
    ml_status status = ml_cli_convert_model(o, ml_options_positional(o, 0), NULL, ml_options_positional(o, 1), err);
    ml_options_free(o);
    return status;
}
