/* The table of endpoints. */
#include "serve/handlers.h"
#include "serve/page.h"
#include "serve/server_internal.h"

#include <microhttpd.h>
#include <string.h>

typedef struct {
    const char *method, *pattern;
    ml_web_handler handler;
    bool open; /* needs no key */
} route;

/* {id} stands for one part of a path, or at its end for all that is left. */
static const route routes[] = {
    { "GET", "/health", ml_health, true },
    { "GET", "/openapi.json", ml_openapi, true },
    { "GET", "/metrics", ml_metrics_page, false },
    { "GET", "/v1/models", ml_openai_models, false },
    { "GET", "/v1/models/{id}", ml_openai_model, false },
    { "POST", "/v1/chat/completions", ml_openai_chat, false },
    { "POST", "/v1/completions", ml_openai_completions, false },
    { "POST", "/v1/embeddings", ml_openai_embeddings, false },
    { "POST", "/tokenize", ml_tokenize, false },
    { "POST", "/detokenize", ml_detokenize, false },
    { "POST", "/generate-stream", ml_generate_stream, false },
    { "GET", "/api/models", ml_api_models, false },
    { "POST", "/api/models/load", ml_api_models_load, false },
    { "POST", "/api/models/unload", ml_api_models_unload, false },
    { "POST", "/api/models/switch", ml_api_models_switch, false },
    { "GET", "/api/runs", ml_api_runs, false },
    { "PATCH", "/api/runs/{id}", ml_api_run_note, false },
    { "GET", "/api/runs/{id}/metrics", ml_api_run_metrics, false },
    { "GET", "/api/runs/{id}/metrics/stream", ml_api_run_stream, false },
    { "GET", "/api/runs/{id}/samples", ml_api_run_samples, false },
    { "GET", "/api/runs/{id}/rollouts", ml_api_run_rollouts, false },
    { "GET", "/api/runs/{id}/options", ml_api_run_options, false },
    { "POST", "/api/bench", ml_api_bench, false },
    { "POST", "/api/trace", ml_api_trace_make, false },
    { "GET", "/api/trace/{id}", ml_api_trace_get, false },
    { "GET", "/api/conversations", ml_api_conversations, false },
    { "POST", "/api/conversations", ml_api_conversation_make, false },
    { "GET", "/api/conversations/{id}", ml_api_conversation_get, false },
    { "PATCH", "/api/conversations/{id}", ml_api_conversation_change, false },
    { "DELETE", "/api/conversations/{id}", ml_api_conversation_delete, false },
    { "POST", "/api/conversations/{id}/messages", ml_api_message_add, false },
};
enum { N_ROUTE = sizeof routes / sizeof routes[0] };

/* Whether a path is of the pattern; then what {id} stands for, "" where there is none. */
static bool match(const char *pattern, const char *path, char id[ML_PARAM_BYTES])
{
    const char *mark = strstr(pattern, "{id}");
    id[0] = 0;
    if (!mark) return !strcmp(pattern, path);
    size_t n = (size_t)(mark - pattern);
    const char *rest = mark + 4;
    if (strncmp(pattern, path, n) != 0) return false;
    size_t size = *rest ? strcspn(path + n, "/") : strlen(path + n);
    if (size == 0 || size >= ML_PARAM_BYTES || strcmp(path + n + size, rest) != 0) return false;
    memcpy(id, path + n, size);
    id[size] = 0;
    return true;
}

static const route *find(ml_web *h, bool *other_method)
{
    const char *method = strcmp(h->method, MHD_HTTP_METHOD_HEAD) ? h->method : MHD_HTTP_METHOD_GET;
    *other_method = false;
    for (size_t i = 0; i < N_ROUTE; i++) {
        if (!match(routes[i].pattern, h->path, h->id)) continue;
        if (!strcmp(routes[i].method, method)) return &routes[i];
        *other_method = true;
    }
    return NULL;
}

/* HEAD is GET without the body, which the library leaves out. */
static bool is_get(const ml_web *h)
{
    return !strcmp(h->method, MHD_HTTP_METHOD_GET) || !strcmp(h->method, MHD_HTTP_METHOD_HEAD);
}

ml_status ml_route_request(ml_web *h, ml_error *err)
{
    bool other_method;
    ml_page_file file;
    const route *r = find(h, &other_method);
    if (!r && is_get(h) && ml_page_find(h->path, &file)) {
        ML_TRY(ml_guard_check(h, true, err));
        return ml_web_reply(h, 200, file.content_type, file.data, file.n_bytes, err);
    }
    ML_TRY(ml_guard_check(h, r && r->open, err));
    if (r) return r->handler(h, err);
    if (other_method) return ml_web_refuse(h, err, 405, NULL, "%.20s is no method of %.200s", h->method, h->path);
    return ml_web_refuse(h, err, 404, NULL, "there is no %.200s here: GET /openapi.json lists what there is", h->path);
}
