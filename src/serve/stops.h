/* Texts that end an answer before they appear in it. */
#ifndef ML_SERVE_STOPS_H
#define ML_SERVE_STOPS_H

#include <stddef.h>

/* Where the first of them begins in text[n], looking only at those that end behind `from`; n when there is none.  Of
 * two that are complete the one that begins first counts. */
size_t ml_stops_find(const char *const *stop, size_t n_stop, const char *text, size_t n, size_t from);
/* How many bytes at the end of the text one of them may begin with. */
size_t ml_stops_held(const char *const *stop, size_t n_stop, const char *text, size_t n);

#endif
