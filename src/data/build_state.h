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
/* The hashes of the inputs stay empty (input_hash.h). */
ml_status ml_build_identify(const ml_build_config *config, const ml_tokenizer *tokenizer, const ml_build_format *format,
                            json_t **identity, ml_error *err);
/* Whether a build has left something in the folder to compare with. */
ml_status ml_build_state_is_begun(const char *folder, bool *begun, ml_error *err);
/* Take up build.json of the folder if there is one.  *complete: meta.json of the same build is there.  ML_EINVAL,
 * naming the first difference, for another build, or for a folder that holds shards of unknown origin. */
ml_status ml_build_state_open(ml_build_state *state, const char *folder, bool *complete, bool *resumed, ml_error *err);
/* Append a finished shard to a split. */
ml_status ml_build_state_add(ml_build_split *split, const char *file, const ml_shard_record *record, ml_error *err);
/* Two builds into one folder would mix their files: make it and lock it until the descriptor is closed. */
ml_status ml_build_lock_folder(const char *path, int *fd, ml_error *err);
/* Checks of what a person chose. */
ml_status ml_build_check_config(const ml_build_config *config, ml_error *err);
ml_status ml_build_choose_format(const ml_build_config *config, const ml_tokenizer *tokenizer, ml_build_format *format,
                                 ml_error *err);
ml_status ml_build_state_save(const ml_build_state *state, const char *folder, ml_error *err);
/* Write meta.json and remove build.json.  `facts`: further keys (may be NULL). */
ml_status ml_build_state_finish(const ml_build_state *state, const json_t *facts, const char *folder, ml_error *err);

#endif
