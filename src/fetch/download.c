#include "fetch/download.h"

#include "base/alloc.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK_BYTES = 1 << 18, MAX_HASH_BYTES = 32 };

typedef struct {
    const ml_hub_file *file;
    char path[ML_PATH_MAX], part[ML_PATH_MAX];
    int fd;
    EVP_MD_CTX *hash;
    uint64_t n_bytes; /* in the part */
    ml_download_fn tell;
    void *arg;
} download;

/* ---- hashes ---- */

/* SHA-256 of the bytes, or SHA-1 of "blob <size>\0" and the bytes, as git names what it stores. */
static ml_status begin_hash(download *d, ml_error *err)
{
    char head[40];
    bool is_git = strlen(d->file->oid) == 40;
    if (!d->hash) d->hash = EVP_MD_CTX_new();
    if (!d->hash || EVP_DigestInit_ex(d->hash, is_git ? EVP_sha1() : EVP_sha256(), NULL) != 1)
        return ml_fail_memory(err, 0, "a hash");
    int n = snprintf(head, sizeof head, "blob %llu", (unsigned long long)d->file->n_bytes);
    if (is_git) EVP_DigestUpdate(d->hash, head, (size_t)n + 1);
    return ML_OK;
}

/* Whether what was hashed is the file; its hash in `found`. */
static bool hash_is_right(download *d, char found[2 * MAX_HASH_BYTES + 1])
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    EVP_DigestFinal_ex(d->hash, digest, &n);
    for (unsigned i = 0; i < n && i < MAX_HASH_BYTES; i++) snprintf(found + 2 * i, 3, "%02x", digest[i]);
    return strcmp(found, d->file->oid) == 0;
}

/* Hash what an open file holds; *n_bytes becomes how much that was. */
static ml_status hash_file(download *d, int fd, const char *path, uint64_t *n_bytes, ml_error *err)
{
    uint8_t *block = ml_alloc(BLOCK_BYTES);
    if (!block) return ml_fail_memory(err, BLOCK_BYTES, "reading a file");
    ml_status status = begin_hash(d, err);
    ssize_t n = 1;
    *n_bytes = 0;
    while (status == ML_OK && n > 0) {
        n = read(fd, block, BLOCK_BYTES);
        if (n < 0) status = ml_fail_errno(err, "%s: cannot be read", path);
        if (n <= 0) break;
        EVP_DigestUpdate(d->hash, block, (size_t)n);
        *n_bytes += (uint64_t)n;
    }
    ml_free(block);
    return status;
}

/* ---- what is there ---- */

static ml_status is_there(download *d, bool *exists, bool *right, ml_error *err)
{
    char found[2 * MAX_HASH_BYTES + 1];
    uint64_t n_bytes;
    struct stat st;
    *exists = *right = false;
    int fd = open(d->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return ML_OK;
    if (fd < 0) return ml_fail_errno(err, "%s: cannot be opened", d->path);
    *exists = true;
    ml_status status = ML_OK;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == d->file->n_bytes) {
        status = hash_file(d, fd, d->path, &n_bytes, err);
        *right = status == ML_OK && hash_is_right(d, found);
    }
    close(fd);
    return status;
}

/* Take up what an earlier call left. */
static ml_status open_part(download *d, ml_error *err)
{
    d->fd = open(d->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (d->fd < 0) return ml_fail_errno(err, "%s: cannot be created", d->part);
    ML_TRY(hash_file(d, d->fd, d->part, &d->n_bytes, err));
    return ML_OK;
}

/* ---- bytes that come ---- */

static ml_status take(void *arg, const void *data, size_t n, ml_error *err)
{
    download *d = arg;
    const char *at = data;
    EVP_DigestUpdate(d->hash, data, n);
    while (n) {
        ssize_t k = write(d->fd, at, n);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return ml_fail_errno(err, "%s: %zu bytes could not be written", d->part, n);
        at += k;
        n -= (size_t)k;
        d->n_bytes += (uint64_t)k;
    }
    d->tell(d->arg, d->n_bytes);
    return ML_OK;
}

static ml_status restart(void *arg, ml_error *err)
{
    download *d = arg;
    if (ftruncate(d->fd, 0) != 0 || lseek(d->fd, 0, SEEK_SET) != 0)
        return ml_fail_errno(err, "%s: cannot be emptied", d->part);
    d->n_bytes = 0;
    d->tell(d->arg, 0);
    return begin_hash(d, err);
}

/* Get what is missing and see whether it is right. */
static ml_status complete(download *d, ml_http *http, const char *url, bool *right, char found[2 * MAX_HASH_BYTES + 1],
                          ml_error *err)
{
    if (d->n_bytes > d->file->n_bytes) ML_TRY(restart(d, err));
    d->tell(d->arg, d->n_bytes);
    ml_http_sink sink = { .arg = d, .offset = d->n_bytes, .size = d->file->n_bytes, .take = take, .restart = restart };
    ML_TRY(ml_http_stream(http, url, &sink, err));
    *right = hash_is_right(d, found);
    return ML_OK;
}

static ml_status put_in_place(const download *d, const char *folder, ml_error *err)
{
    if (fsync(d->fd) != 0) return ml_fail_errno(err, "%s: cannot be synced", d->part);
    if (rename(d->part, d->path) != 0) return ml_fail_errno(err, "%s: cannot be put in place", d->path);
    char parent[ML_PATH_MAX];
    snprintf(parent, sizeof parent, "%s", d->path);
    char *slash = strrchr(parent, '/');
    if (slash) *slash = 0;
    return ml_dir_sync(slash ? parent : folder, err);
}

static ml_status get_file(download *d, ml_http *http, const char *url, const char *folder, ml_error *err)
{
    char found[2 * MAX_HASH_BYTES + 1] = "";
    bool right = false;
    ML_TRY(open_part(d, err));
    /* a second time from the begin, since what was left of an earlier call may have been damaged */
    for (int attempt = 0; attempt < 2 && !right; attempt++) {
        if (attempt) ML_TRY(restart(d, err));
        ML_TRY(complete(d, http, url, &right, found, err));
    }
    if (right) return put_in_place(d, folder, err);
    unlink(d->part);
    return ml_fail(err, ML_EFORMAT, "%s: expected bytes with the hash %s, the server twice sent others (%s)", url,
                   d->file->oid, found);
}

static ml_status make_parents(const char *folder, const char *path, ml_error *err)
{
    char parent[ML_PATH_MAX];
    ML_TRY(ml_path_join(parent, folder, path, err));
    char *slash = strrchr(parent, '/');
    if (slash) *slash = 0;
    return ml_dir_make(parent, err);
}

ml_status ml_download(ml_http *http, const char *url, const ml_hub_file *file, const char *folder, ml_download_fn tell,
                      void *arg, ml_download_result *result, ml_error *err)
{
    download d = { .file = file, .fd = -1, .tell = tell, .arg = arg };
    bool exists, right;
    ml_status status;
    ML_TRY(ml_path_join(d.path, folder, file->path, err));
    int n = snprintf(d.part, sizeof d.part, "%s.%.12s.part", d.path, file->oid);
    if (n < 0 || (size_t)n >= sizeof d.part) return ml_fail(err, ML_EINVAL, "%s: the path is too long", d.path);
    ML_TRY_GOTO(is_there(&d, &exists, &right, err));
    *result = right ? ML_WAS_THERE : exists ? ML_REPLACED : ML_DOWNLOADED;
    if (right) {
        tell(arg, file->n_bytes);
        goto done;
    }
    ML_TRY_GOTO(make_parents(folder, file->path, err));
    status = get_file(&d, http, url, folder, err);
done:
    if (d.fd >= 0) close(d.fd);
    EVP_MD_CTX_free(d.hash);
    return status;
}
