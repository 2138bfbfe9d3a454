/* The page: files of web/, in the program since it was built. */
#ifndef ML_SERVE_PAGE_H
#define ML_SERVE_PAGE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    const char *content_type;
    const unsigned char *data; /* [n_bytes] */
    size_t n_bytes;
} ml_page_file;

/* What every answer with a file of the page says in Content-Security-Policy: nothing from elsewhere, no scripts or
 * styles inside markup, and nobody shows the page in a frame. */
extern const char ml_page_policy[];

/* The file at the path of a URL: "/" is index.html, "/app.js" that.  False when there is none. */
bool ml_page_find(const char *path, ml_page_file *out);

#endif
