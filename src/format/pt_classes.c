/* The classes that a pickle may name: those that tensors, plain containers and the random states beside them need. */
#include "format/pt_internal.h"

/* clang-format off */
#define CLASSES(X) \
    X("torch._utils", "_rebuild_tensor_v2", false, ML_PT_TENSOR, ML_ST_U8, false) \
    X("torch._utils", "_rebuild_tensor", false, ML_PT_TENSOR, ML_ST_U8, false) \
    X("torch._utils", "_rebuild_tensor_v3", false, ML_PT_TYPED, ML_ST_U8, false) \
    X("torch._utils", "_rebuild_parameter", false, ML_PT_PARAMETER, ML_ST_U8, false) \
    X("torch._utils", "_rebuild_parameter_with_state", false, ML_PT_PARAMETER, ML_ST_U8, false) \
    X("torch", "FloatStorage", false, ML_PT_STORAGE, ML_ST_F32, false) \
    X("torch", "DoubleStorage", false, ML_PT_STORAGE, ML_ST_F64, false) \
    X("torch", "HalfStorage", false, ML_PT_STORAGE, ML_ST_F16, false) \
    X("torch", "BFloat16Storage", false, ML_PT_STORAGE, ML_ST_BF16, false) \
    X("torch", "LongStorage", false, ML_PT_STORAGE, ML_ST_I64, false) \
    X("torch", "IntStorage", false, ML_PT_STORAGE, ML_ST_I32, false) \
    X("torch", "ShortStorage", false, ML_PT_STORAGE, ML_ST_I16, false) \
    X("torch", "CharStorage", false, ML_PT_STORAGE, ML_ST_I8, false) \
    X("torch", "ByteStorage", false, ML_PT_STORAGE, ML_ST_U8, false) \
    X("torch", "BoolStorage", false, ML_PT_STORAGE, ML_ST_BOOL, false) \
    X("torch", "ComplexFloatStorage", false, ML_PT_STORAGE, ML_ST_F32, true) \
    X("torch", "ComplexDoubleStorage", false, ML_PT_STORAGE, ML_ST_F64, true) \
    X("torch.storage", "UntypedStorage", false, ML_PT_STORAGE, ML_ST_U8, false) \
    X("torch", "float32", false, ML_PT_DTYPE, ML_ST_F32, false) \
    X("torch", "float64", false, ML_PT_DTYPE, ML_ST_F64, false) \
    X("torch", "float16", false, ML_PT_DTYPE, ML_ST_F16, false) \
    X("torch", "bfloat16", false, ML_PT_DTYPE, ML_ST_BF16, false) \
    X("torch", "float8_e4m3fn", false, ML_PT_DTYPE, ML_ST_F8_E4M3, false) \
    X("torch", "float8_e5m2", false, ML_PT_DTYPE, ML_ST_F8_E5M2, false) \
    X("torch", "int64", false, ML_PT_DTYPE, ML_ST_I64, false) \
    X("torch", "int32", false, ML_PT_DTYPE, ML_ST_I32, false) \
    X("torch", "int16", false, ML_PT_DTYPE, ML_ST_I16, false) \
    X("torch", "int8", false, ML_PT_DTYPE, ML_ST_I8, false) \
    X("torch", "uint64", false, ML_PT_DTYPE, ML_ST_U64, false) \
    X("torch", "uint32", false, ML_PT_DTYPE, ML_ST_U32, false) \
    X("torch", "uint16", false, ML_PT_DTYPE, ML_ST_U16, false) \
    X("torch", "uint8", false, ML_PT_DTYPE, ML_ST_U8, false) \
    X("torch", "bool", false, ML_PT_DTYPE, ML_ST_BOOL, false) \
    X("torch", "complex64", false, ML_PT_DTYPE, ML_ST_F32, true) \
    X("torch", "complex128", false, ML_PT_DTYPE, ML_ST_F64, true) \
    X("torch", "Size", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("torch", "device", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("collections", "OrderedDict", true, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("collections", "defaultdict", true, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("builtins", "dict", true, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("__builtin__", "dict", true, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("builtins", "list", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("__builtin__", "list", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("builtins", "set", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("__builtin__", "set", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("builtins", "complex", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("_codecs", "encode", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("argparse", "Namespace", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("pathlib", "PosixPath", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("numpy", "ndarray", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("numpy", "dtype", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("numpy.core.multiarray", "_reconstruct", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("numpy._core.multiarray", "_reconstruct", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("numpy.core.multiarray", "scalar", false, ML_PT_OPAQUE, ML_ST_U8, false) \
    X("numpy._core.multiarray", "scalar", false, ML_PT_OPAQUE, ML_ST_U8, false)
/* clang-format on */

#define CLASS_NAME(module, name, dict, role, type, complex) { module, name, dict },
#define CLASS_ROLE(module, name, dict, role, type, complex) { role, type, complex },
static const ml_pickle_class classes[] = { CLASSES(CLASS_NAME) };
static const struct {
    ml_pt_role role;
    ml_st_dtype dtype;
    bool is_complex;
} roles[] = { CLASSES(CLASS_ROLE) };
enum { N_CLASS = sizeof classes / sizeof *classes };

ml_status ml_pt_parse(ml_bytes *file, ml_pickle **out, ml_error *err)
{
    return ml_pickle_parse(file, classes, N_CLASS, out, err);
}

ml_st_dtype ml_pt_class_dtype(size_t class, bool *is_complex)
{
    *is_complex = roles[class].is_complex;
    return roles[class].dtype;
}

size_t ml_pt_class_bytes(size_t class)
{
    return ml_st_dtype_size(roles[class].dtype) * (roles[class].is_complex ? 2 : 1);
}

ml_pt_role ml_pt_role_of(const ml_pt *pt, ml_pickle_id id, ml_pickle_kind kind)
{
    return ml_pickle_kind_of(pt->values, id) == kind ? roles[ml_pickle_class_index(pt->values, id)].role : ML_PT_OPAQUE;
}

bool ml_pt_take_entries(const ml_pickle *p, ml_pickle_id id, size_t n, ml_pickle_id *out)
{
    ml_pickle_kind kind = ml_pickle_kind_of(p, id);
    if ((kind != ML_PICKLE_TUPLE && kind != ML_PICKLE_LIST) || ml_pickle_size(p, id) < n) return false;
    ml_pickle_walk walk = ml_pickle_begin(p, id);
    for (size_t i = 0; i < n; i++) ml_pickle_next(p, &walk, &out[i]);
    return true;
}
