/* Files that are part of the program: cmake/embed_files.cmake writes tables of them, in order of their names and ended
 * by a row without a name. */
#ifndef ML_BASE_EMBEDDED_H
#define ML_BASE_EMBEDDED_H

#include <stddef.h>

typedef struct {
    const char *name;          /* path within its folder */
    const unsigned char *data; /* [n_bytes], and a 0 behind it */
    size_t n_bytes;
} ml_embedded_file;

/* src/report/report.css */
extern const ml_embedded_file ml_report_files[];
/* web/, and lib/ with scripts of the distribution */
extern const ml_embedded_file ml_web_files[];
/* docs/openapi.json */
extern const ml_embedded_file ml_serve_files[];

#endif
