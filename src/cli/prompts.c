#include "cli/prompts.h"

#include "base/file.h"
#include "base/json.h"

#include <string.h>

/* A line of text is a prompt; of a .jsonl file, the "prompt" of each object. */
static ml_status add_line(ml_cli_prompt_fn add, void *arg, const char *where, bool json, const char *line, size_t n,
                          ml_error *err)
{
    if (!json) return add(arg, line, n && line[n - 1] == '\r' ? n - 1 : n, NULL, err);
    json_t *object;
    const char *text, *adapter;
    ML_TRY(ml_json_parse(line, n, where, &object, err));
    ml_status status = ml_json_text(object, "prompt", where, &text, err);
    if (status == ML_OK) status = ml_json_text_or(object, "adapter", where, NULL, &adapter, err);
    if (status == ML_OK) status = add(arg, text, strlen(text), adapter, err);
    json_decref(object);
    return status;
}

ml_status ml_cli_read_prompts(const char *path, ml_cli_prompt_fn add, void *arg, ml_error *err)
{
    char *text;
    size_t size, n = strlen(path), n_prompt = 0;
    bool json = n > 6 && !strcmp(path + n - 6, ".jsonl");
    ML_TRY(ml_file_read(path, &text, &size, err));
    ml_status status = ML_OK;
    int64_t n_line = 0;
    for (const char *line = text, *end = text + size; line < end && status == ML_OK;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t length = (size_t)((stop ? stop : end) - line);
        char where[ML_PATH_MAX + 32];
        snprintf(where, sizeof where, "%s:%lld", path, (long long)++n_line);
        if (strspn(line, " \t\r\n") < length) {
            status = add_line(add, arg, where, json, line, length, err);
            n_prompt++;
        }
        line += length + 1;
    }
    ml_free(text);
    if (status == ML_OK && n_prompt == 0) status = ml_fail(err, ML_EINVAL, "%s: expected prompts, found none", path);
    return status;
}
