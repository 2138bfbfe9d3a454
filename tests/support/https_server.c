#include "support/https_server.h"

#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

struct test_server {
    int fd, port;
    char url[64];
    SSL_CTX *tls;
    test_handler handler;
    void *arg;
    pthread_t thread;
    atomic_bool stop;
    atomic_int n_open;
};

struct test_connection {
    test_server *server;
    int fd;
    SSL *ssl;
};

static void need(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "test server: %s has failed\n", what);
    exit(1);
}

/* ---- certificate ---- */

static void make_certificate(SSL_CTX *tls, const char *folder)
{
    char path[4200];
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    need(key && x, "making a key");
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), 86400);
    X509_set_pubkey(x, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)"test", -1, -1, 0);
    X509_set_issuer_name(x, X509_get_subject_name(x));
    X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
    need(names && X509_add_ext(x, names, -1), "naming a certificate");
    X509_EXTENSION_free(names);
    need(X509_sign(x, key, EVP_sha256()) > 0, "signing a certificate");
    need(SSL_CTX_use_certificate(tls, x) == 1 && SSL_CTX_use_PrivateKey(tls, key) == 1, "using a certificate");
    snprintf(path, sizeof path, "%s/ca.pem", folder);
    FILE *file = fopen(path, "w");
    need(file && PEM_write_X509(file, x), "writing a certificate");
    fclose(file);
    X509_free(x);
    EVP_PKEY_free(key);
}

/* ---- bytes ---- */

static ptrdiff_t receive(test_connection *c, char *data, size_t n)
{
    return c->ssl ? SSL_read(c->ssl, data, (int)n) : recv(c->fd, data, n, 0);
}

void test_send(test_connection *c, const void *data, size_t n)
{
    const char *at = data;
    while (n) {
        size_t part = n < 16384 ? n : 16384;
        ptrdiff_t k = c->ssl ? SSL_write(c->ssl, at, (int)part) : send(c->fd, at, part, MSG_NOSIGNAL);
        if (k <= 0) return;
        at += k;
        n -= (size_t)k;
    }
}

void test_reply(test_connection *c, int status, const char *headers, const void *body, size_t n)
{
    char head[8192];
    int k = snprintf(head, sizeof head, "HTTP/1.1 %d Something\r\n%sContent-Length: %zu\r\nConnection: close\r\n\r\n",
                     status, headers, n);
    test_send(c, head, (size_t)k);
    test_send(c, body, n);
}

void test_stall(test_connection *c, double seconds)
{
    struct pollfd p = { .fd = c->fd, .events = POLLIN | POLLRDHUP };
    for (double left = seconds; left > 0 && !atomic_load(&c->server->stop); left -= 0.02) {
        if (poll(&p, 1, 20) > 0) return;
    }
}

void test_tunnel(test_connection *c, int port)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (other < 0 || connect(other, (struct sockaddr *)&address, sizeof address) != 0) {
        test_reply(c, 502, "", "", 0);
        if (other >= 0) close(other);
        return;
    }
    static const char ok[] = "HTTP/1.1 200 Tunnel\r\n\r\n";
    test_send(c, ok, sizeof ok - 1);
    struct pollfd p[2] = { { .fd = c->fd, .events = POLLIN }, { .fd = other, .events = POLLIN } };
    bool open = true;
    while (open && !atomic_load(&c->server->stop)) {
        char data[16384];
        if (poll(p, 2, 20) < 0) break;
        for (int i = 0; i < 2; i++) {
            if (!p[i].revents) continue;
            ssize_t n = recv(p[i].fd, data, sizeof data, 0);
            if (n <= 0 || send(p[1 - i].fd, data, (size_t)n, MSG_NOSIGNAL) != n) open = false;
        }
    }
    close(other);
}

/* ---- requests ---- */

static void read_header(test_request *q, const char *line, size_t *n_body)
{
    long long begin;
    if (strncasecmp(line, "Host: ", 6) == 0) snprintf(q->host, sizeof q->host, "%.255s", line + 6);
    if (strncasecmp(line, "Authorization: ", 15) == 0)
        snprintf(q->authorization, sizeof q->authorization, "%.255s", line + 15);
    if (strncasecmp(line, "Content-Length: ", 16) == 0) *n_body = (size_t)strtoul(line + 16, NULL, 10);
    if (strncasecmp(line, "Range: ", 7) == 0 && sscanf(line + 7, "bytes=%lld-", &begin) == 1) q->range_begin = begin;
}

static bool read_request(test_connection *c, test_request *q)
{
    char text[16384];
    size_t n = 0, n_body = 0, have;
    *q = (test_request){ .range_begin = -1 };
    do {
        ptrdiff_t k = receive(c, text + n, sizeof text - 1 - n);
        if (k <= 0 || n + (size_t)k == sizeof text - 1) return false;
        n += (size_t)k;
        text[n] = 0;
    } while (!strstr(text, "\r\n\r\n"));
    char *body = strstr(text, "\r\n\r\n") + 4;
    body[-1] = 0;
    have = n - (size_t)(body - text);
    char *rest, *line = strtok_r(text, "\r\n", &rest);
    if (!line || sscanf(line, "%15s %4095s", q->method, q->target) != 2) return false;
    while ((line = strtok_r(NULL, "\r\n", &rest))) read_header(q, line, &n_body);
    if (n_body >= sizeof q->body || have > n_body) return n_body == 0;
    memcpy(q->body, body, have);
    while (have < n_body) {
        ptrdiff_t k = receive(c, q->body + have, n_body - have);
        if (k <= 0) return false;
        have += (size_t)k;
    }
    q->body[have] = 0;
    return true;
}

static void *serve_one(void *arg)
{
    test_connection *c = arg;
    test_request q;
    bool ready = true;
    if (c->server->tls) {
        c->ssl = SSL_new(c->server->tls);
        SSL_set_fd(c->ssl, c->fd);
        ready = SSL_accept(c->ssl) == 1;
    }
    if (ready && read_request(c, &q)) c->server->handler(c->server->arg, &q, c);
    if (c->ssl && ready) SSL_shutdown(c->ssl);
    if (c->ssl) SSL_free(c->ssl);
    shutdown(c->fd, SHUT_WR);
    close(c->fd);
    atomic_fetch_sub(&c->server->n_open, 1);
    free(c);
    return NULL;
}

static void *accept_all(void *arg)
{
    test_server *s = arg;
    struct pollfd p = { .fd = s->fd, .events = POLLIN };
    while (!atomic_load(&s->stop)) {
        if (poll(&p, 1, 20) <= 0) continue;
        int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) continue;
        struct timeval patience = { .tv_sec = 20 };
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        test_connection *c = calloc(1, sizeof *c);
        pthread_t thread;
        need(c != NULL, "memory");
        *c = (test_connection){ .server = s, .fd = fd };
        atomic_fetch_add(&s->n_open, 1);
        need(pthread_create(&thread, NULL, serve_one, c) == 0, "a thread");
        pthread_detach(thread);
    }
    return NULL;
}

/* ---- life ---- */

test_server *test_server_start(const char *folder, test_handler handler, void *arg)
{
    test_server *s = calloc(1, sizeof *s);
    need(s != NULL, "memory");
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    s->handler = handler;
    s->arg = arg;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof address;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(s->fd >= 0 && bind(s->fd, (struct sockaddr *)&address, size) == 0 && listen(s->fd, 64) == 0, "listening");
    need(getsockname(s->fd, (struct sockaddr *)&address, &size) == 0, "getsockname");
    s->port = ntohs(address.sin_port);
    if (folder) {
        s->tls = SSL_CTX_new(TLS_server_method());
        need(s->tls != NULL, "TLS");
        make_certificate(s->tls, folder);
    }
    snprintf(s->url, sizeof s->url, "%s://127.0.0.1:%d", folder ? "https" : "http", s->port);
    need(pthread_create(&s->thread, NULL, accept_all, s) == 0, "a thread");
    return s;
}

void test_server_stop(test_server *s)
{
    if (!s) return;
    atomic_store(&s->stop, true);
    pthread_join(s->thread, NULL);
    while (atomic_load(&s->n_open) > 0) usleep(1000);
    close(s->fd);
    SSL_CTX_free(s->tls);
    free(s);
}

const char *test_server_url(const test_server *s)
{
    return s->url;
}

int test_server_port(const test_server *s)
{
    return s->port;
}
