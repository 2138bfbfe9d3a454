/* Reading bytes by a grammar: an automaton whose states are made when they are first reached.
 *
 * What may come next is a set of stacks, each a place in the grammar and the places to go on at when its rule ends.
 * Stacks with the same places are one node, sets with the same nodes are one state, and where a byte leads from a state
 * is found once: after that reading a byte is a look-up. */
#ifndef ML_GRAMMAR_MATCHER_H
#define ML_GRAMMAR_MATCHER_H

#include "grammar/grammar.h"

typedef struct ml_matcher ml_matcher;

/* -1 is the state that nothing leads out of. */
enum { ML_STATE_DEAD = -1 };

/* The grammar must outlive it. */
ml_status ml_matcher_make(const ml_grammar *g, ml_matcher **out, ml_error *err);
void ml_matcher_free(ml_matcher *m);
int32_t ml_matcher_start(const ml_matcher *m);
/* The state behind a byte or a mark.  ML_ENOMEM when there are more states than are kept. */
ml_status ml_matcher_step(ml_matcher *m, int32_t state, int32_t unit, int32_t *next, ml_error *err);
/* Whether the text may end here; whether it can go on. */
bool ml_matcher_accepts(const ml_matcher *m, int32_t state);
bool ml_matcher_continues(const ml_matcher *m, int32_t state);

#endif
