/* Text in columns of characters: how many there are, and lines broken between words. */
#ifndef ML_BASE_COLUMNS_H
#define ML_BASE_COLUMNS_H

#include <stdio.h>

/* Of the terminal behind a stream; 80 where there is none. */
int ml_columns_of(FILE *stream);

/* Print `text`, the cursor standing at column `at` (from 0), and end the line.  Lines are broken at spaces and behind
 * '|' so that they stay within n_columns characters of UTF-8; further ones begin at column `indent`.  A word that is
 * longer than a line is not cut. */
void ml_columns_print(FILE *out, const char *text, int at, int indent, int n_columns);

#endif
