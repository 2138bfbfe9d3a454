/* The one option table.
 *
 * Every option is one row: who accepts it (scope), section, name, type, range, default, help.  The rows
 * feed `--section.name value`, the recipe INI, `--help`, the effective-options dump of a run and
 * docs/cli.md.  A row whose section is "" is an argument of its verbs (`--prompt TEXT`).
 *
 * Values come, in rising order of precedence, from the defaults, a recipe file, the command line.
 * Unknown names and values out of range are ML_EINVAL naming the origin (file:line or the argument) and
 * the nearest valid name. */
#ifndef ML_BASE_OPTIONS_H
#define ML_BASE_OPTIONS_H

#include "base/file.h"

#include <stdbool.h>

typedef enum {
    ML_OPTION_FLAG, /* on | off (also true|false, yes|no, 1|0); a bare --name means on */
    ML_OPTION_INT,  /* int64; accepts k, m, g suffixes (10^3, 10^6, 10^9) */
    ML_OPTION_REAL, /* double */
    ML_OPTION_TEXT,
    ML_OPTION_CHOICE, /* one of the words in `choices`, separated by '|' */
    ML_OPTION_LIST,   /* texts, one per occurrence, in order; an occurrence in a stronger origin starts anew */
} ml_option_type;

typedef struct {
    const char *scope;   /* verbs that accept it, separated by spaces; "*" for all; "data" means every "data:x" */
    const char *section; /* "" for an argument of the verb */
    const char *name;
    ml_option_type type;
    double min, max;           /* for INT and REAL, inclusive */
    const char *choices;       /* for CHOICE */
    const char *default_value; /* as it would be typed; NULL: unset */
    const char *metavar;       /* shown in help, e.g. "FILE"; NULL: derived from the type */
    const char *help;          /* one line */
} ml_option_row;

typedef struct ml_options ml_options;

/* An empty set over a table of `n_rows`, for `verb`.  The table must outlive it.
 * Keys of the section named `open_section` (may be NULL) that are not rows of the table are accepted whatever
 * their name and kept as text: the architecture keys of config.json, checked by the model. */
ml_status ml_options_make(const ml_option_row *rows, size_t n_rows, const char *verb, const char *open_section,
                          ml_options **out, ml_error *err);
void ml_options_free(ml_options *o);

/* Parse argv[0..argc), which begin after the verb: options as --name value, --name=value, --section.name value,
 * and -x value for a name of one letter; everything else is a positional argument.  "--" ends the options.  A
 * value that begins with "--" is given with "=".  A flag takes the next argument for its value only if that
 * is a word (on, off, true, false, yes, no). */
ml_status ml_options_parse_args(ml_options *o, int argc, char **argv, ml_error *err);
/* Read a recipe.  Values on the command line win whichever is parsed first.  A line may be as long as the
 * distribution's inih takes (198 bytes, blanks at its ends not counted); a longer one is an error naming the
 * line, and so is a name given twice that is no LIST.  ';' after a blank begins a comment; a value in double
 * quotes may hold the escapes \\ \" \n \r \t \xHH (\x3b is ';').  Arguments of the verb cannot stand in it. */
ml_status ml_options_parse_ini(ml_options *o, const char *path, ml_error *err);
/* The same from memory; `origin` stands for the path in errors and origins. */
ml_status ml_options_parse_ini_text(ml_options *o, const char *origin, const char *text, size_t size, ml_error *err);
/* As if given on the command line. */
ml_status ml_options_set(ml_options *o, const char *section, const char *name, const char *value, ml_error *err);
/* The same from "section.name=value". */
ml_status ml_options_assign(ml_options *o, const char *assignment, ml_error *err);

/* Values.  Asking for a row that is not in the table or has another type is a programmer's mistake
 * (assert). `path` is "section.name", or "name" for an argument of the verb. */
bool ml_options_flag(const ml_options *o, const char *path);
int64_t ml_options_int(const ml_options *o, const char *path);
double ml_options_real(const ml_options *o, const char *path);
/* TEXT and CHOICE; NULL when unset.  INT and REAL are 0 when unset. */
const char *ml_options_text(const ml_options *o, const char *path);
size_t ml_options_list(const ml_options *o, const char *path, const char *const **items);
/* Whether the verb has the option at all. */
bool ml_options_has(const ml_options *o, const char *section, const char *name);
/* Whether a recipe or the command line gave it (as opposed to the default). */
bool ml_options_given(const ml_options *o, const char *path);
/* Whether the command line, ml_options_set or ml_options_assign did. */
bool ml_options_overridden(const ml_options *o, const char *path);
/* The values of sections that did, in new memory: "section.name=value" each, as ml_options_assign takes them.  Free
 * with ml_options_free_overrides. */
ml_status ml_options_list_overrides(const ml_options *o, char ***items, size_t *n, ml_error *err);
void ml_options_free_overrides(char **items, size_t n);
/* Keys of the open section in the order given: i in [0, n). */
size_t ml_options_open_count(const ml_options *o);
void ml_options_open_item(const ml_options *o, size_t i, const char **name, const char **value);

size_t ml_options_positional_count(const ml_options *o);
const char *ml_options_positional(const ml_options *o, size_t i);

/* Write every effective value in recipe syntax (sections sorted as in the table), with each value's origin
 * as a comment above it: the options.ini of a run.  Arguments of the verb are comments. */
ml_status ml_options_write_ini(const ml_options *o, const char *path, ml_error *err);
/* The same for one section; `head` is a comment on the first line. */
ml_status ml_options_write_section(const ml_options *o, const char *section, const char *head, const char *path,
                                   ml_error *err);
/* Print the help of the verb: arguments first, then sections. */
void ml_options_print_help(const ml_options *o, FILE *out);
/* Whether `verb` may use the row.  The verb "data:build" uses rows of the scopes "*", "data:build" and "data". */
bool ml_option_in_scope(const ml_option_row *row, const char *verb);
/* "--section.name METAVAR", as help and docs/cli.md show a row. */
void ml_option_print_name(const ml_option_row *row, char *out, size_t size);
/* What a row accepts, e.g. "an integer from 1 to 8", "one of sgd|muon". */
void ml_option_describe(const ml_option_row *row, char *out, size_t size);
/* Call `differs` for each effective value of a section that differs between the INI file at `path` and o; the
 * resume check uses it. */
ml_status ml_options_compare_ini(const ml_options *o, const char *path,
                                 void (*differs)(void *arg, const char *section, const char *name,
                                                 const char *old_value, const char *new_value),
                                 void *arg, ml_error *err);

#endif
