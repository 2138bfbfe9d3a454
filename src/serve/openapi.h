/* docs/openapi.json, embedded at build time. */
#ifndef ML_SERVE_OPENAPI_H
#define ML_SERVE_OPENAPI_H

extern const char ml_openapi_text[];

#endif
