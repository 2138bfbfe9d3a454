/* Text -> records: where each begins and ends.  Works on a window of a file, so that a compressed file needs no more
 * memory than its longest record. */
#ifndef ML_DATA_CUT_H
#define ML_DATA_CUT_H

#include "base/status.h"

#include <stdbool.h>

/* How plain text is cut into documents. */
typedef enum {
    ML_RULE_MARKER, /* a line that holds only the marker ends a document; without one the file is one document */
    ML_RULE_BLANK,  /* one or more blank lines do */
    ML_RULE_WHOLE,  /* a file is one document */
} ml_document_rule;

typedef enum {
    ML_CUT_DOCUMENTS, /* by the rule; white space around each is dropped, and documents of nothing else */
    ML_CUT_LINES,     /* without white space around them; blank ones are dropped */
    ML_CUT_JSON,      /* the elements of one JSON array, or JSON values one after the other */
} ml_cut_kind;

/* Where cutting stands in a file.  Start zeroed but for the first group. */
typedef struct {
    ml_cut_kind kind;
    ml_document_rule rule;
    const char *marker; /* one line, not empty; outlives the cutter */
    uint64_t split_at;  /* > 0: a document that reaches over this byte of the file becomes two, cut at the first white
                         * space from there on */
    uint64_t line;      /* lines of the file before the cursor */
    uint64_t base;      /* bytes of the file before the window */
    size_t at;          /* of the window: the cursor */
    enum {
        ML_JSON_BEGIN = 0,
        ML_JSON_FIRST,   /* behind the array's bracket */
        ML_JSON_NEXT,    /* behind an element */
        ML_JSON_ELEMENT, /* behind a comma */
        ML_JSON_VALUES,  /* no array: values one after the other */
        ML_JSON_END,     /* behind the array */
    } json;
} ml_cutter;

typedef struct {
    size_t begin, end; /* of the window; end > begin */
    uint64_t line;     /* of the file, from 1 */
} ml_piece;

typedef enum {
    ML_CUT_PIECE, /* here is one, and the cursor behind it */
    ML_CUT_MORE,  /* the next one does not end in the window: give more of the file from the cursor on */
    ML_CUT_END,   /* there are no more */
} ml_cut_result;

/* The next piece of text[0..n), which is the file from `base` on; is_last: up to its end.  Fails with ML_EFORMAT
 * ("line N: ...") where a JSON array is none. */
ml_status ml_cut_next(ml_cutter *c, const char *text, size_t n, bool is_last, ml_piece *piece, ml_cut_result *result,
                      ml_error *err);
/* The window moves on: its bytes before the cursor are gone. */
void ml_cut_move(ml_cutter *c);

/* Whether there is nothing but white space. */
bool ml_cut_is_blank(const char *text, size_t n_bytes);

#endif
