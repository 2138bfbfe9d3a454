#include "token/read.h"

#include "base/alloc.h"
#include "base/file.h"

#include <string.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Copy JSON text, turning integers of more digits than int64 holds into reals. */
static ml_status widen_integers(const char *text, size_t n, ml_chars *out, ml_error *err)
{
    bool in_text = false;
    for (size_t i = 0; i < n;) {
        size_t end = i + 1;
        bool widen = false;
        if (in_text) {
            if (text[i] == '\\' && end < n) end++;
            if (text[i] == '"') in_text = false;
        } else if (text[i] == '"') {
            in_text = true;
        } else if (is_digit(text[i])) {
            while (end < n && is_digit(text[end])) end++;
            bool whole = (i == 0 || !strchr(".eE+", text[i - 1])) && (end == n || !strchr(".eE", text[end]));
            widen = whole && end - i > 18;
        }
        ML_TRY(ml_chars_append(out, text + i, end - i, err));
        if (widen) ML_TRY(ml_chars_append(out, "e0", 2, err));
        i = end;
    }
    return ML_OK;
}

ml_status ml_read_config(const char *path, json_t **out, ml_error *err)
{
    char *text;
    size_t n;
    ML_TRY(ml_file_read(path, &text, &n, err));
    ml_chars wide = { 0 };
    ml_status status = widen_integers(text, n, &wide, err);
    if (status == ML_OK) status = ml_json_parse(wide.data ? wide.data : "", wide.n, path, out, err);
    ml_chars_free(&wide);
    ml_free(text);
    return status;
}
