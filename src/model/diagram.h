/* The architecture as a picture: every matrix with its shape and what it costs, drawn from the configuration. */
#ifndef ML_MODEL_DIAGRAM_H
#define ML_MODEL_DIAGRAM_H

#include "model/config.h"

/* An SVG document that needs nothing but itself, on a panel of its own, light or dark as the viewer prefers.  Equal
 * layers are drawn once.  `title` may be any text.  *svg [*n_bytes] has a 0 behind it; ml_free it. */
ml_status ml_diagram_make(const ml_config *config, const char *title, char **svg, size_t *n_bytes, ml_error *err);

#endif
