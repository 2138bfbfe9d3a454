/* A public data set or model, from the hub into a folder.
 *
 * Two steps, so that a person can see what will come before it does: a plan, then the files.  A data set comes as its
 * repository has it, or, where a subset or split is asked for, as the Parquet files that the hub has made of every data
 * set (branch refs/convert/parquet: <subset>/<split>/NNNN.parquet).  All files are of one commit.
 *
 * The folder holds the files under their paths; `.fetch.json` says where they are from and is written last: a folder
 * without it is not complete.  The same call goes on where an interrupted one stopped, and brings a folder up to date.
 */
#ifndef ML_FETCH_FETCH_H
#define ML_FETCH_FETCH_H

#include "base/file.h"
#include "fetch/download.h"

typedef enum { ML_FETCH_AUTO = 0, ML_FETCH_DATASET, ML_FETCH_MODEL } ml_fetch_kind;

typedef struct {
    const char *repo;           /* ORG/NAME */
    ml_fetch_kind kind;         /* AUTO: a data set, else a model */
    const char *revision;       /* branch or commit, e.g. "main" */
    const char *subset, *split; /* NULL: all */
    /* Files whose path one of these patterns of the shell matches ('*' matches '/' too); none: all, but of a model that
     * has safetensors not the same weights in other formats. */
    const char *const *include;
    size_t n_include;
    const char *dst;      /* folder; NULL: data/NAME or models/NAME */
    const char *endpoint; /* "https://huggingface.co" */
} ml_fetch_config;

typedef struct {
    ml_hub_repo repo; /* of its files, those to be fetched */
    char endpoint[1024];
    char dst[ML_PATH_MAX];
    size_t n_listed;  /* files of the repository */
    uint64_t n_bytes; /* of those to be fetched */
    bool is_partial;  /* the hub converted only the begin of some split */
} ml_fetch_plan;

/* Ask the hub.  ML_EINVAL for names that cannot be, ML_EIO when there is no such repository, subset or split (naming
 * those there are) or nothing matches. */
ml_status ml_fetch_make_plan(ml_http *http, const ml_fetch_config *config, ml_fetch_plan *out, ml_error *err);
void ml_fetch_plan_free(ml_fetch_plan *plan);

typedef struct {
    size_t n_downloaded, n_there, n_replaced;
} ml_fetch_result;

/* `progress` is in MB and may be NULL.  ML_EIO at once when the disk is too small or another fetch uses the folder;
 * else as ml_download.  ML_ECANCEL when stopped: the same call continues. */
ml_status ml_fetch_run(ml_http *http, const ml_fetch_plan *plan, ml_progress *progress, ml_fetch_result *result,
                       ml_error *err);

#endif
