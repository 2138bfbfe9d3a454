#include "base/hash.h"

#include "base/alloc.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <unistd.h>

struct ml_sha256 {
    EVP_MD_CTX *context;
};

/* Looked up once: libcrypto takes a lock for it, and many short texts are hashed by many threads. */
static EVP_MD *algorithm;

static void find_algorithm(void)
{
    algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
}

ml_status ml_sha256_begin(ml_sha256 **h, ml_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_algorithm);
    *h = NULL;
    ml_sha256 *made = ml_calloc(1, sizeof *made);
    if (!made) return ml_fail_memory(err, sizeof *made, "SHA-256");
    made->context = EVP_MD_CTX_new();
    if (!made->context || !algorithm || EVP_DigestInit_ex(made->context, algorithm, NULL) != 1) {
        ml_sha256_free(made);
        return ml_fail(err, ML_ENOMEM,
                       "libcrypto could not set up SHA-256 (out of memory, or disabled in its settings)");
    }
    *h = made;
    return ML_OK;
}

/* Once set up, libcrypto's SHA-256 fails only when it is used after the end: a programmer's mistake. */
void ml_sha256_add(ml_sha256 *h, const void *data, size_t n_bytes)
{
    int ok = EVP_DigestUpdate(h->context, data, n_bytes);
    assert(ok == 1);
    (void)ok;
}

static void close_digest(ml_sha256 *h, uint8_t digest[ML_SHA256_BYTES])
{
    unsigned int n_bytes = 0;
    int ok = EVP_DigestFinal_ex(h->context, digest, &n_bytes);
    assert(ok == 1 && n_bytes == ML_SHA256_BYTES);
    (void)ok;
}

void ml_sha256_finish(ml_sha256 *h, uint8_t digest[ML_SHA256_BYTES])
{
    close_digest(h, digest);
    int ok = EVP_DigestInit_ex(h->context, NULL, NULL); /* the same algorithm: nothing is looked up or allocated */
    assert(ok == 1);
    (void)ok;
}

void ml_sha256_end(ml_sha256 *h, uint8_t digest[ML_SHA256_BYTES])
{
    close_digest(h, digest);
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
