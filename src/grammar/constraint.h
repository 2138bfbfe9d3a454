/* Which tokens keep an answer within a grammar.
 *
 * The vocabulary is walked in the order of its bytes, so that what tokens have in common is read once; the set of
 * allowed tokens of a state is kept and used again. */
#ifndef ML_GRAMMAR_CONSTRAINT_H
#define ML_GRAMMAR_CONSTRAINT_H

#include "grammar/matcher.h"
#include "token/tokenizer.h"

/* The tokens that text consists of, in order of their bytes; immutable. */
typedef struct {
    const ml_tokenizer *t;
    int32_t *id;      /* [n] */
    uint16_t *common; /* [n] bytes that a token has in common with the one before it */
    size_t n;
    int32_t n_vocab; /* ids of the tokenizer */
} ml_vocabulary;

ml_status ml_vocabulary_make(const ml_tokenizer *t, ml_vocabulary **out, ml_error *err);
void ml_vocabulary_free(ml_vocabulary *v);

typedef struct ml_constraint ml_constraint;

/* One answer's place in the grammar.  `end` [n_end] ids end an answer, `mark` [n_mark] are what the grammar's marks
 * stand for (-1: nothing).  All must outlive it but `end` and `mark`.  ML_EINVAL for more than ML_MOST_MARKS. */
ml_status ml_constraint_make(const ml_grammar *g, const ml_vocabulary *v, const int32_t *end, size_t n_end,
                             const int32_t *mark, size_t n_mark, ml_constraint **out, ml_error *err);
void ml_constraint_free(ml_constraint *c);
/* Take the answer so far [n], of which what was taken before is the beginning, and put -infinity where logits [n_logit]
 * are of tokens that must not come.  False: the answer is complete and nothing may follow (or memory is out). */
bool ml_constraint_apply(ml_constraint *c, const int32_t *answer, int64_t n, float *logits, int64_t n_logit);

#endif
