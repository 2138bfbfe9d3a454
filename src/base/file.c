#include "base/file.h"

#include "base/alloc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* A file to read, and no pipe, whose open would wait for a writer, nor a device, which has no size. */
static ml_status open_file(const char *path, int *fd, struct stat *st, ml_error *err)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) return ml_fail_errno(err, "%s: cannot be opened", path);
    ml_status status = ML_OK;
    if (fstat(*fd, st) != 0) {
        status = ml_fail_errno(err, "%s: cannot be examined", path);
    } else if (!S_ISREG(st->st_mode)) {
        status = ml_fail(err, ML_EINVAL, "%s: is a %s, expected a file", path,
                         S_ISDIR(st->st_mode) ? "folder" : "device or pipe");
    }
    if (status != ML_OK) close(*fd);
    return status;
}

/* What a mapping lacks is address space: its memory is the file's. */
static ml_status fail_map(const char *path, uint64_t n_bytes, ml_error *err)
{
    int saved = errno;
    return ml_fail(err, ML_EIO, "%s: its %.2f GB cannot be mapped: %s%s", path, (double)n_bytes / 1e9, strerror(saved),
                   saved == ENOMEM   ? ": raise the limit of this process's address space (ulimit -v)"
                   : saved == ENODEV ? ": copy it to a file system whose files can be mapped"
                                     : "");
}

ml_status ml_map_open(const char *path, ml_map *map, ml_error *err)
{
    int fd;
    struct stat st;
    *map = (ml_map){ 0 };
    ML_TRY(open_file(path, &fd, &st, err));
    ml_status status = ML_OK;
    if (st.st_size > 0) {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            status = fail_map(path, (uint64_t)st.st_size, err);
        } else {
            map->data = data;
            map->size = (size_t)st.st_size;
        }
    }
    close(fd);
    return status;
}

ml_status ml_file_read_head(const char *path, void *out, size_t n_bytes, size_t *n_read, ml_error *err)
{
    int fd;
    struct stat st;
    *n_read = 0;
    ML_TRY(open_file(path, &fd, &st, err));
    ml_status status = ML_OK;
    while (*n_read < n_bytes) {
        ssize_t n = read(fd, (char *)out + *n_read, n_bytes - *n_read);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) status = ml_fail_errno(err, "%s: cannot be read", path);
        if (n <= 0) break;
        *n_read += (size_t)n;
    }
    close(fd);
    return status;
}

void ml_map_close(ml_map *map)
{
    if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (ml_map){ 0 };
}

void ml_map_drop(const void *data, size_t n_bytes)
{
    /* Whole pages only: the ends are shared with neighbours. */
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = ((uintptr_t)data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)data + n_bytes) / page * page;
    if (begin < end) (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

ml_status ml_file_read(const char *path, char **text, size_t *size, ml_error *err)
{
    ml_map map;
    ML_TRY(ml_map_open(path, &map, err));
    char *copy = ml_alloc(map.size + 1);
    if (!copy) {
        ml_status status = ml_fail_memory(err, map.size + 1, path);
        ml_map_close(&map);
        return status;
    }
    if (map.size) memcpy(copy, map.data, map.size);
    copy[map.size] = 0;
    *text = copy;
    if (size) *size = map.size;
    ml_map_close(&map);
    return ML_OK;
}

static ml_status refuse_dash(const char *path, ml_error *err)
{
    if (strcmp(path, "-") != 0) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "-: expected a name: it appears only when all is written, so it cannot be standard output (./- is "
                   "one called -)");
}

/* Where the file goes: a link stays, and its target is replaced.  Only a file can be: as root, renaming something to
 * /dev/null would take the device's place. */
static ml_status find_target(const char *path, char out[ML_PATH_MAX], ml_error *err)
{
    struct stat st;
    ML_TRY(refuse_dash(path, err));
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        return ml_fail(err, ML_EINVAL, "%s: expected a file, or a new name, found %s", path,
                       S_ISDIR(st.st_mode) ? "a folder" : "a device or pipe, which cannot be replaced");
    }
    bool is_link = lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
    char *real = is_link ? realpath(path, NULL) : NULL;
    int n = snprintf(out, ML_PATH_MAX, "%s", real ? real : path);
    free(real);
    if (n >= 0 && n < ML_PATH_MAX) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: the path is too long", path);
}

ml_status ml_file_begin(ml_file_writer *w, const char *path, ml_error *err)
{
    *w = (ml_file_writer){ 0 };
    ML_TRY(find_target(path, w->path, err));
    int n = snprintf(w->tmp, sizeof w->tmp, "%s.tmp.%ld", w->path, (long)getpid());
    if (n < 0 || n >= ML_PATH_MAX) return ml_fail(err, ML_EINVAL, "%s: the path is too long", path);
    w->file = fopen(w->tmp, "wbe");
    if (!w->file) return ml_fail_errno(err, "%s: cannot be created", w->path);
    (void)flock(fileno(w->file), LOCK_EX | LOCK_NB); /* not every file system can; closing it unlocks */
    return ML_OK;
}

ml_status ml_file_write(ml_file_writer *w, const void *data, size_t n_bytes, ml_error *err)
{
    if (n_bytes && fwrite(data, 1, n_bytes, w->file) != n_bytes) {
        return ml_fail_errno(err, "%s: %zu bytes could not be written", w->path, n_bytes);
    }
    return ML_OK;
}

ml_status ml_file_printf(ml_file_writer *w, ml_error *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vfprintf(w->file, format, args);
    va_end(args);
    if (n < 0) return ml_fail_errno(err, "%s: could not be written", w->path);
    return ML_OK;
}

static ml_status sync_parent(const char *path, ml_error *err)
{
    char parent[ML_PATH_MAX];
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (!slash) return ml_dir_sync(".", err);
    slash[slash == parent ? 1 : 0] = 0;
    return ml_dir_sync(parent, err);
}

ml_status ml_file_commit(ml_file_writer *w, ml_error *err)
{
    bool written = fflush(w->file) == 0 && fsync(fileno(w->file)) == 0;
    int saved = errno, lock = fcntl(fileno(w->file), F_DUPFD_CLOEXEC, 0); /* held until the file has its name */
    bool closed = fclose(w->file) == 0;
    if (written && !closed) saved = errno;
    w->file = NULL;
    bool placed = written && closed && rename(w->tmp, w->path) == 0;
    if (written && closed && !placed) saved = errno;
    if (!placed) unlink(w->tmp);
    if (lock >= 0) close(lock);
    errno = saved;
    if (!written || !closed) return ml_fail_errno(err, "%s: could not be written", w->path);
    if (!placed) return ml_fail_errno(err, "%s: could not be put in place", w->path);
    return sync_parent(w->path, err);
}

ml_status ml_file_check(const char *path, ml_error *err)
{
    ml_file_writer w;
    ML_TRY(ml_file_begin(&w, path, err));
    ml_file_abandon(&w);
    return ML_OK;
}

void ml_file_abandon(ml_file_writer *w)
{
    if (!w->file) return;
    fclose(w->file);
    w->file = NULL;
    unlink(w->tmp);
}

ml_status ml_file_replace(const char *path, const void *data, size_t n_bytes, ml_error *err)
{
    ml_file_writer w;
    ML_TRY(ml_file_begin(&w, path, err));
    ml_status status = ml_file_write(&w, data, n_bytes, err);
    if (status == ML_OK) status = ml_file_commit(&w, err);
    ml_file_abandon(&w);
    return status;
}

ml_status ml_path_join(char *out, const char *folder, const char *name, ml_error *err)
{
    int n = snprintf(out, ML_PATH_MAX, "%s/%s", folder, name);
    if (n < 0 || n >= ML_PATH_MAX) return ml_fail(err, ML_EINVAL, "%s/%s: the path is too long", folder, name);
    return ML_OK;
}

ml_status ml_path_parent(char *out, const char *path, ml_error *err)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n >= ML_PATH_MAX) return ml_fail(err, ML_EINVAL, "%s: the path is too long", path);
    memcpy(out, slash ? path : ".", slash ? n : 1);
    out[slash ? n : 1] = 0;
    if (slash && n == 0) memcpy(out, "/", 2);
    return ML_OK;
}

bool ml_path_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool ml_path_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

ml_status ml_dir_make(const char *path, ml_error *err)
{
    char partial[ML_PATH_MAX];
    ML_TRY(refuse_dash(path, err));
    int n = snprintf(partial, sizeof partial, "%s", path);
    if (n <= 0 || n >= ML_PATH_MAX) return ml_fail(err, ML_EINVAL, "%s: the path is empty or too long", path);
    for (char *p = partial + 1;; p++) {
        if (*p != '/' && *p != 0) continue;
        char end = *p;
        *p = 0;
        if (mkdir(partial, 0777) != 0 && !(errno == EEXIST && ml_path_is_dir(partial))) {
            return ml_fail_errno(err, "%s: the folder cannot be made", partial);
        }
        if (!end) return ML_OK;
        *p = end;
    }
}

ml_status ml_dir_remove(const char *path, ml_error *err)
{
    struct stat st;
    if (lstat(path, &st) != 0) {
        return errno == ENOENT ? ML_OK : ml_fail_errno(err, "%s: cannot be examined", path);
    }
    if (!S_ISDIR(st.st_mode)) {
        return unlink(path) == 0 ? ML_OK : ml_fail_errno(err, "%s: cannot be removed", path);
    }
    char **names;
    size_t n_names;
    ML_TRY(ml_dir_list(path, &names, &n_names, err));
    ml_status status = ML_OK;
    for (size_t i = 0; i < n_names && status == ML_OK; i++) {
        char child[ML_PATH_MAX];
        status = ml_path_join(child, path, names[i], err);
        if (status == ML_OK) status = ml_dir_remove(child, err);
    }
    ml_dir_list_free(names, n_names);
    if (status == ML_OK && rmdir(path) != 0) status = ml_fail_errno(err, "%s: cannot be removed", path);
    return status;
}

ml_status ml_dir_sync(const char *path, ml_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return ml_fail_errno(err, "%s: the folder cannot be opened", path);
    /* Some file systems cannot sync a folder and say EINVAL: the rename is then as durable as it gets. */
    int failed = fsync(fd) != 0 && errno != EINVAL;
    if (failed) ml_fail_errno(err, "%s: the folder cannot be synced", path);
    close(fd);
    return failed ? ML_EIO : ML_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

ml_status ml_dir_list(const char *path, char ***names, size_t *n_names, ml_error *err)
{
    *names = NULL;
    *n_names = 0;
    DIR *dir = opendir(path);
    if (!dir) return ml_fail_errno(err, "%s: the folder cannot be opened", path);
    ml_status status = ML_OK;
    size_t capacity = 0;
    struct dirent *entry;
    while (status == ML_OK && (entry = readdir(dir))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        status = ml_grow((void **)names, &capacity, *n_names + 1, sizeof **names, err);
        if (status != ML_OK) break;
        char *name = ml_strdup(entry->d_name);
        if (!name)
            status = ml_fail_memory(err, strlen(entry->d_name), "a folder listing");
        else
            (*names)[(*n_names)++] = name;
    }
    closedir(dir);
    if (status != ML_OK) {
        ml_dir_list_free(*names, *n_names);
        *names = NULL;
        *n_names = 0;
    } else if (*n_names) {
        qsort(*names, *n_names, sizeof **names, compare_names);
    }
    return status;
}

void ml_dir_list_free(char **names, size_t n_names)
{
    for (size_t i = 0; i < n_names; i++) ml_free(names[i]);
    ml_free(names);
}

ml_status ml_disk_free(const char *path, uint64_t *n_bytes, ml_error *err)
{
    struct statvfs st;
    if (statvfs(path, &st) != 0) return ml_fail_errno(err, "%s: its file system cannot be examined", path);
    *n_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    return ML_OK;
}
