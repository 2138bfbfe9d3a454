/* libmoonlight: the public API.  Nothing else is installed.
 *
 * Every fallible call returns an ml_status and, when it is not ML_OK, fills an ml_error with one
 * sentence a person can act on.  Nothing here prints, exits or aborts. */
#ifndef MOONLIGHT_H
#define MOONLIGHT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    ML_OK = 0,
    ML_EINVAL,   /* an argument, option or recipe value that cannot be honoured */
    ML_EFORMAT,  /* bytes of a file are not what its format demands */
    ML_EIO,      /* the operating system refused: missing file, full disk, ... */
    ML_ENOMEM,   /* out of memory, or an arena smaller than the work */
    ML_ECANCEL,  /* stopped by the user; what was done so far is consistent */
    ML_ENUMERIC, /* a loss or gradient that is not finite */
} ml_status;

enum { ML_ERROR_MAX = 1024 };

/* Filled by the call that fails; `message` is a complete sentence: what (file, offset or key), what
 * was expected, what was found, and the remedy. */
typedef struct {
    ml_status code;
    char message[ML_ERROR_MAX];
} ml_error;

/* "0.1.0" */
const char *ml_version(void);

#ifdef __cplusplus
}
#endif
#endif
