/* Numbers as a person reads them. */
#ifndef ML_CLI_AMOUNT_H
#define ML_CLI_AMOUNT_H

#include <stdint.h>

typedef struct {
    char text[48];
} ml_amount;

/* "163,840": digits in threes. */
ml_amount ml_cli_digits(int64_t n);
/* "812 bytes", "1.64 GB" */
ml_amount ml_cli_bytes(int64_t n_bytes);
/* "1 document", "200 documents": `what` takes an s. */
ml_amount ml_cli_count(int64_t n, const char *what);

#endif
