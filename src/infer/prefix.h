/* Beginnings of prompts whose keys and values are still in the cache: a radix tree whose edges are pages.
 *
 *   root -- 16 ids --> page 7 -- 16 ids --> page 9
 *                             \- 16 ids --> page 3
 *
 * A node is one page full of prompt tokens, and is named by it; its way from the root spells the ids that lead there.
 * The same ids through another adapter are another way.
 * The store is an owner of its pages (infer/pages.h).  Only what prompts computed may be put in: tokens that were
 * generated have other last bits.  When pages are wanted, the least recently used leaves that nobody else holds go. */
#ifndef ML_INFER_PREFIX_H
#define ML_INFER_PREFIX_H

#include "infer/pages.h"

enum { ML_PREFIX_ROOT = -1, ML_PREFIX_NONE = -2 };

typedef struct {
    int32_t parent, child, sibling; /* ML_PREFIX_NONE: none; of a page that is not in the tree nothing is said */
    bool used;
    const void *computed_by;
    uint64_t touched; /* the higher, the later */
} ml_prefix_node;

typedef struct {
    ml_pages *pages;
    ml_prefix_node *node; /* [n_page] */
    int32_t *id;          /* [n_page, page_size] the tokens of each */
    int32_t first;        /* child of the root */
    int64_t n_node;
    uint64_t clock;
} ml_prefix;

/* The pages must outlive it. */
ml_status ml_prefix_make(ml_prefix *p, ml_pages *pages, ml_error *err);
void ml_prefix_free(ml_prefix *p);
/* The node below `parent` whose page holds these page_size ids as computed by that (any pointer), or ML_PREFIX_NONE;
 * it is now the last used. */
int32_t ml_prefix_find(ml_prefix *p, int32_t parent, const void *computed_by, const int32_t *id);
/* Put a page below `parent`, where ml_prefix_find found none. */
void ml_prefix_add(ml_prefix *p, int32_t parent, const void *computed_by, const int32_t *id, int32_t page);
/* Let go of all that was computed by that: nobody may use it any more, and its address may be another's soon. */
void ml_prefix_forget(ml_prefix *p, const void *computed_by);
/* Let go of pages until `n_free` are free or nothing can go. */
void ml_prefix_evict(ml_prefix *p, int64_t n_free);

#endif
