#include "data/synth_journal.h"

#include "base/alloc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static ml_status append_line(ml_journal *j, const json_t *value, ml_error *err)
{
    char *text = json_dumps(value, JSON_COMPACT);
    if (!text) return ml_fail_memory(err, 0, "a line of a collection");
    size_t n = strlen(text);
    bool good = fwrite(text, 1, n, j->file) == n && fputc('\n', j->file) != EOF && fflush(j->file) == 0;
    free(text);
    if (!good) return ml_fail_errno(err, "%s: cannot be written", j->path);
    j->n_bytes += n + 1;
    return ML_OK;
}

static ml_status note(ml_journal *j, const json_t *entry, uint64_t offset, size_t n_bytes, ml_error *err)
{
    int64_t index;
    void *items = j->entry;
    ML_TRY(ml_json_int(entry, "index", j->path, &index, err));
    ML_TRY(ml_grow(&items, &j->capacity, j->n + 1, sizeof *j->entry, err));
    j->entry = items;
    j->entry[j->n++] = (ml_journal_entry){ (uint64_t)index, offset, n_bytes };
    return ML_OK;
}

static ml_status check_asked(const ml_journal *j, const json_t *head, const json_t *asked, ml_error *err)
{
    const char *key;
    json_t *value, *old = json_object_get(head, "asked");
    if (!json_is_object(old))
        return ml_fail(err, ML_EFORMAT,
                       "%s: expected an unfinished collection: remove the file, or choose another --out", j->path);
    json_object_foreach((json_t *)(uintptr_t)asked, key, value)
    {
        if (json_equal(json_object_get(old, key), value)) continue;
        char *a = json_dumps(json_object_get(old, key), JSON_ENCODE_ANY), *b = json_dumps(value, JSON_ENCODE_ANY);
        ml_fail(err, ML_EINVAL,
                "%s: was begun with another %s (%.80s, now %.80s): give the same to go on, another --out, or remove it",
                j->path, key, a ? a : "none", b ? b : "?");
        free(a);
        free(b);
        return err->code;
    }
    return ML_OK;
}

static ml_status read_line(ml_journal *j, const char *text, size_t n, uint64_t offset, const json_t *asked,
                           void (*see)(void *arg, const json_t *entry), void *arg, ml_error *err)
{
    json_t *value;
    char where[ML_PATH_MAX + 40];
    snprintf(where, sizeof where, "%s: byte %llu", j->path, (unsigned long long)offset);
    ML_TRY(ml_json_parse(text, n, where, &value, err));
    ml_status status = offset == 0 ? check_asked(j, value, asked, err) : note(j, value, offset, n, err);
    if (status == ML_OK && offset > 0) see(arg, value);
    json_decref(value);
    return status;
}

/* All whole lines; j->n_bytes is where they end. */
static ml_status read_all(ml_journal *j, const json_t *asked, void (*see)(void *arg, const json_t *entry), void *arg,
                          ml_error *err)
{
    char *text;
    size_t n, at = 0;
    ML_TRY(ml_file_read(j->path, &text, &n, err));
    ml_status status = ML_OK;
    while (at < n && status == ML_OK) {
        const char *end = memchr(text + at, '\n', n - at);
        if (!end) break;
        size_t length = (size_t)(end - text) - at;
        status = read_line(j, text + at, length, at, asked, see, arg, err);
        at += length + 1;
    }
    ml_free(text);
    j->n_bytes = at;
    j->resumed = j->n > 0;
    return status;
}

ml_status ml_journal_open(ml_journal *j, const char *path, const json_t *asked,
                          void (*see)(void *arg, const json_t *entry), void *arg, ml_error *err)
{
    *j = (ml_journal){ 0 };
    snprintf(j->path, sizeof j->path, "%s", path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return ml_fail_errno(err, "%s: cannot be written", path);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd);
        return ml_fail(err, ML_EINVAL, "%s: another process is working on it", path);
    }
    j->file = fdopen(fd, "r+b");
    if (!j->file) {
        close(fd);
        return ml_fail_memory(err, 0, "a file");
    }
    ml_status status = read_all(j, asked, see, arg, err);
    if (status == ML_OK && (ftruncate(fd, (off_t)j->n_bytes) != 0 || fseeko(j->file, (off_t)j->n_bytes, SEEK_SET) != 0))
        status = ml_fail_errno(err, "%s: cannot be written", path);
    if (status == ML_OK && j->n_bytes == 0) {
        json_t *head = json_pack("{s:O}", "asked", asked);
        status = append_line(j, head, err);
        json_decref(head);
    }
    if (status != ML_OK) ml_journal_close(j);
    return status;
}

void ml_journal_close(ml_journal *j)
{
    if (j->file) fclose(j->file);
    ml_free(j->entry);
    *j = (ml_journal){ 0 };
}

ml_status ml_journal_add(ml_journal *j, const json_t *entry, ml_error *err)
{
    uint64_t offset = j->n_bytes;
    ML_TRY(append_line(j, entry, err));
    return note(j, entry, offset, (size_t)(j->n_bytes - offset - 1), err);
}

static int by_index(const void *a, const void *b)
{
    const ml_journal_entry *x = a, *y = b;
    return (x->index > y->index) - (x->index < y->index);
}

void ml_journal_sort(ml_journal *j)
{
    if (j->n) qsort(j->entry, j->n, sizeof *j->entry, by_index);
}

ml_status ml_journal_read(const ml_journal *j, size_t i, json_t **entry, ml_error *err)
{
    const ml_journal_entry *e = &j->entry[i];
    char *text = ml_alloc(e->n_bytes + 1);
    *entry = NULL;
    if (!text) return ml_fail_memory(err, e->n_bytes, "a line of a collection");
    bool good = pread(fileno(j->file), text, e->n_bytes, (off_t)e->offset) == (ssize_t)e->n_bytes;
    ml_status status =
        good ? ml_json_parse(text, e->n_bytes, j->path, entry, err) : ml_fail_errno(err, "%s: cannot be read", j->path);
    ml_free(text);
    return status;
}

ml_status ml_journal_remove(ml_journal *j, ml_error *err)
{
    char path[ML_PATH_MAX];
    snprintf(path, sizeof path, "%s", j->path);
    ml_journal_close(j);
    if (unlink(path) != 0 && errno != ENOENT) return ml_fail_errno(err, "%s: cannot be removed", path);
    return ML_OK;
}
