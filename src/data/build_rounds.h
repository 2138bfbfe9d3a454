/* The work of a build, in rounds: while the texts of one batch of documents are encoded on all threads, one of them
 * also writes what became of the batch before and reads the batch after. */
#ifndef ML_DATA_BUILD_ROUNDS_H
#define ML_DATA_BUILD_ROUNDS_H

#include "data/build_state.h"
#include "data/input_hash.h"
#include "data/spool.h"

typedef struct {
    const ml_build_config *config;
    const ml_tokenizer *tokenizer;
    ml_build_format format;
    ml_build_state state;
    ml_input_hash *hash; /* of the inputs, to be finished before a shard is; NULL: known */
    ml_records *records;
    uint64_t val_begin;           /* with val_last: the byte of all inputs */
    ml_spool *spool;              /* all records, when they are shuffled */
    size_t *order;                /* and their order */
    uint64_t n_read;              /* documents read so far, in processing order */
    const char *tokenizer_folder; /* where the tokenizer is to be saved, beside the rounds; NULL: not at all */
} ml_build_work;

/* Read, encode and write all documents that are not in finished shards, and close the last shards.  ML_ECANCEL when the
 * config's progress is stopped. */
ml_status ml_build_run_rounds(ml_build_work *work, ml_error *err);
/* Have the hashes of the inputs in the identity. */
ml_status ml_build_finish_hash(ml_build_work *work, ml_error *err);

#endif
