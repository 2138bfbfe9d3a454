/* The Hugging Face hub, or a server that speaks its API: which files a repository has, at one commit.
 *
 *   GET /api/{datasets|models}/ORG/NAME/revision/REV          {"sha": COMMIT, ...}
 *   GET /api/{datasets|models}/ORG/NAME/tree/COMMIT?recursive=true     [{"type", "path", "size", "oid", "lfs":
 * {"oid"}}], in pages: Link: <URL>; rel="next" GET [/datasets]/ORG/NAME/resolve/COMMIT/PATH              the file
 *
 * oid is the file's hash: SHA-256 of large files (lfs), else the SHA-1 that git gives it.  What the server says is not
 * trusted: a path that leads out of the folder is refused, and so is a next page on another server. */
#ifndef ML_FETCH_HUB_H
#define ML_FETCH_HUB_H

#include "fetch/http.h"

typedef enum { ML_HUB_DATASET = 0, ML_HUB_MODEL } ml_hub_kind;

typedef struct {
    char *path; /* relative, '/' between its parts */
    uint64_t n_bytes;
    char oid[65]; /* hexadecimal: 64 digits of SHA-256, or 40 of git's SHA-1 */
} ml_hub_file;

typedef struct {
    ml_hub_kind kind;
    char repo[256];
    char commit[65];
    ml_hub_file *file; /* [n_file], in the order of their paths */
    size_t n_file, capacity;
} ml_hub_repo;

/* "data set", "model" */
const char *ml_hub_kind_name(ml_hub_kind kind);
/* ML_EINVAL unless it is NAME or ORG/NAME in the hub's characters. */
ml_status ml_hub_check_repo(const char *repo, ml_error *err);

/* The commit that a revision (a branch, "refs/convert/parquet", a commit) is now; *found is false when there is no such
 * repository or revision, or it is not shown to us. */
ml_status ml_hub_find(ml_http *http, const char *endpoint, ml_hub_kind kind, const char *repo, const char *revision,
                      char commit[65], bool *found, ml_error *err);
/* All files at out->commit of out->repo, which the caller has filled in.  Free also after a failure. */
ml_status ml_hub_list(ml_http *http, const char *endpoint, ml_hub_repo *out, ml_error *err);
void ml_hub_repo_free(ml_hub_repo *repo);

/* Where a file is, in out[size]; ML_EINVAL when it is too long. */
ml_status ml_hub_url(const char *endpoint, const ml_hub_repo *repo, const char *path, char *out, size_t size,
                     ml_error *err);

#endif
