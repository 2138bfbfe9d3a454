/* moonlight init PRESET DST: a model folder, or a GGUF file, with fresh weights. */
#include "cli/cli.h"
#include "cli/init_gguf.h"
#include "base/log.h"
#include "format/aside.h"
#include "format/hf.h"

#include <string.h>

static ml_status read_config(const ml_options *o, ml_config *config, ml_error *err)
{
    ML_TRY(ml_config_preset(ml_options_positional(o, 0), config, err));
    for (size_t i = 0; i < ml_options_open_count(o); i++) {
        const char *name, *value;
        ml_options_open_item(o, i, &name, &value);
        ML_TRY(ml_config_set(config, name, value, "options", err));
    }
    return ml_config_check(config, "options", err);
}

static void show(void *arg, uint64_t done, uint64_t total)
{
    ml_progress **progress = arg;
    if (!*progress) *progress = ml_progress_begin("writing", "MB", (double)total / 1e6);
    ml_progress_update(*progress, (double)done / 1e6, NULL);
}

static ml_status fill_folder(void *arg, ml_manifest *manifest, ml_error *err)
{
    return ml_hf_export_write(arg, manifest, err);
}

static ml_status write_folder(const ml_options *o, const ml_config *config, const char *folder, ml_error *err)
{
    ml_model *m = NULL;
    ml_hf_export x = { .summary = "Fresh random weights.", .progress = show };
    (void)ml_dtype_parse(ml_options_text(o, "dtype"), &x.dtype);
    ML_TRY(ml_model_make(config, ML_F32, false, &m, err));
    ml_model_init(m, (uint64_t)ml_options_int(o, "seed"));
    uint64_t n_bytes = ml_hf_save_bytes(m, x.dtype);
    ml_progress *progress = NULL;
    x.model = m;
    x.arg = &progress;
    ml_stop_install();
    ml_status status = ml_aside_write(folder, n_bytes, fill_folder, &x, err);
    ml_progress_end(progress);
    if (status == ML_OK) {
        ml_log_info("%s: %s, %lld parameters in %s", folder, ml_config_class_name(config),
                    (long long)ml_model_count(config).total, ml_dtype_name(x.dtype));
    }
    ml_model_free(m);
    return status;
}

static ml_status write_model(const ml_options *o, const ml_config *config, ml_error *err)
{
    const char *path = ml_options_positional(o, 1);
    size_t n = strlen(path);
    bool gguf = ml_options_text(o, "quant") || (n > 5 && !strcmp(path + n - 5, ".gguf"));
    if (ml_path_exists(path)) {
        return ml_fail(err, ML_EINVAL, "%s exists already: choose another name, or remove it", path);
    }
    if (gguf) return ml_cli_init_gguf(o, config, path, err);
    if (ml_options_text(o, "tokenizer")) {
        return ml_fail(err, ML_EINVAL, "%s: --tokenizer is for a GGUF file: expected a name in .gguf, or --quant",
                       path);
    }
    return write_folder(o, config, path, err);
}

ml_status ml_cli_init(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ml_config config;
    ML_TRY(ml_cli_parse("init", "model", argc, argv, 2, 2, "a preset and a folder or GGUF file to write", &o, err));
    ml_status status = read_config(o, &config, err);
    if (status == ML_OK) status = write_model(o, &config, err);
    ml_options_free(o);
    return status;
}
