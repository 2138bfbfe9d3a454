/* A small HTTPS (or HTTP) server on this machine, for tests of clients: what it answers, and how badly, a function
 * decides.  One request for each connection, one thread for each. */
#ifndef ML_TESTS_HTTPS_SERVER_H
#define ML_TESTS_HTTPS_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    char method[16];
    char target[4096];   /* path and query */
    char host[256];      /* of the header */
    int64_t range_begin; /* of "Range: bytes=N-", -1 without */
    char authorization[256];
    char body[8192]; /* of a POST, 0-terminated */
} test_request;

typedef struct test_connection test_connection;
typedef void (*test_handler)(void *arg, const test_request *request, test_connection *c);

/* Bytes to the client; nothing when it has gone. */
void test_send(test_connection *c, const void *data, size_t n);
/* Status line, these headers (each "Name: value\r\n", or ""), an honest Content-Length, and the body. */
void test_reply(test_connection *c, int status, const char *headers, const void *body, size_t n);
/* Wait until the client goes away, at most so long. */
void test_stall(test_connection *c, double seconds);
/* For CONNECT, as a proxy: pass bytes both ways until one side ends. */
void test_tunnel(test_connection *c, int port);

typedef struct test_server test_server;

/* `folder`: where the certificate for localhost and 127.0.0.1 is written, as ca.pem; NULL: plain HTTP.  Ends the test
 * program when it cannot start. */
test_server *test_server_start(const char *folder, test_handler handler, void *arg);
void test_server_stop(test_server *s);
/* "https://127.0.0.1:PORT" */
const char *test_server_url(const test_server *s);
int test_server_port(const test_server *s);

#endif
