/* Cutting documents into stretches of about one size, so that threads have equal work whether the text is a million
 * short documents or one long one. */
#ifndef ML_TOKEN_PARTS_H
#define ML_TOKEN_PARTS_H

#include "token/split.h"
#include "token/tokenizer.h"

/* From byte `begin` of document `first` to byte `end` of document `last`. */
typedef struct {
    size_t first, last, begin, end;
} ml_text_part;

/* Parts that cover the documents in order, in new memory (ml_free).  A document is cut only where that leaves its
 * pieces as they are, and not at all unless `may_cut`.  split may be NULL. */
ml_status ml_text_plan_parts(const ml_pattern *split, bool may_cut, const ml_text *docs, size_t n_docs,
                             size_t part_bytes, ml_text_part **parts, size_t *n_parts, ml_error *err);

/* The stretch of document `doc`, in [first, last], that the part holds. */
static inline ml_text ml_text_part_of(const ml_text_part *p, const ml_text *docs, size_t doc)
{
    size_t begin = doc == p->first ? p->begin : 0, end = doc == p->last ? p->end : docs[doc].n_bytes;
    return (ml_text){ docs[doc].n_bytes ? docs[doc].data + begin : "", end - begin };
}

#endif
