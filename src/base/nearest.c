#include "base/nearest.h"

#include <string.h>

enum { COMPARED_MAX = 63 };

static int min2(int a, int b)
{
    return a < b ? a : b;
}

/* Optimal string alignment: row i holds the distances of a[0..i) to every prefix of b.  More than `most` is most + 1:
 * later rows are no less than the least of the two before them. */
static int distance_up_to(const char *a, const char *b, int most)
{
    int rows[3][COMPARED_MAX + 1];
    int n_a = (int)strnlen(a, COMPARED_MAX), n_b = (int)strnlen(b, COMPARED_MAX);
    int least = 0, least_above = 0;
    if (n_a - n_b > most || n_b - n_a > most) return most + 1;
    for (int j = 0; j <= n_b; j++) rows[0][j] = j;
    for (int i = 1; i <= n_a; i++) {
        int *row = rows[i % 3];
        const int *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = i;
        least_above = least;
        least = i;
        for (int j = 1; j <= n_b; j++) {
            row[j] = min2(min2(above[j], row[j - 1]) + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                row[j] = min2(row[j], above2[j - 2] + 1);
            }
            least = min2(least, row[j]);
        }
        if (least > most && least_above > most) return most + 1;
    }
    return min2(rows[n_a % 3][n_b], most + 1);
}

int ml_nearest_distance(const char *a, const char *b)
{
    return distance_up_to(a, b, COMPARED_MAX);
}

ml_nearest ml_nearest_begin(const char *typed)
{
    return (ml_nearest){ .typed = typed };
}

void ml_nearest_offer(ml_nearest *n, const char *candidate)
{
    int length = (int)strnlen(candidate, COMPARED_MAX);
    int allowed = length / 3 > 2 ? length / 3 : 2;
    if (allowed >= length) allowed = length - 1; /* something of it must be there */
    if (n->best && allowed >= n->distance) allowed = n->distance - 1;
    int distance = distance_up_to(n->typed, candidate, allowed);
    if (distance > allowed) return;
    n->best = candidate;
    n->distance = distance;
}
