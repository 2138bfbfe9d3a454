/* What a process that was killed left of a model it was writing: "<name>.tmp.<pid>" beside the name (base/file.h,
 * format/aside.h). */
#ifndef ML_FORMAT_LEFTOVERS_H
#define ML_FORMAT_LEFTOVERS_H

#include "base/status.h"

#include <stdint.h>

typedef struct {
    size_t n;         /* files and folders removed */
    uint64_t n_bytes; /* that they took */
} ml_leftovers;

/* Remove what is left of writing `path`, and of the parts of a GGUF set of that name: of a process that does not live,
 * and nobody holds the lock of, as one on another machine or in another container may.  What cannot be removed stays;
 * ML_ENOMEM alone is a failure. */
ml_status ml_leftovers_remove(const char *path, ml_leftovers *out, ml_error *err);

#endif
