/* From an SVG figure to a PNG file, by librsvg and cairo. */
#ifndef ML_CLI_SVG_TO_PNG_H
#define ML_CLI_SVG_TO_PNG_H

#include "base/status.h"

/* Draw the SVG in its own size, twice as fine, and replace `path` with it.  ML_EINVAL when it is no SVG. */
ml_status ml_cli_svg_to_png(const char *svg, size_t n_bytes, const char *path, ml_error *err);

#endif
