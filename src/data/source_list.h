/* The sources of a mixture: files or folders, and which share of the tokens each gives.
 *
 *   data/smoltalk/smol-constraints:0.1    a folder: its Parquet files, those of the folders in it too, in order of
 * their paths; without any its JSON lines, else its JSON, else its text stories.txt.zst:0.9                   a file
 *
 * Shares add up to 1.  What they are of so many tokens is exact: whole numbers that add up to it. */
#ifndef ML_DATA_SOURCE_LIST_H
#define ML_DATA_SOURCE_LIST_H

#include "base/file.h"

typedef struct {
    char path[ML_PATH_MAX];
    char name[256]; /* the last part of the path */
    double share;
    char **file; /* [n_file] */
    size_t n_file, capacity;
} ml_source;

enum { ML_MAX_SOURCES = 64 };

typedef struct {
    ml_source *source; /* [n] */
    size_t n;
} ml_source_list;

/* item[n]: "PATH:SHARE" each.  ML_EINVAL for one that is not, or shares that do not add up; ML_EIO, naming it, for a
 * path that is not there or holds no data. */
ml_status ml_source_list_open(const char *const *item, size_t n, ml_source_list *out, ml_error *err);
/* Safe on a zeroed list. */
void ml_source_list_free(ml_source_list *list);
/* Whether every source is there; else the first that is not, in missing[ML_PATH_MAX].  ML_EINVAL as above. */
ml_status ml_source_list_find(const char *const *item, size_t n, bool *found, char *missing, ml_error *err);

/* quota[n]: every source's part of `total`.  Rounded down, and what is left goes one by one to those that lost most, of
 * equals to the earlier. */
void ml_source_list_divide(const ml_source_list *list, int64_t total, int64_t *quota);
/* The largest total of which no part is more than available[n]. */
int64_t ml_source_list_largest(const ml_source_list *list, const int64_t *available);

#endif
