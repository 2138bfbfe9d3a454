#include "quant/hf_copy.h"

#include "base/alloc.h"
#include "base/log.h"
#include "base/text.h"
#include "format/hf.h"
#include "format/safetensors.h"
#include "quant/choose.h"

#include <stdio.h>
#include <string.h>

enum { PIECE = 1 << 20, NAME_MAX = 256 };
static const uint64_t MAX_SHARD_BYTES = (uint64_t)5 << 30;

typedef struct {
    const ml_hf_copy *x;
    ml_safetensors *file;
    ml_st_writer *writer;
    uint64_t done;
    bool any_fp8;
} job;

static bool is_fp8(const ml_st_tensor *t)
{
    return t->dtype == ML_ST_F8_E4M3 || t->dtype == ML_ST_F8_E5M2;
}

static bool is_float(const ml_st_tensor *t)
{
    return t->dtype == ML_ST_F32 || t->dtype == ML_ST_BF16 || t->dtype == ML_ST_F16 || t->dtype == ML_ST_F64 ||
           is_fp8(t);
}

/* The scales of an FP8 tensor that is in the file; they are multiplied into it. */
static bool is_scale(const job *j, const ml_st_tensor *t)
{
    static const char end[] = "_scale_inv";
    char name[NAME_MAX];
    size_t n = strlen(t->name), n_end = sizeof end - 1;
    if (n <= n_end || n - n_end >= sizeof name || strcmp(t->name + n - n_end, end) != 0) return false;
    memcpy(name, t->name, n - n_end);
    name[n - n_end] = 0;
    const ml_st_tensor *scaled = ml_safetensors_find(j->file, name);
    return scaled && is_fp8(scaled);
}

static ml_st_dtype choose(const job *j, const ml_st_tensor *t)
{
    ml_dtype dtype = j->x->keep ? ML_BF16 : j->x->dtype;
    ml_weight_class class = ml_weight_class_of(t->name);
    bool small = class == ML_CLASS_NORM || class == ML_CLASS_BIAS || class == ML_CLASS_ROUTER;
    if (is_fp8(t)) return ml_st_dtype_of(dtype);
    bool changes = !j->x->keep && is_float(t) && t->n_dim > 1 && !small;
    return changes ? ml_st_dtype_of(dtype) : t->dtype;
}

static ml_status declare(job *j, ml_error *err)
{
    for (size_t i = 0; i < ml_safetensors_count(j->file); i++) {
        const ml_st_tensor *t = ml_safetensors_at(j->file, i);
        j->any_fp8 |= is_fp8(t);
        if (is_scale(j, t)) continue;
        ML_TRY(ml_st_writer_declare(j->writer, t->name, choose(j, t), t->n_dim, t->shape, err));
    }
    return ML_OK;
}

static ml_status put_tensor(job *j, const ml_st_tensor *t, float *buffer, ml_error *err)
{
    if (choose(j, t) == t->dtype) {
        for (size_t at = 0; at < t->n_bytes; at += PIECE) {
            size_t n = t->n_bytes - at < PIECE ? t->n_bytes - at : PIECE;
            ML_TRY(ml_st_writer_put_raw(j->writer, t->data + at, n, err));
        }
        ml_map_drop(t->data, t->n_bytes);
        return ML_OK;
    }
    int64_t rows = t->n_dim ? t->shape[0] : 1, cols = rows ? t->n_element / rows : 0;
    int64_t step = cols && cols < PIECE ? PIECE / cols : 1;
    for (int64_t row = 0; row < rows; row += step) {
        int64_t n_row = rows - row < step ? rows - row : step;
        ML_TRY(ml_hf_read_f32(j->file, t, row, n_row, buffer, err));
        ML_TRY(ml_st_writer_put_f32(j->writer, buffer, n_row * cols, err));
    }
    ml_map_drop(t->data, t->n_bytes);
    return ML_OK;
}

static ml_status put_tensors(job *j, ml_error *err)
{
    uint64_t total = ml_st_writer_bytes(j->writer);
    size_t size = PIECE;
    for (size_t i = 0; i < ml_safetensors_count(j->file); i++) {
        const ml_st_tensor *t = ml_safetensors_at(j->file, i);
        size_t cols = t->n_dim && t->shape[0] ? (size_t)(t->n_element / t->shape[0]) : 0;
        if (choose(j, t) != t->dtype && cols > size) size = cols;
    }
    float *buffer = ml_alloc(size * sizeof *buffer);
    if (!buffer) return ml_fail_memory(err, size * sizeof *buffer, "rows of a tensor");
    ml_status status = ML_OK;
    for (size_t i = 0; i < ml_safetensors_count(j->file) && status == ML_OK; i++) {
        const ml_st_tensor *t = ml_safetensors_at(j->file, i);
        if (ml_stop_requested()) status = ml_fail(err, ML_ECANCEL, "stopped: nothing was written");
        if (status != ML_OK || is_scale(j, t)) continue;
        status = put_tensor(j, t, buffer, err);
        j->done += (uint64_t)t->n_element * ml_st_dtype_size(choose(j, t));
        if (j->x->progress) j->x->progress(j->x->arg, j->done, total);
    }
    ml_free(buffer);
    return status;
}

/* Weights, what lists them, and what is written anew. */
static bool is_left_out(const char *name)
{
    static const char *const ends[] = { ".safetensors", ".safetensors.index.json",
                                        ".bin",         ".bin.index.json",
                                        ".pt",          ".pth",
                                        ".gguf",        ".h5",
                                        ".msgpack",     ".onnx",
                                        "manifest.json" };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        if (ml_text_ends_with(name, ends[i])) return true;
    }
    return !strcmp(name, "config.json") || name[0] == '.';
}

static ml_status copy_files(const char *folder, ml_manifest *manifest, ml_error *err)
{
    char **names;
    size_t n;
    ML_TRY(ml_dir_list(folder, &names, &n, err));
    ml_status status = ML_OK;
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        char path[ML_PATH_MAX];
        ml_map map;
        status = ml_path_join(path, folder, names[i], err);
        if (status != ML_OK || is_left_out(names[i]) || ml_path_is_dir(path)) continue;
        status = ml_map_open(path, &map, err);
        if (status != ML_OK) break;
        status = ml_manifest_put(manifest, names[i], map.data, map.size, err);
        ml_map_close(&map);
    }
    ml_dir_list_free(names, n);
    return status;
}

/* config.json as it is, but for the type: in the place it has, old or new. */
static ml_status copy_config(const job *j, const char *folder, ml_manifest *manifest, ml_error *err)
{
    char path[ML_PATH_MAX];
    json_t *config;
    ML_TRY(ml_path_join(path, folder, "config.json", err));
    ML_TRY(ml_json_load(path, &config, err));
    if (j->any_fp8) json_object_del(config, "quantization_config");
    if (!j->x->keep || j->any_fp8) {
        ml_dtype dtype = j->x->keep ? ML_BF16 : j->x->dtype;
        const char *name = dtype == ML_BF16 ? "bfloat16" : dtype == ML_F16 ? "float16" : "float32";
        const char *key = json_object_get(config, "dtype") ? "dtype" : "torch_dtype";
        json_object_set_new(config, key, json_string(name));
    }
    ml_status status = ml_manifest_put_json(manifest, "config.json", config, err);
    json_decref(config);
    return status;
}

static ml_status check_disk(const job *j, const ml_manifest *manifest, ml_error *err)
{
    uint64_t n_free, need = ml_st_writer_bytes(j->writer);
    ML_TRY(ml_disk_free(ml_manifest_folder(manifest), &n_free, err));
    if (n_free >= need) return ML_OK;
    return ml_fail(err, ML_EIO, "%s: %.2f GB are needed, but its disk has %.2f GB free", ml_manifest_folder(manifest),
                   (double)need / 1e9, (double)n_free / 1e9);
}

static ml_status write_all(job *j, const char *folder, ml_manifest *manifest, ml_error *err)
{
    ML_TRY(ml_st_writer_begin(&j->writer, manifest, "model.safetensors", MAX_SHARD_BYTES, err));
    ML_TRY(declare(j, err));
    ML_TRY(check_disk(j, manifest, err));
    ML_TRY(copy_config(j, folder, manifest, err));
    ML_TRY(copy_files(folder, manifest, err));
    ML_TRY(ml_st_writer_start(j->writer, err));
    ML_TRY(put_tensors(j, err));
    return ml_st_writer_end(j->writer, err);
}

ml_status ml_hf_copy_write(const ml_hf_copy *x, ml_manifest *manifest, uint64_t *n_bytes, ml_error *err)
{
    job j = { .x = x };
    char folder[ML_PATH_MAX];
    if (ml_path_is_dir(x->folder))
        snprintf(folder, sizeof folder, "%s", x->folder);
    else
        ML_TRY(ml_path_parent(folder, x->folder, err));
    ML_TRY(ml_safetensors_open(&j.file, x->folder, err));
    ml_status status = write_all(&j, folder, manifest, err);
    *n_bytes = j.writer ? ml_st_writer_bytes(j.writer) : 0;
    ml_st_writer_free(j.writer);
    ml_safetensors_close(j.file);
    return status;
}
