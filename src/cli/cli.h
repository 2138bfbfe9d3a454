/* The command line: what every verb shares.
 *
 * A verb is a line in verbs.def, rows in options.c and a function ml_cli_<function>(argc, argv, err) that
 * gets the arguments behind its words.  It returns its failure; main prints it and turns it into the exit status:
 * 0 done, 1 failed, 2 wrong usage (ML_EINVAL).  Results go to standard output; the log, progress and errors to
 * standard error. */
#ifndef ML_CLI_CLI_H
#define ML_CLI_CLI_H

#include "base/json.h"
#include "base/options.h"

#define ML_VERB(function, words, arguments, open_section, help)                                                        \
    ml_status ml_cli_##function(int argc, char **argv, ml_error *err);
#include "cli/verbs.def"
#undef ML_VERB

/* The one option table. */
extern const ml_option_row ml_cli_rows[];
extern const size_t ml_cli_n_rows;

/* The scope of a verb in the table: its words joined by ':', in out[size]. */
void ml_cli_scope(const char *words, char *out, size_t size);

/* Options of the verb `words` from argv[0..argc), with between n_min and n_max positional arguments; `arguments`
 * describes them in the error.  Applies the options that every verb has (--threads).  A verb that takes a
 * recipe calls ml_options_parse_ini on the result.  Free with ml_options_free. */
ml_status ml_cli_parse(const char *words, const char *open_section, int argc, char **argv, size_t n_min, size_t n_max,
                       const char *arguments, ml_options **out, ml_error *err);

/* Fails with ML_EINVAL unless the TEXT argument `name` of the verb was given. */
ml_status ml_cli_require(const ml_options *o, const char *name, const char **out, ml_error *err);

/* One JSON object on a line of standard output of its own: the last thing a verb with --json prints.  Takes over
 * the reference, also when it fails; NULL (an object that could not be built: a text in it is not UTF-8, or memory is
 * out) is ML_EFORMAT. */
ml_status ml_cli_print_json(json_t *object, ml_error *err);

#endif
