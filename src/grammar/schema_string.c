/* Strings: how long, which patterns, which formats. */
#include "grammar/schema_internal.h"

#include "grammar/pattern.h"

const char *const ml_schema_string_keywords[] = { "minLength", "maxLength", "pattern", "format", NULL };

#define HOUR "([01][0-9]|2[0-3])"
#define SIXTY "[0-5][0-9]"
#define DATE                                                                                                           \
    "([1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"                      \
    "|02-(0[1-9]|1[0-9]|2[0-8]))"                                                                                      \
    "|([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)-02-29)"
#define TIME HOUR ":" SIXTY ":" SIXTY "([.][0-9]{1,9})?(Z|[+-]" HOUR ":" SIXTY ")"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define BYTE "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define DAY_TIME "T([0-9]+H([0-9]+M([0-9]+S)?)?|[0-9]+M([0-9]+S)?|[0-9]+S)"
#define URI_PART "[A-Za-z0-9._~!$&'()*+,;=-]"

/* Formats as patterns.  Each makes only what the format allows, though not all of it: years from 1000 on (RFC 3339),
 * no leap seconds, mail addresses without quotes and comments (RFC 5321), uuids of any version, host names of up to
 * three labels, IPv6 addresses in full, URIs without a user and escapes (RFC 3986). */
static const struct {
    const char *name, *pattern;
} formats[] = {
    { "date", "^" DATE "$" },
    { "time", "^" TIME "$" },
    { "date-time", "^" DATE "T" TIME "$" },
    { "duration", "^P([0-9]+W|[0-9]+D(" DAY_TIME ")?|" DAY_TIME ")$" },
    { "uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$" },
    { "email", "^[A-Za-z0-9_+-]{1,30}([.][A-Za-z0-9_+-]{1,30})?@(" LABEL "[.]){1,2}[A-Za-z]{2,20}$" },
    { "hostname", "^" LABEL "([.]" LABEL "){0,2}$" },
    { "ipv4", "^" BYTE "([.]" BYTE "){3}$" },
    { "ipv6", "^[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}$" },
    { "uri", "^[A-Za-z][A-Za-z0-9+.-]*:(//[A-Za-z0-9.-]+(:[0-9]{1,4})?)?(/" URI_PART "*)+([?]" URI_PART "*)?(#" URI_PART
             "*)?$" },
};

static ml_status find_format(const ml_compiler *c, const json_t *format, const char **pattern)
{
    const char *name = json_string_value(format);
    for (size_t i = 0; name && i < sizeof formats / sizeof formats[0]; i++) {
        if (strcmp(name, formats[i].name) != 0) continue;
        *pattern = formats[i].pattern;
        return ML_OK;
    }
    return ml_schema_refuse(c, "format",
                            "cannot be honoured: expected date, time, date-time, duration, uuid, email, hostname, "
                            "ipv4, ipv6 or uri");
}

ml_status ml_schema_compile_string(ml_compiler *c, const json_t *schema, ml_symbol *out)
{
    int64_t fewest, most;
    const json_t *pattern = json_object_get(schema, "pattern"), *format = json_object_get(schema, "format");
    const char *all[ML_PATTERN_MOST];
    size_t n = 0;
    ml_symbol inside;
    ML_TRY(ml_schema_read_count(c, schema, "minLength", 0, ML_SCHEMA_LENGTH, &fewest));
    ML_TRY(ml_schema_read_count(c, schema, "maxLength", -1, ML_SCHEMA_LENGTH, &most));
    if (pattern && !json_is_string(pattern)) return ml_schema_refuse(c, "pattern", "is no text");
    if (pattern) all[n++] = json_string_value(pattern);
    if (format) ML_TRY(find_format(c, format, &all[n++]));
    ML_TRY(RULE(c, out));
    if (most >= 0 && most < fewest) return ML_OK; /* nothing */
    if (n == 0) {
        ML_TRY(ml_schema_repeat(c, c->letter, fewest, most, &inside));
    } else {
        ML_TRY(ml_pattern_compile(all, n, fewest, most, c->g, &inside, c->err));
    }
    return ADD(c, *out, c->quote, inside, c->quote);
}
