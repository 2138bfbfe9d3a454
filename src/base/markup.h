/* Text inside HTML, XML and SVG. */
#ifndef ML_BASE_MARKUP_H
#define ML_BASE_MARKUP_H

#include <stddef.h>
#include <stdio.h>

/* Write n bytes so that they are text to whoever reads the markup, between tags or in a quoted attribute: < > & " ' are
 * escaped; bytes that are not UTF-8, and characters that XML cannot hold, come out as U+FFFD.  Failures to write show
 * in ferror(out). */
void ml_markup_put_bytes(FILE *out, const char *text, size_t n);
void ml_markup_put_text(FILE *out, const char *text);

#endif
