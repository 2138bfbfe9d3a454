/* What a text means for a row: types, ranges, choices. */
#include "base/options_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool parse_flag(const char *text, int64_t *out)
{
    static const char *const on[] = { "on", "true", "yes", "1" };
    static const char *const off[] = { "off", "false", "no", "0" };
    for (size_t i = 0; i < 4; i++) {
        if (strcasecmp(text, on[i]) == 0 || strcasecmp(text, off[i]) == 0) {
            *out = strcasecmp(text, on[i]) == 0;
            return true;
        }
    }
    return false;
}

/* Decimal digits with an optional sign and k, m or g. */
static bool parse_int(const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || errno || strchr(" \t\n\v\f\r", *text)) return false;
    int64_t unit = 1;
    if (*end) {
        switch (*end++) {
        case 'k': unit = 1000; break;
        case 'm': unit = 1000000; break;
        case 'g': unit = 1000000000; break;
        default: return false;
        }
    }
    return *end == 0 && !__builtin_mul_overflow(value, unit, out);
}

static bool parse_real(const char *text, double *out)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || strchr(" \t\n\v\f\r", *text) || isnan(value)) return false;
    *out = value;
    return true;
}

static bool is_choice(const ml_option_row *row, const char *text)
{
    size_t n_text = strlen(text);
    for (const char *word = row->choices; *word;) {
        size_t n = strcspn(word, "|");
        if (n == n_text && strncmp(word, text, n) == 0) return true;
        word += n + (word[n] == '|');
    }
    return false;
}

static void describe_range(const ml_option_row *row, const char *what, char *out, size_t size)
{
    bool below = isinf(row->min), above = isinf(row->max);
    if (below && above)
        snprintf(out, size, "%s", what);
    else if (above)
        snprintf(out, size, "%s of at least %.15g", what, row->min);
    else if (below)
        snprintf(out, size, "%s of at most %.15g", what, row->max);
    else
        snprintf(out, size, "%s from %.15g to %.15g", what, row->min, row->max);
}

void ml_option_describe(const ml_option_row *row, char *out, size_t size)
{
    switch (row->type) {
    case ML_OPTION_FLAG: snprintf(out, size, "on or off"); break;
    case ML_OPTION_INT: describe_range(row, "an integer", out, size); break;
    case ML_OPTION_REAL: describe_range(row, "a number", out, size); break;
    case ML_OPTION_CHOICE: snprintf(out, size, "one of %s", row->choices); break;
    case ML_OPTION_TEXT:
    case ML_OPTION_LIST: snprintf(out, size, "a text"); break;
    }
}

ml_status ml_option_check(const ml_option_row *row, const char *text, ml_option_value *value, ml_error *err)
{
    bool ok = true;
    switch (row->type) {
    case ML_OPTION_FLAG: ok = parse_flag(text, &value->integer); break;
    case ML_OPTION_INT:
        ok = parse_int(text, &value->integer) && (double)value->integer >= row->min &&
             (double)value->integer <= row->max;
        break;
    case ML_OPTION_REAL:
        ok = parse_real(text, &value->real) && value->real >= row->min && value->real <= row->max;
        break;
    case ML_OPTION_CHOICE: ok = is_choice(row, text); break;
    case ML_OPTION_TEXT:
    case ML_OPTION_LIST: break;
    }
    if (ok) return ML_OK;
    char expected[512];
    ml_option_describe(row, expected, sizeof expected);
    return ml_fail(err, ML_EINVAL, "expected %s, found \"%.100s\"", expected, text);
}
