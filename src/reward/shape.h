/* What kind of thing an answer is, and its parts: "(1, 2]" is a tuple of two, "1 \pm \sqrt{2}" a list of two.
 *
 *   single   3x + 1                              one part: itself without parentheses around it
 *   list     1, -2                               commas outside all brackets; order is of no account
 *   set      \{1, 2\}                            nor here
 *   tuple    (1, 2)   [1, 2)   (-\infty, 0]      also intervals; open and close are its brackets
 *   union    (0, 1) \cup (2, 3)                  order is of no account
 *   matrix   \begin{pmatrix} a & b \\ c & d ...  parts row by row; open is 'v' for determinants, else 'p'
 *
 * In a list or set (and a single, which then is a list) a part with one \pm counts as two parts. */
#ifndef ML_REWARD_SHAPE_H
#define ML_REWARD_SHAPE_H

#include "reward/scratch.h"

enum { ML_SHAPE_MAX_PARTS = 64 };

typedef enum {
    ML_SHAPE_SINGLE,
    ML_SHAPE_LIST,
    ML_SHAPE_SET,
    ML_SHAPE_TUPLE,
    ML_SHAPE_UNION,
    ML_SHAPE_MATRIX
} ml_shape_kind;

typedef struct {
    ml_shape_kind kind;
    char open, close;
    int n_rows; /* of a matrix */
    int n;
    ml_span *parts; /* [n], trimmed, in scratch memory */
    bool too_many;  /* more than ML_SHAPE_MAX_PARTS: do not compare part by part */
} ml_shape;

ml_shape ml_shape_read(ml_scratch *scratch, ml_span text);
static inline bool ml_shape_is_ordered(ml_shape_kind kind)
{
    return kind == ML_SHAPE_TUPLE || kind == ML_SHAPE_MATRIX;
}

#endif
