/* Which files of a repository are wanted. */
#include "fetch/fetch.h"

#include "base/alloc.h"

#include <fnmatch.h>
#include <string.h>
#include <strings.h>

#define CONVERTED "refs/convert/parquet"

/* ---- the repository ---- */

static ml_status find_kind(ml_http *http, const ml_fetch_config *c, const char *revision, ml_fetch_plan *p,
                           ml_error *err)
{
    bool found = false;
    static const ml_hub_kind kinds[] = { ML_HUB_DATASET, ML_HUB_MODEL };
    for (int i = 0; i < 2 && !found; i++) {
        if (c->kind == (kinds[i] == ML_HUB_MODEL ? ML_FETCH_DATASET : ML_FETCH_MODEL)) continue;
        p->repo.kind = kinds[i];
        ML_TRY(ml_hub_find(http, p->endpoint, kinds[i], c->repo, revision, p->repo.commit, &found, err));
    }
    if (found) return ML_OK;
    const char *kind = c->kind == ML_FETCH_AUTO ? "data set or model" : ml_hub_kind_name(p->repo.kind);
    return ml_fail(err, ML_EIO,
                   "%s: no %s \"%s\" with a revision \"%s\" that is shown to us: check the name; a private one needs "
                   "HF_TOKEN",
                   p->endpoint, kind, c->repo, revision);
}

static ml_status choose_folder(const ml_fetch_config *c, ml_fetch_plan *p, ml_error *err)
{
    const char *slash = strrchr(c->repo, '/'), *name = slash ? slash + 1 : c->repo;
    if (!c->dst) return ml_path_join(p->dst, p->repo.kind == ML_HUB_MODEL ? "models" : "data", name, err);
    if (strlen(c->dst) == 0 || strlen(c->dst) >= sizeof p->dst)
        return ml_fail(err, ML_EINVAL, "\"%.100s\": the path is empty or too long", c->dst);
    snprintf(p->dst, sizeof p->dst, "%s", c->dst);
    return ML_OK;
}

/* ---- its files ---- */

static bool has_suffix(const char *path, const char *suffix)
{
    size_t n = strlen(path), k = strlen(suffix);
    return n >= k && strcasecmp(path + n - k, suffix) == 0;
}

/* Weights in a format that is not read where there are safetensors. */
static bool is_double(const char *path)
{
    static const char *const suffixes[] = { ".bin", ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".tflite" };
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (has_suffix(path, suffixes[i])) return true;
    }
    return false;
}

/* Part k of a path, up to its slash; empty behind the last. */
static void path_part(const char *path, int k, char *out, size_t size)
{
    for (; k > 0 && path; k--) {
        path = strchr(path, '/');
        if (path) path++;
    }
    snprintf(out, size, "%.*s", path ? (int)strcspn(path, "/") : 0, path ? path : "");
}

/* <subset>/<split>/NNNN.parquet; the split is named partial-<split> where only its begin was converted. */
static bool is_of(const char *path, const char *subset, const char *split, bool *is_partial)
{
    char found[256];
    path_part(path, 0, found, sizeof found);
    if (subset && strcmp(found, subset) != 0) return false;
    path_part(path, 1, found, sizeof found);
    bool partial = strncmp(found, "partial-", 8) == 0;
    if (split && strcmp(partial ? found + 8 : found, split) != 0) return false;
    *is_partial = *is_partial || partial;
    return true;
}

static bool is_wanted(const ml_fetch_config *c, const char *path, bool skip_doubles)
{
    for (size_t i = 0; i < c->n_include; i++) {
        if (fnmatch(c->include[i], path, 0) == 0) return true;
    }
    return c->n_include == 0 && !(skip_doubles && is_double(path));
}

/* Drop what is not wanted from the list. */
static void select_files(const ml_fetch_config *c, ml_fetch_plan *p)
{
    size_t n = 0;
    bool skip_doubles = false;
    for (size_t i = 0; i < p->repo.n_file && p->repo.kind == ML_HUB_MODEL; i++)
        skip_doubles = skip_doubles || has_suffix(p->repo.file[i].path, ".safetensors");
    for (size_t i = 0; i < p->repo.n_file; i++) {
        ml_hub_file file = p->repo.file[i];
        bool wanted = is_wanted(c, file.path, skip_doubles);
        if (wanted && (c->subset || c->split)) wanted = is_of(file.path, c->subset, c->split, &p->is_partial);
        if (wanted) {
            p->repo.file[n++] = file;
            p->n_bytes += file.n_bytes;
        } else {
            ml_free(file.path);
        }
    }
    p->repo.n_file = n;
}

/* "subset/split" of the converted files, each once, as far as they fit. */
static void list_splits(const ml_fetch_plan *p, char *out, size_t size)
{
    char last[600] = "", subset[256], split[256], name[600];
    size_t used = 0;
    out[0] = 0;
    for (size_t i = 0; i < p->repo.n_file && used < size; i++) {
        path_part(p->repo.file[i].path, 0, subset, sizeof subset);
        path_part(p->repo.file[i].path, 1, split, sizeof split);
        snprintf(name, sizeof name, "%s/%s", subset, strncmp(split, "partial-", 8) == 0 ? split + 8 : split);
        if (!has_suffix(p->repo.file[i].path, ".parquet") || strcmp(name, last) == 0) continue;
        int n = snprintf(out + used, size - used, "%s%s", used ? ", " : "", name);
        used += n > 0 ? (size_t)n : 0;
        snprintf(last, sizeof last, "%s", name);
    }
}

ml_status ml_fetch_make_plan(ml_http *http, const ml_fetch_config *c, ml_fetch_plan *p, ml_error *err)
{
    bool converted = c->subset || c->split;
    ml_fetch_config config = *c;
    char there[400] = "";
    *p = (ml_fetch_plan){ 0 };
    ML_TRY(ml_hub_check_repo(c->repo, err));
    size_t n = strlen(c->endpoint);
    while (n && c->endpoint[n - 1] == '/') n--;
    if (n >= sizeof p->endpoint ||
        !(strncasecmp(c->endpoint, "https://", 8) == 0 || strncasecmp(c->endpoint, "http://", 7) == 0))
        return ml_fail(err, ML_EINVAL, "--endpoint: expected https://HOST, found \"%.100s\"", c->endpoint);
    snprintf(p->endpoint, sizeof p->endpoint, "%.*s", (int)n, c->endpoint);
    snprintf(p->repo.repo, sizeof p->repo.repo, "%s", c->repo);
    if (converted) {
        if (c->kind == ML_FETCH_MODEL || strcmp(c->revision, "main") != 0)
            return ml_fail(err, ML_EINVAL, "--subset and --split are for data sets, at their present state");
        config.kind = ML_FETCH_DATASET;
    }
    ML_TRY(find_kind(http, &config, converted ? CONVERTED : c->revision, p, err));
    ML_TRY(choose_folder(c, p, err));
    ml_status status = ml_hub_list(http, p->endpoint, &p->repo, err);
    p->n_listed = p->repo.n_file;
    if (status == ML_OK && converted) list_splits(p, there, sizeof there);
    if (status == ML_OK) select_files(c, p);
    if (status == ML_OK && p->repo.n_file == 0) {
        status = ml_fail(err, ML_EIO, "%s: none of its %zu files matches%s%s", c->repo, p->n_listed,
                         converted ? "; there are " : "", there);
    }
    if (status != ML_OK) ml_fetch_plan_free(p);
    return status;
}

void ml_fetch_plan_free(ml_fetch_plan *plan)
{
    ml_hub_repo_free(&plan->repo);
    *plan = (ml_fetch_plan){ 0 };
}
