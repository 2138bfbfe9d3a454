#include "serve/server.h"

#include "base/alloc.h"
#include "serve/limits.h"
#include "serve/server_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREAD_STACK_BYTES = 4 << 20 };

bool ml_server_is_stopping(const ml_server *s)
{
    return atomic_load(&s->stopping);
}

void ml_server_count_reply(ml_server *s, int status)
{
    if (status >= 100 && status < 600) s->counters.replies[status / 100]++;
}

void ml_server_forget_body(ml_server *s, size_t n)
{
    s->body_bytes -= (int64_t)n;
}

/* ---- a request, from its first byte to its reply ---- */

static ml_web *begin_request(ml_server *s, struct MHD_Connection *connection, const char *path, const char *method)
{
    ml_web *h = ml_calloc(1, sizeof *h);
    if (!h) return NULL;
    h->server = s;
    h->connection = connection;
    h->path = path;
    h->method = method;
    atomic_store(&h->n_holder, 1);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    h->spare = info && info->socket_context;
    const char *size = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Length");
    uint64_t n = size ? strlen(size) > 18 ? UINT64_MAX : strtoull(size, NULL, 10) : 0;
    h->too_long = n > ML_LIMIT_BODY;
    h->far_too_long = n > ML_LIMIT_READ;
    return h;
}

/* Keep what comes of a body; what is too much is read and forgotten.  Room for it is taken first: other connections do
 * the same at the same time. */
static void take_body(ml_web *h, const char *data, size_t n)
{
    ml_error err;
    if (h->too_long || h->no_room) return;
    if (h->body.n + n > ML_LIMIT_BODY) {
        h->too_long = true;
    } else if (atomic_fetch_add(&h->server->body_bytes, (int64_t)n) + (int64_t)n > ML_LIMIT_BODIES ||
               ml_chars_append(&h->body, data, n, &err) != ML_OK) {
        ml_server_forget_body(h->server, n);
        h->no_room = true;
    }
    if (!h->too_long && !h->no_room) return;
    ml_server_forget_body(h->server, h->body.n);
    ml_chars_free(&h->body);
}

static bool is_control(const ml_web *h)
{
    return !strcmp(h->path, "/health") || !strcmp(h->path, "/metrics");
}

static ml_status answer(ml_web *h, ml_error *err)
{
    if (h->spare && !is_control(h)) {
        return ml_web_refuse(h, err, 503, NULL, "%d connections are open: try again later", ML_LIMIT_CONNECTION);
    }
    if (h->too_long) {
        return ml_web_refuse(h, err, 413, NULL, "the body is longer than %d bytes", ML_LIMIT_BODY);
    }
    if (h->no_room) return ml_web_refuse(h, err, 503, NULL, "too many requests are being sent: try again later");
    if (ml_server_is_stopping(h->server)) return ml_web_refuse(h, err, 503, NULL, "the server is ending");
    return ml_route_request(h, err);
}

static enum MHD_Result reply(ml_web *h)
{
    ml_error err = { 0 }, ignored;
    int status;
    if (answer(h, &err) != ML_OK && !h->replied) {
        json_t *object = ml_web_error_object(h, &err, &status);
        if (ml_web_reply_json(h, status, object, &ignored) != ML_OK) return MHD_NO;
    }
    return h->replied && h->queued ? MHD_YES : MHD_NO;
}

/* libmicrohttpd calls this when a request's head is there, for each piece of its body, and at its end. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *path, const char *method,
                                  const char *version, const char *data, size_t *n, void **state)
{
    (void)version;
    if (!*state) {
        ml_web *h = begin_request(arg, connection, path, method);
        *state = h;
        if (!h) return MHD_NO;
        return h->far_too_long ? reply(h) : MHD_YES;
    }
    ml_web *h = *state;
    if (*n) {
        take_body(h, data, *n);
        *n = 0;
        return MHD_YES;
    }
    return h->replied ? MHD_YES : reply(h);
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code)
{
    (void)arg;
    (void)connection;
    (void)code;
    ml_web_drop(*state);
    *state = NULL;
}

/* Whoever holds all connections must not keep a watchman out: a few more are taken, for what a watchman asks. */
static void on_connection(void *arg, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    ml_server *s = arg;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        atomic_fetch_sub(&s->n_connection, 1);
    } else if (atomic_fetch_add(&s->n_connection, 1) >= ML_LIMIT_CONNECTION) {
        *context = s; /* it is spare */
        MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)ML_LIMIT_SPARE_SECONDS);
    }
}

static void say_nothing(void *arg, const char *format, va_list list)
{
    (void)arg;
    (void)format;
    (void)list;
}

/* ---- starting and stopping ---- */

static ml_status resolve(const char *host, int port, struct sockaddr_storage *address, ml_error *err)
{
    struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *found;
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    int code = getaddrinfo(host, service, &hints, &found);
    if (code != 0) return ml_fail(err, ML_EINVAL, "--host %s: %s", host, gai_strerror(code));
    memcpy(address, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return ML_OK;
}

static ml_status check_address(const ml_server *s, const char *host, const struct sockaddr_storage *address,
                               ml_error *err)
{
    char name[INET6_ADDRSTRLEN] = "";
    if (address->ss_family == AF_INET) {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)address)->sin_addr, name, sizeof name);
    } else {
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, name, sizeof name);
    }
    if (s->n_key || ml_guard_is_loopback(name)) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "--host %s: an address that other machines reach needs an API key: --api-key-file FILE, or "
                   "MOONLIGHT_API_KEY in the environment",
                   host);
}

static ml_status listen_at(ml_server *s, const ml_server_config *c, ml_error *err)
{
    struct sockaddr_storage address = { 0 };
    ML_TRY(resolve(c->host, c->port, &address, err));
    ML_TRY(check_address(s, c->host, &address, err));
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL | MHD_USE_ERROR_LOG;
    if (address.ss_family == AF_INET6) flags |= MHD_USE_IPv6;
    errno = 0;
    const unsigned most = ML_LIMIT_CONNECTION + ML_LIMIT_SPARE;
    s->daemon = MHD_start_daemon(flags, (uint16_t)c->port, NULL, NULL, on_request, s,            //
                                 MHD_OPTION_EXTERNAL_LOGGER, say_nothing, NULL,                  //
                                 MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&address,              //
                                 MHD_OPTION_CONNECTION_LIMIT, most,                              //
                                 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)ML_LIMIT_IDLE_SECONDS, //
                                 MHD_OPTION_THREAD_STACK_SIZE, (size_t)THREAD_STACK_BYTES,       //
                                 MHD_OPTION_STRICT_FOR_CLIENT, 1,                                //
                                 MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,                 //
                                 MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_END);
    if (!s->daemon) return ml_fail_errno(err, "%s port %d: cannot listen", c->host, c->port);
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
    bool six = address.ss_family == AF_INET6;
    snprintf(s->url, sizeof s->url, "http://%s%s%s:%d", six ? "[" : "", c->host, six ? "]" : "",
             info ? info->port : c->port);
    return ML_OK;
}

static ml_status start(ml_server *s, const ml_server_config *c, ml_error *err)
{
    s->runs = c->models.runs;
    ML_TRY(ml_guard_read_keys(s, c->api_key_file, err));
    ML_TRY(ml_store_open(c->store, &s->store, err));
    ML_TRY(ml_traces_make(&s->traces, err));
    ML_TRY(ml_models_make(&c->models, &s->models, err));
    for (size_t i = 0; i < c->n_model; i++) ML_TRY(ml_models_add(s->models, c->model[i], err));
    for (size_t i = 0; i < c->n_adapter; i++) ML_TRY(ml_models_add_adapter(s->models, c->adapter[i], err));
    ML_TRY(ml_models_load_added(s->models, err));
    ML_TRY(ml_scheduler_start(s->models, c->queue, &s->scheduler, err));
    return listen_at(s, c, err);
}

ml_status ml_server_start(const ml_server_config *config, ml_server **out, ml_error *err)
{
    *out = NULL;
    ml_server *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "a server");
    ml_status status = start(s, config, err);
    if (status != ML_OK) {
        ml_server_stop(s);
        return status;
    }
    *out = s;
    return ML_OK;
}

const char *ml_server_url(const ml_server *s)
{
    return s->url;
}

void ml_server_stop(ml_server *s)
{
    if (!s) return;
    atomic_store(&s->stopping, true);
    if (s->daemon) { /* no new connections; handlers see that it ends, and their tasks are cancelled */
        MHD_socket socket = MHD_quiesce_daemon(s->daemon);
        if (socket != MHD_INVALID_SOCKET) close(socket);
    }
    ml_scheduler_stop(s->scheduler);
    if (s->daemon) MHD_stop_daemon(s->daemon);
    ml_scheduler_free(s->scheduler);
    ml_models_free(s->models);
    ml_traces_free(s->traces);
    ml_store_close(s->store);
    ml_guard_free(s);
    ml_free(s);
}
