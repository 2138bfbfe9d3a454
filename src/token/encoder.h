/* Encoding with memory that is kept: of one thread from text to text, of all threads from batch to batch.
 *
 * A batch of documents is planned as parts of equal work (parts.h), each part is run on whatever thread, and the ids
 * come out in the order of the documents:
 *
 *   ml_encoders_make(t, parse_special, &e, err)
 *   ml_encoded_plan(&batch, e, docs, n_docs, err)
 *   for every part < batch.n_parts, on any thread: ml_encoded_run(&batch, e, part, thread)
 *   ml_encoded_check(&batch, err)
 *   ml_encoded_cursor at = { 0 };
 *   while (ml_encoded_next(&batch, &at, &stretch)) ... */
#ifndef ML_TOKEN_ENCODER_H
#define ML_TOKEN_ENCODER_H

#include "token/parts.h"

/* One thread's. */
typedef struct ml_encoder ml_encoder;

ml_status ml_encoder_make(const ml_tokenizer *t, ml_encoder **out, ml_error *err);
void ml_encoder_free(ml_encoder *e);
/* As ml_tokenizer_encode; after a failure *out may hold ids of a part. */
ml_status ml_encoder_add(ml_encoder *e, const char *text, size_t n_bytes, bool parse_special, ml_ids *out,
                         ml_error *err);

/* One for each thread there is now (ml_thread_count). */
typedef struct {
    const ml_tokenizer *t;
    bool parse_special;
    ml_encoder **encoder; /* [n_thread], made when first used */
    size_t n_thread;
} ml_encoders;

ml_status ml_encoders_make(const ml_tokenizer *t, bool parse_special, ml_encoders *out, ml_error *err);
void ml_encoders_free(ml_encoders *e);

typedef struct {
    ml_ids ids;
    ml_status status;
    ml_error err;
} ml_encoded_part;

/* A batch of documents and what becomes of them.  Start zeroed; plan again and again. */
typedef struct {
    const ml_text *docs; /* [n_docs], which must stay until all parts have run */
    size_t n_docs;
    ml_text_part *parts;
    ml_encoded_part *result; /* [n_parts] */
    size_t n_parts, capacity;
    size_t *doc_ids; /* [n_docs] how many ids the part that ends the document has of it */
    size_t doc_capacity;
} ml_encoded;

ml_status ml_encoded_plan(ml_encoded *batch, const ml_encoders *e, const ml_text *docs, size_t n_docs, ml_error *err);
/* `thread` is this thread's, as ml_parallel_for says. */
void ml_encoded_run(ml_encoded *batch, ml_encoders *e, size_t part, int thread);
/* The first part that failed. */
ml_status ml_encoded_check(const ml_encoded *batch, ml_error *err);
void ml_encoded_free(ml_encoded *batch);

/* Where reading stands; zeroed at the begin. */
typedef struct {
    size_t part, doc, at;
    bool in_part;
} ml_encoded_cursor;

/* Ids of one document that lie together; `ends`: the document's last. */
typedef struct {
    size_t doc, n;
    const int32_t *id;
    bool ends;
} ml_id_stretch;

bool ml_encoded_next(const ml_encoded *batch, ml_encoded_cursor *at, ml_id_stretch *out);

#endif
