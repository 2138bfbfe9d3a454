/* "Did you mean ...?": the candidate with the fewest typing mistakes from what was typed. */
#ifndef ML_BASE_NEAREST_H
#define ML_BASE_NEAREST_H

typedef struct {
    const char *typed;
    const char *best; /* NULL: nothing near enough yet */
    int distance;     /* mistakes between typed and best */
} ml_nearest;

/* Letters to insert, delete, replace or swap with a neighbour to get from a to b.  Texts are compared up to
 * their 63rd byte. */
int ml_nearest_distance(const char *a, const char *b);

ml_nearest ml_nearest_begin(const char *typed);
/* Keeps the candidate (not copied) when it is nearer than those before it and near enough to be meant: at
 * most a third of its letters, but at least two, may be wrong. */
void ml_nearest_offer(ml_nearest *n, const char *candidate);

#endif
