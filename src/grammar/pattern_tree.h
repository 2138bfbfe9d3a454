/* A regular expression as a tree (pattern_tree.c), which pattern.c makes an automaton of. */
#ifndef ML_GRAMMAR_PATTERN_TREE_H
#define ML_GRAMMAR_PATTERN_TREE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ML_CODE_LAST = 0x10ffff };

/* Characters from..to, both included. */
typedef struct {
    int32_t from, to;
} ml_code_range;

typedef enum {
    ML_TREE_EMPTY,
    ML_TREE_SET,    /* one character of ranges [first, first + n) */
    ML_TREE_JOIN,   /* a, then b */
    ML_TREE_EITHER, /* a or b */
    ML_TREE_REPEAT, /* a, `fewest` to `most` times; most -1: any number */
    ML_TREE_BEGIN,  /* ^ */
    ML_TREE_END     /* $ */
} ml_tree_kind;

typedef struct {
    ml_tree_kind kind;
    int32_t a, b;         /* nodes */
    int32_t first, n;     /* ranges, ascending and apart */
    int32_t fewest, most; /* times */
} ml_tree_node;

/* Start zeroed. */
typedef struct {
    ml_tree_node *node;
    ml_code_range *range;
    size_t n_node, n_range, node_room, range_room;
} ml_tree;

void ml_tree_free(ml_tree *t);
/* Read a pattern (pattern.h) into the tree, which may hold others: *root is its node. */
ml_status ml_tree_read(ml_tree *t, const char *pattern, int32_t *root, ml_error *err);

#endif
