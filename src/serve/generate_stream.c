/* POST /generate-stream: the service of the 130M reference: text, chunk by chunk. */
#include "base/alloc.h"
#include "serve/handlers.h"
#include "serve/reply.h"

typedef struct {
    ml_reply r;
    size_t sent; /* bytes of the answer */
} plain;

static void free_plain(void *arg)
{
    plain *p = arg;
    ml_reply_free(&p->r);
    ml_free(p);
}

static ml_status next(void *arg, ml_chars *out, bool *end, ml_error *err)
{
    plain *p = arg;
    ml_choice *c = &p->r.answers.choice[0];
    ml_answers_wait(&p->r.answers);
    ML_TRY(ml_choice_advance(c, err));
    if (c->n_text > p->sent) ML_TRY(ml_chars_append(out, c->out.text.data + p->sent, c->n_text - p->sent, err));
    p->sent = c->n_text;
    *end = c->done;
    if (c->done) ml_answers_count(&p->r.answers);
    return ML_OK;
}

static ml_status begin(plain *p, ml_error *err)
{
    ML_TRY(ml_params_read(p->r.h, ML_FOR_STREAM, &p->r.params, err));
    ML_TRY(ml_models_acquire(p->r.h, NULL, &p->r.named, err));
    return ml_reply_start_messages(&p->r, err);
}

ml_status ml_generate_stream(ml_web *h, ml_error *err)
{
    plain *p = ml_calloc(1, sizeof *p);
    if (!p) return ml_fail_memory(err, sizeof *p, "a request");
    ml_reply_begin(&p->r, h, "");
    ml_status status = begin(p, err);
    if (status == ML_OK) {
        const ml_web_source source = { p, next, free_plain, false };
        return ml_web_stream(h, "text/plain; charset=utf-8", &source, err);
    }
    /* Its clients know 422 for what they did wrong. */
    if ((err->code == ML_EINVAL || err->code == ML_EFORMAT) && (h->status == 0 || h->status == 400)) h->status = 422;
    free_plain(p);
    return status;
}
