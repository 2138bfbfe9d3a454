#include "base/status.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ML_VERSION_STRING_(x) #x
#define ML_VERSION_STRING(x) ML_VERSION_STRING_(x)

const char *ml_version(void)
{
    return ML_VERSION_STRING(MOONLIGHT_VERSION);
}

ml_status ml_fail(ml_error *err, ml_status code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    err->code = code;
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    return code;
}

ml_status ml_fail_errno(ml_error *err, const char *format, ...)
{
    int saved = errno;
    va_list args;
    va_start(args, format);
    err->code = ML_EIO;
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    size_t used = strlen(err->message);
    snprintf(err->message + used, sizeof err->message - used, ": %s", strerror(saved));
    return ML_EIO;
}

ml_status ml_fail_memory(ml_error *err, size_t bytes, const char *what)
{
    return ml_fail(err, ML_ENOMEM, "out of memory: %zu bytes for %s could not be had", bytes, what);
}

ml_status ml_fail_prefix(ml_error *err, const char *format, ...)
{
    char prefix[ML_ERROR_MAX / 2];
    char message[ML_ERROR_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    memcpy(message, err->message, sizeof message);
    message[sizeof message - 1] = 0;
    snprintf(err->message, sizeof err->message, "%s: %.*s", prefix, ML_ERROR_MAX / 2 - 4, message);
    return err->code;
}
