/* Many documents on all threads. */
#include "token/internal.h"

#include "base/alloc.h"
#include "base/thread.h"
#include "token/encoder.h"

enum { PART_BYTES = 128 * 1024 }; /* threads are given parts of about this size */

/* ---- the threads' encoders ---- */

ml_status ml_encoders_make(const ml_tokenizer *t, bool parse_special, ml_encoders *out, ml_error *err)
{
    *out = (ml_encoders){ .t = t, .parse_special = parse_special, .n_thread = (size_t)ml_thread_count() };
    out->encoder = ml_calloc(out->n_thread, sizeof *out->encoder);
    return out->encoder ? ML_OK : ml_fail_memory(err, out->n_thread * sizeof *out->encoder, "encoding on threads");
}

void ml_encoders_free(ml_encoders *e)
{
    for (size_t i = 0; e->encoder && i < e->n_thread; i++) ml_encoder_free(e->encoder[i]);
    ml_free(e->encoder);
    *e = (ml_encoders){ 0 };
}

/* ---- a batch ---- */

static ml_status grow_results(ml_encoded *batch, size_t n_parts, ml_error *err)
{
    size_t before = batch->capacity;
    void *items = batch->result;
    ML_TRY(ml_grow(&items, &batch->capacity, n_parts, sizeof *batch->result, err));
    batch->result = items;
    for (size_t i = before; i < batch->capacity; i++) batch->result[i].ids = (ml_ids){ 0 };
    items = batch->doc_ids;
    ML_TRY(ml_grow(&items, &batch->doc_capacity, batch->n_docs, sizeof *batch->doc_ids, err));
    batch->doc_ids = items;
    return ML_OK;
}

ml_status ml_encoded_plan(ml_encoded *batch, const ml_encoders *e, const ml_text *docs, size_t n_docs, ml_error *err)
{
    ml_text_part *parts;
    size_t n_parts;
    bool may_cut = !(e->parse_special && e->t->added_has_line_feed);
    ML_TRY(ml_text_plan_parts(e->t->split, may_cut, docs, n_docs, PART_BYTES, &parts, &n_parts, err));
    ml_free(batch->parts);
    batch->parts = parts;
    batch->n_parts = 0;
    batch->docs = docs;
    batch->n_docs = n_docs;
    ML_TRY(grow_results(batch, n_parts, err));
    batch->n_parts = n_parts;
    return ML_OK;
}

static ml_status run_part(ml_encoded *batch, ml_encoders *e, const ml_text_part *p, ml_encoded_part *r, int thread)
{
    ml_encoder **own = &e->encoder[thread];
    r->ids.n = 0;
    if (!*own) ML_TRY(ml_encoder_make(e->t, own, &r->err));
    for (size_t doc = p->first; doc <= p->last; doc++) {
        ml_text text = ml_text_part_of(p, batch->docs, doc);
        size_t n_before = r->ids.n;
        ML_TRY(ml_encoder_add(*own, text.data, text.n_bytes, e->parse_special, &r->ids, &r->err));
        if (doc < p->last || p->end == batch->docs[doc].n_bytes) batch->doc_ids[doc] = r->ids.n - n_before;
    }
    return ML_OK;
}

void ml_encoded_run(ml_encoded *batch, ml_encoders *e, size_t part, int thread)
{
    ml_encoded_part *r = &batch->result[part];
    r->status = run_part(batch, e, &batch->parts[part], r, thread);
}

ml_status ml_encoded_check(const ml_encoded *batch, ml_error *err)
{
    for (size_t i = 0; i < batch->n_parts; i++) {
        if (batch->result[i].status == ML_OK) continue;
        *err = batch->result[i].err;
        return batch->result[i].status;
    }
    return ML_OK;
}

void ml_encoded_free(ml_encoded *batch)
{
    for (size_t i = 0; i < batch->capacity; i++) ml_ids_free(&batch->result[i].ids);
    ml_free(batch->result);
    ml_free(batch->parts);
    ml_free(batch->doc_ids);
    *batch = (ml_encoded){ 0 };
}

bool ml_encoded_next(const ml_encoded *batch, ml_encoded_cursor *at, ml_id_stretch *out)
{
    if (at->part == batch->n_parts) return false;
    const ml_text_part *p = &batch->parts[at->part];
    const ml_ids *ids = &batch->result[at->part].ids;
    if (!at->in_part) *at = (ml_encoded_cursor){ at->part, p->first, 0, true };
    bool ends = at->doc < p->last || p->end == batch->docs[at->doc].n_bytes;
    size_t n = ends ? batch->doc_ids[at->doc] : ids->n - at->at;
    *out = (ml_id_stretch){ at->doc, n, ids->id ? ids->id + at->at : NULL, ends };
    at->at += n;
    if (at->doc++ < p->last) return true;
    at->part++;
    at->in_part = false;
    return true;
}

/* ---- all at once ---- */

typedef struct {
    ml_encoded batch;
    ml_encoders encoders;
} many;

static void run_parts(void *arg, int64_t begin, int64_t end, int thread)
{
    many *m = arg;
    for (int64_t i = begin; i < end; i++) ml_encoded_run(&m->batch, &m->encoders, (size_t)i, thread);
}

/* Ids of all documents end to end. */
static ml_status join(const ml_encoded *batch, ml_ids *out, size_t *offsets, ml_error *err)
{
    ml_encoded_cursor at = { 0 };
    ml_id_stretch s;
    size_t total = out->n;
    for (size_t i = 0; i < batch->n_parts; i++) total += batch->result[i].ids.n;
    ML_TRY(ml_grow((void **)&out->id, &out->capacity, total, sizeof *out->id, err));
    while (ml_encoded_next(batch, &at, &s)) {
        if (s.n) memcpy(out->id + out->n, s.id, s.n * sizeof *s.id);
        out->n += s.n;
        offsets[s.doc + 1] = out->n;
    }
    return ML_OK;
}

ml_status ml_tokenizer_encode_many(const ml_tokenizer *t, const ml_text *docs, size_t n_docs, bool parse_special,
                                   ml_ids *out, size_t *offsets, ml_error *err)
{
    many m = { 0 };
    ml_status status;
    offsets[0] = out->n;
    ML_TRY_GOTO(ml_encoders_make(t, parse_special, &m.encoders, err));
    ML_TRY_GOTO(ml_encoded_plan(&m.batch, &m.encoders, docs, n_docs, err));
    ml_parallel_for((int64_t)m.batch.n_parts, 1, run_parts, &m);
    ML_TRY_GOTO(ml_encoded_check(&m.batch, err));
    status = join(&m.batch, out, offsets, err);
done:
    ml_encoded_free(&m.batch);
    ml_encoders_free(&m.encoders);
    return status;
}
