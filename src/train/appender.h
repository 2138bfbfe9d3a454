/* A file that only grows, one record at a time: each goes to the operating system whole, at once, so that a
 * killed process loses nothing that was written; a record that does not fit on the disk is taken back. */
#ifndef ML_TRAIN_APPENDER_H
#define ML_TRAIN_APPENDER_H

#include "base/file.h"

typedef struct {
    int fd;
    char path[ML_PATH_MAX];
} ml_appender;

/* Open, creating if needed; written bytes go behind what is there. */
ml_status ml_appender_open(ml_appender *a, const char *path, ml_error *err);
ml_status ml_appender_write(ml_appender *a, const void *data, size_t n_bytes, ml_error *err);
/* To the disk itself. */
ml_status ml_appender_sync(ml_appender *a, ml_error *err);
/* Safe when fd is -1. */
void ml_appender_close(ml_appender *a);

#endif
