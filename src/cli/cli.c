#include "cli/cli.h"

#include "base/thread.h"

#include <string.h>

void ml_cli_scope(const char *words, char *out, size_t size)
{
    snprintf(out, size, "%s", words);
    for (char *p = out; *p; p++) {
        if (*p == ' ') *p = ':';
    }
}

ml_status ml_cli_parse(const char *words, const char *open_section, int argc, char **argv, size_t n_min, size_t n_max,
                       const char *arguments, ml_options **out, ml_error *err)
{
    char scope[64];
    ml_options *o;
    *out = NULL;
    ml_cli_scope(words, scope, sizeof scope);
    ML_TRY(ml_options_make(ml_cli_rows, ml_cli_n_rows, scope, open_section, &o, err));
    ml_status status = ml_options_parse_args(o, argc, argv, err);
    size_t n = ml_options_positional_count(o);
    if (status == ML_OK && (n < n_min || n > n_max)) {
        status = ml_fail(err, ML_EINVAL, "expected %s, found %zu argument%s%s%.100s; see moonlight %s --help",
                         n_max == 0 ? "no arguments" : arguments, n, n == 1 ? "" : "s",
                         n > n_max ? ", one of them " : "", n > n_max ? ml_options_positional(o, n_max) : "", words);
    }
    if (status != ML_OK) {
        ml_options_free(o);
        return status;
    }
    ml_thread_set_count((int)ml_options_int(o, "threads"));
    *out = o;
    return ML_OK;
}

ml_status ml_cli_require(const ml_options *o, const char *name, const char **out, ml_error *err)
{
    *out = ml_options_text(o, name);
    if (*out) return ML_OK;
    return ml_fail(err, ML_EINVAL, "--%s is needed; --help says what it takes", name);
}

ml_status ml_cli_print_json(json_t *object, ml_error *err)
{
    if (!object) {
        return ml_fail(err, ML_EFORMAT,
                       "the result cannot be said in JSON: a name or text in it is not UTF-8, or memory is out");
    }
    int failed = json_dumpf(object, stdout, 0);
    json_decref(object);
    if (failed || fputc('\n', stdout) == EOF || fflush(stdout) != 0) {
        return ml_fail_errno(err, "standard output could not be written");
    }
    return ML_OK;
}
