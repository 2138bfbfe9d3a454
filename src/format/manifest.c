#include "format/manifest.h"

#include "base/alloc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MANIFEST_NAME "manifest.json"
#define MANIFEST_FORMAT "moonlight-manifest"
enum { MANIFEST_VERSION = 1, WRITEBACK_BYTES = 16 << 20 };

typedef struct {
    char *name;
    uint64_t n_bytes;
    char hex[ML_SHA256_HEX];
} entry;

struct ml_manifest {
    char folder[ML_PATH_MAX];
    uint64_t expect_bytes;
    uint64_t written_bytes; /* by open_file ... write; for the message when the disk is full */
    entry *entries;
    size_t n, capacity;
};

static double to_mb(uint64_t n_bytes)
{
    return (double)n_bytes * 1e-6;
}

static ml_status check_space(const char *folder, uint64_t expect_bytes, ml_error *err)
{
    uint64_t free_bytes;
    ML_TRY(ml_disk_free(folder, &free_bytes, err));
    if (free_bytes >= expect_bytes) return ML_OK;
    return ml_fail(err, ML_EIO,
                   "%s: %.1f MB are needed and %.1f MB are free on its file system: free some space, keep fewer "
                   "checkpoints, or write elsewhere",
                   folder, to_mb(expect_bytes), to_mb(free_bytes));
}

/* Nine times in ten the disk is full. */
ml_status ml_manifest_fail_write(const ml_manifest *m, ml_error *err)
{
    char space[160] = "";
    ml_error ignored;
    uint64_t free_bytes;
    if (ml_disk_free(m->folder, &free_bytes, &ignored) == ML_OK) {
        char needed[64] = "";
        if (m->expect_bytes) snprintf(needed, sizeof needed, "%.1f MB are needed, ", to_mb(m->expect_bytes));
        snprintf(space, sizeof space, " (%s%.1f MB were written before, %.1f MB are free on the file system)", needed,
                 to_mb(m->written_bytes), to_mb(free_bytes));
    }
    size_t used = strlen(err->message);
    snprintf(err->message + used, sizeof err->message - used, "%s", space);
    return err->code;
}

ml_status ml_manifest_begin(ml_manifest **out, const char *folder, uint64_t expect_bytes, ml_error *err)
{
    *out = NULL;
    ml_manifest *m = ml_calloc(1, sizeof *m);
    if (!m) return ml_fail_memory(err, sizeof *m, "a manifest");
    m->expect_bytes = expect_bytes;
    char path[ML_PATH_MAX];
    ml_status status;
    ML_TRY_GOTO(ml_path_join(path, folder, MANIFEST_NAME, err));
    strcpy(m->folder, folder);
    ML_TRY_GOTO(ml_dir_make(folder, err));
    ML_TRY_GOTO(check_space(folder, expect_bytes, err));
    if (unlink(path) != 0 && errno != ENOENT) {
        status = ml_fail_errno(err, "%s: cannot be removed before the folder is written again", path);
        goto done;
    }
    *out = m;
    m = NULL;
done:
    ml_manifest_free(m);
    return status;
}

void ml_manifest_free(ml_manifest *m)
{
    if (!m) return;
    for (size_t i = 0; i < m->n; i++) ml_free(m->entries[i].name);
    ml_free(m->entries);
    ml_free(m);
}

const char *ml_manifest_folder(const ml_manifest *m)
{
    return m->folder;
}

static entry *find_entry(const ml_manifest *m, const char *name)
{
    for (size_t i = 0; i < m->n; i++) {
        if (!strcmp(m->entries[i].name, name)) return &m->entries[i];
    }
    return NULL;
}

static ml_status add_entry(ml_manifest *m, const char *name, uint64_t n_bytes, const char *hex, ml_error *err)
{
    entry *e = find_entry(m, name);
    if (!e) {
        ML_TRY(ml_grow((void **)&m->entries, &m->capacity, m->n + 1, sizeof *m->entries, err));
        char *copy = ml_strdup(name);
        if (!copy) return ml_fail_memory(err, strlen(name), "a manifest");
        e = &m->entries[m->n++];
        e->name = copy;
    }
    e->n_bytes = n_bytes;
    memcpy(e->hex, hex, ML_SHA256_HEX);
    return ML_OK;
}

/* Names come from callers and, when verifying, from a file: they may not lead out of the folder. */
static bool is_inside(const char *name)
{
    if (!*name || *name == '/') return false;
    for (const char *part = name; part; part = strchr(part, '/')) {
        if (*part == '/') part++;
        size_t n = strcspn(part, "/");
        if (n == 0 || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.')) return false;
    }
    return true;
}

static ml_status make_parent(const char *path, ml_error *err)
{
    char parent[ML_PATH_MAX];
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = 0;
    return ml_dir_make(parent, err);
}

ml_status ml_manifest_open_file(ml_manifest_file *f, ml_manifest *m, const char *name, ml_error *err)
{
    memset(f, 0, sizeof *f);
    char path[ML_PATH_MAX];
    if (!is_inside(name) || !strcmp(name, MANIFEST_NAME)) {
        return ml_fail(err, ML_EINVAL, "%s: \"%s\" cannot be the name of a file in it", m->folder, name);
    }
    ML_TRY(ml_path_join(path, m->folder, name, err));
    f->manifest = m;
    strcpy(f->name, name);
    ML_TRY(ml_sha256_begin(&f->hash, err));
    ml_status status = make_parent(path, err);
    if (status == ML_OK) status = ml_file_begin(&f->file, path, err);
    if (status != ML_OK) ml_manifest_abandon_file(f);
    return status == ML_EIO ? ml_manifest_fail_write(m, err) : status;
}

ml_status ml_manifest_write(ml_manifest_file *f, const void *data, size_t n_bytes, ml_error *err)
{
    if (ml_file_write(&f->file, data, n_bytes, err) != ML_OK) return ml_manifest_fail_write(f->manifest, err);
    if (n_bytes) ml_sha256_add(f->hash, data, n_bytes);
    /* The disk works while the next part is converted and hashed, instead of all at once in the final sync. */
    if ((f->n_bytes + n_bytes) / WRITEBACK_BYTES != f->n_bytes / WRITEBACK_BYTES) {
        (void)sync_file_range(fileno(f->file.file), 0, 0, SYNC_FILE_RANGE_WRITE);
    }
    f->n_bytes += n_bytes;
    f->manifest->written_bytes += n_bytes;
    return ML_OK;
}

ml_status ml_manifest_close_file(ml_manifest_file *f, ml_error *err)
{
    if (ml_file_commit(&f->file, err) != ML_OK) return ml_manifest_fail_write(f->manifest, err);
    uint8_t digest[ML_SHA256_BYTES];
    char hex[ML_SHA256_HEX];
    ml_sha256_end(f->hash, digest);
    f->hash = NULL;
    ml_sha256_to_hex(digest, hex);
    return add_entry(f->manifest, f->name, f->n_bytes, hex, err);
}

void ml_manifest_abandon_file(ml_manifest_file *f)
{
    ml_file_abandon(&f->file);
    ml_sha256_free(f->hash);
    f->hash = NULL;
}

ml_status ml_manifest_put(ml_manifest *m, const char *name, const void *data, size_t n_bytes, ml_error *err)
{
    ml_manifest_file f;
    ML_TRY(ml_manifest_open_file(&f, m, name, err));
    ml_status status = ml_manifest_write(&f, data, n_bytes, err);
    if (status == ML_OK) status = ml_manifest_close_file(&f, err);
    ml_manifest_abandon_file(&f);
    return status;
}

ml_status ml_manifest_put_json(ml_manifest *m, const char *name, const json_t *value, ml_error *err)
{
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_ENCODE_ANY);
    if (!text) {
        return ml_fail(err, ML_EINVAL, "%s/%s: the value cannot be written as JSON (a text in it is not UTF-8?)",
                       m->folder, name);
    }
    size_t n = strlen(text);
    text[n] = '\n'; /* in place of the final 0 */
    ml_status status = ml_manifest_put(m, name, text, n + 1, err);
    free(text);
    return status;
}

/* "<name>.tmp.<digits>", what file.h writes before it renames. */
static bool is_temporary(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && dot - name >= 4 && !strncmp(dot - 4, ".tmp", 4) && dot[1] && !dot[1 + strspn(dot + 1, "0123456789")];
}

static ml_status sync_file(const char *path, ml_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return ml_fail_errno(err, "%s: cannot be opened", path);
    ml_status status = fsync(fd) == 0 ? ML_OK : ml_fail_errno(err, "%s: cannot be synced", path);
    close(fd);
    return status;
}

static ml_status list_folder(ml_manifest *m, const char *inside, ml_error *err);

/* One name found in the folder: list it unless it is. */
static ml_status list_name(ml_manifest *m, const char *name, ml_error *err)
{
    if (!strcmp(name, MANIFEST_NAME) || is_temporary(name)) return ML_OK;
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, m->folder, name, err));
    struct stat st;
    if (lstat(path, &st) != 0) return ml_fail_errno(err, "%s: cannot be examined", path);
    if (S_ISDIR(st.st_mode)) return list_folder(m, name, err);
    if (!S_ISREG(st.st_mode)) return ml_fail(err, ML_EINVAL, "%s: expected a file or a folder, found neither", path);
    if (find_entry(m, name)) return ML_OK;
    ML_TRY(sync_file(path, err));
    char hex[ML_SHA256_HEX];
    ML_TRY(ml_sha256_file(path, hex, err));
    return add_entry(m, name, (uint64_t)st.st_size, hex, err);
}

static ml_status list_folder(ml_manifest *m, const char *inside, ml_error *err)
{
    char path[ML_PATH_MAX];
    char **names = NULL;
    size_t n_names = 0;
    ML_TRY(ml_path_join(path, m->folder, inside, err));
    ML_TRY(ml_dir_list(path, &names, &n_names, err));
    ml_status status = ML_OK;
    for (size_t i = 0; i < n_names && status == ML_OK; i++) {
        char name[ML_PATH_MAX] = "";
        if (*inside) {
            status = ml_path_join(name, inside, names[i], err);
        } else {
            snprintf(name, sizeof name, "%s", names[i]);
        }
        if (status == ML_OK) status = list_name(m, name, err);
    }
    ml_dir_list_free(names, n_names);
    return status == ML_OK ? ml_dir_sync(path, err) : status;
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

static json_t *to_json(const ml_manifest *m)
{
    json_t *files = json_array();
    for (size_t i = 0; i < m->n; i++) {
        const entry *e = &m->entries[i];
        json_array_append_new(
            files, json_pack("{s:s, s:I, s:s}", "path", e->name, "bytes", (json_int_t)e->n_bytes, "sha256", e->hex));
    }
    if (json_array_size(files) != m->n) {
        json_decref(files);
        return NULL;
    }
    return json_pack("{s:s, s:i, s:o}", "format", MANIFEST_FORMAT, "version", MANIFEST_VERSION, "files", files);
}

ml_status ml_manifest_commit(ml_manifest *m, ml_error *err)
{
    ML_TRY(list_folder(m, "", err));
    if (m->n) qsort(m->entries, m->n, sizeof *m->entries, compare_entries);
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, m->folder, MANIFEST_NAME, err));
    json_t *json = to_json(m);
    if (!json) return ml_fail(err, ML_EINVAL, "%s: a file name in the folder is not UTF-8: rename it", m->folder);
    ml_status status = ml_json_save(json, path, err);
    json_decref(json);
    return status == ML_EIO ? ml_manifest_fail_write(m, err) : status;
}

/* Verifying */

static ml_status verify_file(const char *folder, const json_t *item, const char *manifest, ml_verify how, ml_error *err)
{
    const char *name, *expected;
    int64_t n_bytes;
    ML_TRY(ml_json_text(item, "path", manifest, &name, err));
    ML_TRY(ml_json_int(item, "bytes", manifest, &n_bytes, err));
    ML_TRY(ml_json_text(item, "sha256", manifest, &expected, err));
    if (!is_inside(name))
        return ml_fail(err, ML_EFORMAT, "%s: the path \"%s\" leads out of the folder", manifest, name);
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, folder, name, err));
    struct stat st;
    if (stat(path, &st) != 0) {
        if (errno != ENOENT) return ml_fail_errno(err, "%s: cannot be examined", path);
        return ml_fail(err, ML_EFORMAT,
                       "%s: is listed in manifest.json but missing: copy the folder again, or use another checkpoint",
                       path);
    }
    if (!S_ISREG(st.st_mode) || st.st_size != n_bytes) {
        return ml_fail(err, ML_EFORMAT,
                       "%s: expected %lld bytes as manifest.json says, found %lld: the file was cut off or changed; "
                       "copy the folder again, or use another checkpoint",
                       path, (long long)n_bytes, (long long)st.st_size);
    }
    if (how == ML_VERIFY_SIZES) return ML_OK;
    char hex[ML_SHA256_HEX];
    ML_TRY(ml_sha256_file(path, hex, err));
    if (!strcmp(hex, expected)) return ML_OK;
    return ml_fail(err, ML_EFORMAT,
                   "%s: expected SHA-256 %s as manifest.json says, found %s: the file was changed or damaged; copy "
                   "the folder again, or use another checkpoint",
                   path, expected, hex);
}

static ml_status verify_files(const char *folder, const json_t *json, const char *manifest, ml_verify how,
                              ml_error *err)
{
    const char *format;
    int64_t version;
    json_t *files;
    ML_TRY(ml_json_text(json, "format", manifest, &format, err));
    ML_TRY(ml_json_int(json, "version", manifest, &version, err));
    if (strcmp(format, MANIFEST_FORMAT) || version != MANIFEST_VERSION) {
        return ml_fail(err, ML_EFORMAT, "%s: expected format \"%s\" version %d, found \"%s\" version %lld", manifest,
                       MANIFEST_FORMAT, MANIFEST_VERSION, format, (long long)version);
    }
    ML_TRY(ml_json_array(json, "files", manifest, &files, err));
    for (size_t i = 0; i < json_array_size(files); i++) {
        ML_TRY(verify_file(folder, json_array_get(files, i), manifest, how, err));
    }
    return ML_OK;
}

ml_status ml_manifest_verify(const char *folder, ml_verify how, ml_error *err)
{
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, folder, MANIFEST_NAME, err));
    if (!ml_path_exists(path)) {
        return ml_fail(err, ML_EFORMAT,
                       "%s: has no manifest.json, so it was never finished, or is no checkpoint of this program: use "
                       "another one",
                       folder);
    }
    json_t *json;
    ML_TRY(ml_json_load(path, &json, err));
    ml_status status = verify_files(folder, json, path, how, err);
    json_decref(json);
    return status;
}
