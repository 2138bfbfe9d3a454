#include "format/checkpoint.h"

#include "base/alloc.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

struct ml_checkpoint {
    const ml_run *run;
    int64_t step;
    char final[ML_PATH_MAX];
    char tmp[ML_PATH_MAX]; /* final.tmp, being written */
    char old[ML_PATH_MAX]; /* final.old, an earlier one of the same step that makes room */
    bool in_place, replaces;
    ml_manifest *manifest;
};

ml_status ml_checkpoint_begin(ml_checkpoint **out, const ml_run *run, int64_t step, uint64_t expect_bytes,
                              ml_error *err)
{
    *out = NULL;
    ml_checkpoint *c = ml_calloc(1, sizeof *c);
    if (!c) return ml_fail_memory(err, sizeof *c, "a checkpoint");
    c->run = run;
    c->step = step;
    ml_status status;
    ML_TRY_GOTO(ml_run_step_path(ml_run_folder(run), step, c->final, err));
    if (snprintf(c->tmp, sizeof c->tmp, "%s.tmp", c->final) >= ML_PATH_MAX ||
        snprintf(c->old, sizeof c->old, "%s.old", c->final) >= ML_PATH_MAX) {
        c->tmp[0] = 0; /* nothing to remove */
        status = ml_fail(err, ML_EINVAL, "%s: the path is too long", c->final);
        goto done;
    }
    ML_TRY_GOTO(ml_dir_remove(c->tmp, err));
    ML_TRY_GOTO(ml_manifest_begin(&c->manifest, c->tmp, expect_bytes, err));
    *out = c;
    c = NULL;
done:
    ml_checkpoint_free(c);
    return status;
}

const char *ml_checkpoint_path(const ml_checkpoint *c)
{
    return c->tmp;
}

ml_manifest *ml_checkpoint_manifest(ml_checkpoint *c)
{
    return c->manifest;
}

/* Killed between the renames, the next ml_run_open puts the old folder back. */
static ml_status put_in_place(ml_checkpoint *c, ml_error *err)
{
    c->replaces = ml_path_exists(c->final);
    if (c->replaces) {
        ML_TRY(ml_dir_remove(c->old, err));
        if (rename(c->final, c->old) != 0) return ml_fail_errno(err, "%s: cannot be renamed", c->final);
    }
    if (rename(c->tmp, c->final) != 0) {
        ml_fail_errno(err, "%s: cannot be renamed to %s", c->tmp, c->final);
        if (c->replaces && rename(c->old, c->final) != 0) return ml_fail_prefix(err, "%s is left and whole", c->old);
        return ML_EIO;
    }
    c->in_place = true;
    return ml_dir_sync(ml_run_folder(c->run), err);
}

ml_status ml_checkpoint_commit(ml_checkpoint *c, ml_error *err)
{
    assert(!c->in_place);
    ml_file_writer latest;
    ML_TRY(ml_manifest_commit(c->manifest, err));
    ml_status status = ml_run_prepare(c->run, ML_RUN_LATEST, c->step, &latest, err);
    if (status != ML_OK) return status == ML_EIO ? ml_manifest_fail_write(c->manifest, err) : status;
    status = put_in_place(c, err);
    if (status == ML_OK) status = ml_file_commit(&latest, err);
    ml_file_abandon(&latest);
    if (status == ML_OK && c->replaces) status = ml_dir_remove(c->old, err);
    return status;
}

void ml_checkpoint_free(ml_checkpoint *c)
{
    if (!c) return;
    /* What cannot be removed now is removed when the run is opened again. */
    ml_error ignored;
    if (!c->in_place && c->tmp[0]) (void)ml_dir_remove(c->tmp, &ignored);
    ml_manifest_free(c->manifest);
    ml_free(c);
}

/* State */

enum { CHUNK = 1 << 22 /* elements that are moved at once */ };

/* In pieces, through memory of this machine. */
static ml_status put_distant(ml_st_writer *w, const ml_state_buffer *b, ml_error *err)
{
    float *values = ml_alloc((size_t)(b->n < CHUNK ? b->n : CHUNK) * sizeof *values);
    if (!values) return ml_fail_memory(err, CHUNK * sizeof *values, b->name);
    ml_status status = ML_OK;
    for (int64_t at = 0; at < b->n && status == ML_OK; at += CHUNK) {
        int64_t n = b->n - at < CHUNK ? b->n - at : CHUNK;
        status = b->read(b->arg, at, n, values, err);
        if (status == ML_OK) status = ml_st_writer_put_raw(w, values, (size_t)n * sizeof *values, err);
    }
    ml_free(values);
    return status;
}

static ml_status put_buffers(ml_st_writer *w, const ml_state_buffer *buffers, size_t n_buffer, ml_error *err)
{
    for (size_t i = 0; i < n_buffer; i++) {
        assert(buffers[i].dtype == ML_ST_F32 || buffers[i].dtype == ML_ST_I64);
        ML_TRY(ml_st_writer_declare(w, buffers[i].name, buffers[i].dtype, 1, &buffers[i].n, err));
    }
    ML_TRY(ml_st_writer_start(w, err));
    for (size_t i = 0; i < n_buffer; i++) {
        size_t n_bytes = (size_t)buffers[i].n * ml_st_dtype_size(buffers[i].dtype);
        if (buffers[i].read) {
            ML_TRY(put_distant(w, &buffers[i], err));
            continue;
        }
        ML_TRY(ml_st_writer_put_raw(w, buffers[i].data, n_bytes, err));
    }
    return ml_st_writer_end(w, err);
}

ml_status ml_checkpoint_put_state(ml_checkpoint *c, const char *file, const ml_state_buffer *buffers, size_t n_buffer,
                                  ml_error *err)
{
    ml_st_writer *w;
    ML_TRY(ml_st_writer_begin(&w, c->manifest, file, 0, err));
    ml_status status = put_buffers(w, buffers, n_buffer, err);
    ml_st_writer_free(w);
    return status;
}

static ml_status get_distant(const ml_state_buffer *b, const ml_st_tensor *t, ml_error *err)
{
    float *values = ml_alloc((size_t)(b->n < CHUNK ? b->n : CHUNK) * sizeof *values);
    if (!values) return ml_fail_memory(err, CHUNK * sizeof *values, b->name);
    ml_status status = ML_OK;
    for (int64_t at = 0; at < b->n && status == ML_OK; at += CHUNK) {
        int64_t n = b->n - at < CHUNK ? b->n - at : CHUNK;
        memcpy(values, (const char *)t->data + (size_t)at * sizeof *values, (size_t)n * sizeof *values);
        status = b->write(b->arg, at, n, values, err);
    }
    ml_free(values);
    return status;
}

static ml_status get_buffers(const ml_safetensors *s, const char *path, const ml_state_buffer *buffers, size_t n_buffer,
                             ml_error *err)
{
    for (size_t i = 0; i < n_buffer; i++) {
        const ml_state_buffer *b = &buffers[i];
        const ml_st_tensor *t;
        ML_TRY(ml_safetensors_get(s, b->name, 1, &b->n, &t, err));
        if (t->dtype != b->dtype) {
            return ml_fail(err, ML_EFORMAT, "%s: tensor %s: expected %s, found %s", path, b->name,
                           ml_st_dtype_name(b->dtype), ml_st_dtype_name(t->dtype));
        }
        if (b->write)
            ML_TRY(get_distant(b, t, err));
        else if (t->n_bytes)
            memcpy(b->data, t->data, t->n_bytes);
    }
    if (ml_safetensors_count(s) == n_buffer) return ML_OK;
    return ml_fail(err, ML_EFORMAT,
                   "%s: holds %zu buffers, this run has %zu: was it saved with another optimizer or model?", path,
                   ml_safetensors_count(s), n_buffer);
}

ml_status ml_checkpoint_get_state(const char *step_folder, const char *file, const ml_state_buffer *buffers,
                                  size_t n_buffer, ml_error *err)
{
    char path[ML_PATH_MAX];
    ml_safetensors *s;
    ML_TRY(ml_path_join(path, step_folder, file, err));
    ML_TRY(ml_safetensors_open(&s, path, err));
    ml_status status = get_buffers(s, path, buffers, n_buffer, err);
    ml_safetensors_close(s);
    return status;
}

ml_status ml_checkpoint_put_json(ml_checkpoint *c, const char *file, const json_t *value, ml_error *err)
{
    return ml_manifest_put_json(c->manifest, file, value, err);
}
