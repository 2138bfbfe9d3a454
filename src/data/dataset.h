/* A built data folder: token shards, mapped read-only.
 *
 *   meta.json          what the folder is; written last, so a folder without it is unfinished
 *   train_00000.bin    ids, little endian, uint16 where the vocabulary has at most 65,536 ids, else uint32
 *   train_00000.idx    document offsets, little endian uint64 [n_document + 1]: document i of the shard is its
 *                      tokens idx[i] .. idx[i+1]-1; idx[0] = 0 and the last is the number of tokens
 *   val_00000.bin ...
 *   tokenizer/         the tokenizer that made the ids, in Hugging Face format
 *
 * A document never crosses a shard.  The stream of a split is its shards end to end.  Opening checks sizes,
 * counts and every index against meta.json; an id at or above vocab_size is found when it is read.
 * ml_dataset_verify also compares the hashes. */
#ifndef ML_DATA_DATASET_H
#define ML_DATA_DATASET_H

#include "base/file.h"
#include "data/meta.h"

typedef enum { ML_SPLIT_TRAIN = 0, ML_SPLIT_VAL, ML_N_SPLIT } ml_data_split;

/* "train", "val" */
const char *ml_dataset_split_name(ml_data_split split);

typedef struct {
    char path[ML_PATH_MAX]; /* of the .bin; the index lies beside it */
    ml_map bin, idx;
    int64_t first_token; /* of the shard within the split's stream */
    int64_t first_document;
    int64_t n_token, n_document;
    char bin_sha256[ML_SHA256_HEX], idx_sha256[ML_SHA256_HEX];
} ml_shard;

typedef struct {
    ml_shard *shard; /* [n_shard] */
    size_t n_shard;
    int64_t n_token, n_document;
} ml_dataset_split;

typedef struct ml_dataset {
    char path[ML_PATH_MAX];
    char name[ML_META_NAME];           /* "dataset" of meta.json */
    char tokenizer[ML_META_TOKENIZER]; /* fingerprint of the tokenizer the ids belong to */
    char fingerprint[ML_SHA256_HEX];   /* of the data: SHA-256 over the shards' hashes in order */
    int64_t vocab_size;
    int32_t bos_id, eos_id; /* written around each document; -1: none */
    int id_bytes;           /* 2 or 4 */
    ml_dataset_split split[ML_N_SPLIT];
} ml_dataset;

/* Fails with ML_EIO when there is no such folder or it is unfinished, ML_EFORMAT when files disagree. */
ml_status ml_dataset_open(const char *path, ml_dataset **out, ml_error *err);
void ml_dataset_free(ml_dataset *data);
/* ML_EINVAL, naming both fingerprints, unless the ids were made by the tokenizer with this fingerprint. */
ml_status ml_dataset_check_tokenizer(const ml_dataset *data, const char *fingerprint, ml_error *err);
/* Read every shard and compare its SHA-256 with meta.json. */
ml_status ml_dataset_verify(const ml_dataset *data, ml_error *err);

/* Tokens first .. first+n-1 of the split's stream into id [n].  ML_EINVAL when out of range, ML_EFORMAT (naming
 * shard and offset) for an id outside the vocabulary. */
ml_status ml_dataset_read(const ml_dataset *data, ml_data_split split, int64_t first, int64_t n, int32_t *id,
                          ml_error *err);
/* Document i of the split is tokens *first .. *first + *n - 1 of its stream. */
ml_status ml_dataset_document(const ml_dataset *data, ml_data_split split, int64_t i, int64_t *first, int64_t *n,
                              ml_error *err);
/* The document that holds token `at` (0 <= at < n_token of the split) of the stream. */
int64_t ml_dataset_find_document(const ml_dataset *data, ml_data_split split, int64_t at);

#endif
