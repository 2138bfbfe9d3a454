#include "format/leftovers.h"

#include "base/file.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* How much of `name` stands before "<infix><digits>" at its end, and the digits; 0: it does not end so. */
static size_t before_number(const char *name, size_t n, const char *infix, const char **digits)
{
    size_t end = n, n_infix = strlen(infix);
    while (n && name[n - 1] >= '0' && name[n - 1] <= '9') n--;
    if (n == end || n <= n_infix || memcmp(name + n - n_infix, infix, n_infix)) return 0;
    *digits = name + n;
    return n - n_infix;
}

/* Whether the first n bytes of `name` are `base`, or "stem-00001-of-00002.gguf" where that is "stem.gguf" (or "stem",
 * as a set's stem may be without the ending). */
static bool is_of(const char *base, const char *name, size_t n)
{
    static const char gguf[] = ".gguf";
    const size_t n_end = sizeof gguf - 1;
    const char *digits;
    size_t n_base = strlen(base);
    if (n == n_base && !memcmp(name, base, n)) return true;
    if (ml_text_ends_with(base, gguf)) n_base -= n_end;
    if (n <= n_end || memcmp(name + n - n_end, gguf, n_end)) return false;
    n = before_number(name, n - n_end, "-of-", &digits);
    n = n ? before_number(name, n, "-", &digits) : 0;
    return n && n == n_base && !memcmp(name, base, n);
}

/* Of a process that is no more. */
static bool is_left(const char *base, const char *name)
{
    const char *digits;
    size_t n = before_number(name, strlen(name), ".tmp.", &digits);
    if (!n || !is_of(base, name, n)) return false;
    errno = 0;
    long pid = strtol(digits, NULL, 10);
    return errno == 0 && pid > 0 && (pid_t)pid == pid && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

static uint64_t measure(const char *path)
{
    struct stat st;
    char **names, inside[ML_PATH_MAX];
    size_t n;
    ml_error ignored;
    if (lstat(path, &st) != 0) return 0;
    if (!S_ISDIR(st.st_mode)) return (uint64_t)st.st_size;
    uint64_t n_bytes = 0;
    if (ml_dir_list(path, &names, &n, &ignored) != ML_OK) return 0;
    for (size_t i = 0; i < n; i++) {
        if (ml_path_join(inside, path, names[i], &ignored) == ML_OK) n_bytes += measure(inside);
    }
    ml_dir_list_free(names, n);
    return n_bytes;
}

static void remove_one(const char *path, ml_leftovers *out)
{
    ml_error ignored;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0) return;
    bool ours = fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
    if (ours && flock(fd, LOCK_EX | LOCK_NB) == 0) {
        uint64_t n_bytes = measure(path);
        if (ml_dir_remove(path, &ignored) == ML_OK) {
            out->n++;
            out->n_bytes += n_bytes;
        }
    }
    close(fd);
}

ml_status ml_leftovers_remove(const char *path, ml_leftovers *out, ml_error *err)
{
    char whole[ML_PATH_MAX], folder[ML_PATH_MAX], found[ML_PATH_MAX], **names;
    size_t n, length = strlen(path);
    ml_error ignored;
    *out = (ml_leftovers){ 0 };
    while (length > 1 && path[length - 1] == '/') length--;
    if (length >= sizeof whole) return ML_OK; /* writing it will fail */
    memcpy(whole, path, length);
    whole[length] = 0;
    ML_TRY(ml_path_parent(folder, whole, err));
    const char *slash = strrchr(whole, '/'), *base = slash ? slash + 1 : whole;
    ml_status status = ml_dir_list(folder, &names, &n, err);
    if (status != ML_OK) return status == ML_ENOMEM ? status : ML_OK;
    for (size_t i = 0; i < n; i++) {
        if (is_left(base, names[i]) && ml_path_join(found, folder, names[i], &ignored) == ML_OK) remove_one(found, out);
    }
    ml_dir_list_free(names, n);
    return ML_OK;
}
