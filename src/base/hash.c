#include "base/hash.h"

#include "base/alloc.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include <xxhash.h>

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

/* ---- XXH3 ---- */

struct ml_xxh3 {
    XXH3_state_t *state; /* of the library's own making: aligned as it wants it */
};

ml_status ml_xxh3_begin(ml_xxh3 **h, ml_error *err)
{
    *h = NULL;
    ml_xxh3 *made = ml_calloc(1, sizeof *made);
    if (!made) return ml_fail_memory(err, sizeof *made, "XXH3");
    made->state = XXH3_createState();
    if (!made->state || XXH3_128bits_reset(made->state) != XXH_OK) {
        ml_xxh3_free(made);
        return ml_fail(err, ML_ENOMEM, "libxxhash could not set up XXH3: out of memory");
    }
    *h = made;
    return ML_OK;
}

/* The library fails only where it is given no state. */
void ml_xxh3_add(ml_xxh3 *h, const void *data, size_t n_bytes)
{
    XXH_errorcode code = XXH3_128bits_update(h->state, data, n_bytes);
    assert(code == XXH_OK);
    (void)code;
}

void ml_xxh3_end(ml_xxh3 *h, char hex[ML_XXH3_HEX])
{
    XXH128_hash_t digest = XXH3_128bits_digest(h->state);
    snprintf(hex, ML_XXH3_HEX, "%016llx%016llx", (unsigned long long)digest.high64, (unsigned long long)digest.low64);
    ml_xxh3_free(h);
}

void ml_xxh3_free(ml_xxh3 *h)
{
    if (!h) return;
    XXH3_freeState(h->state);
    ml_free(h);
}

/* ---- files ---- */

typedef void (*add_fn)(void *hash, const void *data, size_t n_bytes);

static void add_sha256(void *hash, const void *data, size_t n_bytes)
{
    ml_sha256_add(hash, data, n_bytes);
}

static void add_xxh3(void *hash, const void *data, size_t n_bytes)
{
    ml_xxh3_add(hash, data, n_bytes);
}

/* Read, not mapped: a file that shrinks meanwhile gives another hash instead of a signal. */
static ml_status add_chunks(int fd, const char *path, add_fn add, void *hash, ml_error *err)
{
    enum { CHUNK_BYTES = 1 << 18 };
    uint8_t *chunk = ml_alloc(CHUNK_BYTES);
    if (!chunk) return ml_fail_memory(err, CHUNK_BYTES, path);
    ml_status status = ML_OK;
    for (;;) {
        ssize_t n = read(fd, chunk, CHUNK_BYTES);
        if (n == 0) break;
        if (n > 0) {
            add(hash, chunk, (size_t)n);
        } else if (errno != EINTR) {
            status = ml_fail_errno(err, "%s: cannot be read", path);
            break;
        }
    }
    ml_free(chunk);
    return status;
}

static ml_status add_file(const char *path, add_fn add, void *hash, ml_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return ml_fail_errno(err, "%s: cannot be opened", path);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    ml_status status = add_chunks(fd, path, add, hash, err);
    close(fd);
    return status;
}

ml_status ml_sha256_file(const char *path, char hex[ML_SHA256_HEX], ml_error *err)
{
    ml_sha256 *h;
    uint8_t digest[ML_SHA256_BYTES];
    ML_TRY(ml_sha256_begin(&h, err));
    ml_status status = add_file(path, add_sha256, h, err);
    if (status == ML_OK) {
        ml_sha256_end(h, digest);
        ml_sha256_to_hex(digest, hex);
    } else {
        ml_sha256_free(h);
    }
    return status;
}

ml_status ml_xxh3_file(const char *path, char hex[ML_XXH3_HEX], ml_error *err)
{
    ml_xxh3 *h;
    ML_TRY(ml_xxh3_begin(&h, err));
    ml_status status = add_file(path, add_xxh3, h, err);
    if (status == ML_OK)
        ml_xxh3_end(h, hex);
    else
        ml_xxh3_free(h);
    return status;
}
