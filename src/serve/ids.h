/* Names that nobody guesses. */
#ifndef ML_SERVE_IDS_H
#define ML_SERVE_IDS_H

#include <stddef.h>

/* `prefix` and 24 random hex digits (96 bits). */
void ml_make_id(const char *prefix, char *out, size_t size);

#endif
