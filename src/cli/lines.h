/* Files that a verb reads line by line: prompts, questions, conversations. */
#ifndef ML_CLI_LINES_H
#define ML_CLI_LINES_H

#include "base/json.h"

#include <stddef.h>
#include <stdint.h>

/* One line without its line feed; `where` is "FILE:NUMBER". */
typedef ml_status (*ml_cli_line_fn)(void *arg, const char *where, const char *line, size_t n_bytes, ml_error *err);
/* `object` belongs to the caller; json_incref keeps it. */
typedef ml_status (*ml_cli_object_fn)(void *arg, const char *where, json_t *object, ml_error *err);

/* Hand over each line of text[n_bytes], the content of `path`, that is not blank, `most` at most (0: all).
 * *n_line (may be NULL): how many.  The first failure of fn ends it and is returned. */
ml_status ml_cli_each_line(const char *path, const char *text, size_t n_bytes, int64_t most, ml_cli_line_fn fn,
                           void *arg, int64_t *n_line, ml_error *err);
/* The same of JSON lines.  ML_EFORMAT, naming file and line, for one that is no JSON. */
ml_status ml_cli_each_object(const char *path, const char *text, size_t n_bytes, int64_t most, ml_cli_object_fn fn,
                             void *arg, int64_t *n_line, ml_error *err);

#endif
