#include "serve/web.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "serve/limits.h"
#include "serve/page.h"
#include "serve/server_internal.h"

#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum { STREAM_BLOCK = 16 << 10 };
static const double HEARTBEAT_SECONDS = 2;

/* ---- the request ---- */

ml_status ml_web_refuse(ml_web *h, ml_error *err, int status, const char *field, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    err->code = ML_EINVAL;
    vsnprintf(err->message, sizeof err->message, format, list);
    va_end(list);
    h->status = status;
    snprintf(h->field, sizeof h->field, "%s", field ? field : "");
    return ML_EINVAL;
}

/* Depth and number of values of a JSON text, without reading it any further: both bound what parsing costs. */
static ml_status check_shape(ml_web *h, ml_error *err)
{
    int64_t depth = 0, n_value = 0;
    bool inside = false;
    for (size_t i = 0; i < h->body.n; i++) {
        char c = h->body.data[i];
        if (inside) {
            if (c == '\\') i++;
            inside = c != '"';
            continue;
        }
        inside = c == '"';
        depth += (c == '[' || c == '{') - (c == ']' || c == '}');
        n_value += c == ',' || c == '[' || c == '{';
        if (depth > ML_LIMIT_DEPTH) {
            return ml_web_refuse(h, err, 400, NULL, "the body is nested more than %d deep", ML_LIMIT_DEPTH);
        }
    }
    if (n_value <= ML_LIMIT_VALUE) return ML_OK;
    return ml_web_refuse(h, err, 400, NULL, "the body has more than %d values", ML_LIMIT_VALUE);
}

ml_status ml_web_json(ml_web *h, json_t **out, ml_error *err)
{
    if (!h->json) {
        ML_TRY(check_shape(h, err));
        ML_TRY(ml_json_parse(h->body.n ? h->body.data : "", h->body.n, "body", &h->json, err));
    }
    *out = h->json;
    if (json_is_object(h->json)) return ML_OK;
    return ml_web_refuse(h, err, 400, NULL, "the body is no JSON object");
}

const char *ml_web_argument(const ml_web *h, const char *name)
{
    return MHD_lookup_connection_value(h->connection, MHD_GET_ARGUMENT_KIND, name);
}

ml_status ml_web_int_argument(ml_web *h, const char *name, int64_t low, int64_t high, int64_t or_value, int64_t *out,
                              ml_error *err)
{
    const char *text = ml_web_argument(h, name);
    *out = or_value;
    if (!text) return ML_OK;
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < low || value > high) {
        return ml_web_refuse(h, err, 400, name, "%s: expected a whole number from %lld to %lld", name, (long long)low,
                             (long long)high);
    }
    *out = value;
    return ML_OK;
}

bool ml_web_is_gone(const ml_web *h)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(h->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (!info) return false;
    struct pollfd fd = { .fd = info->connect_fd, .events = POLLRDHUP };
    return poll(&fd, 1, 0) > 0 && (fd.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* ---- the reply ---- */

static ml_status queue(ml_web *h, int status, struct MHD_Response *response, const char *type, ml_error *err)
{
    if (!response) return ml_fail_memory(err, 0, "a reply");
    MHD_add_response_header(response, "Content-Type", type);
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "Cache-Control", "no-store");
    MHD_add_response_header(response, "Content-Security-Policy", ml_page_policy);
    MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
    if (h->spare) MHD_add_response_header(response, "Connection", "close");
    if (status == 401) MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    h->queued = (int)MHD_queue_response(h->connection, (unsigned)status, response);
    h->replied = true;
    MHD_destroy_response(response);
    /* That a client went is no failure of the server. */
    if (status < 500 || !ml_web_is_gone(h)) ml_server_count_reply(h->server, status);
    return ML_OK;
}

ml_status ml_web_reply(ml_web *h, int status, const char *type, const void *data, size_t n, ml_error *err)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(n, (void *)(uintptr_t)data, MHD_RESPMEM_MUST_COPY);
    return queue(h, status, r, type, err);
}

ml_status ml_web_reply_json(ml_web *h, int status, json_t *value, ml_error *err)
{
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    json_decref(value);
    if (!text) return ml_fail_memory(err, 0, "a reply");
    ml_status result = ml_web_reply(h, status, "application/json", text, strlen(text), err);
    free(text);
    return result;
}

static int status_of(const ml_web *h, const ml_error *err)
{
    if (h->status) return h->status;
    switch (err->code) {
    case ML_EINVAL:
    case ML_EFORMAT: return 400;
    case ML_ENOMEM:
    case ML_ECANCEL: return 503;
    default: return 500;
    }
}

static const char *type_of(int status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    default: return status < 500 ? "invalid_request_error" : "server_error";
    }
}

json_t *ml_web_error_object(const ml_web *h, const ml_error *err, int *status)
{
    int code = status_of(h, err);
    if (status) *status = code;
    json_t *message = json_string(err->message);
    if (!message) message = json_string("the request is not valid"); /* it quotes what is no UTF-8 */
    return json_pack("{s:{s:o, s:s, s:s?, s:s?}}", "error", "message", message, "type", type_of(code), "param",
                     h->field[0] ? h->field : NULL, "code", h->code);
}

/* ---- replies that come bit by bit ---- */

void ml_web_hold(ml_web *h)
{
    atomic_fetch_add(&h->n_holder, 1);
}

void ml_web_drop(ml_web *h)
{
    if (!h || atomic_fetch_sub(&h->n_holder, 1) > 1) return;
    ml_server_forget_body(h->server, h->body.n);
    ml_chars_free(&h->body);
    json_decref(h->json);
    ml_free(h);
}

typedef struct {
    ml_web *h;
    ml_web_source source;
    ml_chars out;
    size_t sent; /* of out */
    bool end;
    double last; /* moment of the last byte */
} stream;

static void free_stream(void *arg)
{
    stream *s = arg;
    s->source.free(s->source.arg);
    ml_web_drop(s->h);
    ml_chars_free(&s->out);
    ml_free(s);
}

/* Have something to send: false when the connection is to be cut. */
static bool refill(stream *s)
{
    ml_error err;
    while (s->sent == s->out.n && !s->end) {
        if (ml_web_is_gone(s->h) || ml_server_is_stopping(s->h->server)) return false;
        s->sent = s->out.n = 0;
        if (s->source.next(s->source.arg, &s->out, &s->end, &err) != ML_OK) return false;
        double now = ml_clock_seconds();
        if (s->out.n) {
            s->last = now;
        } else if (s->source.events && !s->end && now - s->last > HEARTBEAT_SECONDS) {
            if (ml_chars_append(&s->out, ":\n\n", 3, &err) != ML_OK) return false;
            s->last = now;
        }
    }
    return true;
}

static ssize_t read_stream(void *arg, uint64_t pos, char *data, size_t most)
{
    (void)pos;
    stream *s = arg;
    if (!refill(s)) return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = s->out.n - s->sent;
    if (n == 0) return MHD_CONTENT_READER_END_OF_STREAM;
    if (n > most) n = most;
    memcpy(data, s->out.data + s->sent, n);
    s->sent += n;
    return (ssize_t)n;
}

ml_status ml_web_stream(ml_web *h, const char *type, const ml_web_source *source, ml_error *err)
{
    stream *s = ml_calloc(1, sizeof *s);
    if (!s) {
        source->free(source->arg);
        return ml_fail_memory(err, sizeof *s, "a reply");
    }
    *s = (stream){ .h = h, .source = *source, .last = ml_clock_seconds() };
    ml_web_hold(h);
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, s, free_stream);
    if (!r) free_stream(s);
    return queue(h, 200, r, type, err);
}

ml_status ml_web_put_event(ml_chars *out, json_t *value, ml_error *err)
{
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    json_decref(value);
    if (!text) return ml_fail_memory(err, 0, "an event");
    ml_status status = ml_chars_append(out, "data: ", 6, err);
    if (status == ML_OK) status = ml_chars_append(out, text, strlen(text), err);
    free(text);
    return status == ML_OK ? ml_chars_append(out, "\n\n", 2, err) : status;
}
