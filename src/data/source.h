/* Documents out of text files.
 *
 * A .jsonl or .ndjson file has one JSON object per line, and its document is the text under one key, kept as it is.
 * Any other file is plain text, cut into documents by a rule; white space around each is dropped.  Documents with
 * nothing but white space are none.  Files are mapped: memory does not grow with their size. */
#ifndef ML_DATA_SOURCE_H
#define ML_DATA_SOURCE_H

#include "base/file.h"
#include "base/json.h"

typedef enum {
    ML_RULE_MARKER, /* a line that holds only the marker ends a document; without one the file is one document */
    ML_RULE_BLANK,  /* one or more blank lines do */
    ML_RULE_WHOLE,  /* a file is one document */
} ml_source_rule;

typedef struct {
    ml_source_rule rule;
    const char *marker; /* e.g. "<|endoftext|>"; not empty */
    const char *field;  /* of JSON lines, e.g. "text" */
} ml_source_config;

typedef struct ml_source ml_source;

/* Where a document lies. */
typedef struct {
    uint64_t index; /* among all documents and lines of the source, in order */
    uint64_t line;  /* in its file, from 1 */
    uint32_t file;
    size_t offset, n_bytes;
} ml_span;

/* `config` and `path` are copied.  ML_EIO names the file that cannot be read. */
ml_status ml_source_open(const char *const *path, size_t n_path, const ml_source_config *config, ml_source **out,
                         ml_error *err);
void ml_source_free(ml_source *source);
/* Bytes of all files. */
uint64_t ml_source_size(const ml_source *source);
/* Bytes up to the next document: where reading stands. */
uint64_t ml_source_at(const ml_source *source);
/* Where a document begins, counting the bytes of the files before its own. */
uint64_t ml_source_position(const ml_source *source, const ml_span *span);
/* Before reading: a plain text document that reaches over byte `at` of all files together becomes two, cut at the
 * first white space from there on.  JSON lines stay whole. */
void ml_source_cut(ml_source *source, uint64_t at);
const char *ml_source_path(const ml_source *source, uint32_t file);
bool ml_source_is_json(const ml_source *source, uint32_t file);

/* The next document; false after the last.  JSON lines are not parsed yet; blank ones are skipped. */
bool ml_source_next(ml_source *source, ml_span *span);

/* The text of a document, not 0-terminated.  *hold keeps it alive (NULL for plain text): json_decref it.  ML_EFORMAT
 * naming file:line for a line that is not an object with text under the key; an empty text is legal here.  May be
 * called from several threads at once. */
ml_status ml_source_text(const ml_source *source, const ml_span *span, json_t **hold, const char **text,
                         size_t *n_bytes, ml_error *err);
/* Whether there is nothing but white space. */
bool ml_source_is_blank(const char *text, size_t n_bytes);

#endif
