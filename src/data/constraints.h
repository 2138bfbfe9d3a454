/* What a prompt demands of a story, and whether a story does it.
 *
 *   {"protagonist": "a friendly badger", "theme": "sharing", "required": ["by the sea", "cookies"],
 *    "banned": "red", "min_sentences": 12, "max_sentences": 15}
 *
 * Phrases are met as whole words, whatever the case: "skill" does not contain "kill".  The protagonist is right when it
 * is named, as given, in the first sentence. */
#ifndef ML_DATA_CONSTRAINTS_H
#define ML_DATA_CONSTRAINTS_H

#include "base/json.h"

enum { ML_CONSTRAINT_PHRASES = 8, ML_CONSTRAINT_TEXT = 64 };

typedef struct {
    char protagonist[ML_CONSTRAINT_TEXT]; /* "" : any */
    char theme[ML_CONSTRAINT_TEXT];
    char required[ML_CONSTRAINT_PHRASES][ML_CONSTRAINT_TEXT]; /* [n_required] */
    size_t n_required;
    char banned[ML_CONSTRAINT_TEXT];  /* "" : nothing */
    int min_sentences, max_sentences; /* max 0: any number */
} ml_constraints;

typedef struct {
    bool protagonist, required, banned, sentences; /* each: what is demanded is so */
    int n_required;                                /* phrases that are there */
    int n_sentence;
} ml_constraint_verdict;

ml_constraint_verdict ml_constraints_check(const ml_constraints *c, const char *story);
/* Protagonist, required and banned phrases: the sentences are counted apart. */
bool ml_constraints_satisfied(const ml_constraint_verdict *v);

/* Whether the words of `phrase` stand in the text, not as parts of longer words. */
bool ml_constraints_has_phrase(const char *text, size_t n_bytes, const char *phrase);

json_t *ml_constraints_to_json(const ml_constraints *c);
/* ML_EFORMAT naming `where` and the key. */
ml_status ml_constraints_from_json(const json_t *j, const char *where, ml_constraints *out, ml_error *err);

#endif
