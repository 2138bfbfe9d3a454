#include "fetch/hub.h"

#include "base/alloc.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ANSWER = 64 << 20, MAX_PAGES = 100000, URL_MAX = 4096 };

const char *ml_hub_kind_name(ml_hub_kind kind)
{
    return kind == ML_HUB_MODEL ? "model" : "data set";
}

/* ---- names ---- */

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
}

ml_status ml_hub_check_repo(const char *repo, ml_error *err)
{
    size_t n = strlen(repo), n_slash = 0;
    bool good = n > 0 && n < 200 && repo[0] != '/' && repo[0] != '.' && repo[n - 1] != '/';
    for (size_t i = 0; i < n && good; i++) {
        n_slash += repo[i] == '/';
        good = is_word(repo[i]) || (repo[i] == '/' && repo[i + 1] != '.');
    }
    if (good && n_slash <= 1) return ML_OK;
    return ml_fail(err, ML_EINVAL, "expected the name of a repository like ORG/NAME, found \"%s\"", repo);
}

/* Percent-encode what is not plain; '/' stays if it may. */
static ml_status append_encoded(char *url, size_t size, const char *text, bool keep_slash, ml_error *err)
{
    size_t used = strlen(url);
    for (const char *c = text; *c; c++) {
        bool plain = is_word(*c) || *c == '~' || (*c == '/' && keep_slash);
        if (used + 4 > size) return ml_fail(err, ML_EINVAL, "%s: the name is too long", text);
        used += (size_t)snprintf(url + used, size - used, plain ? "%c" : "%%%02X", (unsigned char)*c);
    }
    return ML_OK;
}

static ml_status api_url(const char *endpoint, ml_hub_kind kind, const char *repo, const char *what,
                         const char *revision, char out[URL_MAX], ml_error *err)
{
    snprintf(out, URL_MAX, "%s/api/%s/%s/%s/", endpoint, kind == ML_HUB_MODEL ? "models" : "datasets", repo, what);
    return append_encoded(out, URL_MAX, revision, false, err);
}

ml_status ml_hub_url(const char *endpoint, const ml_hub_repo *repo, const char *path, char *out, size_t size,
                     ml_error *err)
{
    int n = snprintf(out, size, "%s%s/%s/resolve/%s/", endpoint, repo->kind == ML_HUB_MODEL ? "" : "/datasets",
                     repo->repo, repo->commit);
    if (n < 0 || (size_t)n >= size) return ml_fail(err, ML_EINVAL, "%s: the URL is too long", path);
    return append_encoded(out, size, path, true, err);
}

static bool is_hex(const char *text, size_t n)
{
    return strlen(text) == n && strspn(text, "0123456789abcdef") == n;
}

/* A part of a path: neither empty nor a way up. */
static bool is_name(const char *part, size_t n)
{
    bool is_dots = part[0] == '.' && (n == 1 || (n == 2 && part[1] == '.'));
    return n > 0 && n < 250 && !is_dots;
}

/* A path that stays in the folder and can be shown. */
static ml_status check_path(const char *path, ml_error *err)
{
    size_t n = strlen(path), begin = 0;
    bool good = n > 0 && n < 1000;
    for (size_t i = 0; i <= n && good; i++) {
        unsigned char c = (unsigned char)path[i];
        if (c && c != '/') {
            good = c >= ' ' && c != 127 && c != '\\';
        } else {
            good = is_name(path + begin, i - begin);
            begin = i + 1;
        }
    }
    if (good) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "the server lists a file \"%.100s\", which is no path within a folder", path);
}

/* ---- answers ---- */

static ml_status fail_answer(const char *url, const ml_http_answer *a, const char *repo, ml_error *err)
{
    char text[100];
    ml_http_describe_status(a->status, text, sizeof text);
    bool is_refusal = a->status == 401 || a->status == 403;
    return ml_fail(err, ML_EIO, "%s: the server says %s%s%s", url, text,
                   is_refusal ? ": accept its terms on the hub, and set HF_TOKEN to your token for " : "",
                   is_refusal ? repo : "");
}

ml_status ml_hub_find(ml_http *http, const char *endpoint, ml_hub_kind kind, const char *repo, const char *revision,
                      char commit[65], bool *found, ml_error *err)
{
    char url[URL_MAX];
    ml_http_answer a = { 0 };
    json_t *root = NULL;
    const char *sha;
    ml_status status;
    *found = false;
    commit[0] = 0;
    ML_TRY(api_url(endpoint, kind, repo, "revision", revision, url, err));
    ML_TRY_GOTO(ml_http_get(http, url, MAX_ANSWER, &a, err));
    if (a.status == 404 || a.status == 401) goto done; /* the hub says 401 of what it does not show us */
    if (a.status != 200) {
        status = fail_answer(url, &a, repo, err);
        goto done;
    }
    ML_TRY_GOTO(ml_json_parse(a.text ? a.text : "", a.n_bytes, url, &root, err));
    ML_TRY_GOTO(ml_json_text(root, "sha", url, &sha, err));
    if (!is_hex(sha, 40) && !is_hex(sha, 64)) {
        status = ml_fail(err, ML_EFORMAT, "%s: expected a commit under \"sha\", found \"%.80s\"", url, sha);
        goto done;
    }
    snprintf(commit, 65, "%s", sha);
    *found = true;
done:
    json_decref(root);
    ml_http_answer_free(&a);
    return status;
}

/* ---- the list ---- */

static ml_status add_file(ml_hub_repo *repo, const json_t *entry, const char *url, ml_error *err)
{
    const char *type, *path, *oid;
    int64_t size;
    void *items = repo->file;
    const json_t *lfs = json_object_get(entry, "lfs");
    ML_TRY(ml_json_text(entry, "type", url, &type, err));
    if (strcmp(type, "file") != 0) return ML_OK;
    ML_TRY(ml_json_text(entry, "path", url, &path, err));
    ML_TRY(check_path(path, err));
    ML_TRY(ml_json_text(json_is_object(lfs) ? lfs : entry, "oid", url, &oid, err));
    ML_TRY(ml_json_int(json_is_object(lfs) && json_object_get(lfs, "size") ? lfs : entry, "size", url, &size, err));
    if (size < 0 || !is_hex(oid, json_is_object(lfs) ? 64 : 40)) {
        return ml_fail(err, ML_EFORMAT, "%s: %s: expected a size and a hash, found %lld and \"%.80s\"", url, path,
                       (long long)size, oid);
    }
    ML_TRY(ml_grow(&items, &repo->capacity, repo->n_file + 1, sizeof *repo->file, err));
    repo->file = items;
    ml_hub_file *f = &repo->file[repo->n_file];
    *f = (ml_hub_file){ .path = ml_strdup(path), .n_bytes = (uint64_t)size };
    if (!f->path) return ml_fail_memory(err, strlen(path) + 1, "the list of files");
    snprintf(f->oid, sizeof f->oid, "%s", oid);
    repo->n_file++;
    return ML_OK;
}

static ml_status add_page(ml_hub_repo *repo, const ml_http_answer *a, const char *url, ml_error *err)
{
    json_t *root, *entry;
    size_t i;
    ml_status status = ML_OK;
    if (a->status != 200) return fail_answer(url, a, repo->repo, err);
    ML_TRY(ml_json_parse(a->text ? a->text : "", a->n_bytes, url, &root, err));
    if (!json_is_array(root)) status = ml_fail(err, ML_EFORMAT, "%s: expected a list of files, found none", url);
    json_array_foreach(root, i, entry)
    {
        if (status == ML_OK) status = add_file(repo, entry, url, err);
    }
    json_decref(root);
    return status;
}

static int compare_files(const void *a, const void *b)
{
    return strcmp(((const ml_hub_file *)a)->path, ((const ml_hub_file *)b)->path);
}

static ml_status check_files(ml_hub_repo *repo, ml_error *err)
{
    if (repo->n_file) qsort(repo->file, repo->n_file, sizeof *repo->file, compare_files);
    for (size_t i = 1; i < repo->n_file; i++) {
        if (strcmp(repo->file[i - 1].path, repo->file[i].path) == 0)
            return ml_fail(err, ML_EFORMAT, "%s: the server lists %s twice", repo->repo, repo->file[i].path);
    }
    return ML_OK;
}

ml_status ml_hub_list(ml_http *http, const char *endpoint, ml_hub_repo *out, ml_error *err)
{
    char url[URL_MAX];
    ml_http_answer a = { 0 };
    ml_status status;
    ML_TRY(api_url(endpoint, out->kind, out->repo, "tree", out->commit, url, err));
    snprintf(url + strlen(url), sizeof url - strlen(url), "?recursive=true");
    for (int page = 0; page < MAX_PAGES; page++) {
        ML_TRY_GOTO(ml_http_get(http, url, MAX_ANSWER, &a, err));
        ML_TRY_GOTO(add_page(out, &a, url, err));
        if (!a.next[0]) break;
        size_t n = strlen(endpoint);
        if (strncmp(a.next, endpoint, n) != 0 || a.next[n] != '/') {
            status =
                ml_fail(err, ML_EFORMAT, "%s: expected the next page on the same server, found %.200s", url, a.next);
            goto done;
        }
        snprintf(url, sizeof url, "%s", a.next);
    }
    status = check_files(out, err);
done:
    ml_http_answer_free(&a);
    return status;
}

void ml_hub_repo_free(ml_hub_repo *repo)
{
    for (size_t i = 0; i < repo->n_file; i++) ml_free(repo->file[i].path);
    ml_free(repo->file);
    *repo = (ml_hub_repo){ 0 };
}
