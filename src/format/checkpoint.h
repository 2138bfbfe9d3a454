/* Writing one checkpoint into a run folder so that it is there whole or not at all.
 *
 *   ml_checkpoint *c;
 *   ml_checkpoint_begin(&c, run, step, expect_bytes, err)     a folder step_N.tmp
 *     ... weights through ml_st_writer on ml_checkpoint_manifest(c), tokenizer files, state ...
 *   ml_checkpoint_commit(c, err)     manifest, sync, rename to step_N, sync, `latest` now names it
 *   ml_checkpoint_free(c)            removes what was not committed
 *
 * Whatever happens (kill -9, full disk, no memory), the earlier checkpoints and `latest` stay as they were until
 * the rename.  On a full disk the error says what was needed and free, and free() gives the space back. */
#ifndef ML_FORMAT_CHECKPOINT_H
#define ML_FORMAT_CHECKPOINT_H

#include "format/manifest.h"
#include "format/run.h"
#include "format/safetensors.h"

typedef struct ml_checkpoint ml_checkpoint;

/* `expect_bytes`: what will be written, for the check of free space beforehand; 0 if not known.  The run must
 * outlive the checkpoint. A complete checkpoint of the same step stays until commit replaces it. */
ml_status ml_checkpoint_begin(ml_checkpoint **out, const ml_run *run, int64_t step, uint64_t expect_bytes,
                              ml_error *err);
/* The temporary folder. Plain files written there are hashed at commit. */
const char *ml_checkpoint_path(const ml_checkpoint *c);
ml_manifest *ml_checkpoint_manifest(ml_checkpoint *c);
ml_status ml_checkpoint_commit(ml_checkpoint *c, ml_error *err);
void ml_checkpoint_free(ml_checkpoint *c);

/* A buffer of the training state: n elements of F32 or I64.  F32 may lie elsewhere (data NULL): then elements [first,
 * first + n) come from there and go there by way of `values`. */
typedef struct {
    const char *name;
    ml_st_dtype dtype;
    int64_t n;
    void *data;
    void *arg;
    ml_status (*read)(void *arg, int64_t first, int64_t n, float *values, ml_error *err);
    ml_status (*write)(void *arg, int64_t first, int64_t n, const float *values, ml_error *err);
} ml_state_buffer;

/* Write buffers as one safetensors file, e.g. "state/optimizer.safetensors". */
ml_status ml_checkpoint_put_state(ml_checkpoint *c, const char *file, const ml_state_buffer *buffers, size_t n_buffer,
                                  ml_error *err);
/* Fill buffers from such a file of a step folder.  Names, types and sizes must match exactly, in both
 * directions: ML_EFORMAT otherwise, with some buffers then already overwritten. */
ml_status ml_checkpoint_get_state(const char *step_folder, const char *file, const ml_state_buffer *buffers,
                                  size_t n_buffer, ml_error *err);
/* Scalars, e.g. "state/trainer.json"; read back with ml_json_load. */
ml_status ml_checkpoint_put_json(ml_checkpoint *c, const char *file, const json_t *value, ml_error *err);

#endif
