/* Tensors, and the context in which they are made.
 *
 * A tensor is a small description (type, shape, where the data is); it owns nothing.  Parameters live in
 * the model's memory, activations and their descriptions in the context's activation arena, activation
 * gradients in its gradient arena.  Dimension 0 may be strided (rows further apart than they are long);
 * the inner dimensions are always contiguous, so "rows" is the unit every operator works on.
 *
 * Building calls (ml_tensor_*, and the operators in ops/ops.h) return NULL on failure and remember the
 * first error in the context; given a NULL operand they return NULL at once.  So a forward pass is
 * written without error handling and asks ml_ctx_status() at its end.
 *
 * A weight that is not trained may stay where a file has it, in the type it has there: then dimension 0 may be
 * stored in parts (q, k and v of one product; the experts of a layer), each a tensor of its own type.
 *
 * Data lies in this machine's memory or on a device (tensor/device.h); descriptions are always here.  A context works
 * where it was made for: its tensors and gradients lie there, and so must all operands of its operators. */
#ifndef ML_TENSOR_TENSOR_H
#define ML_TENSOR_TENSOR_H

#include "base/alloc.h"
#include "tensor/device.h"
#include "tensor/dtype.h"

enum { ML_MAX_DIM = 4 };

typedef struct ml_tensor ml_tensor;
struct ml_tensor {
    ml_dtype dtype;
    int n_dim;
    int64_t dim[ML_MAX_DIM]; /* unused ones are 1 */
    int64_t stride;          /* elements from one index of dimension 0 to the next; >= product of the rest */
    void *data;
    ml_device *device; /* where data and grad lie; NULL: this machine's memory */
    const void *here;  /* of whole numbers on a device, or NULL: what data is a copy of, for as long as its owner keeps
                          it  (ml_tensor_wrap).  An operator may plan by it without waiting for the device. */
    ml_layout layout;
    const ml_tensor *part; /* NULL, or [n_part]: dimension 0 is theirs, one after another; then dtype, stride, data and
                              layout are the first part's.  A part has two dimensions; only weights have parts. */
    int64_t n_part;
    ml_tensor *base;     /* NULL, or the tensor this is a view of: its gradient is the same view of base's */
    int64_t base_offset; /* elements from base->data to data */
    float *grad;         /* fp32, laid out exactly as data (same stride); NULL until something needs it */
    bool needs_grad;     /* a backward pass must deliver grad */
    uint16_t *half;      /* NULL, or the elements of an fp32 weight on a device rounded to bf16, laid out as data: what
                            products read in ML_PRECISION_BF16.  Who changes data keeps it. */
};

typedef struct ml_tape ml_tape;
struct ml_node;

typedef enum {
    ML_MODE_EXACT, /* training, references: fp32 blocked matrix products, differentiable */
    ML_MODE_FAST,  /* inference: kernels whose result for a row does not depend on the other rows */
} ml_mode;

/* What a device's matrix products round their operands to.  Sums are fp32, and so is all that is no such product:
 * norms, softmax, the router and its logits, losses. */
typedef enum { ML_PRECISION_F32, ML_PRECISION_BF16 } ml_precision;

/* Who wants to see what weights are multiplied with, in inference: calibration.  Told once for every product of a
 * weight (matrix number `matrix` of a weight that has several) with rows row[0 .. n_row) of x, or the first n_row where
 * row is NULL; they have k elements and lie `stride` apart.  Called from one thread. */
typedef struct {
    void (*see)(void *arg, const ml_tensor *w, int64_t matrix, const float *x, const int32_t *row, int64_t n_row,
                int64_t k, int64_t stride);
    void *arg;
} ml_observer;

typedef struct {
    ml_arena act;      /* activations, tensor descriptions, tape nodes, operator scratch (marked and released) */
    ml_device *device; /* NULL: this machine's processor and memory */
    ml_arena data;     /* on a device: the activations and scratch themselves; `act` keeps only what describes them */
    ml_arena grad;     /* activation gradients */
    struct ml_node *tape; /* newest recorded node */
    bool recording;
    bool recomputing; /* inside the second run of a segment: forward statistics must not be counted again */
    ml_mode mode;
    ml_precision precision; /* on a device; the processor's are as `mode` and the weights' types say */
    int64_t n_decode;       /* on a device, in inference: the first n_decode rows of all activations are tokens that
                               are being generated.  They have products of their own, so that the phase decides how
                               a row is computed, and never how many rows there are. */
    const ml_observer *observer; /* NULL: nobody */
    ml_error error;              /* first failure since ml_ctx_reset; code ML_OK when none */
} ml_ctx;

/* Arenas are address space: physical memory is taken as touched.  grad_bytes may be 0 for inference. */
ml_status ml_ctx_init(ml_ctx *ctx, size_t act_bytes, size_t grad_bytes, ml_error *err);
/* The same on a device, whose memory is taken at once; NULL: as ml_ctx_init. */
ml_status ml_ctx_init_on(ml_ctx *ctx, ml_device *device, size_t act_bytes, size_t grad_bytes, ml_error *err);
void ml_ctx_free(ml_ctx *ctx);
/* Drop everything in both arenas, the tape and the error: the start of a step. */
void ml_ctx_reset(ml_ctx *ctx);
/* What ml_ctx_release drops everything allocated after. */
typedef struct {
    size_t act, data;
} ml_ctx_mark;
ml_ctx_mark ml_ctx_get_mark(const ml_ctx *ctx);
void ml_ctx_release(ml_ctx *ctx, ml_ctx_mark mark);
/* The first error since reset, or ML_OK. */
ml_status ml_ctx_status(const ml_ctx *ctx, ml_error *err);
/* Record a failure (the first one stays); returns its code. */
ml_status ml_ctx_fail(ml_ctx *ctx, ml_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Describe memory that lives elsewhere (a parameter): contiguous, dims[n_dim]. */
ml_tensor ml_tensor_describe(ml_dtype dtype, int n_dim, const int64_t *dims, void *data);

/* Uninitialised, in the activation arena. */
ml_tensor *ml_tensor_new(ml_ctx *ctx, ml_dtype dtype, int n_dim, const int64_t *dims);
ml_tensor *ml_tensor_new_1d(ml_ctx *ctx, ml_dtype dtype, int64_t n);
ml_tensor *ml_tensor_new_2d(ml_ctx *ctx, ml_dtype dtype, int64_t rows, int64_t cols);
/* A description, in the activation arena, of memory of this machine (ids, positions, offsets).  On a device the data is
 * copied there; otherwise it is the caller's.  Who gives the tensor to ml_attention_cached keeps it either way. */
ml_tensor *ml_tensor_wrap(ml_ctx *ctx, ml_dtype dtype, int n_dim, const int64_t *dims, void *data);

/* Views share data and gradient with x.
 *   cols: x [rows, cols] -> [rows, n], columns begin..begin+n
 *   reshape: x contiguous, same number of elements */
ml_tensor *ml_tensor_cols(ml_ctx *ctx, ml_tensor *x, int64_t begin, int64_t n);
ml_tensor *ml_tensor_reshape(ml_ctx *ctx, ml_tensor *x, int n_dim, const int64_t *dims);

int64_t ml_tensor_count(const ml_tensor *x);
/* Elements in one index of dimension 0. */
int64_t ml_tensor_row_count(const ml_tensor *x);
bool ml_tensor_is_contiguous(const ml_tensor *x);

/* Scratch of the running operator: from the activation arena, 64-byte aligned, released when the operator
 * returns.  NULL (and an error in ctx) when full. */
void *ml_ctx_scratch(ml_ctx *ctx, size_t n_bytes);
/* The same where the context's data lies. */
void *ml_ctx_scratch_data(ml_ctx *ctx, size_t n_bytes);

/* The elements of a tensor (rows end to end, n_bytes in all) as this machine can read them: its own data where that is
 * possible, else a copy in scratch, made when the device has computed it.  NULL on failure. */
const void *ml_tensor_read(ml_ctx *ctx, const ml_tensor *x);
/* Set the elements of a contiguous tensor from memory of this machine. */
ml_status ml_tensor_write(ml_ctx *ctx, ml_tensor *x, const void *src);
/* Set n floats that lie where the context's data does (a gradient) from memory of this machine. */
ml_status ml_ctx_write(ml_ctx *ctx, float *dst, const float *src, int64_t n);

static inline float *ml_f32(const ml_tensor *x)
{
    return x ? (float *)x->data : NULL;
}

static inline int32_t *ml_i32(const ml_tensor *x)
{
    return x ? (int32_t *)x->data : NULL;
}

/* The same where this machine can read them; NULL: only the device knows. */
static inline const int32_t *ml_i32_here(const ml_tensor *x)
{
    return (const int32_t *)(x->device ? x->here : x->data);
}

#endif
