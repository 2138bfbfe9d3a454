/* Generated text in files: stories or sums, any amount, for training without a download. */
#ifndef ML_DATA_SYNTH_H
#define ML_DATA_SYNTH_H

#include "base/log.h"
#include "base/status.h"

typedef enum { ML_SYNTH_STORIES = 0, ML_SYNTH_ARITHMETIC } ml_synth_kind;

typedef struct {
    ml_synth_kind kind;
    const char *out;
    uint64_t n_document; /* this many, or */
    uint64_t n_bytes;    /* as many as make the file at least so long; one of the two is 0 */
    uint64_t seed;
    /* off: plain text, every document followed by a line with <|endoftext|>.
     * on:  one object per line: "text", and for stories "theme", for sums "prompt", "response", "label". */
    bool jsonl;
    ml_progress *progress; /* in MB, or in documents when n_document is given; may be NULL */
} ml_synth_config;

/* Made on all threads; the bytes do not depend on how many.  The file appears complete or, after a stop
 * (ML_ECANCEL) or failure, not at all.  The counts may be NULL. */
ml_status ml_data_synth(const ml_synth_config *config, uint64_t *n_document, uint64_t *n_bytes, ml_error *err);

#endif
