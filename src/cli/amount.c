#include "cli/amount.h"

#include <stdio.h>

ml_amount ml_cli_digits(int64_t n)
{
    ml_amount out;
    char plain[24];
    int length = snprintf(plain, sizeof plain, "%lld", (long long)n), at = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && plain[i - 1] != '-' && (length - i) % 3 == 0) out.text[at++] = ',';
        out.text[at++] = plain[i];
    }
    out.text[at] = 0;
    return out;
}

ml_amount ml_cli_bytes(int64_t n_bytes)
{
    static const char *const unit[] = { "bytes", "kB", "MB", "GB", "TB" };
    ml_amount out;
    double value = (double)n_bytes;
    int u = 0;
    while (value >= 1000 && u < 4) {
        value /= 1000;
        u++;
    }
    snprintf(out.text, sizeof out.text, "%.*f %s", u == 0 ? 0 : value < 10 ? 2 : 1, value, unit[u]);
    return out;
}

ml_amount ml_cli_count(int64_t n, const char *what)
{
    ml_amount out;
    snprintf(out.text, sizeof out.text, "%lld %s%s", (long long)n, what, n == 1 ? "" : "s");
    return out;
}
