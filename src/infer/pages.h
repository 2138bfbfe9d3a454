/* Pages of a key/value cache: which sequence has which, and which are free.
 *
 * A page holds `page_size` neighbouring positions of one sequence (of all layers).  The table says where a sequence's
 * pages are, as ml_kv_view wants it.  A page may be shared: sequences that begin alike have the same page at the same
 * place, and whoever holds it (sequences, the prefix store) counts as one owner; a page without owners is free.
 * Nobody writes to a page that has another owner. */
#ifndef ML_INFER_PAGES_H
#define ML_INFER_PAGES_H

#include "base/status.h"

#include <stdbool.h>

typedef struct {
    int32_t page_size;
    int64_t n_page, n_seq, pages_per_seq;
    int32_t *table;   /* [n_seq, pages_per_seq]; entries from n_used[seq] on mean nothing */
    int32_t *n_used;  /* [n_seq] */
    int32_t *n_owner; /* [n_page] */
    int32_t *free;    /* [n_free] a stack */
    int64_t n_free;
} ml_pages;

/* Sequences of up to `capacity` tokens each. */
ml_status ml_pages_make(ml_pages *p, int64_t n_page, int32_t page_size, int64_t n_seq, int64_t capacity, ml_error *err);
void ml_pages_free(ml_pages *p);
/* Pages that n tokens take. */
int64_t ml_pages_for(const ml_pages *p, int64_t n_token);
/* Room for the first n_token positions of a sequence.  False, and nothing changed, when too few pages are free. */
bool ml_pages_reserve(ml_pages *p, int64_t seq, int64_t n_token);
/* Give up what a sequence has beyond its first n_token positions. */
void ml_pages_truncate(ml_pages *p, int64_t seq, int64_t n_token);
/* One more owner, one less. */
void ml_pages_hold(ml_pages *p, int32_t page);
void ml_pages_release(ml_pages *p, int32_t page);
/* An empty sequence begins with these pages, which are held for it. */
void ml_pages_adopt(ml_pages *p, int64_t seq, const int32_t *page, int64_t n);

#endif
