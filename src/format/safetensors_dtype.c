/* Element types of safetensors files and the conversion of their values. */
#include "base/bytes.h"
#include "base/thread.h"
#include "format/safetensors.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[ML_ST_N_DTYPE] = {
    [ML_ST_F32] = { "F32", 4 }, [ML_ST_BF16] = { "BF16", 2 },       [ML_ST_F16] = { "F16", 2 },
    [ML_ST_F64] = { "F64", 8 }, [ML_ST_F8_E4M3] = { "F8_E4M3", 1 }, [ML_ST_F8_E5M2] = { "F8_E5M2", 1 },
    [ML_ST_I64] = { "I64", 8 }, [ML_ST_I32] = { "I32", 4 },         [ML_ST_I16] = { "I16", 2 },
    [ML_ST_I8] = { "I8", 1 },   [ML_ST_U64] = { "U64", 8 },         [ML_ST_U32] = { "U32", 4 },
    [ML_ST_U16] = { "U16", 2 }, [ML_ST_U8] = { "U8", 1 },           [ML_ST_BOOL] = { "BOOL", 1 },
};

const char *ml_st_dtype_name(ml_st_dtype dtype)
{
    return dtypes[dtype].name;
}

size_t ml_st_dtype_size(ml_st_dtype dtype)
{
    return dtypes[dtype].size;
}

ml_st_dtype ml_st_dtype_of(ml_dtype dtype)
{
    switch (dtype) {
    case ML_F32: return ML_ST_F32;
    case ML_BF16: return ML_ST_BF16;
    case ML_F16: return ML_ST_F16;
    case ML_I32: return ML_ST_I32;
    default: assert(0 && "a dtype of tensors"); return ML_ST_F32;
    }
}

bool ml_st_dtype_to_float(ml_st_dtype dtype, ml_dtype *out)
{
    switch (dtype) {
    case ML_ST_F32: *out = ML_F32; return true;
    case ML_ST_BF16: *out = ML_BF16; return true;
    case ML_ST_F16: *out = ML_F16; return true;
    default: return false;
    }
}

/* OCP 8-bit e4m3: bias 7, no infinity, 0x7f and 0xff are NaN. */
static float e4m3_to_f32(uint8_t b)
{
    int exponent = b >> 3 & 15, mantissa = b & 7;
    float value;
    if ((b & 0x7f) == 0x7f) {
        value = NAN;
    } else if (exponent == 0) {
        value = ldexpf((float)mantissa, -9);
    } else {
        value = ldexpf((float)(8 + mantissa), exponent - 10);
    }
    return b & 0x80 ? -value : value;
}

static int64_t load_integer(ml_st_dtype dtype, const uint8_t *p)
{
    switch (dtype) {
    case ML_ST_I64:
    case ML_ST_U64: return (int64_t)ml_load_u64(p);
    case ML_ST_I32: return (int32_t)ml_load_u32(p);
    case ML_ST_U32: return ml_load_u32(p);
    case ML_ST_I16: return (int16_t)(p[0] | p[1] << 8);
    case ML_ST_U16: return p[0] | p[1] << 8;
    case ML_ST_I8: return (int8_t)p[0];
    default: return p[0];
    }
}

/* One element of the types that are not worth a loop of their own. */
static float load_f32(ml_st_dtype dtype, const uint8_t *p)
{
    switch (dtype) {
    case ML_ST_F64: {
        double value;
        memcpy(&value, p, sizeof value);
        return (float)value;
    }
    case ML_ST_F8_E4M3: return e4m3_to_f32(*p);
    case ML_ST_F8_E5M2: return ml_f16_to_f32((uint16_t)(*p << 8)); /* the upper half of an f16 */
    case ML_ST_U64: return (float)ml_load_u64(p);
    default: return (float)load_integer(dtype, p);
    }
}

typedef struct {
    const ml_st_tensor *tensor;
    int64_t first; /* element */
    float *out;
} read_task;

/* Elements [begin, end) of the task.  Halves go through an aligned block: the file aligns nothing. */
static void read_range(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    enum { BLOCK = 2048 };
    const read_task *task = arg;
    ml_st_dtype dtype = task->tensor->dtype;
    size_t size = ml_st_dtype_size(dtype);
    const uint8_t *p = task->tensor->data + (size_t)(task->first + begin) * size;
    float *out = task->out + begin;
    int64_t n = end - begin;
    ml_dtype tensor_dtype;
    if (dtype == ML_ST_F32) {
        memcpy(out, p, (size_t)n * size);
    } else if (dtype == ML_ST_BF16 || dtype == ML_ST_F16) {
        ml_st_dtype_to_float(dtype, &tensor_dtype);
        uint16_t block[BLOCK];
        for (int64_t i = 0; i < n; i += BLOCK) {
            int64_t count = n - i < BLOCK ? n - i : BLOCK;
            memcpy(block, p + (size_t)i * size, (size_t)count * size);
            ml_convert_to_f32(tensor_dtype, block, out + i, count);
        }
    } else {
        for (int64_t i = 0; i < n; i++) out[i] = load_f32(dtype, p + (size_t)i * size);
    }
}

ml_status ml_st_read_f32(const ml_st_tensor *t, int64_t row, int64_t n_row, float *out, ml_error *err)
{
    int64_t rows = t->n_dim ? t->shape[0] : 1;
    if (row < 0 || n_row < 0 || row > rows || n_row > rows - row) {
        return ml_fail(err, ML_EINVAL, "%s: tensor %s has %lld rows, asked for rows %lld to %lld", t->file, t->name,
                       (long long)rows, (long long)row, (long long)row + (long long)n_row);
    }
    if (n_row == 0 || t->n_element == 0) return ML_OK;
    int64_t width = t->n_element / rows;
    read_task task = { t, row * width, out };
    ml_parallel_for(n_row * width, 1 << 18, read_range, &task);
    return ML_OK;
}

ml_status ml_st_read_all_f32(const ml_st_tensor *t, float *out, ml_error *err)
{
    return ml_st_read_f32(t, 0, t->n_dim ? t->shape[0] : 1, out, err);
}

ml_status ml_st_read_all_i64(const ml_st_tensor *t, int64_t *out, ml_error *err)
{
    if (t->dtype < ML_ST_I64) {
        return ml_fail(err, ML_EFORMAT, "%s: tensor %s: expected integers, found %s", t->file, t->name,
                       ml_st_dtype_name(t->dtype));
    }
    size_t size = ml_st_dtype_size(t->dtype);
    for (int64_t i = 0; i < t->n_element; i++) {
        out[i] = load_integer(t->dtype, t->data + (size_t)i * size);
        if (t->dtype == ML_ST_U64 && out[i] < 0) {
            return ml_fail(err, ML_EFORMAT, "%s: tensor %s: element %lld is too large for 64 bits with sign", t->file,
                           t->name, (long long)i);
        }
    }
    return ML_OK;
}
