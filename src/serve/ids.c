#include "serve/ids.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/random.h>

void ml_make_id(const char *prefix, char *out, size_t size)
{
    uint32_t bits[3] = { 0 };
    while (getrandom(bits, sizeof bits, 0) < 0 && errno == EINTR) continue; /* 12 bytes come whole */
    snprintf(out, size, "%s%08x%08x%08x", prefix, bits[0], bits[1], bits[2]);
}
