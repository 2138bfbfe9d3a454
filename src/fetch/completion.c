#include "fetch/completion.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ANSWER_BYTES = 8 << 20 };

struct ml_completion_client {
    ml_completion_config config;
    ml_http *http;
    const ml_progress *stop;
    char url[2048];
};

/* ---- pace ---- */

void ml_request_pace_init(ml_request_pace *p, double per_minute)
{
    *p = (ml_request_pace){ .interval = per_minute > 0 ? 60 / per_minute : 0 };
    pthread_mutex_init(&p->lock, NULL);
}

void ml_request_pace_free(ml_request_pace *p)
{
    pthread_mutex_destroy(&p->lock);
}

static ml_status wait_until(const ml_completion_client *c, double when, ml_error *err)
{
    for (double left = when - ml_clock_seconds(); left > 0; left = when - ml_clock_seconds()) {
        if (ml_progress_stopped(c->stop)) return ml_fail(err, ML_ECANCEL, "stopped");
        usleep((useconds_t)(1e6 * (left < 0.05 ? left : 0.05)));
    }
    return ML_OK;
}

/* Take the next place in the queue, and wait for it. */
static ml_status wait_for_turn(const ml_completion_client *c, ml_error *err)
{
    ml_request_pace *p = c->config.pace;
    if (!p || p->interval <= 0) return ML_OK;
    pthread_mutex_lock(&p->lock);
    double now = ml_clock_seconds(), mine = p->next > now ? p->next : now;
    p->next = mine + p->interval;
    pthread_mutex_unlock(&p->lock);
    return wait_until(c, mine, err);
}

/* ---- life ---- */

static ml_status make_url(ml_completion_client *c, ml_error *err)
{
    static const char path[] = "/chat/completions";
    const char *e = c->config.endpoint, *host = strstr(e, "://");
    size_t n = strlen(e), k = sizeof path - 1;
    if (!host || (strncmp(e, "http://", 7) && strncmp(e, "https://", 8)) || !host[3] || n + 32 > sizeof c->url)
        return ml_fail(err, ML_EINVAL, "endpoint \"%.200s\": expected a URL such as http://127.0.0.1:8000/v1", e);
    while (n > 0 && e[n - 1] == '/') n--;
    if (n >= k && strncmp(e + n - k, path, k) == 0) n -= k;
    bool has_path = memchr(host + 3, '/', (size_t)(e + n - host - 3)) != NULL;
    snprintf(c->url, sizeof c->url, "%.*s%s%s", (int)n, e, has_path ? "" : "/v1", path);
    return ML_OK;
}

ml_status ml_completion_open(const ml_completion_config *config, ml_completion_client **out, ml_error *err)
{
    *out = NULL;
    ml_completion_client *c = ml_calloc(1, sizeof *c);
    if (!c) return ml_fail_memory(err, sizeof *c, "a client");
    c->config = *config;
    const ml_http_config http = { .origin = config->endpoint,
                                  .token = config->key,
                                  .stall_seconds = config->stall_seconds,
                                  .n_retry = config->n_retry,
                                  .retry_wait = config->retry_wait };
    ml_status status = make_url(c, err);
    if (status == ML_OK) status = ml_http_open(&http, &c->http, err);
    if (status != ML_OK) {
        ml_completion_close(c);
        return status;
    }
    *out = c;
    return ML_OK;
}

void ml_completion_close(ml_completion_client *c)
{
    if (!c) return;
    ml_http_free(c->http);
    ml_free(c);
}

void ml_completion_stop_with(ml_completion_client *c, const ml_progress *progress)
{
    c->stop = progress;
    ml_http_stop_with(c->http, progress);
}

void ml_completion_free(ml_completion *a)
{
    ml_free(a->text);
    *a = (ml_completion){ 0 };
}

/* ---- one answer ---- */

/* The words of an error: {"error": {"message": ...}}, or the begin of what came. */
static ml_status fail_refused(const ml_completion_client *c, const ml_http_answer *a, ml_error *err)
{
    char status[100];
    json_t *root = a->text ? json_loadb(a->text, a->n_bytes, 0, NULL) : NULL;
    const char *message = json_string_value(json_object_get(json_object_get(root, "error"), "message"));
    ml_http_describe_status(a->status, status, sizeof status);
    ml_fail(err, ML_EIO, "%s: the server says %s: %.300s", c->url, status,
            message   ? message
            : a->text ? a->text
                      : "(nothing)");
    json_decref(root);
    return err->code;
}

static int64_t count(const json_t *usage, const char *key)
{
    return json_integer_value(json_object_get(usage, key));
}

static ml_status read_completion(const ml_completion_client *c, const ml_http_answer *a, ml_completion *out,
                                 ml_error *err)
{
    json_t *root;
    if (ml_json_parse(a->text ? a->text : "", a->n_bytes, c->url, &root, err) != ML_OK) return err->code;
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    const json_t *text = json_object_get(json_object_get(choice, "message"), "content");
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    const char *model = json_string_value(json_object_get(root, "model"));
    const json_t *usage = json_object_get(root, "usage");
    ml_status status = ML_OK;
    if (!json_is_string(text)) {
        status = ml_fail(err, ML_EFORMAT, "%s: expected choices[0].message.content to be a text, found %.100s", c->url,
                         a->text);
    } else {
        ml_free(out->text);
        out->text = ml_strdup(json_string_value(text));
        if (!out->text) status = ml_fail_memory(err, json_string_length(text), "an answer");
    }
    out->is_cut = finish && strcmp(finish, "length") == 0;
    out->n_prompt += count(usage, "prompt_tokens");
    out->n_completion += count(usage, "completion_tokens");
    snprintf(out->model, sizeof out->model, "%.127s", model ? model : c->config.model);
    json_decref(root);
    return status;
}

static ml_status ask(ml_completion_client *c, const char *body, ml_completion *out, ml_error *err)
{
    ml_http_answer answer = { 0 };
    ml_status status = wait_for_turn(c, err);
    if (status == ML_OK) status = ml_http_post(c->http, c->url, body, ANSWER_BYTES, &answer, err);
    if (status == ML_OK && answer.status >= 300)
        status = fail_refused(c, &answer, err);
    else if (status == ML_OK)
        status = read_completion(c, &answer, out, err);
    ml_http_answer_free(&answer);
    return status;
}

ml_status ml_completion_ask(ml_completion_client *c, const char *prompt, ml_completion *answer, ml_error *err)
{
    const ml_completion_config *config = &c->config;
    ml_completion_free(answer);
    json_t *request = json_pack("{s:s, s:[{s:s, s:s}], s:f, s:I, s:b}", "model", config->model, "messages", "role",
                                "user", "content", prompt, "temperature", config->temperature, "max_tokens",
                                (json_int_t)config->max_tokens, "stream", 0);
    char *body = request ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    if (!body) return ml_fail(err, ML_EINVAL, "the prompt or the name of the model: expected UTF-8, found other bytes");
    ml_status status = ask(c, body, answer, err);
    double wait = config->retry_wait;
    for (int64_t i = 0; i < config->n_retry && status == ML_EFORMAT; i++, wait *= 2) {
        status = wait_until(c, ml_clock_seconds() + (wait < 60 ? wait : 60), err);
        if (status == ML_OK) status = ask(c, body, answer, err);
    }
    free(body);
    return status;
}
