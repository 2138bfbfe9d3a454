/* GET /health, /metrics, /openapi.json */
#include "base/embedded.h"
#include "base/memory.h"
#include "serve/handlers.h"
#include "serve/models_internal.h"
#include "serve/server_internal.h"

#include <string.h>

ml_status ml_health(ml_web *h, ml_error *err)
{
    bool loaded = ml_models_any_loaded(h->server->models);
    char device[32];
    ml_models_get_device(h->server->models, device);
    json_t *o = json_pack("{s:s, s:b, s:s, s:s}", "status", loaded ? "ok" : "no model", "model_loaded", loaded,
                          "device", device, "version", ml_version());
    return ml_web_reply_json(h, loaded ? 200 : 503, o, err);
}

ml_status ml_openapi(ml_web *h, ml_error *err)
{
    return ml_web_reply(h, 200, "application/json", ml_serve_files[0].data, ml_serve_files[0].n_bytes, err);
}

/* ---- Prometheus' text format ---- */

typedef struct {
    ml_chars out;
    ml_status status;
    ml_error *err;
} page;

static void put(page *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(page *p, const char *format, ...)
{
    char line[ML_MODEL_ID_BYTES + 256];
    va_list list;
    va_start(list, format);
    int n = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    if (n < 0 || (size_t)n >= sizeof line) n = 0;
    if (p->status == ML_OK) p->status = ml_chars_append(&p->out, line, (size_t)n, p->err);
}

static void put_head(page *p, const char *name, const char *type, const char *help)
{
    put(p, "# HELP moonlight_%s %s\n# TYPE moonlight_%s %s\n", name, help, name, type);
}

static void put_one(page *p, const char *name, const char *type, const char *help, int64_t value)
{
    put_head(p, name, type, help);
    put(p, "moonlight_%s %lld\n", name, (long long)value);
}

static void put_histogram(page *p, const char *name, const char *help, const ml_histogram *h)
{
    int64_t n = 0;
    put_head(p, name, "histogram", help);
    for (int i = 0; i < ML_N_BUCKET; i++) {
        n += h->bucket[i];
        put(p, "moonlight_%s_bucket{le=\"%g\"} %lld\n", name, ml_bucket_ends[i], (long long)n);
    }
    n += h->bucket[ML_N_BUCKET];
    put(p, "moonlight_%s_bucket{le=\"+Inf\"} %lld\n", name, (long long)n);
    put(p, "moonlight_%s_sum %g\nmoonlight_%s_count %lld\n", name, 1e-6 * (double)h->microseconds, name, (long long)n);
}

/* A label's value, escaped. */
static const char *label(const char *text, char *out, size_t size)
{
    size_t n = 0;
    for (; *text && n + 3 < size; text++) {
        if (*text == '\n') continue;
        if (*text == '"' || *text == '\\') out[n++] = '\\';
        out[n++] = *text;
    }
    out[n] = 0;
    return out;
}

typedef struct {
    const char *name, *type, *help;
    size_t offset;
    bool summed; /* over engines that were replaced */
} gauge;

#define AT(member) offsetof(ml_engine_stats, member)

static const gauge gauges[] = {
    { "requests_waiting", "gauge", "Requests in the queue.", AT(n_waiting), false },
    { "requests_running", "gauge", "Requests in a slot.", AT(n_running), false },
    { "cache_pages", "gauge", "Pages of the key/value cache.", AT(n_page), false },
    { "cache_free_pages", "gauge", "Pages that nobody has.", AT(n_free_page), false },
    { "cache_kept_pages", "gauge", "Pages kept for prompts that begin alike.", AT(n_kept_page), false },
    { "passes_total", "counter", "Passes through the model.", AT(n_pass), true },
    { "computed_prompt_tokens_total", "counter", "Prompt tokens computed.", AT(n_prompt_token), true },
    { "computed_decode_tokens_total", "counter", "Generated tokens computed.", AT(n_decode_token), true },
    { "reused_prompt_tokens_total", "counter", "Prompt tokens found in the cache.", AT(n_reused_token), true },
};

static int64_t field_of(const ml_engine_stats *s, size_t offset)
{
    return *(const int64_t *)((const char *)s + offset);
}

static void put_models(page *p, ml_models *m)
{
    char text[ML_MODEL_ID_BYTES];
    pthread_mutex_lock(&m->lock);
    for (size_t g = 0; g < sizeof gauges / sizeof gauges[0]; g++) {
        put_head(p, gauges[g].name, gauges[g].type, gauges[g].help);
        for (size_t i = 0; i < m->n; i++) {
            const ml_served *s = m->served[i];
            if (s->state != ML_STATE_LOADED || s->parent) continue;
            int64_t value = field_of(&s->stats, gauges[g].offset);
            if (gauges[g].summed) value += field_of(&s->gone, gauges[g].offset);
            put(p, "moonlight_%s{model=\"%s\"} %lld\n", gauges[g].name, label(s->id, text, sizeof text),
                (long long)value);
        }
    }
    pthread_mutex_unlock(&m->lock);
}

ml_status ml_metrics_page(ml_web *h, ml_error *err)
{
    page p = { .err = err };
    ml_counters *c = &h->server->counters;
    put_head(&p, "http_replies_total", "counter", "Replies by the first digit of their status.");
    for (int i = 1; i <= 5; i++)
        put(&p, "moonlight_http_replies_total{code=\"%dxx\"} %lld\n", i, (long long)c->replies[i]);
    put_one(&p, "answers_total", "counter", "Requests answered to their end.", c->answers);
    put_one(&p, "cancelled_total", "counter", "Requests whose client went away or that failed.", c->cancelled);
    put_one(&p, "prompt_tokens_total", "counter", "Prompt tokens of answered requests.", c->prompt_tokens);
    put_one(&p, "completion_tokens_total", "counter", "Tokens of answers.", c->completion_tokens);
    put_one(&p, "resident_memory_bytes", "gauge", "Memory of the process.", ml_memory_resident());
    put_histogram(&p, "time_to_first_token_seconds", "From a request to its first token.", &c->first_token);
    put_histogram(&p, "request_seconds", "From a request to the end of its answer.", &c->whole);
    put_models(&p, h->server->models);
    ml_status status = p.status;
    if (status == ML_OK)
        status = ml_web_reply(h, 200, "text/plain; version=0.0.4; charset=utf-8", p.out.data, p.out.n, err);
    ml_chars_free(&p.out);
    return status;
}
