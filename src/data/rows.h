/* A folder of rows for tuning: ragged sequences of tokens, of which marked spans are learned; mapped read-only.
 *
 *   meta.json      what the folder is; written last, so a folder without it is unfinished
 *   train.ids      the ids of all rows end to end, little endian, uint16 where the vocabulary has at most 65,536 ids,
 *                  else uint32
 *   train.rows     little endian uint64 [n_row + 1][2]: the first token and the first span of each row, and at the
 *                  end both totals
 *   train.spans    little endian uint32 [n_span][2]: tokens begin .. end-1 of the row are learned;
 *                  1 <= begin < end <= its length, in order, apart
 *   val.ids ...
 *
 * A preference pair is kept as one row: prompt, chosen answer and rejected answer end to end; its two spans are the two
 * answers.  Opening checks sizes, counts and every row and span; an id at or above vocab_size is found when it is read.
 * Writers are rows_write.h and build_rows.h, batches come from row_loader.h. */
#ifndef ML_DATA_ROWS_H
#define ML_DATA_ROWS_H

#include "data/dataset.h"
#include "token/tokenizer.h"

/* "format" of meta.json */
#define ML_ROWS_FORMAT "moonlight rows"

typedef enum { ML_ROWS_SINGLE, ML_ROWS_PAIR } ml_rows_kind;

typedef struct {
    int32_t begin, end;
} ml_row_span;

/* One row.  Start zeroed. */
typedef struct {
    ml_ids ids;
    ml_row_span *span; /* [n_span] */
    size_t n_span, span_capacity;
} ml_row;

void ml_row_free(ml_row *row);
void ml_row_clear(ml_row *row);
/* Append a span of the row. */
ml_status ml_row_add_span(ml_row *row, size_t begin, size_t end, ml_error *err);

enum { ML_ROWS_IDS, ML_ROWS_INDEX, ML_ROWS_SPANS, ML_ROWS_N_FILE };

typedef struct {
    ml_map file[ML_ROWS_N_FILE];
    int64_t n_row, n_token, n_span;
    int64_t n_target;      /* learned tokens; of pairs in both answers */
    int64_t longest;       /* tokens of the longest row */
    int64_t longest_input; /* of the longest sequence that a model reads: all but the last token */
    int64_t most_spans;    /* of a row */
    char sha256[ML_ROWS_N_FILE][ML_SHA256_HEX];
} ml_rows_split;

typedef struct ml_rows {
    char path[ML_PATH_MAX];
    char name[ML_META_NAME];
    ml_rows_kind kind;
    char tokenizer[ML_META_TOKENIZER]; /* fingerprint of the tokenizer the ids belong to */
    char fingerprint[ML_SHA256_HEX];   /* of the data: SHA-256 over the files' hashes */
    int64_t vocab_size;
    int id_bytes;
    ml_rows_split split[ML_N_SPLIT];
} ml_rows;

/* "rows", "pairs" */
const char *ml_rows_kind_name(ml_rows_kind kind);
/* "train.ids", ... into out[32] */
void ml_rows_file_name(ml_data_split split, int file, char out[32]);

/* Whether the folder says that it holds rows, and not token shards. */
bool ml_rows_are_in(const char *path);
/* ML_EIO when there is no such folder or it is unfinished, ML_EFORMAT when files disagree. */
ml_status ml_rows_open(const char *path, ml_rows **out, ml_error *err);
void ml_rows_free(ml_rows *rows);
/* ML_EINVAL unless the folder holds this kind. */
ml_status ml_rows_check_kind(const ml_rows *rows, ml_rows_kind kind, ml_error *err);
/* ML_EINVAL, naming both fingerprints, unless the ids were made by the tokenizer with this fingerprint. */
ml_status ml_rows_check_tokenizer(const ml_rows *rows, const char *fingerprint, ml_error *err);
/* Read every file and compare its SHA-256 with meta.json. */
ml_status ml_rows_verify(const ml_rows *rows, ml_error *err);

/* Make room in `row` for any row of the split, so that reading allocates nothing. */
ml_status ml_rows_reserve(const ml_rows *rows, ml_data_split split, ml_row *row, ml_error *err);
/* Row i (in range) of a split.  ML_EFORMAT for an id outside the vocabulary. */
ml_status ml_rows_read(const ml_rows *rows, ml_data_split split, int64_t i, ml_row *row, ml_error *err);

#endif
