#include "cli/prompts.h"

#include "base/file.h"
#include "cli/lines.h"

#include <string.h>

typedef struct {
    ml_cli_prompt_fn add;
    void *arg;
} listener;

static ml_status add_line(void *arg, const char *where, const char *line, size_t n, ml_error *err)
{
    (void)where;
    const listener *l = arg;
    return l->add(l->arg, line, n && line[n - 1] == '\r' ? n - 1 : n, NULL, err);
}

static ml_status add_object(void *arg, const char *where, json_t *object, ml_error *err)
{
    const listener *l = arg;
    const char *text, *adapter;
    ML_TRY(ml_json_text(object, "prompt", where, &text, err));
    ML_TRY(ml_json_text_or(object, "adapter", where, NULL, &adapter, err));
    ml_status status = l->add(l->arg, text, strlen(text), adapter, err);
    return status == ML_OK ? ML_OK : ml_fail_prefix(err, "%s", where);
}

ml_status ml_cli_read_prompts(const char *path, ml_cli_prompt_fn add, void *arg, ml_error *err)
{
    char *text;
    size_t size, n = strlen(path);
    int64_t n_prompt = 0;
    listener l = { add, arg };
    ML_TRY(ml_file_read(path, &text, &size, err));
    bool json = n > 6 && !strcmp(path + n - 6, ".jsonl");
    ml_status status = json ? ml_cli_each_object(path, text, size, 0, add_object, &l, &n_prompt, err)
                            : ml_cli_each_line(path, text, size, 0, add_line, &l, &n_prompt, err);
    ml_free(text);
    if (status == ML_OK && n_prompt == 0) status = ml_fail(err, ML_EINVAL, "%s: expected prompts, found none", path);
    return status;
}
