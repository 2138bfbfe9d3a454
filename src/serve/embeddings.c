/* POST /v1/embeddings: the mean of the last hidden states over the tokens, at length 1. */
#include "base/alloc.h"
#include "serve/answer.h"
#include "serve/handlers.h"
#include "serve/prompt.h"
#include "serve/server_internal.h"

#include <math.h>
#include <string.h>

typedef struct {
    ml_task task; /* first */
    double *sum;  /* [hidden_size] */
    int64_t width;
    ml_error failure;
    atomic_bool ended;
} input;

static void take_hidden(void *arg, int64_t pos, const float *hidden)
{
    (void)pos;
    input *in = arg;
    for (int64_t i = 0; i < in->width; i++) in->sum[i] += (double)hidden[i];
}

static void take_end(ml_task *task, ml_finish finish, const ml_error *failure)
{
    input *in = (input *)task;
    if (failure) in->failure = *failure;
    if (!failure && finish == ML_FINISH_CANCEL) ml_fail(&in->failure, ML_ECANCEL, "the model is being unloaded");
    atomic_store(&in->ended, true);
}

static ml_status submit(ml_web *h, ml_served *named, const ml_ids *prompt, input *in, ml_error *err)
{
    ml_served *s = ml_served_model(named);
    in->width = s->m.model->config.hidden_size;
    in->sum = ml_calloc((size_t)in->width, sizeof *in->sum);
    atomic_store(&in->ended, true);
    if (!in->sum) return ml_fail_memory(err, (size_t)in->width * sizeof *in->sum, "an embedding");
    in->task.served = s;
    in->task.named = named;
    in->task.ended = take_end;
    in->task.request = (ml_request){ .prompt = prompt->id,
                                     .n_prompt = (int64_t)prompt->n,
                                     .sampling = ml_sampling_default(),
                                     .client = h->client,
                                     .adapter = named->adapter,
                                     .on_prompt_hidden = take_hidden,
                                     .arg = in };
    atomic_store(&in->ended, false);
    ml_status status = ml_scheduler_submit(h, &in->task, err);
    if (status != ML_OK) atomic_store(&in->ended, true);
    return status;
}

static ml_status await(ml_web *h, input *in, size_t n, ml_error *err)
{
    ml_status status = ML_OK;
    for (size_t i = 0; i < n; i++) {
        while (!atomic_load(&in[i].ended)) {
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
            if (status == ML_OK && ml_web_is_gone(h)) {
                status = ml_fail(err, ML_ECANCEL, "the client has gone");
                h->server->counters.cancelled++;
            }
            if (status != ML_OK) ml_scheduler_cancel(h->server->scheduler, &in[i].task);
        }
        if (in[i].failure.code != ML_OK && status == ML_OK) {
            *err = in[i].failure;
            status = err->code;
        }
    }
    return status;
}

/* ---- as JSON ---- */

static json_t *base64(const unsigned char *p, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = ml_alloc(4 * (n / 3 + 1) + 1), *to = out;
    if (!out) return NULL;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t bits = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        *to++ = digits[bits >> 18];
        *to++ = digits[bits >> 12 & 63];
        *to++ = i + 1 < n ? digits[bits >> 6 & 63] : '=';
        *to++ = i + 2 < n ? digits[bits & 63] : '=';
    }
    json_t *text = json_stringn(out, (size_t)(to - out));
    ml_free(out);
    return text;
}

static json_t *embedding(const input *in, bool as_base64)
{
    double square = 0;
    for (int64_t i = 0; i < in->width; i++) square += in->sum[i] * in->sum[i];
    double scale = square > 0 ? 1 / sqrt(square) : 0;
    if (!as_base64) {
        json_t *list = json_array();
        for (int64_t i = 0; i < in->width; i++) json_array_append_new(list, ml_json_number(scale * in->sum[i]));
        return list;
    }
    float *value = ml_calloc((size_t)in->width, sizeof *value);
    if (!value) return NULL;
    for (int64_t i = 0; i < in->width; i++) value[i] = (float)(scale * in->sum[i]);
    json_t *text = base64((const unsigned char *)value, (size_t)in->width * sizeof *value); /* little-endian machines */
    ml_free(value);
    return text;
}

static ml_status reply(ml_web *h, const ml_served *s, const ml_params *p, const input *in, size_t n,
                       const ml_ids *prompt, ml_error *err)
{
    json_t *data = json_array();
    json_int_t n_token = 0;
    for (size_t i = 0; i < n; i++) {
        n_token += (json_int_t)prompt[i].n;
        json_array_append_new(data, json_pack("{s:s, s:I, s:o}", "object", "embedding", "index", (json_int_t)i,
                                              "embedding", embedding(&in[i], p->base64)));
    }
    h->server->counters.prompt_tokens += n_token;
    return ml_web_reply_json(h, 200,
                             json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", data, "model", s->id,
                                       "usage", "prompt_tokens", n_token, "total_tokens", n_token),
                             err);
}

static ml_status embed(ml_web *h, ml_served *s, const ml_params *p, ml_error *err)
{
    ml_ids *prompt;
    size_t n;
    if (!p->input) return ml_web_refuse(h, err, 400, "input", "input: expected a text or token ids");
    ML_TRY(ml_prompts_from_json(h, ml_served_model(s), p->input, "input", &prompt, &n, err));
    input *in = ml_calloc(n, sizeof *in);
    ml_status status = in ? ML_OK : ml_fail_memory(err, n * sizeof *in, "embeddings"), ended;
    size_t n_submitted = 0;
    ml_error first;
    for (; n_submitted < n && status == ML_OK; n_submitted++)
        status = submit(h, s, &prompt[n_submitted], &in[n_submitted], err);
    first = *err;
    ended = await(h, in, in ? n_submitted : 0, err);
    if (status != ML_OK) *err = first;
    if (status == ML_OK) status = ended;
    if (status == ML_OK) status = reply(h, s, p, in, n, prompt, err);
    for (size_t i = 0; in && i < n; i++) ml_free(in[i].sum);
    ml_free(in);
    ml_prompts_free(prompt, n);
    return status;
}

ml_status ml_openai_embeddings(ml_web *h, ml_error *err)
{
    ml_params p;
    ml_served *s = NULL;
    ml_status status = ml_params_read(h, ML_FOR_EMBEDDING, &p, err);
    if (status == ML_OK) status = ml_models_acquire(h, p.model, &s, err);
    if (status == ML_OK) status = embed(h, s, &p, err);
    ml_models_release(h->server->models, s);
    ml_params_free(&p);
    return status;
}
