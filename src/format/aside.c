#include "format/aside.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* *lock: -1, or what to close when the folder has its name or is gone. */
static ml_status write_folder(const char *aside, uint64_t expect_bytes, ml_aside_fill fill, void *arg, int *lock,
                              ml_error *err)
{
    ml_manifest *manifest = NULL;
    ml_status status = ml_manifest_begin(&manifest, aside, expect_bytes, err);
    *lock = status == ML_OK ? open(aside, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (*lock >= 0) (void)flock(*lock, LOCK_EX | LOCK_NB); /* somebody writes it (format/leftovers.h) */
    if (status == ML_OK) status = fill(arg, manifest, err);
    if (status == ML_OK) status = ml_manifest_commit(manifest, err);
    ml_manifest_free(manifest);
    return status;
}

static ml_status put_in_place(const char *aside, const char *path, ml_error *err)
{
    char parent[ML_PATH_MAX];
    ML_TRY(ml_path_parent(parent, path, err));
    if (rename(aside, path) != 0) return ml_fail_errno(err, "%s: cannot be renamed to %s", aside, path);
    return ml_dir_sync(parent, err);
}

ml_status ml_aside_write(const char *path, uint64_t expect_bytes, ml_aside_fill fill, void *arg, ml_error *err)
{
    char aside[ML_PATH_MAX];
    ml_error ignored; /* the first failure is the one to tell */
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    int n = snprintf(aside, sizeof aside, "%.*s.tmp.%ld", (int)length, path, (long)getpid());
    if (n < 0 || n >= ML_PATH_MAX) return ml_fail(err, ML_EINVAL, "%.300s: the path is too long", path);
    int lock;
    ml_status status = write_folder(aside, expect_bytes, fill, arg, &lock, err);
    if (status == ML_OK) status = put_in_place(aside, path, err);
    if (status != ML_OK) (void)ml_dir_remove(aside, &ignored);
    if (lock >= 0) close(lock);
    return status;
}
