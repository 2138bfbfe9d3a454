#include "serve/stops.h"

#include <string.h>

size_t ml_stops_find(const char *const *stop, size_t n_stop, const char *text, size_t n, size_t from)
{
    size_t best = n;
    for (size_t i = 0; i < n_stop; i++) {
        size_t size = strlen(stop[i]), begin = from >= size ? from - size + 1 : 0;
        const char *found = begin < n ? memmem(text + begin, n - begin, stop[i], size) : NULL;
        if (found && (size_t)(found - text) < best) best = (size_t)(found - text);
    }
    return best;
}

size_t ml_stops_held(const char *const *stop, size_t n_stop, const char *text, size_t n)
{
    size_t held = 0;
    for (size_t i = 0; i < n_stop; i++) {
        size_t size = strlen(stop[i]), k = size - 1 < n ? size - 1 : n;
        while (k > held && memcmp(text + n - k, stop[i], k) != 0) k--;
        if (k > held) held = k;
    }
    return held;
}
