/* One file of a repository onto the disk: its bytes go to "<path>.<begin of its hash>.part", which an interruption
 * leaves behind and the next call continues; the file appears under its name when size and hash are right. */
#ifndef ML_FETCH_DOWNLOAD_H
#define ML_FETCH_DOWNLOAD_H

#include "fetch/hub.h"

typedef enum { ML_DOWNLOADED = 0, ML_WAS_THERE, ML_REPLACED } ml_download_result;

/* Called with the bytes of this file that are there so far: known at the begin of a resumed file, then as they come. */
typedef void (*ml_download_fn)(void *arg, uint64_t n_bytes);

/* `folder` exists; folders within are made.  A file of that name with the right bytes is left alone, one with others is
 * replaced.  ML_EFORMAT when the bytes hash to something else twice over; else as ml_http_stream. */
ml_status ml_download(ml_http *http, const char *url, const ml_hub_file *file, const char *folder, ml_download_fn tell,
                      void *arg, ml_download_result *result, ml_error *err);

#endif
