#include "base/columns.h"

#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int ml_columns_of(FILE *stream)
{
    struct winsize window;
    return ioctl(fileno(stream), TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
}

static int count_characters(const char *text, size_t n_bytes)
{
    int n = 0;
    for (size_t i = 0; i < n_bytes; i++) n += (text[i] & 0xc0) != 0x80;
    return n;
}

void ml_columns_print(FILE *out, const char *text, int at, int indent, int n_columns)
{
    int column = at;
    bool begun = false; /* something stands on this line */
    while (*text) {
        size_t n_space = strspn(text, " ");
        size_t n = strcspn(text + n_space, " |");
        n += text[n_space + n] == '|';
        int width = count_characters(text + n_space, n);
        if (begun && column + (int)n_space + width > n_columns) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else {
            fprintf(out, "%*s", (int)n_space, "");
            column += (int)n_space;
        }
        fwrite(text + n_space, 1, n, out);
        column += width;
        text += n_space + n;
        begun = true;
    }
    fputc('\n', out);
}
