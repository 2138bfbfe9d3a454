/* What a build remembers between runs, and the description of the finished folder. */
#ifndef ML_DATA_BUILD_STATE_H
#define ML_DATA_BUILD_STATE_H

#include "data/build.h"
#include "data/shard_writer.h"

typedef struct {
    uint64_t next;  /* documents before this one (in processing order) are in finished shards, or not of the split */
    json_t *shards; /* array of what meta.json says of each finished shard */
    int64_t n_token, n_document;
    ml_record_tally tally; /* of the documents before `next` */
    int64_t n_empty;
} ml_build_split;

typedef struct {
    json_t *identity; /* inputs, tokenizer, options: what must not change */
    ml_build_split split[ML_N_SPLIT];
} ml_build_state;

/* Resolved choices that the identity records. */
typedef struct {
    int32_t bos_id, eos_id; /* -1: not written */
    int id_bytes;
} ml_build_format;

void ml_build_state_free(ml_build_state *state);
/* Hashes the inputs.  */
ml_status ml_build_identify(const ml_build_config *config, const ml_tokenizer *tokenizer, const ml_build_format *format,
                            json_t **identity, ml_error *err);
/* Take up build.json of the folder if there is one.  *complete: meta.json of the same build is there.  ML_EINVAL,
 * naming the first difference, for another build, or for a folder that holds shards of unknown origin. */
ml_status ml_build_state_open(ml_build_state *state, const char *folder, bool *complete, bool *resumed, ml_error *err);
/* Append a finished shard to a split. */
ml_status ml_build_state_add(ml_build_split *split, const char *file, const ml_shard_record *record, ml_error *err);
ml_status ml_build_state_save(const ml_build_state *state, const char *folder, ml_error *err);
/* Write meta.json and remove build.json. */
ml_status ml_build_state_finish(const ml_build_state *state, const char *folder, ml_error *err);

#endif
