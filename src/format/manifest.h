/* Folders that are complete or plainly are not.
 *
 * A folder of files (a checkpoint, a converted model) is closed by `manifest.json`, written last: every file
 * with its size and SHA-256.  A folder without it was never finished.  Each file is hashed while it is
 * written, so closing costs no second reading:
 *
 *   ml_manifest *m;    ml_manifest_begin(&m, folder, expect_bytes, err)
 *   ml_manifest_file f; ml_manifest_open_file(&f, m, "state/x.bin", err)  write, write, ...  close_file
 *   ml_manifest_commit(m, err)      hashes what was put there by other means, writes manifest.json, syncs
 *   ml_manifest_free(m)
 *
 * Errors name the file; a full disk says how much was needed, how much is written and how much is free. */
#ifndef ML_FORMAT_MANIFEST_H
#define ML_FORMAT_MANIFEST_H

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"

typedef struct ml_manifest ml_manifest;

/* Make the folder if it is missing and start an empty list for it; a manifest.json already there is removed,
 * since the folder stops being complete.  `expect_bytes` is what will be written in all (0: not known): when
 * less is free the call fails with ML_EIO at once. */
ml_status ml_manifest_begin(ml_manifest **out, const char *folder, uint64_t expect_bytes, ml_error *err);
void ml_manifest_free(ml_manifest *m);
const char *ml_manifest_folder(const ml_manifest *m);

/* One file being written, hashed as it goes.  Appears under its name when closed (file.h). */
typedef struct {
    ml_manifest *manifest;
    ml_file_writer file;
    ml_sha256 *hash;
    uint64_t n_bytes;
    char name[ML_PATH_MAX];
} ml_manifest_file;

/* `name` is relative to the folder and may have folders in it, which are made. */
ml_status ml_manifest_open_file(ml_manifest_file *f, ml_manifest *m, const char *name, ml_error *err);
ml_status ml_manifest_write(ml_manifest_file *f, const void *data, size_t n_bytes, ml_error *err);
/* Sync, put in place, list.  A file that was listed before is replaced. */
ml_status ml_manifest_close_file(ml_manifest_file *f, ml_error *err);
/* Drop it; safe after close_file and on a zeroed file. */
void ml_manifest_abandon_file(ml_manifest_file *f);

/* A whole small file at once. */
ml_status ml_manifest_put(ml_manifest *m, const char *name, const void *data, size_t n_bytes, ml_error *err);
ml_status ml_manifest_put_json(ml_manifest *m, const char *name, const json_t *value, ml_error *err);

/* Read, hash and list every file of the folder that is not listed yet (callers may write plain files too),
 * then write manifest.json and sync every folder inside.  Names ending in ".tmp.<number>" are ignored. */
ml_status ml_manifest_commit(ml_manifest *m, ml_error *err);

/* Append to a message about a failed write how much was needed, written and is free; returns err->code. */
ml_status ml_manifest_fail_write(const ml_manifest *m, ml_error *err);

typedef enum {
    ML_VERIFY_SIZES,  /* every listed file is there with its size: some stat calls */
    ML_VERIFY_HASHES, /* and its bytes hash to what is listed: reads everything */
} ml_verify;

/* Check a folder against its manifest.json.  ML_EFORMAT when the manifest is missing (the folder is
 * incomplete), or a file is missing, differs in size or in hash: the message says which, and what to do.
 * Files that are not listed are no error. */
ml_status ml_manifest_verify(const char *folder, ml_verify how, ml_error *err);

#endif
