#include "cli/lines.h"

#include "base/file.h"

#include <stdio.h>
#include <string.h>

ml_status ml_cli_each_line(const char *path, const char *text, size_t n_bytes, int64_t most, ml_cli_line_fn fn,
                           void *arg, int64_t *n_line, ml_error *err)
{
    int64_t number = 0, n = 0;
    for (const char *line = text, *end = text + n_bytes; line < end && (most == 0 || n < most);) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t length = (size_t)((stop ? stop : end) - line);
        char where[ML_PATH_MAX + 32];
        snprintf(where, sizeof where, "%s:%lld", path, (long long)++number);
        if (strspn(line, " \t\r\n") < length) {
            ML_TRY(fn(arg, where, line, length, err));
            n++;
        }
        line += length + 1;
    }
    if (n_line) *n_line = n;
    return ML_OK;
}

typedef struct {
    ml_cli_object_fn fn;
    void *arg;
} objects;

static ml_status parse_line(void *arg, const char *where, const char *line, size_t n_bytes, ml_error *err)
{
    const objects *o = arg;
    json_t *object;
    ML_TRY(ml_json_parse(line, n_bytes, where, &object, err));
    ml_status status = o->fn(o->arg, where, object, err);
    json_decref(object);
    return status;
}

ml_status ml_cli_each_object(const char *path, const char *text, size_t n_bytes, int64_t most, ml_cli_object_fn fn,
                             void *arg, int64_t *n_line, ml_error *err)
{
    objects o = { fn, arg };
    return ml_cli_each_line(path, text, n_bytes, most, parse_line, &o, n_line, err);
}
