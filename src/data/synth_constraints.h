/* Prompts with constraints, stories that keep them, and pairs of a right and a wrong story: JSON lines for sft and dpo
 * without a download.
 *
 *   constraints   {"id", "prompt", "response", "constraints", "sentence_count", "sentence_ok", "provenance"}
 *   preferences   {"id", "prompt", "chosen", "rejected", "constraints", "provenance"}
 *
 * The generator draws a prompt (protagonist, theme, two to four phrases, in 15 % of the cases a banned word, bounds on
 * the number of sentences) and then asks the story generator (stories.h), up to three times, for a story that keeps
 * them; what does not is rejected and counted by reason.  A rejected answer of a pair is the same story of another
 * protagonist.
 *
 * For validation some templates and words are kept out of training: its prompts have templates, and its protagonists a
 * trait, a kind and a name, that no training prompt has, and no story of training or pretraining (stories.h).  The
 * wrong protagonist of a pair comes from the words of its split: only the prompt tells which of the two is right. */
#ifndef ML_DATA_SYNTH_CONSTRAINTS_H
#define ML_DATA_SYNTH_CONSTRAINTS_H

#include "base/log.h"
#include "data/constraints.h"
#include "data/dataset.h"
#include "data/stories.h"

enum { ML_PROMPT_MAX = 512 };

/* One prompt and the stories to it. */
typedef struct {
    ml_constraints constraints;
    char prompt[ML_PROMPT_MAX];
    char story[ML_STORY_MAX];
    char wrong[ML_STORY_MAX]; /* of another protagonist; for pairs only */
} ml_constraint_example;

typedef enum {
    ML_SYNTH_KEPT,
    ML_SYNTH_NO_PROTAGONIST,
    ML_SYNTH_NO_PHRASE,
    ML_SYNTH_BANNED,
    ML_SYNTH_SENTENCES,
    ML_SYNTH_NOT_WRONG, /* the rejected story would do */
    ML_SYNTH_CUT,       /* it has no end; only answers of an endpoint */
    ML_SYNTH_EMPTY,     /* likewise */
    ML_N_SYNTH_FAULT
} ml_synth_fault;

/* "protagonist", "required phrase", ... */
const char *ml_synth_fault_name(ml_synth_fault fault);

/* Example `index` of `seed`: always the same; not kept when its stories break what they should keep, and the last one
 * is left in *out. */
ml_synth_fault ml_constraint_draw(uint64_t seed, uint64_t index, ml_data_split split, bool pair,
                                  ml_constraint_example *out);

/* What is asked of others: a prompt, and for the rejected answer of a pair the same with another protagonist. */
typedef struct {
    ml_constraints constraints, wrong;
    char prompt[ML_PROMPT_MAX], wrong_prompt[ML_PROMPT_MAX];
} ml_constraint_order;

/* The prompt of ml_constraint_draw with these numbers. */
void ml_constraint_draw_order(uint64_t seed, uint64_t index, ml_data_split split, bool pair, ml_constraint_order *out);

typedef struct {
    const char *out;
    bool pairs;
    ml_data_split split;
    uint64_t n_document; /* so many lines */
    uint64_t seed;
    ml_progress *progress; /* in documents; may be NULL */
} ml_synth_constraints_config;

typedef struct {
    uint64_t n_bytes;
    uint64_t n_reject[ML_N_SYNTH_FAULT];
} ml_synth_constraints_result;

/* The file appears complete or, after a stop (ML_ECANCEL) or failure, not at all. */
ml_status ml_data_synth_constraints(const ml_synth_constraints_config *config, ml_synth_constraints_result *result,
                                    ml_error *err);

#endif
