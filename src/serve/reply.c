#include "serve/reply.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "serve/ids.h"
#include "serve/prompt.h"
#include "serve/server_internal.h"

void ml_reply_begin(ml_reply *r, ml_web *h, const char *id_prefix)
{
    r->h = h;
    r->created = (json_int_t)ml_clock_unix_seconds();
    ml_make_id(id_prefix, r->id, sizeof r->id);
}

void ml_reply_free(ml_reply *r)
{
    ml_answers_free(&r->answers);
    ml_models_release(r->h->server->models, r->named);
    ml_params_free(&r->params);
}

ml_status ml_reply_start_messages(ml_reply *r, ml_error *err)
{
    const ml_params *p = &r->params;
    const ml_served *served = ml_served_model(r->named);
    const json_t *tools = p->tools_off || json_array_size(p->tools) == 0 ? NULL : p->tools;
    ml_ids *prompt = ml_calloc(1, sizeof *prompt);
    if (!prompt) return ml_fail_memory(err, sizeof *prompt, "a prompt");
    ml_status status = ml_prompt_from_messages(r->h, served, p->messages, tools, prompt, err);
    if (status != ML_OK) {
        ml_prompts_free(prompt, 1);
        return status;
    }
    return ml_answers_start(&r->answers, r->h, r->named, p, prompt, 1, &served->format, err);
}

json_t *ml_reply_object(const ml_reply *r, const char *object, json_t *choices)
{
    json_t *out = json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", r->id, "object", object, "created", r->created, "model",
                            r->named->id, "choices", choices);
    if (r->params.include_usage) json_object_set_new(out, "usage", json_null());
    return out;
}

ml_status ml_reply_finish(ml_reply *r, ml_error *err)
{
    ml_answers_count(&r->answers);
    return r->params.trace ? ml_traces_keep(r->h->server->traces, &r->answers.choice[0], r->trace_id, err) : ML_OK;
}

void ml_reply_add_figures(const ml_reply *r, json_t *object)
{
    json_object_set_new(object, "usage", ml_answers_usage(&r->answers));
    json_object_set_new(object, "moonlight", ml_answers_extra(&r->answers, r->trace_id[0] ? r->trace_id : NULL));
}

/* ---- as events ---- */

static ml_status put_done(ml_chars *out, ml_error *err)
{
    return ml_chars_append(out, "data: [DONE]\n\n", 14, err);
}

static ml_status put_end(ml_reply *r, const char *object, ml_chars *out, ml_error *err)
{
    ML_TRY(ml_reply_finish(r, err));
    if (r->params.include_usage) {
        json_t *last = ml_reply_object(r, object, json_array());
        ml_reply_add_figures(r, last);
        ML_TRY(ml_web_put_event(out, last, err));
    }
    return put_done(out, err);
}

ml_status ml_reply_next(ml_reply *r, ml_reply_news_fn put_news, void *arg, const char *object, ml_chars *out, bool *end,
                        ml_error *err)
{
    for (size_t i = 0; i < r->answers.n_choice; i++) {
        ml_error failure;
        if (ml_choice_advance(&r->answers.choice[i], &failure) != ML_OK) {
            *end = true;
            ML_TRY(ml_web_put_event(out, ml_web_error_object(r->h, &failure, NULL), err));
            return put_done(out, err);
        }
        ML_TRY(put_news(arg, i, out, err));
    }
    *end = ml_answers_are_done(&r->answers);
    return *end ? put_end(r, object, out, err) : ML_OK;
}
