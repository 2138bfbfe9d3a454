#include "format/gguf_types.h"

#include "base/bytes.h"

#include <assert.h>

static const struct {
    const char *name;
    size_t size;
} types[ML_GGUF_N_TYPE] = {
    [ML_GGUF_U8] = { "u8", 1 },       [ML_GGUF_I8] = { "i8", 1 },     [ML_GGUF_U16] = { "u16", 2 },
    [ML_GGUF_I16] = { "i16", 2 },     [ML_GGUF_U32] = { "u32", 4 },   [ML_GGUF_I32] = { "i32", 4 },
    [ML_GGUF_F32] = { "f32", 4 },     [ML_GGUF_BOOL] = { "bool", 1 }, [ML_GGUF_TEXT] = { "text", 0 },
    [ML_GGUF_ARRAY] = { "array", 0 }, [ML_GGUF_U64] = { "u64", 8 },   [ML_GGUF_I64] = { "i64", 8 },
    [ML_GGUF_F64] = { "f64", 8 },
};

/* enum ggml_type.  Gaps are types that were withdrawn. */
static const char *const dtype_names[] = {
    [0] = "f32",     [1] = "f16",    [2] = "q4_0",     [3] = "q4_1",    [6] = "q5_0",     [7] = "q5_1",
    [8] = "q8_0",    [9] = "q8_1",   [10] = "q2_k",    [11] = "q3_k",   [12] = "q4_k",    [13] = "q5_k",
    [14] = "q6_k",   [15] = "q8_k",  [16] = "iq2_xxs", [17] = "iq2_xs", [18] = "iq3_xxs", [19] = "iq1_s",
    [20] = "iq4_nl", [21] = "iq3_s", [22] = "iq2_s",   [23] = "iq4_xs", [24] = "i8",      [25] = "i16",
    [26] = "i32",    [27] = "i64",   [28] = "f64",     [29] = "iq1_m",  [30] = "bf16",    [34] = "tq1_0",
    [35] = "tq2_0",  [39] = "mxfp4",
};
enum { N_DTYPE_NAME = sizeof dtype_names / sizeof *dtype_names };

const char *ml_gguf_type_name(ml_gguf_type type)
{
    return types[type].name;
}

size_t ml_gguf_type_size(ml_gguf_type type)
{
    return types[type].size;
}

const char *ml_gguf_dtype_file_name(uint32_t number)
{
    return number < N_DTYPE_NAME ? dtype_names[number] : NULL;
}

bool ml_gguf_dtype_from_file(uint32_t number, ml_dtype *out)
{
    const char *name = ml_gguf_dtype_file_name(number);
    return name && ml_dtype_parse(name, out);
}

uint32_t ml_gguf_dtype_to_file(ml_dtype dtype)
{
    const char *name = ml_dtype_name(dtype);
    uint32_t number = 0;
    while (number < N_DTYPE_NAME && (!dtype_names[number] || strcmp(dtype_names[number], name))) number++;
    assert(number < N_DTYPE_NAME);
    return number;
}
