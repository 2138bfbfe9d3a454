/* GET and POST over HTTP and HTTPS (libcurl): small answers into memory, large files into a sink that can go on where
 * it stopped.
 *
 * What may pass is tried again with growing waits: no connection, a connection that is cut or stalls, and answers 408,
 * 425, 429, 500, 502, 503 and 504 (their Retry-After is respected).  Certificates are checked against the system's, or
 * against the file that CURL_CA_BUNDLE or SSL_CERT_FILE names.  A proxy comes from the environment as usual
 * (https_proxy, http_proxy, all_proxy, no_proxy).  A token goes to the host it is for and to no other that it redirects
 * to. */
#ifndef ML_FETCH_HTTP_H
#define ML_FETCH_HTTP_H

#include "base/log.h"

typedef struct {
    const char *origin;   /* "https://host[:port]": where the token goes; http:// only sends it to this machine */
    const char *token;    /* NULL: none */
    double stall_seconds; /* without a byte or a connection: the attempt has failed */
    int64_t n_retry;      /* attempts after the first that bring no byte; bytes begin the count again */
    double retry_wait;    /* seconds before the second attempt, doubled for each further one up to 60 */
} ml_http_config;

typedef struct ml_http ml_http;

/* The texts of the configuration are copied. */
ml_status ml_http_open(const ml_http_config *config, ml_http **out, ml_error *err);
void ml_http_free(ml_http *h);
/* From now on this progress is asked whether to stop; NULL: ml_stop_requested() is. */
void ml_http_stop_with(ml_http *h, const ml_progress *progress);

/* A whole answer.  Start zeroed. */
typedef struct {
    long status; /* e.g. 200, 404 */
    char *text;  /* 0-terminated */
    size_t n_bytes, capacity;
    char next[2048]; /* of "Link: <URL>; rel="next"": the next page, empty without one */
} ml_http_answer;

void ml_http_answer_free(ml_http_answer *a);
/* At most max_bytes.  Statuses of 400 and above that are not tried again are no failure: look at answer->status.
 * ML_EIO, naming the URL, when there is no answer; ML_ECANCEL when stopped. */
ml_status ml_http_get(ml_http *h, const char *url, size_t max_bytes, ml_http_answer *answer, ml_error *err);

/* The same for a POST of JSON, a 0-terminated text: tried again as a GET is, so the server must bear to be asked twice.
 */
ml_status ml_http_post(ml_http *h, const char *url, const char *json, size_t max_bytes, ml_http_answer *answer,
                       ml_error *err);

/* Where a file's bytes go, in order. */
typedef struct {
    void *arg;
    uint64_t offset; /* of the next byte; moved on by ml_http_stream */
    uint64_t size;   /* of the whole file */
    ml_status (*take)(void *arg, const void *data, size_t n_bytes, ml_error *err);
    ml_status (*restart)(void *arg, ml_error *err); /* begin again at byte 0 */
} ml_http_sink;

/* Bytes sink->offset .. sink->size - 1 of a URL, whatever number of attempts that takes.  The whole file comes again
 * where the server cannot give a part, or has another version (ETag) than before.  ML_EIO, naming the URL, for a
 * refusal (404, 401, ...) and when all attempts failed; ML_EFORMAT for a file of another size; ML_ECANCEL when stopped.
 */
ml_status ml_http_stream(ml_http *h, const char *url, ml_http_sink *sink, ml_error *err);

/* What a status means to a person, e.g. "404: there is no such file"; in out[size]. */
void ml_http_describe_status(long status, char *out, size_t size);

#endif
