/* Errors: how every fallible function of the project reports them.
 *
 * A function returns ml_status and takes an `ml_error *err` (never NULL inside the library).  It fails
 * through ml_fail(), which formats the message and returns the code, and passes failures of its callees
 * up with ML_TRY().  Functions that own resources use ML_TRY_GOTO() and one `done:` label. */
#ifndef ML_BASE_STATUS_H
#define ML_BASE_STATUS_H

#include "moonlight.h"

#include <stdarg.h>

/* Fill *err and return `code`, so that `return ml_fail(err, ML_EINVAL, "...")` reads as one thought. */
ml_status ml_fail(ml_error *err, ml_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* As ml_fail with ML_EIO and ": <strerror(errno)>" appended. */
ml_status ml_fail_errno(ml_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ML_ENOMEM for an allocation of `bytes` made for `what`. */
ml_status ml_fail_memory(ml_error *err, size_t bytes, const char *what);

/* Put "<prefix>: " before the message already in *err (to name the file a parser was working on). */
ml_status ml_fail_prefix(ml_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define ML_TRY(call)                                                                                                   \
    do {                                                                                                               \
        ml_status ml_try_status = (call);                                                                              \
        if (ml_try_status != ML_OK) return ml_try_status;                                                              \
    } while (0)

/* For functions with a local `ml_status status` and a `done:` label that frees what they own. */
#define ML_TRY_GOTO(call)                                                                                              \
    do {                                                                                                               \
        status = (call);                                                                                               \
        if (status != ML_OK) goto done;                                                                                \
    } while (0)

#endif
