#include "train/appender.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

ml_status ml_appender_open(ml_appender *a, const char *path, ml_error *err)
{
    a->fd = -1;
    if (snprintf(a->path, sizeof a->path, "%s", path) >= ML_PATH_MAX) {
        return ml_fail(err, ML_EINVAL, "%s: the path is too long", path);
    }
    a->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    return a->fd >= 0 ? ML_OK : ml_fail_errno(err, "%s: cannot be opened for appending", path);
}

ml_status ml_appender_write(ml_appender *a, const void *data, size_t n_bytes, ml_error *err)
{
    struct stat st;
    if (fstat(a->fd, &st) != 0) return ml_fail_errno(err, "%s: cannot be examined", a->path);
    const uint8_t *p = data;
    size_t left = n_bytes;
    while (left) {
        ssize_t n = write(a->fd, p, left);
        if (n >= 0) {
            p += n;
            left -= (size_t)n;
        } else if (errno != EINTR) {
            ml_fail_errno(err, "%s: %zu bytes could not be appended", a->path, n_bytes);
            if (left < n_bytes && ftruncate(a->fd, st.st_size) != 0) {
                return ml_fail_prefix(err, "the last record is torn");
            }
            return ML_EIO;
        }
    }
    return ML_OK;
}

ml_status ml_appender_sync(ml_appender *a, ml_error *err)
{
    return fsync(a->fd) == 0 ? ML_OK : ml_fail_errno(err, "%s: cannot be synced", a->path);
}

void ml_appender_close(ml_appender *a)
{
    if (a->fd >= 0) close(a->fd);
    a->fd = -1;
}
