/* Lines from a person or a pipe: on a terminal with editing and a history kept between runs, else as they come. */
#ifndef ML_CLI_LINE_READER_H
#define ML_CLI_LINE_READER_H

#include "base/status.h"

#include <stdbool.h>

typedef struct ml_line_reader ml_line_reader;

/* `words`, NULL behind the last, are what Tab completes at the beginning of a line.  All must outlive the reader. */
ml_status ml_line_reader_make(const char *prompt, const char *const *words, ml_line_reader **out, ml_error *err);
void ml_line_reader_free(ml_line_reader *r);
bool ml_line_reader_is_terminal(const ml_line_reader *r);
/* The next line without its end, valid until the next call; NULL at the end of input (Ctrl-D).  Ctrl-C while typing
 * drops the line, which is then "". */
const char *ml_line_reader_next(ml_line_reader *r);

#endif
