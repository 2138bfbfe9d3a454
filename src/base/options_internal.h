/* Shared by the files behind base/options.h; nobody else includes it. */
#ifndef ML_BASE_OPTIONS_INTERNAL_H
#define ML_BASE_OPTIONS_INTERNAL_H

#include "base/options.h"

typedef enum { ML_ORIGIN_DEFAULT, ML_ORIGIN_FILE, ML_ORIGIN_ARGS } ml_origin_rank;

typedef struct {
    ml_origin_rank rank;
    int file; /* index into ml_options.files, for ML_ORIGIN_FILE */
    int line;
} ml_origin;

typedef struct {
    char **items; /* as typed; one for everything but a LIST */
    size_t n_items, capacity;
    int64_t integer; /* INT, FLAG */
    double real;     /* REAL */
    ml_origin origin;
} ml_option_value;

typedef struct {
    char *name, *value;
    ml_origin origin;
} ml_open_item;

struct ml_options {
    const ml_option_row *rows;
    size_t n_rows;
    ml_option_value *values; /* [n_rows]; empty for rows out of scope */
    char *verb, *open_section;
    ml_open_item *open;
    size_t n_open, open_capacity;
    char **positional;
    size_t n_positional, positional_capacity;
    char **files;
    size_t n_files, files_capacity;
};

/* Index of the row, or n_rows. */
size_t ml_options_find(const ml_options *o, const char *section, const char *name);

/* Check `text` against the row's type and range; fills integer/real of `value` when it is not NULL.  The
 * message starts with "expected". */
ml_status ml_option_check(const ml_option_row *row, const char *text, ml_option_value *value, ml_error *err);

/* Append a copy of text to a growing list of texts. */
ml_status ml_options_append_text(char ***items, size_t *n, size_t *capacity, const char *text, ml_error *err);
/* Put a value of the given origin in place unless a stronger one is there.  A scalar given twice in one file
 * is an error. */
ml_status ml_options_store(ml_options *o, size_t row, const char *text, ml_origin origin, ml_error *err);
ml_status ml_options_store_open(ml_options *o, const char *name, const char *text, ml_origin origin, ml_error *err);

#endif
