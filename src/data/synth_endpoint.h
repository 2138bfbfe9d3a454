/* Stories to order, and pairs, from a language model behind an endpoint (fetch/completion.h): the same prompts, checks
 * and lines as the built-in generator's (synth_constraints.h).
 *
 *   OUT                 {"id", "prompt", "response", "constraints", "sentence_count", "sentence_ok", "provenance"}, or
 *                       with "chosen" and "rejected"; the number of sentences is noted, not demanded
 *   OUT.rejects.jsonl   {"id", "prompt", "response", "reason", "try"}: every answer that was not taken
 *   OUT.part            what there is so far (synth_journal.h): the same call goes on from it, asking nothing twice
 *
 * An answer is taken when it keeps its constraints, is complete and ends in a sentence; else it is asked for again, up
 * to three times.  The rejected answer of a pair is the answer to the same prompt with another protagonist. */
#ifndef ML_DATA_SYNTH_ENDPOINT_H
#define ML_DATA_SYNTH_ENDPOINT_H

#include "data/synth_constraints.h"
#include "fetch/completion.h"

typedef struct {
    const char *out;
    bool pairs;
    ml_data_split split;
    uint64_t n_document, seed;
    ml_completion_config completion;
    int64_t n_parallel;                    /* requests at a time */
    double prompt_price, completion_price; /* of a million tokens */
    ml_progress *progress;                 /* in documents; may be NULL */
} ml_synth_endpoint_config;

typedef struct {
    uint64_t n_bytes, n_prompt; /* of the file; prompts that were answered */
    uint64_t n_reject[ML_N_SYNTH_FAULT];
    int64_t n_request, n_prompt_token, n_completion_token; /* over all calls for this file */
    double cost;
    bool resumed;
} ml_synth_endpoint_result;

/* ML_ECANCEL after a stop; ML_EIO or ML_EFORMAT, as ml_completion_ask says, when the endpoint fails: OUT.part keeps
 * what there is.  ML_EFORMAT when hardly any of many answers can be taken. */
ml_status ml_data_synth_endpoint(const ml_synth_endpoint_config *config, ml_synth_endpoint_result *result,
                                 ml_error *err);

#endif
