/* Ends of names. */
#ifndef ML_BASE_TEXT_H
#define ML_BASE_TEXT_H

#include <stdbool.h>
#include <string.h>

static inline bool ml_text_ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && !strcmp(text + n - n_end, end);
}

#endif
