#include "support/fake_hub.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMIT_MAIN "1111111111111111111111111111111111111111"
#define COMMIT_PARQUET "2222222222222222222222222222222222222222"

typedef struct {
    const char *repo, *commit, *path;
    const char *text; /* NULL: the large file */
    bool lfs;
} hub_file;

static const hub_file files[] = {
    { "datasets/org/set", COMMIT_MAIN, "README.md", "# A set\n", false },
    { "datasets/org/set", COMMIT_MAIN, "data/a b.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n", false },
    { "datasets/org/set", COMMIT_MAIN, "data/large.bin", NULL, true },
    { "datasets/org/set", COMMIT_PARQUET, "default/test/0000.parquet", "PAR1 test", true },
    { "datasets/org/set", COMMIT_PARQUET, "default/train/0000.parquet", "PAR1 train", true },
    { "datasets/org/set", COMMIT_PARQUET, "other/partial-train/0000.parquet", "PAR1 other", true },
    { "datasets/org/gated", COMMIT_MAIN, "secret.txt", "open sesame", false },
    { "datasets/org/evil", COMMIT_MAIN, "../escaped", "out", false },
    { "models/org/net", COMMIT_MAIN, "config.json", "{}", false },
    { "models/org/net", COMMIT_MAIN, "model.safetensors", "weights", true },
    { "models/org/net", COMMIT_MAIN, "pytorch_model.bin", "the same weights", true },
};
enum { N_FILES = sizeof files / sizeof *files };

static char large[HUB_LARGE_BYTES];

static const char *bytes_of(const hub_file *f, size_t *n)
{
    *n = f->text ? strlen(f->text) : sizeof large;
    return f->text ? f->text : large;
}

const char *fake_hub_file(const char *path, size_t *n)
{
    for (int i = 0; i < N_FILES; i++) {
        if (strcmp(files[i].path, path) == 0) return bytes_of(&files[i], n);
    }
    return NULL;
}

/* ---- the list ---- */

static void hash_of(const hub_file *f, char hex[65])
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned n_digest;
    size_t n;
    char head[32];
    const char *bytes = bytes_of(f, &n);
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    EVP_DigestInit_ex(hash, f->lfs ? EVP_sha256() : EVP_sha1(), NULL);
    int k = snprintf(head, sizeof head, "blob %zu", n);
    if (!f->lfs) EVP_DigestUpdate(hash, head, (size_t)k + 1);
    EVP_DigestUpdate(hash, bytes, n);
    EVP_DigestFinal_ex(hash, digest, &n_digest);
    EVP_MD_CTX_free(hash);
    for (unsigned i = 0; i < n_digest; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

/* Two files a page, so that there is more than one. */
static void reply_tree(fake_hub *hub, const char *repo, const char *commit, int page, test_connection *c)
{
    char body[4096] = "[", headers[600] = "";
    size_t used = 1;
    int n_match = 0;
    for (int i = 0; i < N_FILES; i++) {
        char hex[65];
        size_t n;
        if (strcmp(files[i].repo, repo) != 0 || strcmp(files[i].commit, commit) != 0) continue;
        int at = n_match++;
        if (at / 2 != page) continue;
        hash_of(&files[i], hex);
        bytes_of(&files[i], &n);
        char lfs[200] = "";
        if (files[i].lfs)
            snprintf(lfs, sizeof lfs, ", \"lfs\": {\"oid\": \"%s\", \"size\": %zu, \"pointerSize\": 130}", hex, n);
        used += (size_t)snprintf(
            body + used, sizeof body - used,
            "%s{\"type\": \"file\", \"oid\": \"%s\", \"size\": %zu, \"path\": \"%s\"%s}",
            at % 2 ? ", {\"type\": \"directory\", \"oid\": \"x\", \"size\": 0, \"path\": \"data\"}, " : "",
            files[i].lfs ? "3333333333333333333333333333333333333333" : hex, n, files[i].path, lfs);
    }
    used += (size_t)snprintf(body + used, sizeof body - used, "]");
    if (n_match > 2 * (page + 1)) {
        snprintf(headers, sizeof headers, "Link: <%s/api/%s/tree/%s?recursive=true&cursor=%d>; rel=\"next\"\r\n",
                 test_server_url(hub->server), repo, commit, page + 1);
    }
    test_reply(c, 200, headers, body, used);
}

/* ---- files ---- */

static const hub_fault *take_fault(fake_hub *hub, const char *target)
{
    for (int i = 0; i < HUB_MAX_FAULTS; i++) {
        hub_fault *f = &hub->fault[i];
        if (f->n <= 0 || !strstr(target, f->part)) continue;
        f->n--;
        return f;
    }
    return NULL;
}

static void decode(const char *text, char *out)
{
    for (; *text; text++) {
        unsigned code;
        if (*text == '%' && sscanf(text + 1, "%2x", &code) == 1) {
            *out++ = (char)code;
            text += 2;
        } else {
            *out++ = *text;
        }
    }
    *out = 0;
}

static void reply_file(const hub_file *f, const test_request *q, const hub_fault *fault, test_connection *c)
{
    size_t n, begin = q->range_begin > 0 ? (size_t)q->range_begin : 0;
    const char *bytes = bytes_of(f, &n);
    hub_fault_kind kind = fault ? fault->kind : (hub_fault_kind)-1;
    char *body = malloc(n + 1), head[1000], etag[100], *at = head;
    if (begin > n) begin = n;
    if (kind == HUB_NO_RANGE) begin = 0;
    memcpy(body, bytes, n);
    if (kind == HUB_DAMAGED) body[n / 2] ^= 1;
    hash_of(f, etag);
    if (kind == HUB_CHANGED) etag[0] = 'X';
    at += sprintf(at, "HTTP/1.1 %s\r\nETag: \"%s\"\r\nConnection: close\r\n", begin ? "206 Part" : "200 OK", etag);
    size_t length = n - begin + (kind == HUB_LONGER ? (size_t)fault->amount : 0);
    if (kind != HUB_ENDLESS) at += sprintf(at, "Content-Length: %zu\r\n", length);
    size_t said = kind == HUB_WRONG_RANGE ? begin / 2 : begin;
    if (begin) at += sprintf(at, "Content-Range: bytes %zu-%zu/%zu\r\n", said, n - 1, n);
    at += sprintf(at, "\r\n");
    test_send(c, head, (size_t)(at - head));
    size_t send = n - begin;
    if ((kind == HUB_CUT || kind == HUB_STALL) && (size_t)fault->amount < send) send = (size_t)fault->amount;
    test_send(c, body + begin, send);
    if (kind == HUB_STALL) test_stall(c, 20);
    if (kind == HUB_ENDLESS) test_send(c, "more", 4);
    free(body);
}

static void find_file(fake_hub *hub, const test_request *q, const hub_fault *fault, const char *path,
                      test_connection *c)
{
    hub->n_file_request++;
    hub->n_part_request += q->range_begin > 0;
    bool redirected = strncmp(q->host, "localhost", 9) == 0;
    hub->n_redirected += redirected;
    snprintf(redirected ? hub->redirected_authorization : hub->file_authorization, sizeof hub->file_authorization, "%s",
             q->authorization);
    for (int i = 0; i < N_FILES; i++) {
        char want[600];
        bool is_model = strncmp(files[i].repo, "models/", 7) == 0;
        snprintf(want, sizeof want, "/%s/resolve/%s/%s", is_model ? files[i].repo + 7 : files[i].repo, files[i].commit,
                 files[i].path);
        if (strcmp(path, want) != 0) continue;
        reply_file(&files[i], q, fault, c);
        return;
    }
    test_reply(c, 404, "", "Entry not found", 15);
}

/* ---- requests ---- */

static void redirect(const char *to, test_connection *c)
{
    char headers[5000];
    snprintf(headers, sizeof headers, "Location: %s\r\n", to);
    test_reply(c, 302, headers, "moved", 5);
}

static void reply_api(fake_hub *hub, const test_request *q, const char *path, test_connection *c)
{
    char repo[200], what[20], revision[200];
    int page = 0;
    const char *cursor = strstr(path, "cursor=");
    if (cursor) page = atoi(cursor + 7);
    if (sscanf(path, "/api/%199[^/]", repo) != 1) return;
    size_t n = strlen(repo);
    if (sscanf(path + 5 + n, "%150[^?]", repo + n) != 1) return;
    char *slash = strstr(repo, "/revision/");
    if (!slash) slash = strstr(repo, "/tree/");
    if (!slash || sscanf(slash + 1, "%19[^/]/%199s", what, revision) != 2) {
        test_reply(c, 404, "", "", 0);
        return;
    }
    *slash = 0;
    bool known = false, is_converted = strcmp(revision, "refs/convert/parquet") == 0;
    for (int i = 0; i < N_FILES; i++) known = known || strcmp(files[i].repo, repo) == 0;
    if (strstr(repo, "gated") && strcmp(q->authorization, "Bearer secret") != 0) known = false;
    if (!known) {
        test_reply(c, 401, "", "Repository Not Found", 20);
    } else if (strcmp(what, "revision") == 0) {
        char body[200];
        bool has = strcmp(revision, "main") == 0 || (is_converted && strstr(repo, "/set"));
        int k = snprintf(body, sizeof body, "{\"id\": \"x\", \"sha\": \"%s\"}",
                         is_converted ? COMMIT_PARQUET : COMMIT_MAIN);
        test_reply(c, has ? 200 : 404, "", body, (size_t)k);
    } else {
        reply_tree(hub, repo, revision, page, c);
    }
}

static void handle(void *arg, const test_request *q, test_connection *c)
{
    fake_hub *hub = arg;
    char path[4096], to[4400];
    hub->n_request++;
    decode(q->target, path);
    const hub_fault *fault = take_fault(hub, path);
    hub_fault_kind kind = fault ? fault->kind : (hub_fault_kind)-1;
    if (kind == HUB_STATUS) {
        test_reply(c, fault->amount, "", "told to", 7);
    } else if (kind == HUB_BUSY) {
        test_reply(c, 429, "Retry-After: 0\r\n", "slow down", 9);
    } else if (kind == HUB_BAD_JSON) {
        test_reply(c, 200, "", "{\"sha\": ", 8);
    } else if (kind == HUB_LOOP) {
        redirect(q->target, c);
    } else if (kind == HUB_REDIRECT) {
        snprintf(to, sizeof to, "https://localhost:%d%s", test_server_port(hub->server), q->target);
        redirect(to, c);
    } else if (strncmp(path, "/api/", 5) == 0) {
        reply_api(hub, q, path, c);
    } else {
        find_file(hub, q, fault, path, c);
    }
}

void fake_hub_start(fake_hub *hub, const char *folder)
{
    for (size_t i = 0; i < sizeof large; i++) large[i] = (char)(i * i / 7 + i / 251);
    hub->server = test_server_start(folder, handle, hub);
}

void fake_hub_stop(fake_hub *hub)
{
    test_server_stop(hub->server);
    hub->server = NULL;
}
