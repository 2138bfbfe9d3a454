/* Folders that appear under their name when they are whole: made beside their place and moved there. */
#ifndef ML_FORMAT_ASIDE_H
#define ML_FORMAT_ASIDE_H

#include "format/manifest.h"

/* What is to be in the folder of `manifest`, which is committed afterwards. */
typedef ml_status (*ml_aside_fill)(void *arg, ml_manifest *manifest, ml_error *err);

/* `path` must not exist.  `expect_bytes` as for ml_manifest_begin.  Nothing is left of a folder that `fill` fails to
 * fill, because it was stopped, say. */
ml_status ml_aside_write(const char *path, uint64_t expect_bytes, ml_aside_fill fill, void *arg, ml_error *err);

#endif
