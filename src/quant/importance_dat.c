/* The older form of llama.cpp's importance matrices, "imatrix.dat": little endian, without a signature.
 *
 *   i32 n_entry
 *   n_entry times: i32 n_name, char name[n_name], i32 n_call, i32 n_value, f32 value[n_value]
 *   behind them, in newer files: i32 n_chunk, i32 n_text, char text[n_text] (the name of the text); not used here
 *
 * value / n_call is the mean square of a column; the experts of a layer are one entry, end to end. */
#include "quant/importance.h"

#include "base/bytes.h"
#include "base/file.h"

#include <math.h>
#include <string.h>

static ml_status read_value(ml_bytes *b, const char *name, float *out, ml_error *err)
{
    uint32_t bits;
    size_t at = b->at;
    ML_TRY(ml_bytes_u32(b, &bits, err));
    memcpy(out, &bits, sizeof bits);
    if (*out >= 0 && isfinite(*out)) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%.100s: offset %zu: expected sums of squares", name, at);
}

static ml_status read_entry(ml_bytes *b, ml_importance *out, ml_error *err)
{
    uint32_t n_name, n_call, n_value;
    const uint8_t *text;
    char name[ML_GGUF_TENSOR_NAME_MAX] = { 0 };
    ml_importance_entry *e;
    size_t at = b->at;
    ML_TRY(ml_bytes_u32(b, &n_name, err));
    if (n_name == 0 || n_name >= sizeof name) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: expected a tensor's name of 1 to %zu bytes, found %u", at,
                       sizeof name - 1, n_name);
    }
    ML_TRY(ml_bytes_take(b, n_name, &text, err));
    memcpy(name, text, n_name);
    ML_TRY(ml_bytes_u32(b, &n_call, err));
    at = b->at;
    ML_TRY(ml_bytes_u32(b, &n_value, err));
    if (n_value == 0 || n_value > (b->size - b->at) / 4) {
        return ml_fail(err, ML_EFORMAT, "%s: offset %zu: expected 1 to %zu values, found %u", name, at,
                       (b->size - b->at) / 4, n_value);
    }
    ML_TRY(ml_importance_add(out, name, 1, n_value, &e, err));
    for (uint32_t i = 0; i < n_value; i++) ML_TRY(read_value(b, name, &e->sum[i], err));
    e->count[0] = n_call <= INT32_MAX ? (float)n_call : 0;
    ml_importance_finish(e);
    return ML_OK;
}

static ml_status read_entries(ml_bytes *b, ml_importance *out, ml_error *err)
{
    uint32_t n_entry;
    ML_TRY(ml_bytes_u32(b, &n_entry, err));
    if (n_entry == 0 || n_entry > (b->size - b->at) / 16) {
        return ml_fail(err, ML_EFORMAT, "expected an importance matrix (GGUF, or llama.cpp's older .dat)");
    }
    for (uint32_t i = 0; i < n_entry; i++) ML_TRY(read_entry(b, out, err));
    return ML_OK;
}

ml_status ml_importance_load_dat(const char *path, ml_importance *out, ml_error *err)
{
    ml_map map;
    *out = (ml_importance){ 0 };
    ML_TRY(ml_map_open(path, &map, err));
    ml_bytes b = { .data = map.data, .size = map.size };
    ml_status status = read_entries(&b, out, err);
    ml_map_close(&map);
    if (status == ML_OK) return ML_OK;
    ml_importance_free(out);
    return ml_fail_prefix(err, "%.300s", path);
}
