/* Files: mapped reading, and writing that is never half done.
 *
 * A file appears under its name complete or not at all: it is written beside as "<name>.tmp.<pid>", locked (flock) as
 * long as somebody writes it, synced, renamed, and its folder synced. */
#ifndef ML_BASE_FILE_H
#define ML_BASE_FILE_H

#include "base/status.h"

#include <stdbool.h>
#include <stdio.h>

enum { ML_PATH_MAX = 4096 };

/* A whole file, read-only, mapped.  An empty file has size 0 and data NULL. */
typedef struct {
    const uint8_t *data;
    size_t size;
} ml_map;

/* ML_EINVAL for a folder, device or pipe; ML_EIO with the system's reason, and the remedy, when it cannot be mapped. */
ml_status ml_map_open(const char *path, ml_map *map, ml_error *err);
void ml_map_close(ml_map *map);
/* Part of a mapped file is not needed for now: its memory is given back.  It stays readable. */
void ml_map_drop(const void *data, size_t n_bytes);

/* Read a whole file into ml_alloc'd memory with a 0 byte behind it (not counted in *size, which may be
 * NULL).  Free with ml_free. */
ml_status ml_file_read(const char *path, char **text, size_t *size, ml_error *err);

/* The first n_bytes of a file; *n_read is less when it is shorter.  Fails as ml_map_open. */
ml_status ml_file_read_head(const char *path, void *out, size_t n_bytes, size_t *n_read, ml_error *err);

/* A file being written.  Begin, write any number of times, then commit or abandon. */
typedef struct {
    FILE *file;
    char path[ML_PATH_MAX];
    char tmp[ML_PATH_MAX];
} ml_file_writer;

/* ML_EINVAL for "-", which tools elsewhere take for standard output, and for what is there and is no file.  Through a
 * link its target is written, and the link stays. */
ml_status ml_file_begin(ml_file_writer *w, const char *path, ml_error *err);
ml_status ml_file_write(ml_file_writer *w, const void *data, size_t n_bytes, ml_error *err);
ml_status ml_file_printf(ml_file_writer *w, ml_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* flush, fsync, rename, fsync of the folder */
ml_status ml_file_commit(ml_file_writer *w, ml_error *err);
/* Whether a file can be begun there: before the work whose result it is to hold. */
ml_status ml_file_check(const char *path, ml_error *err);
/* Remove the temporary; safe after commit and on a zeroed writer. */
void ml_file_abandon(ml_file_writer *w);

/* begin + write + commit */
ml_status ml_file_replace(const char *path, const void *data, size_t n_bytes, ml_error *err);

/* Join with '/' into out[ML_PATH_MAX]; ML_EINVAL when too long. */
ml_status ml_path_join(char *out, const char *folder, const char *name, ml_error *err);
/* The folder that a file is in, into out[ML_PATH_MAX]: "." for a bare name. */
ml_status ml_path_parent(char *out, const char *path, ml_error *err);
bool ml_path_exists(const char *path);
bool ml_path_is_dir(const char *path);
/* mkdir -p; ML_EINVAL for "-", as above */
ml_status ml_dir_make(const char *path, ml_error *err);
/* Remove a folder and everything in it; a missing folder is not an error. */
ml_status ml_dir_remove(const char *path, ml_error *err);
/* fsync of a folder, so that the names in it last. */
ml_status ml_dir_sync(const char *path, ml_error *err);
/* Names in a folder without "." and "..", sorted bytewise; free with ml_dir_list_free. */
ml_status ml_dir_list(const char *path, char ***names, size_t *n_names, ml_error *err);
void ml_dir_list_free(char **names, size_t n_names);
/* Bytes that an unprivileged user can still write on the file system of `path`. */
ml_status ml_disk_free(const char *path, uint64_t *n_bytes, ml_error *err);

#endif
