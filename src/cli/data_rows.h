/* Rows for tuning: moonlight data build --kind prompt|instruction|chat|preference, and data info of their folder. */
#ifndef ML_CLI_DATA_ROWS_H
#define ML_CLI_DATA_ROWS_H

#include "base/options.h"

/* `input` [n_input] are the files of the command line. */
ml_status ml_cli_build_rows(const ml_options *o, const char *const *input, size_t n_input, ml_error *err);
/* What a folder of rows holds; with --samples some of them, what is learned between brackets. */
ml_status ml_cli_show_rows(const ml_options *o, const char *path, ml_error *err);

#endif
