#include "data/rows_write.h"

#include "base/alloc.h"
#include "base/bytes.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    ml_file_writer file;
    ml_sha256 *hash;
    char sha256[ML_SHA256_HEX];
} part;

typedef struct {
    part part[ML_ROWS_N_FILE];
    int64_t n_row, n_token, n_span, n_target;
} split_writer;

struct ml_rows_writer {
    char folder[ML_PATH_MAX], name[256], tokenizer[128];
    ml_rows_kind kind;
    int64_t vocab_size;
    int id_bytes;
    split_writer split[ML_N_SPLIT];
};

static ml_status put(part *p, const void *data, size_t n_bytes, ml_error *err)
{
    ml_sha256_add(p->hash, data, n_bytes);
    return ml_file_write(&p->file, data, n_bytes, err);
}

/* Where the next row begins, or the end. */
static ml_status put_index(split_writer *s, ml_error *err)
{
    uint8_t bytes[16];
    ml_store_u64(bytes, (uint64_t)s->n_token);
    ml_store_u64(bytes + 8, (uint64_t)s->n_span);
    return put(&s->part[ML_ROWS_INDEX], bytes, sizeof bytes, err);
}

static ml_status begin(ml_rows_writer *w, ml_error *err)
{
    char name[32], path[ML_PATH_MAX];
    ML_TRY(ml_dir_make(w->folder, err));
    for (int i = 0; i < ML_N_SPLIT; i++) {
        for (int k = 0; k < ML_ROWS_N_FILE; k++) {
            part *p = &w->split[i].part[k];
            ml_rows_file_name((ml_data_split)i, k, name);
            ML_TRY(ml_path_join(path, w->folder, name, err));
            ML_TRY(ml_file_begin(&p->file, path, err));
            ML_TRY(ml_sha256_begin(&p->hash, err));
        }
    }
    return ML_OK;
}

ml_status ml_rows_writer_make(const char *folder, const char *name, ml_rows_kind kind, const ml_tokenizer *tokenizer,
                              ml_rows_writer **out, ml_error *err)
{
    *out = NULL;
    ml_rows_writer *w = ml_calloc(1, sizeof *w);
    if (!w) return ml_fail_memory(err, sizeof *w, "a writer of rows");
    snprintf(w->folder, sizeof w->folder, "%s", folder);
    snprintf(w->name, sizeof w->name, "%.255s", name);
    snprintf(w->tokenizer, sizeof w->tokenizer, "%.127s", ml_tokenizer_fingerprint(tokenizer));
    w->kind = kind;
    w->vocab_size = ml_tokenizer_vocab_size(tokenizer);
    w->id_bytes = w->vocab_size <= UINT16_MAX + 1 ? 2 : 4;
    ml_status status = begin(w, err);
    if (status != ML_OK) {
        ml_rows_writer_free(w);
        return status;
    }
    *out = w;
    return ML_OK;
}

void ml_rows_writer_free(ml_rows_writer *w)
{
    if (!w) return;
    for (int i = 0; i < ML_N_SPLIT; i++) {
        for (int k = 0; k < ML_ROWS_N_FILE; k++) {
            ml_file_abandon(&w->split[i].part[k].file);
            ml_sha256_free(w->split[i].part[k].hash);
        }
    }
    ml_free(w);
}

static ml_status check_row(const ml_rows_writer *w, const ml_row *row, ml_error *err)
{
    int32_t before = 1;
    bool good = row->n_span > 0;
    for (size_t i = 0; i < row->n_span; i++) {
        ml_row_span s = row->span[i];
        good = good && s.begin >= before && s.end > s.begin && (size_t)s.end <= row->ids.n;
        if (w->kind == ML_ROWS_PAIR && i == 1) good = good && s.begin == before;
        before = s.end;
    }
    if (w->kind == ML_ROWS_PAIR) good = good && row->n_span == 2 && (size_t)before == row->ids.n;
    for (size_t i = 0; i < row->ids.n; i++) good = good && row->ids.id[i] >= 0 && row->ids.id[i] < w->vocab_size;
    if (good) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "%s: row %lld: expected ids below %lld, and spans in order within the row%s, found %zu tokens and "
                   "%zu spans",
                   w->folder, (long long)w->split[0].n_row, (long long)w->vocab_size,
                   w->kind == ML_ROWS_PAIR ? ", the two answers of a pair," : "", row->ids.n, row->n_span);
}

ml_status ml_rows_writer_add(ml_rows_writer *w, ml_data_split split, const ml_row *row, ml_error *err)
{
    split_writer *s = &w->split[split];
    ML_TRY(check_row(w, row, err));
    ML_TRY(put_index(s, err));
    for (size_t i = 0; i < row->ids.n; i++) {
        uint8_t bytes[4];
        ml_store_u32(bytes, (uint32_t)row->ids.id[i]); /* little endian: its first two bytes are the uint16 */
        ML_TRY(put(&s->part[ML_ROWS_IDS], bytes, (size_t)w->id_bytes, err));
    }
    for (size_t i = 0; i < row->n_span; i++) {
        uint8_t bytes[8];
        ml_store_u32(bytes, (uint32_t)row->span[i].begin);
        ml_store_u32(bytes + 4, (uint32_t)row->span[i].end);
        ML_TRY(put(&s->part[ML_ROWS_SPANS], bytes, sizeof bytes, err));
        s->n_target += row->span[i].end - row->span[i].begin;
    }
    s->n_row++;
    s->n_token += (int64_t)row->ids.n;
    s->n_span += (int64_t)row->n_span;
    return ML_OK;
}

static ml_status finish_split(split_writer *s, ml_error *err)
{
    uint8_t digest[ML_SHA256_BYTES];
    ML_TRY(put_index(s, err));
    for (int k = 0; k < ML_ROWS_N_FILE; k++) {
        part *p = &s->part[k];
        ml_sha256_end(p->hash, digest);
        p->hash = NULL;
        ml_sha256_to_hex(digest, p->sha256);
        ML_TRY(ml_file_commit(&p->file, err));
    }
    return ML_OK;
}

static json_t *describe_split(const split_writer *s)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:{s:s, s:s, s:s}}", "rows", (json_int_t)s->n_row, "tokens",
                     (json_int_t)s->n_token, "targets", (json_int_t)s->n_target, "spans", (json_int_t)s->n_span,
                     "sha256", "ids", s->part[0].sha256, "rows", s->part[1].sha256, "spans", s->part[2].sha256);
}

/* One hash for the data: of the files' hashes, in order. */
static ml_status fingerprint(const ml_rows_writer *w, char hex[ML_SHA256_HEX], ml_error *err)
{
    ml_sha256 *hash;
    uint8_t digest[ML_SHA256_BYTES];
    ML_TRY(ml_sha256_begin(&hash, err));
    for (int i = 0; i < ML_N_SPLIT; i++) {
        for (int k = 0; k < ML_ROWS_N_FILE; k++) {
            ml_sha256_add(hash, w->split[i].part[k].sha256, ML_SHA256_HEX - 1);
        }
    }
    ml_sha256_end(hash, digest);
    ml_sha256_to_hex(digest, hex);
    return ML_OK;
}

ml_status ml_rows_writer_finish(ml_rows_writer *w, const json_t *facts, ml_error *err)
{
    char hex[ML_SHA256_HEX], path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, w->folder, "meta.json", err));
    /* From here on the files are no longer those that an older meta.json describes. */
    if (unlink(path) != 0 && errno != ENOENT) return ml_fail_errno(err, "%s: cannot be removed", path);
    for (int i = 0; i < ML_N_SPLIT; i++) ML_TRY(finish_split(&w->split[i], err));
    ML_TRY(fingerprint(w, hex, err));
    json_t *meta =
        json_pack("{s:s, s:i, s:s, s:s, s:{s:s}, s:I, s:s, s:{s:o, s:o}, s:s}", "format", ML_ROWS_FORMAT, "version", 1,
                  "dataset", w->name, "kind", ml_rows_kind_name(w->kind), "tokenizer", "fingerprint", w->tokenizer,
                  "vocab_size", (json_int_t)w->vocab_size, "dtype", w->id_bytes == 2 ? "uint16" : "uint32", "splits",
                  "train", describe_split(&w->split[0]), "val", describe_split(&w->split[1]), "fingerprint", hex);
    if (!meta) return ml_fail_memory(err, 0, "the description of a folder of rows");
    if (facts) json_object_update_missing(meta, (json_t *)(uintptr_t)facts);
    ml_status status = ml_json_save(meta, path, err);
    json_decref(meta);
    return status;
}
