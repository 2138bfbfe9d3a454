#include "base/hash.h"

#include "base/alloc.h"
#include "base/cpu.h"
#include "base/sha256_blocks.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

struct ml_sha256 {
    EVP_MD_CTX *context; /* NULL: the chain is used */
    ml_sha256_chain chain;
    uint64_t n_bytes;
    uint8_t tail[ML_SHA256_TAIL]; /* n_bytes % ML_SHA256_BLOCK bytes that are no block yet */
};

/* ---- libcrypto ---- */

/* Looked up once: libcrypto takes a lock for it, and many short texts are hashed by many threads. */
static EVP_MD *algorithm;

static void find_algorithm(void)
{
    algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
}

static ml_status begin_library(ml_sha256 *h, ml_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_algorithm);
    h->context = EVP_MD_CTX_new();
    if (h->context && algorithm && EVP_DigestInit_ex(h->context, algorithm, NULL) == 1) return ML_OK;
    return ml_fail(err, ML_ENOMEM, "libcrypto could not set up SHA-256 (out of memory, or disabled in its settings)");
}

/* Once set up, libcrypto's SHA-256 fails only when it is used after the end: a programmer's mistake. */
static void add_library(ml_sha256 *h, const void *data, size_t n_bytes)
{
    int ok = EVP_DigestUpdate(h->context, data, n_bytes);
    assert(ok == 1);
    (void)ok;
}

static void end_library(ml_sha256 *h, uint8_t digest[ML_SHA256_BYTES])
{
    unsigned int n_bytes = 0;
    int ok = EVP_DigestFinal_ex(h->context, digest, &n_bytes);
    assert(ok == 1 && n_bytes == ML_SHA256_BYTES);
    (void)ok;
}

/* ---- SHA instructions ---- */

#if defined(__x86_64__)

/* Bytes until the tail is a block, which is then hashed, or all there are: how many were taken. */
static size_t fill_tail(ml_sha256 *h, const void *data, size_t n_bytes)
{
    size_t n = h->n_bytes % ML_SHA256_BLOCK, room = n ? ML_SHA256_BLOCK - n : 0;
    size_t taken = n_bytes < room ? n_bytes : room;
    if (taken) memcpy(h->tail + n, data, taken);
    h->n_bytes += taken;
    if (taken && taken == room) {
        h->chain.block = h->tail;
        ml_sha256_add_blocks_shani(&h->chain, 1);
    }
    return taken;
}

static void add_chain(ml_sha256 *h, const uint8_t *data, size_t n_bytes)
{
    size_t at = fill_tail(h, data, n_bytes), n_blocks = (n_bytes - at) / ML_SHA256_BLOCK;
    h->chain.block = data + at;
    ml_sha256_add_blocks_shani(&h->chain, n_blocks);
    at += n_blocks * ML_SHA256_BLOCK;
    if (at < n_bytes) memcpy(h->tail, data + at, n_bytes - at);
    h->n_bytes += n_blocks * ML_SHA256_BLOCK + (n_bytes - at);
}

static void end_chain(ml_sha256 *h, uint8_t digest[ML_SHA256_BYTES])
{
    size_t n_blocks = ml_sha256_pad(h->tail, h->n_bytes % ML_SHA256_BLOCK, h->n_bytes);
    h->chain.block = h->tail;
    ml_sha256_add_blocks_shani(&h->chain, n_blocks);
    ml_sha256_chain_digest(&h->chain, digest);
}

/* The whole blocks that both have. */
static void add_both(ml_sha256 *a, const uint8_t **a_data, size_t *n_a, ml_sha256 *b, const uint8_t **b_data,
                     size_t *n_b)
{
    size_t a_taken = fill_tail(a, *a_data, *n_a), b_taken = fill_tail(b, *b_data, *n_b);
    *n_a -= a_taken;
    *n_b -= b_taken;
    size_t n_blocks = (*n_a < *n_b ? *n_a : *n_b) / ML_SHA256_BLOCK, n_bytes = n_blocks * ML_SHA256_BLOCK;
    a->chain.block = *a_data + a_taken;
    b->chain.block = *b_data + b_taken;
    ml_sha256_add_two_shani(&a->chain, &b->chain, n_blocks);
    a->n_bytes += n_bytes;
    b->n_bytes += n_bytes;
    *a_data += a_taken + n_bytes;
    *b_data += b_taken + n_bytes;
    *n_a -= n_bytes;
    *n_b -= n_bytes;
}

#else

static void add_chain(ml_sha256 *h, const uint8_t *data, size_t n_bytes)
{
    (void)h, (void)data, (void)n_bytes;
}

static void end_chain(ml_sha256 *h, uint8_t digest[ML_SHA256_BYTES])
{
    (void)h, (void)digest;
}

static void add_both(ml_sha256 *a, const uint8_t **a_data, size_t *n_a, ml_sha256 *b, const uint8_t **b_data,
                     size_t *n_b)
{
    (void)a, (void)a_data, (void)n_a, (void)b, (void)b_data, (void)n_b;
}

#endif

/* ---- either ---- */

ml_status ml_sha256_begin(ml_sha256 **h, ml_error *err)
{
    *h = NULL;
    ml_sha256 *made = ml_calloc(1, sizeof *made);
    if (!made) return ml_fail_memory(err, sizeof *made, "SHA-256");
    ml_sha256_chain_begin(&made->chain);
    ml_status status = ml_cpu_has_sha() ? ML_OK : begin_library(made, err);
    if (status == ML_OK)
        *h = made;
    else
        ml_sha256_free(made);
    return status;
}

void ml_sha256_add(ml_sha256 *h, const void *data, size_t n_bytes)
{
    if (h->context)
        add_library(h, data, n_bytes);
    else
        add_chain(h, data, n_bytes);
}

void ml_sha256_add_two(ml_sha256 *a, const void *a_data, size_t n_a, ml_sha256 *b, const void *b_data, size_t n_b)
{
    const uint8_t *a_at = a_data, *b_at = b_data;
    if (!a->context && !b->context) add_both(a, &a_at, &n_a, b, &b_at, &n_b);
    ml_sha256_add(a, a_at, n_a);
    ml_sha256_add(b, b_at, n_b);
}

void ml_sha256_end(ml_sha256 *h, uint8_t digest[ML_SHA256_BYTES])
{
    if (h->context)
        end_library(h, digest);
    else
        end_chain(h, digest);
    ml_sha256_free(h);
}

void ml_sha256_free(ml_sha256 *h)
{
    if (!h) return;
    EVP_MD_CTX_free(h->context);
    ml_free(h);
}

void ml_sha256_to_hex(const uint8_t digest[ML_SHA256_BYTES], char hex[ML_SHA256_HEX])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < ML_SHA256_BYTES; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[2 * ML_SHA256_BYTES] = 0;
}

/* Read, not mapped: a file that shrinks meanwhile gives another hash instead of a signal. */
static ml_status add_file(ml_sha256 *h, int fd, const char *path, ml_error *err)
{
    enum { CHUNK_BYTES = 1 << 18 };
    uint8_t *chunk = ml_alloc(CHUNK_BYTES);
    if (!chunk) return ml_fail_memory(err, CHUNK_BYTES, path);
    ml_status status = ML_OK;
    for (;;) {
        ssize_t n = read(fd, chunk, CHUNK_BYTES);
        if (n == 0) break;
        if (n > 0) {
            ml_sha256_add(h, chunk, (size_t)n);
        } else if (errno != EINTR) {
            status = ml_fail_errno(err, "%s: cannot be read", path);
            break;
        }
    }
    ml_free(chunk);
    return status;
}

ml_status ml_sha256_file(const char *path, char hex[ML_SHA256_HEX], ml_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return ml_fail_errno(err, "%s: cannot be opened", path);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    ml_sha256 *h;
    ml_status status = ml_sha256_begin(&h, err);
    if (status == ML_OK) status = add_file(h, fd, path, err);
    close(fd);
    if (status == ML_OK) {
        uint8_t digest[ML_SHA256_BYTES];
        ml_sha256_end(h, digest);
        ml_sha256_to_hex(digest, hex);
    } else {
        ml_sha256_free(h);
    }
    return status;
}
