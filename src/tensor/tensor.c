#include "tensor/tensor.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* Of a context on a device, for what describes its tensors: address space, taken as touched. */
static const size_t DESCRIPTION_BYTES = (size_t)256 << 20;

ml_status ml_ctx_init(ml_ctx *ctx, size_t act_bytes, size_t grad_bytes, ml_error *err)
{
    *ctx = (ml_ctx){ 0 };
    ML_TRY(ml_arena_init(&ctx->act, act_bytes, err));
    ml_status status = ml_arena_init(&ctx->grad, grad_bytes, err);
    if (status != ML_OK) ml_ctx_free(ctx);
    return status;
}

/* An arena whose bytes lie on the device: arithmetic on their addresses is all that arenas do. */
static ml_status init_device_arena(ml_arena *arena, ml_device *device, size_t capacity, const char *what, ml_error *err)
{
    void *base;
    ML_TRY(ml_device_alloc(device, capacity, what, &base, err));
    *arena = (ml_arena){ .base = base, .capacity = capacity };
    return ML_OK;
}

ml_status ml_ctx_init_on(ml_ctx *ctx, ml_device *device, size_t act_bytes, size_t grad_bytes, ml_error *err)
{
    if (!device) return ml_ctx_init(ctx, act_bytes, grad_bytes, err);
    *ctx = (ml_ctx){ .device = device };
    ml_status status = ml_arena_init(&ctx->act, DESCRIPTION_BYTES, err);
    if (status == ML_OK) status = init_device_arena(&ctx->data, device, act_bytes, "activations", err);
    if (status == ML_OK) status = init_device_arena(&ctx->grad, device, grad_bytes, "activation gradients", err);
    if (status != ML_OK) ml_ctx_free(ctx);
    return status;
}

void ml_ctx_free(ml_ctx *ctx)
{
    ml_arena_free(&ctx->act);
    if (ctx->device) {
        ml_device_release(ctx->device, ctx->data.base);
        ml_device_release(ctx->device, ctx->grad.base);
    } else {
        ml_arena_free(&ctx->grad);
    }
    *ctx = (ml_ctx){ 0 };
}

void ml_ctx_reset(ml_ctx *ctx)
{
    ml_ctx_release(ctx, (ml_ctx_mark){ 0 });
    ml_arena_release(&ctx->grad, 0);
    ctx->tape = NULL;
    ctx->recording = false;
    ctx->recomputing = false;
    ctx->error.code = ML_OK;
}

ml_ctx_mark ml_ctx_get_mark(const ml_ctx *ctx)
{
    return (ml_ctx_mark){ ml_arena_mark(&ctx->act), ml_arena_mark(&ctx->data) };
}

void ml_ctx_release(ml_ctx *ctx, ml_ctx_mark mark)
{
    ml_arena_release(&ctx->act, mark.act);
    ml_arena_release(&ctx->data, mark.data);
}

ml_status ml_ctx_status(const ml_ctx *ctx, ml_error *err)
{
    if (ctx->error.code != ML_OK) *err = ctx->error;
    return ctx->error.code;
}

ml_status ml_ctx_fail(ml_ctx *ctx, ml_status code, const char *format, ...)
{
    if (ctx->error.code != ML_OK) return ctx->error.code;
    va_list args;
    va_start(args, format);
    ctx->error.code = code;
    vsnprintf(ctx->error.message, sizeof ctx->error.message, format, args);
    va_end(args);
    return code;
}

static int64_t count_dims(int n_dim, const int64_t *dims, int from)
{
    int64_t n = 1;
    for (int i = from; i < n_dim; i++) n *= dims[i];
    return n;
}

ml_tensor ml_tensor_describe(ml_dtype dtype, int n_dim, const int64_t *dims, void *data)
{
    assert(n_dim >= 1 && n_dim <= ML_MAX_DIM);
    ml_tensor t = { .dtype = dtype, .n_dim = n_dim, .data = data };
    for (int i = 0; i < ML_MAX_DIM; i++) t.dim[i] = i < n_dim ? dims[i] : 1;
    t.stride = count_dims(n_dim, dims, 1);
    return t;
}

static void *allocate(ml_ctx *ctx, ml_arena *arena, size_t n_bytes)
{
    void *p = ml_arena_alloc(arena, n_bytes);
    if (!p) {
        ml_ctx_fail(ctx, ML_ENOMEM,
                    "the activation arena of %zu MiB is full (%zu bytes more were asked for): use a smaller batch",
                    arena->capacity >> 20, n_bytes);
    }
    return p;
}

void *ml_ctx_scratch(ml_ctx *ctx, size_t n_bytes)
{
    return allocate(ctx, &ctx->act, n_bytes);
}

void *ml_ctx_scratch_data(ml_ctx *ctx, size_t n_bytes)
{
    return allocate(ctx, ctx->device ? &ctx->data : &ctx->act, n_bytes);
}

static ml_tensor *new_description(ml_ctx *ctx, ml_dtype dtype, int n_dim, const int64_t *dims, void *data)
{
    ml_tensor *t = ml_ctx_scratch(ctx, sizeof *t);
    if (!t) return NULL;
    *t = ml_tensor_describe(dtype, n_dim, dims, data);
    t->device = ctx->device;
    return t;
}

static size_t count_bytes(const ml_tensor *t)
{
    return (size_t)t->dim[0] * ml_dtype_row_bytes(t->dtype, ml_tensor_row_count(t));
}

ml_tensor *ml_tensor_wrap(ml_ctx *ctx, ml_dtype dtype, int n_dim, const int64_t *dims, void *data)
{
    if (!ctx->device) return new_description(ctx, dtype, n_dim, dims, data);
    ml_tensor *t = ml_tensor_new(ctx, dtype, n_dim, dims);
    if (!t || ml_tensor_write(ctx, t, data) != ML_OK) return NULL;
    if (dtype == ML_I32) t->here = data;
    return t;
}

const void *ml_tensor_read(ml_ctx *ctx, const ml_tensor *x)
{
    if (!x || ctx->error.code != ML_OK) return NULL;
    if (!x->device && ml_tensor_is_contiguous(x)) return x->data;
    ml_error err;
    size_t row_bytes = ml_dtype_row_bytes(x->dtype, ml_tensor_row_count(x)),
           stride_bytes = ml_dtype_row_bytes(x->dtype, x->stride);
    char *copy = ml_ctx_scratch(ctx, count_bytes(x));
    for (int64_t i = 0; copy && i < x->dim[0]; i++) {
        size_t n = ml_tensor_is_contiguous(x) ? count_bytes(x) : row_bytes;
        const char *row = (const char *)x->data + (size_t)i * stride_bytes;
        if (!x->device) {
            memcpy(copy + (size_t)i * row_bytes, row, n);
        } else if (ml_device_download(x->device, copy + (size_t)i * row_bytes, row, n, &err) != ML_OK) {
            ml_ctx_fail(ctx, err.code, "%s", err.message);
            return NULL;
        }
        if (n != row_bytes) break; /* all at once */
    }
    return copy;
}

ml_status ml_tensor_write(ml_ctx *ctx, ml_tensor *x, const void *src)
{
    assert(ml_tensor_is_contiguous(x));
    if (!x->device) {
        memcpy(x->data, src, count_bytes(x));
        return ML_OK;
    }
    ml_error err;
    ml_status status = ml_device_upload(x->device, x->data, src, count_bytes(x), &err);
    return status == ML_OK ? ML_OK : ml_ctx_fail(ctx, status, "%s", err.message);
}

ml_status ml_ctx_write(ml_ctx *ctx, float *dst, const float *src, int64_t n)
{
    if (dst == src) return ML_OK;
    if (!ctx->device) {
        memcpy(dst, src, (size_t)n * sizeof *dst);
        return ML_OK;
    }
    ml_error err;
    ml_status status = ml_device_upload(ctx->device, dst, src, (size_t)n * sizeof *dst, &err);
    return status == ML_OK ? ML_OK : ml_ctx_fail(ctx, status, "%s", err.message);
}

ml_tensor *ml_tensor_new(ml_ctx *ctx, ml_dtype dtype, int n_dim, const int64_t *dims)
{
    if (ctx->error.code != ML_OK) return NULL;
    ml_tensor *t = new_description(ctx, dtype, n_dim, dims, NULL);
    if (!t) return NULL;
    t->data = ml_ctx_scratch_data(ctx, count_bytes(t));
    return t->data ? t : NULL;
}

ml_tensor *ml_tensor_new_1d(ml_ctx *ctx, ml_dtype dtype, int64_t n)
{
    return ml_tensor_new(ctx, dtype, 1, &n);
}

ml_tensor *ml_tensor_new_2d(ml_ctx *ctx, ml_dtype dtype, int64_t rows, int64_t cols)
{
    return ml_tensor_new(ctx, dtype, 2, (int64_t[]){ rows, cols });
}

static ml_tensor *make_view(ml_ctx *ctx, ml_tensor *x, int64_t offset)
{
    ml_tensor *v = ml_ctx_scratch(ctx, sizeof *v);
    if (!v) return NULL;
    *v = *x;
    v->grad = NULL;
    /* Views of views refer to the one tensor that holds the gradient. */
    v->base = x->base ? x->base : x;
    v->base_offset = x->base_offset + offset;
    v->data = (char *)x->data + ml_dtype_row_bytes(x->dtype, offset); /* of block types only whole blocks */
    if (x->half) v->half = x->half + offset;
    return v;
}

ml_tensor *ml_tensor_cols(ml_ctx *ctx, ml_tensor *x, int64_t begin, int64_t n)
{
    if (!x) return NULL;
    assert(x->n_dim == 2 && begin >= 0 && n >= 0 && begin + n <= x->dim[1]);
    ml_tensor *v = make_view(ctx, x, begin);
    if (v) v->dim[1] = n;
    return v;
}

ml_tensor *ml_tensor_reshape(ml_ctx *ctx, ml_tensor *x, int n_dim, const int64_t *dims)
{
    if (!x) return NULL;
    assert(ml_tensor_is_contiguous(x) && count_dims(n_dim, dims, 0) == ml_tensor_count(x));
    ml_tensor *v = make_view(ctx, x, 0);
    if (!v) return NULL;
    v->n_dim = n_dim;
    for (int i = 0; i < ML_MAX_DIM; i++) v->dim[i] = i < n_dim ? dims[i] : 1;
    v->stride = count_dims(n_dim, dims, 1);
    return v;
}

int64_t ml_tensor_count(const ml_tensor *x)
{
    return count_dims(x->n_dim, x->dim, 0);
}

int64_t ml_tensor_row_count(const ml_tensor *x)
{
    return count_dims(x->n_dim, x->dim, 1);
}

bool ml_tensor_is_contiguous(const ml_tensor *x)
{
    return x->stride == ml_tensor_row_count(x) || x->dim[0] <= 1;
}
