#include "fetch/http.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

struct ml_http {
    CURL *curl;
    char *origin, *token;
    ml_http_config config;
    const ml_progress *stop;
};

/* One request, over all its attempts. */
typedef struct {
    ml_http *http;
    const char *url;
    const char *post;       /* a body of JSON; NULL: GET */
    ml_http_answer *answer; /* into memory */
    size_t max_bytes;
    ml_http_sink *sink; /* or into a sink */
    char etag[200];     /* of the version begun with */
    uint64_t from;      /* this attempt's first byte */
    bool checked;       /* this attempt's head is what was asked for */
    bool restart;       /* begin again at byte 0 */
    double retry_after; /* what the server asked for, 0: nothing */
    char new_etag[200];
    uint64_t range_begin, range_total; /* of Content-Range */
    bool has_range;
    uint64_t furthest; /* of all attempts: only what goes beyond is progress */
    ml_status status;  /* why a callback stopped the transfer */
    ml_error *err;
} request;

/* ---- what the server says ---- */

/* The value of header `name` in a line, without white space around it. */
static bool header_value(const char *line, size_t n, const char *name, char *out, size_t size)
{
    size_t k = strlen(name);
    if (n <= k || strncasecmp(line, name, k) != 0 || line[k] != ':') return false;
    const char *begin = line + k + 1, *end = line + n;
    while (begin < end && (*begin == ' ' || *begin == '\t')) begin++;
    while (end > begin && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' ')) end--;
    snprintf(out, size, "%.*s", (int)(end - begin), begin);
    return true;
}

/* <URL>; rel="next" among the comma-separated links of a line. */
static void find_next_link(const char *links, char *out, size_t size)
{
    for (const char *at = strchr(links, '<'); at; at = strchr(at + 1, '<')) {
        const char *end = strchr(at, '>'), *rel = end ? strstr(end, "rel=\"next\"") : NULL;
        const char *other = end ? strchr(end, '<') : NULL;
        if (!rel || (other && other < rel)) continue;
        if ((size_t)(end - at - 1) < size) snprintf(out, size, "%.*s", (int)(end - at - 1), at + 1);
        return;
    }
}

static size_t on_header(char *line, size_t one, size_t n, void *arg)
{
    request *q = arg;
    char value[4096];
    unsigned long long begin, end, total;
    n *= one;
    if (n >= 5 && strncmp(line, "HTTP/", 5) == 0) { /* another answer: of a redirection, or of a proxy */
        q->new_etag[0] = 0;
        q->has_range = false;
        q->retry_after = 0;
    }
    if (header_value(line, n, "ETag", value, sizeof value)) {
        snprintf(q->new_etag, sizeof q->new_etag, "%.*s", (int)sizeof q->new_etag - 1, value);
    } else if (header_value(line, n, "Retry-After", value, sizeof value)) {
        q->retry_after = strtod(value, NULL);
    } else if (header_value(line, n, "Content-Range", value, sizeof value)) {
        q->has_range = sscanf(value, "bytes %llu-%llu/%llu", &begin, &end, &total) == 3;
        if (q->has_range) q->range_begin = begin;
        if (q->has_range) q->range_total = total;
    } else if (q->answer && header_value(line, n, "Link", value, sizeof value)) {
        find_next_link(value, q->answer->next, sizeof q->answer->next);
    }
    return n;
}

static long status_of(const request *q)
{
    long status = 0;
    curl_easy_getinfo(q->http->curl, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

void ml_http_describe_status(long status, char *out, size_t size)
{
    const char *text = status == 401   ? "not allowed without a token"
                       : status == 403 ? "not allowed"
                       : status == 404 ? "there is no such thing"
                       : status == 410 ? "it is gone"
                       : status == 429 ? "too many requests"
                       : status >= 500 ? "the server has failed"
                                       : "refused";
    snprintf(out, size, "%ld: %s", status, text);
}

/* ---- bytes that arrive ---- */

/* The head of an answer with the bytes of a file.  Fails where they are others than asked for. */
static ml_status check_head(request *q, long status)
{
    ml_http_sink *s = q->sink;
    curl_off_t length = -1;
    curl_easy_getinfo(q->http->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    bool is_part = status == 206;
    if (is_part && (!q->has_range || q->range_begin != q->from))
        return ml_fail(q->err, ML_EFORMAT, "%s: expected the bytes from %llu on, found others", q->url,
                       (unsigned long long)q->from);
    uint64_t total = is_part ? q->range_total : length >= 0 ? (uint64_t)length : s->size;
    if (total != s->size || (is_part && length >= 0 && (uint64_t)length != s->size - q->from))
        return ml_fail(q->err, ML_EFORMAT, "%s: expected a file of %llu bytes, the server offers %llu", q->url,
                       (unsigned long long)s->size, (unsigned long long)total);
    bool is_other = q->etag[0] && q->new_etag[0] && strcmp(q->etag, q->new_etag) != 0;
    if (is_part && is_other) {
        q->restart = true;
        return ml_fail(q->err, ML_EIO, "%s: the file has changed", q->url);
    }
    snprintf(q->etag, sizeof q->etag, "%s", q->new_etag);
    if (!is_part && s->offset > 0) { /* the server cannot give a part */
        ML_TRY(s->restart(s->arg, q->err));
        s->offset = 0;
    }
    q->checked = true;
    return ML_OK;
}

static ml_status take_file_bytes(request *q, const char *data, size_t n)
{
    ml_http_sink *s = q->sink;
    if (!q->checked) ML_TRY(check_head(q, status_of(q)));
    if (n > s->size - s->offset)
        return ml_fail(q->err, ML_EFORMAT, "%s: expected a file of %llu bytes, the server sends more", q->url,
                       (unsigned long long)s->size);
    ML_TRY(s->take(s->arg, data, n, q->err));
    s->offset += n;
    return ML_OK;
}

static ml_status take_text(request *q, const char *data, size_t n)
{
    ml_http_answer *a = q->answer;
    if (n > q->max_bytes - a->n_bytes)
        return ml_fail(q->err, ML_EFORMAT, "%s: expected an answer of at most %zu bytes, found more", q->url,
                       q->max_bytes);
    void *items = a->text;
    ML_TRY(ml_grow(&items, &a->capacity, a->n_bytes + n + 1, 1, q->err));
    a->text = items;
    memcpy(a->text + a->n_bytes, data, n);
    a->n_bytes += n;
    a->text[a->n_bytes] = 0;
    return ML_OK;
}

static size_t on_bytes(char *data, size_t one, size_t n, void *arg)
{
    request *q = arg;
    n *= one;
    if (q->sink && status_of(q) >= 400) return n; /* the text of a refusal */
    q->status = q->sink ? take_file_bytes(q, data, n) : take_text(q, data, n);
    return q->status == ML_OK ? n : CURL_WRITEFUNC_ERROR;
}

static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)a, (void)b, (void)c, (void)d;
    const request *q = arg;
    return ml_progress_stopped(q->http->stop);
}

/* ---- one attempt ---- */

typedef enum { DONE, AGAIN, GIVE_UP } outcome;

static bool is_passing_error(CURLcode code)
{
    switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM: return true;
    default: return false;
    }
}

static bool is_passing_status(long status)
{
    return status == 408 || status == 425 || status == 429 || status == 500 || (status >= 502 && status <= 504);
}

static outcome fail_status(request *q, long status)
{
    char text[100];
    ml_http_describe_status(status, text, sizeof text);
    ml_fail(q->err, ML_EIO, "%s: the server says %s", q->url, text);
    return is_passing_status(status) ? AGAIN : GIVE_UP;
}

static void reset(request *q)
{
    q->checked = q->restart = q->has_range = false;
    q->retry_after = 0;
    q->status = ML_OK;
    if (q->sink) q->from = q->sink->offset;
    if (!q->answer) return;
    q->answer->n_bytes = 0;
    q->answer->next[0] = 0;
}

static outcome try_once(request *q)
{
    CURL *curl = q->http->curl;
    char range[32], detail[CURL_ERROR_SIZE] = "";
    reset(q);
    curl_easy_setopt(curl, CURLOPT_URL, q->url);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, q);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, q);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, q);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
    snprintf(range, sizeof range, "%llu-", (unsigned long long)q->from);
    curl_easy_setopt(curl, CURLOPT_RANGE, q->sink && q->from ? range : NULL);
    struct curl_slist *type = q->post ? curl_slist_append(NULL, "Content-Type: application/json") : NULL;
    if (q->post) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, -1L);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, q->post);
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, type);
    }
    CURLcode code = curl_easy_perform(curl);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, NULL);
    if (q->post) {
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, NULL);
        curl_easy_setopt(curl, CURLOPT_HTTPGET, 1L);
        curl_slist_free_all(type);
    }
    if (q->restart && q->status == ML_EIO) return AGAIN;
    if (q->status != ML_OK) return GIVE_UP; /* a callback's own failure */
    if (ml_progress_stopped(q->http->stop)) {
        ml_fail(q->err, ML_ECANCEL, "stopped");
        return GIVE_UP;
    }
    if (code != CURLE_OK) {
        ml_fail(q->err, ML_EIO, "%s: %s", q->url, detail[0] ? detail : curl_easy_strerror(code));
        return is_passing_error(code) ? AGAIN : GIVE_UP;
    }
    long status = status_of(q);
    if (q->answer) q->answer->status = status;
    if (status >= 400 && (q->sink || is_passing_status(status))) return fail_status(q, status);
    if (!q->sink || q->sink->offset == q->sink->size) return DONE;
    ml_fail(q->err, ML_EIO, "%s: expected %llu bytes, the connection ended after %llu", q->url,
            (unsigned long long)q->sink->size, (unsigned long long)q->sink->offset);
    return AGAIN;
}

/* ---- all attempts ---- */

/* Sleep, listening for a stop. */
static ml_status wait_seconds(const ml_http *h, double seconds, ml_error *err)
{
    double end = ml_clock_seconds() + seconds;
    for (double left = seconds; left > 0; left = end - ml_clock_seconds()) {
        if (ml_progress_stopped(h->stop)) return ml_fail(err, ML_ECANCEL, "stopped");
        usleep((useconds_t)(1e6 * (left < 0.05 ? left : 0.05)));
    }
    return ML_OK;
}

static ml_status run(request *q)
{
    enum { LONGEST_WAIT = 60, LONGEST_RETRY_AFTER = 600 };
    const ml_http_config *c = &q->http->config;
    int64_t n_failed = 0;
    while (true) {
        outcome result = try_once(q);
        if (result == DONE) return ML_OK;
        if (result == GIVE_UP) return q->err->code;
        if (q->restart) { /* another version */
            ML_TRY(q->sink->restart(q->sink->arg, q->err));
            q->sink->offset = 0;
            q->etag[0] = 0;
        }
        n_failed++;
        if (q->sink && q->sink->offset > q->furthest) {
            q->furthest = q->sink->offset;
            n_failed = 1;
        }
        if (n_failed > c->n_retry) {
            size_t used = strlen(q->err->message);
            snprintf(q->err->message + used, sizeof q->err->message - used, "; given up after %lld attempts",
                     (long long)n_failed);
            return ML_EIO;
        }
        double wait = c->retry_wait * (double)(1ull << (n_failed < 20 ? n_failed - 1 : 19));
        if (wait > LONGEST_WAIT) wait = LONGEST_WAIT;
        if (q->retry_after > wait) wait = q->retry_after < LONGEST_RETRY_AFTER ? q->retry_after : LONGEST_RETRY_AFTER;
        ML_TRY(wait_seconds(q->http, wait, q->err));
    }
}

ml_status ml_http_get(ml_http *h, const char *url, size_t max_bytes, ml_http_answer *answer, ml_error *err)
{
    request q = { .http = h, .url = url, .answer = answer, .max_bytes = max_bytes, .err = err };
    return run(&q);
}

ml_status ml_http_post(ml_http *h, const char *url, const char *json, size_t max_bytes, ml_http_answer *answer,
                       ml_error *err)
{
    request q = { .http = h, .url = url, .post = json, .answer = answer, .max_bytes = max_bytes, .err = err };
    return run(&q);
}

ml_status ml_http_stream(ml_http *h, const char *url, ml_http_sink *sink, ml_error *err)
{
    request q = { .http = h, .url = url, .sink = sink, .err = err };
    if (sink->offset == sink->size) return ML_OK;
    return run(&q);
}

void ml_http_answer_free(ml_http_answer *a)
{
    ml_free(a->text);
    *a = (ml_http_answer){ 0 };
}

/* ---- life ---- */

static void init_library(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static bool has_prefix(const char *text, const char *prefix)
{
    return strncasecmp(text, prefix, strlen(prefix)) == 0;
}

static bool is_host(const char *origin, const char *scheme_and_host)
{
    size_t n = strlen(scheme_and_host);
    return has_prefix(origin, scheme_and_host) && (origin[n] == 0 || origin[n] == ':' || origin[n] == '/');
}

/* Over plain HTTP a token is for everybody between here and there to read. */
static bool may_send_token(const char *origin)
{
    return has_prefix(origin, "https://") || is_host(origin, "http://127.0.0.1") || is_host(origin, "http://localhost");
}

static void set_options(ml_http *h)
{
    CURL *curl = h->curl;
    const char *protocols = has_prefix(h->origin, "https://") ? "https" : "http,https";
    const char *ca = getenv("CURL_CA_BUNDLE");
    long stall = (long)(h->config.stall_seconds < 1 ? 1 : h->config.stall_seconds);
    if (!ca || !*ca) ca = getenv("SSL_CERT_FILE");
    if (ca && *ca) curl_easy_setopt(curl, CURLOPT_CAINFO, ca);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "moonlight");
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, protocols);
    curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, protocols);
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, 8L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, stall);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, stall);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    if (!h->token || !may_send_token(h->origin)) return;
    curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BEARER); /* not sent on to another host */
    curl_easy_setopt(curl, CURLOPT_XOAUTH2_BEARER, h->token);
}

ml_status ml_http_open(const ml_http_config *config, ml_http **out, ml_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_library);
    *out = NULL;
    ml_http *h = ml_calloc(1, sizeof *h);
    if (!h) return ml_fail_memory(err, sizeof *h, "a connection");
    h->config = *config;
    h->origin = ml_strdup(config->origin);
    h->token = config->token && *config->token ? ml_strdup(config->token) : NULL;
    h->curl = curl_easy_init();
    if (!h->origin || !h->curl || (config->token && *config->token && !h->token)) {
        ml_http_free(h);
        return ml_fail_memory(err, 0, "a connection");
    }
    set_options(h);
    *out = h;
    return ML_OK;
}

void ml_http_stop_with(ml_http *h, const ml_progress *progress)
{
    h->stop = progress;
}

void ml_http_free(ml_http *h)
{
    if (!h) return;
    if (h->curl) curl_easy_cleanup(h->curl);
    ml_free(h->origin);
    ml_free(h->token);
    ml_free(h);
}
