#include "data/spool.h"

#include "base/alloc.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct {
    const char *data; /* of a plain file; NULL: in the spool */
    uint64_t offset;  /* in the spool */
    size_t n_bytes;
    uint64_t number, position;
    const char *path;
    ml_record_kind kind;
} kept;

struct ml_spool {
    kept *record;
    size_t n, capacity;
    FILE *file;
    uint64_t n_bytes;
    ml_map map;
};

static ml_status make_file(const char *folder, ml_spool *s, ml_error *err)
{
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, folder, "spool.tmp.XXXXXX", err));
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) return ml_fail_errno(err, "%s: cannot be created", path);
    unlink(path);
    s->file = fdopen(fd, "wb+");
    if (s->file) return ML_OK;
    close(fd);
    return ml_fail_memory(err, 0, "a file for the records to be shuffled");
}

static ml_status append(ml_spool *s, const char *data, size_t n_bytes, ml_error *err)
{
    if (n_bytes && fwrite(data, 1, n_bytes, s->file) != n_bytes)
        return ml_fail_errno(err,
                             "the records to be shuffled need a file of more than %llu bytes, which cannot be written",
                             (unsigned long long)s->n_bytes);
    s->n_bytes += n_bytes;
    return ML_OK;
}

/* The text of a row, or why there is none. */
static ml_status append_row(ml_spool *s, ml_record_batch *batch, size_t i, const char *field, kept *k, ml_error *err)
{
    ml_text text;
    ml_error problem;
    ml_status status = ml_record_text(batch, i, field, &text, &problem);
    k->kind = status == ML_OK ? ML_RECORD_TEXT : ML_RECORD_BAD;
    if (status != ML_OK) text = (ml_text){ problem.message, strlen(problem.message) };
    k->n_bytes = text.n_bytes;
    return append(s, text.data, text.n_bytes, err);
}

static ml_status keep_record(ml_spool *s, ml_record_batch *batch, size_t i, const char *field, ml_error *err)
{
    const ml_record *r = &batch->record[i];
    void *items = s->record;
    ML_TRY(ml_grow(&items, &s->capacity, s->n + 1, sizeof *s->record, err));
    s->record = items;
    kept *k = &s->record[s->n++];
    *k = (kept){ .data = r->is_mapped ? r->data : NULL,
                 .offset = s->n_bytes,
                 .n_bytes = r->n_bytes,
                 .number = r->number,
                 .position = r->position,
                 .path = r->path,
                 .kind = r->kind };
    if (k->data) return ML_OK;
    return r->kind == ML_RECORD_ROW ? append_row(s, batch, i, field, k, err) : append(s, r->data, r->n_bytes, err);
}

static ml_status map_file(ml_spool *s, ml_error *err)
{
    if (fflush(s->file) != 0) return ml_fail_errno(err, "the file of the records to be shuffled cannot be written");
    if (s->n_bytes == 0) return ML_OK;
    void *data = mmap(NULL, (size_t)s->n_bytes, PROT_READ, MAP_PRIVATE, fileno(s->file), 0);
    if (data == MAP_FAILED) return ml_fail_errno(err, "the file of the records to be shuffled cannot be mapped");
    s->map = (ml_map){ data, (size_t)s->n_bytes };
    return ML_OK;
}

static ml_status keep_all(ml_spool *s, ml_records *r, const char *field, const ml_progress *progress, ml_error *err)
{
    enum { AT_ONCE = 1 << 22 };
    ml_record_batch batch = { 0 };
    ml_status status;
    do {
        ML_TRY_GOTO(ml_records_read(r, SIZE_MAX, AT_ONCE, &batch, err));
        for (size_t i = 0; i < batch.n; i++) ML_TRY_GOTO(keep_record(s, &batch, i, field, err));
        if (ml_progress_stopped(progress)) {
            status = ml_fail(err, ML_ECANCEL, "stopped while the records were being read");
            goto done;
        }
    } while (batch.n);
    status = map_file(s, err);
done:
    ml_record_batch_free(&batch);
    return status;
}

ml_status ml_spool_open(const char *folder, ml_records *r, const char *field, const ml_progress *progress,
                        ml_spool **out, ml_error *err)
{
    *out = NULL;
    ml_spool *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "the order of the records");
    ml_status status;
    ML_TRY_GOTO(make_file(folder, s, err));
    ML_TRY_GOTO(keep_all(s, r, field, progress, err));
    *out = s;
    s = NULL;
done:
    ml_spool_free(s);
    return status;
}

void ml_spool_free(ml_spool *s)
{
    if (!s) return;
    if (s->file) fclose(s->file);
    ml_map_close(&s->map);
    ml_free(s->record);
    ml_free(s);
}

size_t ml_spool_count(const ml_spool *s)
{
    return s->n;
}

ml_status ml_spool_get(const ml_spool *s, size_t i, ml_record_batch *batch, ml_error *err)
{
    const kept *k = &s->record[i];
    void *items = batch->record;
    ML_TRY(ml_grow(&items, &batch->capacity, batch->n + 1, sizeof *batch->record, err));
    batch->record = items;
    batch->record[batch->n++] = (ml_record){ .index = i,
                                             .number = k->number,
                                             .position = k->position,
                                             .path = k->path,
                                             .kind = k->kind,
                                             .is_mapped = true,
                                             .data = k->data       ? k->data
                                                     : s->map.data ? (const char *)s->map.data + k->offset
                                                                   : "",
                                             .n_bytes = k->n_bytes };
    return ML_OK;
}
