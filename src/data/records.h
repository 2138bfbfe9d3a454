/* Records out of files: the one way in for every data set.
 *
 *   name                    records                                               number of a record
 *   *.jsonl, *.ndjson       one JSON value a line; blank lines are none           its line
 *   *.json                  the elements of an array, or values one after another its first line
 *   *.parquet               rows                                                  its row
 *   any other               plain text, cut into documents by a rule              its first line
 *
 * All but Parquet, which is compressed inside, may be compressed as a whole (stream.h: x.jsonl.gz, x.txt.zst, ...).
 *
 * Reading has two steps, so that many threads can share the expensive one:
 *
 *   ml_records_read(r, ..., &batch)      finds the next records: one thread, in the order of the files
 *   ml_record_text(&batch, i, "text")    what one of them holds: any thread, each a record of its own
 *   ml_record_value(&batch, i, arena)    the same as a tree of named fields, for chats and preferences:
 *       { "messages": [{ "role": "user", "content": "..." }, ...] }  whatever kind of file it came from
 *
 * A record that is malformed fails the second step, naming file and line or row: the caller counts it with an
 * ml_record_tally and goes on until too many were bad.  A file that is damaged as a whole (a cut gzip file, a broken
 * Parquet page, an array that is never closed) fails the first step: what was read of it is not all there is.
 *
 * Memory holds the batches in use; a compressed file needs its longest record, a Parquet file a page and a dictionary
 * of each column that is read.  Plain files are mapped. */
#ifndef ML_DATA_RECORDS_H
#define ML_DATA_RECORDS_H

#include "data/cut.h"
#include "data/parquet.h"
#include "data/value.h"
#include "token/tokenizer.h"

/* A record of a compressed file may be so long. */
#define ML_RECORD_MAX_BYTES ((size_t)1 << 30)

typedef struct {
    ml_document_rule rule; /* of plain text */
    const char *marker;    /* e.g. "<|endoftext|>"; one line, not empty */
    /* Columns of Parquet files to read, those that a file has; it must have one.  n_field = 0: all. */
    const char *const *field;
    size_t n_field;
} ml_records_config;

typedef struct ml_records ml_records;

/* `config` and `path` are copied.  Opens every file, so that ML_EIO (cannot be read) and ML_EFORMAT (not what its name
 * says, a damaged footer, none of the fields) come before work begins. */
ml_status ml_records_open(const char *const *path, size_t n_path, const ml_records_config *config, ml_records **out,
                          ml_error *err);
/* The same for who wants one text of each record. */
ml_status ml_records_open_texts(const char *const *path, size_t n_path, ml_document_rule rule, const char *marker,
                                const char *field, ml_records **out, ml_error *err);
void ml_records_free(ml_records *r);

/* For progress: bytes of all files on the disk, and those read so far. */
uint64_t ml_records_size(const ml_records *r);
uint64_t ml_records_at(const ml_records *r);
/* Bytes of all files decompressed, which is what positions count in (of a Parquet file, the estimate of its footer).
 * Reads every compressed file once; call it before the first read. */
ml_status ml_records_measure(ml_records *r, uint64_t *n_bytes, ml_error *err);
/* Before reading: a plain text document that reaches over byte `at` of all files together becomes two, cut at the
 * first white space from there on.  Other records stay whole. */
void ml_records_split(ml_records *r, uint64_t at);

typedef enum { ML_RECORD_TEXT, ML_RECORD_JSON, ML_RECORD_ROW, ML_RECORD_BAD } ml_record_kind;

typedef struct {
    uint64_t index;    /* among all records, from 0 */
    uint64_t number;   /* line or row in its file, from 1 */
    uint64_t position; /* bytes of all files before it, decompressed */
    const char *path;  /* of its file */
    ml_record_kind kind;
    bool is_mapped;   /* data stays where it is until the records are freed */
    const char *data; /* TEXT: the document; JSON: not parsed yet; BAD: what is wrong with it */
    size_t n_bytes;   /* of data, or about those of a row */
    size_t row;       /* of the batch's rows; for others where data begins in the batch's bytes or the file */
    char *own;        /* a text that had to be made */
} ml_record;

/* Records and what they point into.  Start zeroed, read into it again and again; free it before the records' source. */
typedef struct {
    ml_record *record; /* [n] */
    size_t n, capacity;
    char *bytes; /* of a compressed file */
    size_t n_bytes, bytes_capacity;
    ml_parquet_batch rows;
} ml_record_batch;

/* The next records, at least one, none at the end: up to max_records and about max_bytes.  What the batch held before
 * is dropped.  After a failure there is no more to read. */
ml_status ml_records_read(ml_records *r, size_t max_records, size_t max_bytes, ml_record_batch *batch, ml_error *err);
/* Drop the records, keep the memory. */
void ml_record_batch_clear(ml_record_batch *batch);
void ml_record_batch_free(ml_record_batch *batch);

/* The text of record i: a plain text as it is, else the text under `field`.  Lives as long as the batch holds the
 * record; an empty one is legal.  ML_EFORMAT naming file and line when the record is malformed or has no text there. */
ml_status ml_record_text(ml_record_batch *batch, size_t i, const char *field, ml_text *out, ml_error *err);
/* The fields of record i in the arena: an object of columns or members; any other JSON value as it is (an array, where
 * each line is a list of messages); a plain text as { "text": ... }.  Lives as long as both.  ML_EFORMAT as above. */
ml_status ml_record_value(const ml_record_batch *batch, size_t i, ml_arena *arena, const ml_value **out, ml_error *err);
/* ML_EFORMAT with file and line or row before the message: for what only the caller can find wrong. */
ml_status ml_record_fail(const ml_record_batch *batch, size_t i, ml_error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* How many records were seen and how many of them were malformed.  Start zeroed. */
typedef struct {
    int64_t n_seen, n_bad;
    char first[512]; /* message of the first malformed one; empty if none */
} ml_record_tally;

/* Count a record; `bad` is its failure, NULL for a good one. */
void ml_record_tally_add(ml_record_tally *t, const ml_error *bad);
/* The texts of the first n records of a batch that are well formed, into out[n]: *n_good of them.  The others are
 * counted only.  Fails with ML_ENOMEM alone. */
ml_status ml_record_texts(ml_record_batch *batch, size_t n, const char *field, ml_record_tally *tally, ml_text *out,
                          size_t *n_good, ml_error *err);
/* Both together; the first message is `a`'s if it has one. */
ml_record_tally ml_record_tally_sum(const ml_record_tally *a, const ml_record_tally *b);
/* ML_EFORMAT, naming the first, when more than max_bad (0 to 1) of the records are malformed; not before a thousand
 * were seen, unless these are all. */
ml_status ml_record_tally_check(const ml_record_tally *t, double max_bad, bool at_end, ml_error *err);

#endif
