/* Files of text, JSON or Parquet (records.h) -> a data folder (dataset.h has its layout).
 *
 * Every document becomes [BOS] ids [EOS].  Which split it goes to depends on its text alone (split_rule.h; val_last:
 * on where it begins; a plain text document that reaches into the validation part is cut in two).  Documents
 * are encoded in batches on all threads and appended to the shards of their split; a shard is closed at the first
 * document end at or after shard_tokens.  Memory holds three batches (of 8 MB of text each), one shard's document
 * offsets, and, when documents are shuffled, 64 bytes for each document; shuffling needs as much room on the disk as
 * compressed and Parquet inputs have text.
 *
 * The bytes written depend on the inputs and options only, not on threads, nor on interruptions: build.json keeps
 * what identifies the build and the shards finished so far, and the same call on the same folder goes on from there.
 * A folder begun with other options or inputs is refused.  A copy of the
 * tokenizer goes into the folder "tokenizer"; meta.json comes last. */
#ifndef ML_DATA_BUILD_H
#define ML_DATA_BUILD_H

#include "base/log.h"
#include "data/dataset.h"
#include "data/records.h"
#include "token/tokenizer.h"

typedef enum { ML_SPECIAL_AUTO = 0, ML_SPECIAL_ON, ML_SPECIAL_OFF } ml_special_rule;

typedef struct {
    const char *const *input; /* [n_input] files */
    size_t n_input;
    const char *out;
    const char *name;      /* of the data set; NULL: the last part of `out` */
    ml_document_rule rule; /* of plain text */
    const char *marker;
    const char *field;   /* of JSON and Parquet records: where the text is */
    double val_fraction; /* in [0, 0.5] */
    bool val_last;       /* the last val_fraction of the bytes is for validation, rather than random documents */
    int64_t val_every;   /* > 0: every so many-th document is for validation, instead of the fraction */
    bool shuffle;        /* the order of the documents, over all files, ... */
    uint64_t seed;       /* ... as this decides */
    /* No more documents for a split that has so many tokens, and no more reading once both have.  No limits without one
     * for training. */
    int64_t limit[ML_N_SPLIT];
    int64_t shard_tokens;
    /* AUTO: EOS if the tokenizer has one; BOS if the tokenizer begins texts with it, and only if it differs from EOS.
     * ON without one is an error.  A tokenizer without an EOS of that role, but with "<|endoftext|>", ends documents
     * with it. */
    ml_special_rule bos, eos;
    int id_bytes;          /* 2, 4, or 0: by vocabulary */
    double max_bad;        /* records that may be malformed, as a fraction of all; they are left out */
    ml_progress *progress; /* in MB of input; may be NULL */
    double progress_begin; /* MB that were done before */
} ml_build_config;

typedef struct {
    int64_t n_document[ML_N_SPLIT], n_token[ML_N_SPLIT];
    size_t n_shard[ML_N_SPLIT];
    ml_record_tally tally; /* of all records */
    int64_t n_empty;       /* records with an empty text */
    bool was_complete;     /* nothing was to be done */
    bool resumed;
} ml_build_result;

/* With val_last: the byte, of `n_bytes` in all files together, from which on text is for validation. */
uint64_t ml_build_val_begin(const ml_build_config *config, uint64_t n_bytes);

/* ML_ECANCEL after ml_progress_stopped(): the same call continues.  ML_EINVAL for options that cannot be honoured or a
 * folder that belongs to another build, ML_EFORMAT when an input is damaged or too many records are malformed (naming
 * the first). */
ml_status ml_data_build(const ml_build_config *config, const ml_tokenizer *tokenizer, ml_build_result *result,
                        ml_error *err);

#endif
