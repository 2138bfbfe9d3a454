/* Who may ask: keys, and for a server without keys only this machine's own programs. */
#include "base/alloc.h"
#include "base/hash.h"
#include "serve/server_internal.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>

/* ---- keys: only their hashes are kept ---- */

static ml_status hash_key(const char *key, size_t n, char hex[ML_SHA256_HEX], ml_error *err)
{
    ml_sha256 *sha;
    uint8_t digest[ML_SHA256_BYTES];
    ML_TRY(ml_sha256_begin(&sha, err));
    ml_sha256_add(sha, key, n);
    ml_sha256_end(sha, digest);
    ml_sha256_to_hex(digest, hex);
    return ML_OK;
}

static ml_status add_key(ml_server *s, const char *key, size_t n, ml_error *err)
{
    char hex[ML_SHA256_HEX];
    ML_TRY(hash_key(key, n, hex, err));
    char **keys = ml_realloc(s->key, (s->n_key + 1) * sizeof *keys);
    if (!keys) return ml_fail_memory(err, 0, "keys");
    s->key = keys;
    keys[s->n_key] = ml_strdup(hex);
    return keys[s->n_key++] ? ML_OK : ml_fail_memory(err, 0, "keys");
}

static ml_status read_key_file(ml_server *s, const char *path, ml_error *err)
{
    char *text;
    ML_TRY(ml_file_read(path, &text, NULL, err));
    ml_status status = ML_OK;
    for (char *line = text; *line && status == ML_OK;) {
        size_t n = strcspn(line, "\r\n");
        if (n) status = add_key(s, line, n, err);
        line += n;
        line += strspn(line, "\r\n");
    }
    ml_free(text);
    if (status == ML_OK && s->n_key == 0)
        status = ml_fail(err, ML_EINVAL, "%s: expected at least one key, a line each", path);
    return status;
}

ml_status ml_guard_read_keys(ml_server *s, const char *file, ml_error *err)
{
    const char *given = getenv("MOONLIGHT_API_KEY");
    if (file) return read_key_file(s, file, err);
    return given && *given ? add_key(s, given, strlen(given), err) : ML_OK;
}

void ml_guard_free(ml_server *s)
{
    for (size_t i = 0; i < s->n_key; i++) ml_free(s->key[i]);
    ml_free(s->key);
}

/* ---- checks ---- */

static uint64_t number_of(const char *hex)
{
    char head[17];
    snprintf(head, sizeof head, "%.16s", hex);
    return strtoull(head, NULL, 16);
}

static ml_status check_key(ml_web *h, ml_error *err)
{
    static const char scheme[] = "Bearer ";
    const char *given = MHD_lookup_connection_value(h->connection, MHD_HEADER_KIND, "Authorization");
    char hex[ML_SHA256_HEX] = "";
    bool bearer = given && strncasecmp(given, scheme, sizeof scheme - 1) == 0;
    if (bearer) ML_TRY(hash_key(given + sizeof scheme - 1, strlen(given + sizeof scheme - 1), hex, err));
    for (size_t i = 0; bearer && i < h->server->n_key; i++) {
        if (strcmp(hex, h->server->key[i]) != 0) continue; /* of hashes: how long it takes says nothing of keys */
        snprintf(h->owner, sizeof h->owner, "%s", hex);
        h->client = number_of(hex);
        return ML_OK;
    }
    return ml_web_refuse(h, err, 401, NULL, "expected the header Authorization: Bearer KEY with a key of this server");
}

/* The part of "host:port" or "[host]:port" before the port. */
static void host_of(const char *text, char *out, size_t size)
{
    bool bracket = *text == '[';
    size_t n = strcspn(text + bracket, bracket ? "]" : ":");
    snprintf(out, size, "%.*s", (int)n, text + bracket);
}

bool ml_guard_is_loopback(const char *host)
{
    struct in_addr four;
    struct in6_addr six;
    if (!strcasecmp(host, "localhost")) return true;
    if (inet_pton(AF_INET, host, &four) == 1) return ntohl(four.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, host, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

/* A page of another site must not be able to ask in a browser's name: not by its origin, nor by a name that it lets
 * point here. */
static ml_status check_origin(ml_web *h, ml_error *err)
{
    const char *host = MHD_lookup_connection_value(h->connection, MHD_HEADER_KIND, "Host");
    const char *origin = MHD_lookup_connection_value(h->connection, MHD_HEADER_KIND, "Origin");
    char name[256];
    if (h->server->n_key == 0 && host) {
        host_of(host, name, sizeof name);
        if (!ml_guard_is_loopback(name)) {
            return ml_web_refuse(h, err, 403, NULL,
                                 "without an API key only Host: localhost and the like are answered");
        }
    }
    if (!origin) return ML_OK;
    const char *rest = strstr(origin, "://");
    if (rest && host && !strcasecmp(rest + 3, host)) return ML_OK;
    return ml_web_refuse(h, err, 403, NULL, "requests of other origins are not answered");
}

static uint64_t address_of(const ml_web *h)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(h->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (!info || !info->client_addr) return 0;
    if (info->client_addr->sa_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)info->client_addr;
        return four->sin_addr.s_addr;
    }
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)info->client_addr;
    uint64_t number;
    memcpy(&number, &six->sin6_addr, sizeof number);
    return number;
}

ml_status ml_guard_check(ml_web *h, bool open, ml_error *err)
{
    h->client = address_of(h);
    ML_TRY(check_origin(h, err));
    if (open || h->server->n_key == 0) return ML_OK;
    return check_key(h, err);
}
