/* POST /generate-stream: the service of the 130M reference: text, chunk by chunk. */
#include "base/alloc.h"
#include "serve/answer.h"
#include "serve/handlers.h"
#include "serve/prompt.h"
#include "serve/server_internal.h"

typedef struct {
    ml_web *h;
    ml_params params;
    ml_served *named;
    ml_answers answers;
    size_t sent;
} plain;

static void free_plain(void *arg)
{
    plain *p = arg;
    ml_answers_free(&p->answers);
    ml_models_release(p->h->server->models, p->named);
    ml_params_free(&p->params);
    ml_free(p);
}

static ml_status next(void *arg, ml_chars *out, bool *end, ml_error *err)
{
    plain *p = arg;
    ml_choice *c = &p->answers.choice[0];
    ml_answers_wait(&p->answers);
    ML_TRY(ml_choice_advance(c, err));
    if (c->n_text > p->sent) ML_TRY(ml_chars_append(out, c->out.text.data + p->sent, c->n_text - p->sent, err));
    p->sent = c->n_text;
    *end = c->done;
    if (c->done) ml_answers_count(&p->answers);
    return ML_OK;
}

static ml_status begin(plain *p, ml_error *err)
{
    ML_TRY(ml_params_read(p->h, ML_FOR_STREAM, &p->params, err));
    ML_TRY(ml_models_acquire(p->h, NULL, &p->named, err));
    const ml_served *served = ml_served_model(p->named);
    ml_ids *prompt = ml_calloc(1, sizeof *prompt);
    if (!prompt) return ml_fail_memory(err, sizeof *prompt, "a prompt");
    ml_status status = ml_prompt_from_messages(p->h, served, p->params.messages, NULL, prompt, err);
    if (status != ML_OK) {
        ml_prompts_free(prompt, 1);
        return status;
    }
    return ml_answers_start(&p->answers, p->h, p->named, &p->params, prompt, 1, &served->format, err);
}

ml_status ml_generate_stream(ml_web *h, ml_error *err)
{
    plain *p = ml_calloc(1, sizeof *p);
    if (!p) return ml_fail_memory(err, sizeof *p, "a request");
    p->h = h;
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
