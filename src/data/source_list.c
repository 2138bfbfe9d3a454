#include "data/source_list.h"

#include "base/alloc.h"
#include "data/stream.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- one source ---- */

static ml_status parse(const char *item, ml_source *s, ml_error *err)
{
    const char *colon = strrchr(item, ':');
    char *end = NULL;
    s->share = colon ? strtod(colon + 1, &end) : 0;
    size_t n = colon ? (size_t)(colon - item) : 0;
    while (n > 1 && item[n - 1] == '/') n--;
    if (n == 0 || n >= sizeof s->path || *end || end == colon + 1 || !(s->share > 0 && s->share <= 1)) {
        return ml_fail(
            err, ML_EINVAL,
            "source \"%.300s\": expected PATH:SHARE with a share above 0 and up to 1, such as stories.txt:0.3", item);
    }
    snprintf(s->path, sizeof s->path, "%.*s", (int)n, item);
    const char *slash = strrchr(s->path, '/');
    snprintf(s->name, sizeof s->name, "%.255s", slash && slash[1] ? slash + 1 : s->path);
    return ML_OK;
}

static ml_status add_file(ml_source *s, const char *path, ml_error *err)
{
    void *items = s->file;
    ML_TRY(ml_grow(&items, &s->capacity, s->n_file + 1, sizeof *s->file, err));
    s->file = items;
    s->file[s->n_file] = ml_strdup(path);
    if (!s->file[s->n_file]) return ml_fail_memory(err, strlen(path) + 1, "a path");
    s->n_file++;
    return ML_OK;
}

/* "x.jsonl" and "x.jsonl.gz" end in ".jsonl". */
static bool ends_in(const char *path, const char *suffix)
{
    size_t n = ml_stream_name_length(path), k = strlen(suffix);
    return n > k && strncasecmp(path + n - k, suffix, k) == 0;
}

/* Files of a folder with this suffix, in order of their names; hidden ones are not data. */
static ml_status list_folder(ml_source *s, const char *folder, const char *suffix, int depth, ml_error *err)
{
    enum { DEEPEST = 16 };
    char **names;
    size_t n;
    ML_TRY(ml_dir_list(folder, &names, &n, err));
    ml_status status = ML_OK;
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        char path[ML_PATH_MAX];
        if (names[i][0] == '.') continue;
        status = ml_path_join(path, folder, names[i], err);
        if (status != ML_OK) break;
        if (ml_path_is_dir(path)) {
            if (depth < DEEPEST) status = list_folder(s, path, suffix, depth + 1, err);
        } else if (ends_in(path, suffix)) {
            status = add_file(s, path, err);
        }
    }
    ml_dir_list_free(names, n);
    return status;
}

static ml_status find_files(ml_source *s, ml_error *err)
{
    static const char *const kinds[] = { ".parquet", ".jsonl", ".ndjson", ".json", ".txt" };
    if (!ml_path_exists(s->path)) {
        return ml_fail(err, ML_EIO, "source %s: there is no such file or folder: `moonlight data fetch` gets data sets",
                       s->path);
    }
    if (!ml_path_is_dir(s->path)) return add_file(s, s->path, err);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && s->n_file == 0; i++)
        ML_TRY(list_folder(s, s->path, kinds[i], 0, err));
    if (s->n_file) return ML_OK;
    return ml_fail(err, ML_EIO, "source %s: expected Parquet, JSON or text files in the folder, found none", s->path);
}

/* ---- all of them ---- */

static ml_status parse_all(const char *const *item, size_t n, ml_source_list *out, ml_error *err)
{
    double sum = 0;
    *out = (ml_source_list){ 0 };
    if (n > ML_MAX_SOURCES)
        return ml_fail(err, ML_EINVAL, "sources: expected at most %d of them, found %zu", ML_MAX_SOURCES, n);
    out->source = ml_calloc(n ? n : 1, sizeof *out->source);
    if (!out->source) return ml_fail_memory(err, n * sizeof *out->source, "the list of sources");
    out->n = n;
    for (size_t i = 0; i < n; i++) {
        ML_TRY(parse(item[i], &out->source[i], err));
        sum += out->source[i].share;
    }
    if (fabs(sum - 1) <= 1e-6) return ML_OK;
    return ml_fail(err, ML_EINVAL, "the shares of the %zu sources: expected a sum of 1, found %.9g", n, sum);
}

ml_status ml_source_list_open(const char *const *item, size_t n, ml_source_list *out, ml_error *err)
{
    ml_status status = parse_all(item, n, out, err);
    for (size_t i = 0; i < n && status == ML_OK; i++) status = find_files(&out->source[i], err);
    if (status != ML_OK) ml_source_list_free(out);
    return status;
}

ml_status ml_source_list_find(const char *const *item, size_t n, bool *found, char *missing, ml_error *err)
{
    ml_source_list list;
    ml_status status = parse_all(item, n, &list, err);
    *found = true;
    for (size_t i = 0; i < n && status == ML_OK && *found; i++) {
        *found = ml_path_exists(list.source[i].path);
        if (!*found) snprintf(missing, ML_PATH_MAX, "%s", list.source[i].path);
    }
    ml_source_list_free(&list);
    return status;
}

void ml_source_list_free(ml_source_list *list)
{
    for (size_t i = 0; list->source && i < list->n; i++) {
        for (size_t k = 0; k < list->source[i].n_file; k++) ml_free(list->source[i].file[k]);
        ml_free(list->source[i].file);
    }
    ml_free(list->source);
    *list = (ml_source_list){ 0 };
}

/* ---- shares ---- */

void ml_source_list_divide(const ml_source_list *list, int64_t total, int64_t *quota)
{
    int64_t left = total;
    for (size_t i = 0; i < list->n; i++) {
        quota[i] = (int64_t)(list->source[i].share * (double)total);
        if (quota[i] > left) quota[i] = left; /* shares that add up to a little more than 1 */
        left -= quota[i];
    }
    while (left > 0) {
        size_t most = 0;
        double most_lost = -INFINITY;
        for (size_t i = 0; i < list->n; i++) {
            double lost = list->source[i].share * (double)total - (double)quota[i];
            if (lost > most_lost) most_lost = lost, most = i;
        }
        quota[most]++;
        left--;
    }
}

static bool fits(const ml_source_list *list, int64_t total, const int64_t *available)
{
    int64_t quota[ML_MAX_SOURCES];
    ml_source_list_divide(list, total, quota);
    for (size_t i = 0; i < list->n; i++) {
        if (quota[i] > available[i]) return false;
    }
    return true;
}

int64_t ml_source_list_largest(const ml_source_list *list, const int64_t *available)
{
    double most = INFINITY;
    for (size_t i = 0; i < list->n; i++) most = fmin(most, ((double)available[i] + 1) / list->source[i].share);
    int64_t total = list->n ? (int64_t)most : 0;
    while (total > 0 && !fits(list, total, available)) total--; /* a few, by rounding */
    return total;
}
