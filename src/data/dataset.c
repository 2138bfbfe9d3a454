#include "data/dataset.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "data/meta.h"

#include <assert.h>
#include <string.h>

const char *ml_dataset_split_name(ml_data_split split)
{
    return split == ML_SPLIT_TRAIN ? "train" : "val";
}

/* ---- reading meta.json ---- */

static ml_status read_special(const json_t *specials, const char *key, const char *where, int64_t vocab_size,
                              int32_t *out, ml_error *err)
{
    int64_t id;
    ML_TRY(ml_json_int_or(specials, key, where, -1, &id, err));
    if (id < -1 || id >= vocab_size) {
        return ml_fail(err, ML_EFORMAT, "%s: special_token_ids.%s: expected an id below vocab_size %lld, found %lld",
                       where, key, (long long)vocab_size, (long long)id);
    }
    *out = (int32_t)id;
    return ML_OK;
}

static ml_status read_head(ml_dataset *data, const json_t *meta, const char *where, ml_error *err)
{
    bool complete;
    ML_TRY(ml_json_bool_or(meta, "complete", where, false, &complete, err));
    if (!complete) {
        return ml_fail(err, ML_EIO, "%s: the data folder is not complete: run the same `data build` again", where);
    }
    const ml_meta_head head = { data->name, data->tokenizer, data->fingerprint, &data->vocab_size, &data->id_bytes };
    json_t *specials;
    ML_TRY(ml_meta_read_head(meta, where, &head, err));
    ML_TRY(ml_json_object(meta, "special_token_ids", where, &specials, err));
    ML_TRY(read_special(specials, "bos", where, data->vocab_size, &data->bos_id, err));
    return read_special(specials, "eos", where, data->vocab_size, &data->eos_id, err);
}

static ml_status check_size(const char *path, size_t found, int64_t n, size_t each, const char *what, ml_error *err)
{
    size_t expected;
    if (n >= 0 && ml_size_mul((size_t)n, each, &expected) && expected == found) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%s: expected %lld %s of %zu bytes as meta.json says, found %zu bytes in all", path,
                   (long long)n, what, each, found);
}

/* Offsets must rise from 0 to n_token, so that every later look-up stays inside. */
static ml_status check_index(const ml_shard *shard, const char *path, ml_error *err)
{
    uint64_t before = 0;
    for (int64_t i = 0; i <= shard->n_document; i++) {
        uint64_t at = ml_load_u64(shard->idx.data + 8 * i);
        if (i == 0 ? at != 0 : at <= before) {
            return ml_fail(err, ML_EFORMAT, "%s: offset %lld: document offsets must begin at 0 and rise, found %llu",
                           path, (long long)(8 * i), (unsigned long long)at);
        }
        before = at;
    }
    if (before == (uint64_t)shard->n_token) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%s: the last document ends at token %llu, but the shard has %lld", path,
                   (unsigned long long)before, (long long)shard->n_token);
}

/* The index of a shard lies beside it: x.bin, x.idx. */
static void index_path(const char *bin, char out[ML_PATH_MAX])
{
    size_t n = strlen(bin);
    memcpy(out, bin, n + 1);
    memcpy(out + n - 4, ".idx", 4);
}

static ml_status open_shard(ml_dataset *data, ml_shard *shard, const json_t *entry, const char *where, ml_error *err)
{
    char name[64], idx[ML_PATH_MAX];
    ML_TRY(ml_meta_text(entry, "file", where, name, sizeof name, err));
    size_t n = strlen(name);
    if (n < 5 || strchr(name, '/') || strcmp(name + n - 4, ".bin") != 0) {
        return ml_fail(err, ML_EFORMAT, "%s: file: expected a name like train_00000.bin, found \"%s\"", where, name);
    }
    ML_TRY(ml_path_join(shard->path, data->path, name, err));
    index_path(shard->path, idx);
    ML_TRY(ml_meta_count(entry, "tokens", where, &shard->n_token, err));
    ML_TRY(ml_meta_count(entry, "documents", where, &shard->n_document, err));
    ML_TRY(ml_meta_text(entry, "sha256", where, shard->bin_sha256, sizeof shard->bin_sha256, err));
    ML_TRY(ml_meta_text(entry, "idx_sha256", where, shard->idx_sha256, sizeof shard->idx_sha256, err));
    ML_TRY(ml_map_open(shard->path, &shard->bin, err));
    ML_TRY(ml_map_open(idx, &shard->idx, err));
    ML_TRY(check_size(shard->path, shard->bin.size, shard->n_token, (size_t)data->id_bytes, "tokens", err));
    ML_TRY(check_size(idx, shard->idx.size, shard->n_document + 1, 8, "offsets", err));
    return check_index(shard, idx, err);
}

static ml_status open_split(ml_dataset *data, ml_data_split id, const json_t *splits, const char *where, ml_error *err)
{
    ml_dataset_split *split = &data->split[id];
    json_t *object, *shards;
    int64_t n_token, n_document;
    ML_TRY(ml_json_object(splits, ml_dataset_split_name(id), where, &object, err));
    ML_TRY(ml_meta_count(object, "tokens", where, &n_token, err));
    ML_TRY(ml_meta_count(object, "documents", where, &n_document, err));
    ML_TRY(ml_json_array(object, "shards", where, &shards, err));
    size_t n = json_array_size(shards);
    split->shard = ml_calloc(n ? n : 1, sizeof *split->shard);
    if (!split->shard) return ml_fail_memory(err, n * sizeof *split->shard, "the shard list");
    for (; split->n_shard < n;) {
        ml_shard *shard = &split->shard[split->n_shard++];
        shard->first_token = split->n_token;
        shard->first_document = split->n_document;
        ML_TRY(open_shard(data, shard, json_array_get(shards, split->n_shard - 1), where, err));
        split->n_token += shard->n_token; /* each is backed by a mapped file: the sum cannot overflow */
        split->n_document += shard->n_document;
    }
    if (split->n_token == n_token && split->n_document == n_document) return ML_OK;
    return ml_fail(err, ML_EFORMAT,
                   "%s: splits.%s: expected %lld tokens in %lld documents, its shards have %lld in %lld", where,
                   ml_dataset_split_name(id), (long long)n_token, (long long)n_document, (long long)split->n_token,
                   (long long)split->n_document);
}

static ml_status open_from_meta(ml_dataset *data, const char *meta_path, ml_error *err)
{
    json_t *meta = NULL, *splits;
    ml_status status;
    ML_TRY_GOTO(ml_json_load(meta_path, &meta, err));
    ML_TRY_GOTO(read_head(data, meta, meta_path, err));
    ML_TRY_GOTO(ml_json_object(meta, "splits", meta_path, &splits, err));
    for (int i = 0; i < ML_N_SPLIT; i++) ML_TRY_GOTO(open_split(data, (ml_data_split)i, splits, meta_path, err));
done:
    json_decref(meta);
    return status;
}

ml_status ml_dataset_open(const char *path, ml_dataset **out, ml_error *err)
{
    *out = NULL;
    char meta_path[ML_PATH_MAX];
    ML_TRY(ml_path_join(meta_path, path, "meta.json", err));
    if (!ml_path_is_dir(path)) {
        return ml_fail(err, ML_EIO, "%s: no such data folder: make it with `moonlight data build`", path);
    }
    if (!ml_path_exists(meta_path)) {
        return ml_fail(
            err, ML_EIO,
            "%s: no meta.json: the folder is not a finished data folder; if a build was interrupted, run the "
            "same `moonlight data build` again",
            path);
    }
    ml_dataset *data = ml_calloc(1, sizeof *data);
    if (!data) return ml_fail_memory(err, sizeof *data, "a data set");
    ml_status status;
    memcpy(data->path, path, strlen(path) + 1); /* ml_path_join has checked the length */
    ML_TRY_GOTO(open_from_meta(data, meta_path, err));
    *out = data;
    data = NULL;
done:
    ml_dataset_free(data);
    return status;
}

void ml_dataset_free(ml_dataset *data)
{
    if (!data) return;
    for (int i = 0; i < ML_N_SPLIT; i++) {
        for (size_t k = 0; k < data->split[i].n_shard; k++) {
            ml_map_close(&data->split[i].shard[k].bin);
            ml_map_close(&data->split[i].shard[k].idx);
        }
        ml_free(data->split[i].shard);
    }
    ml_free(data);
}

ml_status ml_dataset_check_tokenizer(const ml_dataset *data, const char *fingerprint, ml_error *err)
{
    return ml_meta_check_tokenizer(data->path, data->tokenizer, fingerprint, err);
}

ml_status ml_dataset_verify(const ml_dataset *data, ml_error *err)
{
    for (int i = 0; i < ML_N_SPLIT; i++) {
        for (size_t k = 0; k < data->split[i].n_shard; k++) {
            const ml_shard *shard = &data->split[i].shard[k];
            char idx[ML_PATH_MAX];
            index_path(shard->path, idx);
            ML_TRY(ml_meta_check_hash(shard->path, shard->bin_sha256, err));
            ML_TRY(ml_meta_check_hash(idx, shard->idx_sha256, err));
        }
    }
    return ML_OK;
}

/* ---- look-up ---- */

/* The last shard that begins at or before token `at`. */
static size_t find_shard(const ml_dataset_split *split, int64_t at)
{
    size_t low = 0, high = split->n_shard;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (split->shard[middle].first_token <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static ml_status read_shard(const ml_dataset *data, const ml_shard *shard, int64_t first, int64_t n, int32_t *id,
                            ml_error *err)
{
    const uint8_t *p = shard->bin.data + first * data->id_bytes;
    uint32_t highest = 0;
    for (int64_t i = 0; i < n; i++, p += data->id_bytes) {
        uint32_t v = data->id_bytes == 2 ? (uint32_t)p[0] | (uint32_t)p[1] << 8 : ml_load_u32(p);
        if (v > highest) highest = v;
        id[i] = (int32_t)v;
    }
    if (highest < (uint64_t)data->vocab_size) return ML_OK;
    for (int64_t i = 0; i < n; i++) {
        if ((uint32_t)id[i] < (uint64_t)data->vocab_size) continue;
        return ml_fail(err, ML_EFORMAT, "%s: offset %lld: expected an id below vocab_size %lld, found %u", shard->path,
                       (long long)((first + i) * data->id_bytes), (long long)data->vocab_size, (uint32_t)id[i]);
    }
    return ML_OK;
}

ml_status ml_dataset_read(const ml_dataset *data, ml_data_split split, int64_t first, int64_t n, int32_t *id,
                          ml_error *err)
{
    const ml_dataset_split *s = &data->split[split];
    if (first < 0 || n < 0 || first > s->n_token || n > s->n_token - first) {
        return ml_fail(err, ML_EINVAL, "%s: %s: tokens %lld to %lld asked for, it has %lld", data->path,
                       ml_dataset_split_name(split), (long long)first, (long long)(first + n), (long long)s->n_token);
    }
    if (n == 0) return ML_OK;
    for (size_t k = find_shard(s, first); n > 0; k++) {
        const ml_shard *shard = &s->shard[k];
        int64_t at = first - shard->first_token;
        int64_t here = shard->n_token - at < n ? shard->n_token - at : n;
        ML_TRY(read_shard(data, shard, at, here, id, err));
        first += here;
        n -= here;
        id += here;
    }
    return ML_OK;
}

int64_t ml_dataset_find_document(const ml_dataset *data, ml_data_split split, int64_t at)
{
    const ml_dataset_split *s = &data->split[split];
    assert(at >= 0 && at < s->n_token);
    const ml_shard *shard = &s->shard[find_shard(s, at)];
    int64_t low = 0, high = shard->n_document;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if ((int64_t)ml_load_u64(shard->idx.data + 8 * middle) <= at - shard->first_token)
            low = middle;
        else
            high = middle;
    }
    return shard->first_document + low;
}

ml_status ml_dataset_document(const ml_dataset *data, ml_data_split split, int64_t i, int64_t *first, int64_t *n,
                              ml_error *err)
{
    const ml_dataset_split *s = &data->split[split];
    if (i < 0 || i >= s->n_document) {
        return ml_fail(err, ML_EINVAL, "%s: %s: document %lld asked for, it has %lld", data->path,
                       ml_dataset_split_name(split), (long long)i, (long long)s->n_document);
    }
    size_t low = 0, high = s->n_shard;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (s->shard[middle].first_document <= i)
            low = middle;
        else
            high = middle;
    }
    const ml_shard *shard = &s->shard[low];
    const uint8_t *offset = shard->idx.data + 8 * (i - shard->first_document);
    int64_t begin = (int64_t)ml_load_u64(offset), end = (int64_t)ml_load_u64(offset + 8);
    *first = shard->first_token + begin;
    *n = end - begin;
    return ML_OK;
}
