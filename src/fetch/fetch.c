#include "fetch/fetch.h"

#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD ".fetch.json"

typedef struct {
    ml_progress *progress;
    uint64_t n_before; /* bytes of the files before this one */
    const char *path;
} teller;

static void tell(void *arg, uint64_t n_bytes)
{
    const teller *t = arg;
    ml_progress_update(t->progress, (double)(t->n_before + n_bytes) / 1e6, t->path);
}

/* Two fetches into one folder would write the same files. */
static ml_status lock_folder(const char *path, int *fd, ml_error *err)
{
    ML_TRY(ml_dir_make(path, err));
    *fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*fd < 0) return ml_fail_errno(err, "%s: cannot be opened", path);
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0) return ML_OK;
    return ml_fail_errno(err, "%s: another fetch is using the folder", path);
}

/* Files that are there in their size need no room. */
static ml_status check_disk(const ml_fetch_plan *plan, ml_error *err)
{
    uint64_t n_needed = 0, n_free;
    for (size_t i = 0; i < plan->repo.n_file; i++) {
        char path[ML_PATH_MAX];
        struct stat st;
        ML_TRY(ml_path_join(path, plan->dst, plan->repo.file[i].path, err));
        bool there = stat(path, &st) == 0 && (uint64_t)st.st_size == plan->repo.file[i].n_bytes;
        if (!there) n_needed += plan->repo.file[i].n_bytes;
    }
    ML_TRY(ml_disk_free(plan->dst, &n_free, err));
    if (n_needed <= n_free) return ML_OK;
    return ml_fail(err, ML_EIO,
                   "%s: the files need %.1f GB, the disk has %.1f GB: choose another folder or fewer files", plan->dst,
                   (double)n_needed / 1e9, (double)n_free / 1e9);
}

static ml_status remove_record(const ml_fetch_plan *plan, ml_error *err)
{
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, plan->dst, RECORD, err));
    if (unlink(path) == 0 || errno == ENOENT) return ML_OK;
    return ml_fail_errno(err, "%s: cannot be removed", path);
}

static ml_status write_record(const ml_fetch_plan *plan, ml_error *err)
{
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, plan->dst, RECORD, err));
    json_t *files = json_array();
    for (size_t i = 0; i < plan->repo.n_file; i++) {
        const ml_hub_file *f = &plan->repo.file[i];
        json_array_append_new(files, json_pack("{s:s, s:I, s:s}", "path", f->path, "bytes", (json_int_t)f->n_bytes,
                                               strlen(f->oid) == 64 ? "sha256" : "git", f->oid));
    }
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:s, s:o}", "endpoint", plan->endpoint, "kind", ml_hub_kind_name(plan->repo.kind),
                  "repository", plan->repo.repo, "commit", plan->repo.commit, "files", files);
    if (!root) return ml_fail(err, ML_EINVAL, "%s: a name cannot be written as JSON (is it not UTF-8?)", path);
    ml_status status = ml_json_save(root, path, err);
    json_decref(root);
    return status;
}

static ml_status fetch_file(ml_http *http, const ml_fetch_plan *plan, const ml_hub_file *file, teller *t,
                            ml_fetch_result *result, ml_error *err)
{
    char url[4096];
    ml_download_result what;
    t->path = file->path;
    ML_TRY(ml_hub_url(plan->endpoint, &plan->repo, file->path, url, sizeof url, err));
    ML_TRY(ml_download(http, url, file, plan->dst, tell, t, &what, err));
    t->n_before += file->n_bytes;
    *(what == ML_WAS_THERE ? &result->n_there : what == ML_REPLACED ? &result->n_replaced : &result->n_downloaded) += 1;
    return ML_OK;
}

ml_status ml_fetch_run(ml_http *http, const ml_fetch_plan *plan, ml_progress *progress, ml_fetch_result *result,
                       ml_error *err)
{
    teller t = { .progress = progress };
    int fd = -1;
    ml_status status;
    *result = (ml_fetch_result){ 0 };
    ml_http_stop_with(http, progress);
    ML_TRY_GOTO(lock_folder(plan->dst, &fd, err));
    ML_TRY_GOTO(check_disk(plan, err));
    ML_TRY_GOTO(remove_record(plan, err));
    for (size_t i = 0; i < plan->repo.n_file; i++) {
        status = ml_progress_stopped(progress) ? ml_fail(err, ML_ECANCEL, "stopped")
                                               : fetch_file(http, plan, &plan->repo.file[i], &t, result, err);
        if (status == ML_ECANCEL) {
            ml_fail(err, ML_ECANCEL, "stopped: %s: what came is kept: run the same command again to continue",
                    plan->dst);
        }
        if (status != ML_OK) goto done;
    }
    status = write_record(plan, err);
done:
    ml_http_stop_with(http, NULL);
    if (fd >= 0) close(fd);
    return status;
}
