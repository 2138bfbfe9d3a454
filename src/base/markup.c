#include "base/markup.h"

#include <stdbool.h>
#include <string.h>
#include <utf8proc.h>

static const char *escape_of(char c)
{
    switch (c) {
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '&': return "&amp;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    default: return NULL;
    }
}

/* XML 1.0, production 2. */
static bool is_character(utf8proc_int32_t c)
{
    if (c < 0x20) return c == '\t' || c == '\n' || c == '\r';
    return c != 0xFFFE && c != 0xFFFF;
}

void ml_markup_put_bytes(FILE *out, const char *text, size_t n)
{
    const char *end = text + n;
    while (text < end) {
        utf8proc_int32_t c;
        utf8proc_ssize_t size = utf8proc_iterate((const utf8proc_uint8_t *)text, end - text, &c);
        const char *escape = size == 1 ? escape_of(*text) : NULL;
        if (size < 1 || !is_character(c)) escape = "\xEF\xBF\xBD";
        if (escape) {
            fputs(escape, out);
        } else {
            fwrite(text, 1, (size_t)size, out);
        }
        text += size < 1 ? 1 : size;
    }
}

void ml_markup_put_text(FILE *out, const char *text)
{
    ml_markup_put_bytes(out, text, strlen(text));
}
