#include "serve/page.h"

#include "base/embedded.h"

#include <stdbool.h>
#include <string.h>

const char ml_page_policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

static const char *type_of(const char *name)
{
    static const char *const types[][2] = {
        { ".html", "text/html; charset=utf-8" },
        { ".css", "text/css; charset=utf-8" },
        { ".js", "text/javascript; charset=utf-8" },
        { ".svg", "image/svg+xml" },
    };
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof types / sizeof *types; i++) {
        if (!strcmp(dot, types[i][0])) return types[i][1];
    }
    return "application/octet-stream";
}

bool ml_page_find(const char *path, ml_page_file *out)
{
    if (*path != '/') return false;
    const char *name = path[1] ? path + 1 : "index.html";
    for (const ml_embedded_file *f = ml_web_files; f->name; f++) {
        if (strcmp(f->name, name) != 0) continue;
        *out = (ml_page_file){ type_of(name), f->data, f->n_bytes };
        return true;
    }
    return false;
}
