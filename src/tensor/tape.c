#include "tensor/tape.h"

#include <assert.h>
#include <string.h>

typedef enum { NODE_OP, NODE_SEGMENT_BEGIN, NODE_SEGMENT_END, NODE_RECOMPUTE } node_kind;

struct ml_node {
    struct ml_node *prev;
    node_kind kind;
    union {
        struct {
            ml_backward_fn backward;
            ml_op_args args;
            bool self_seeding;
        } op;
        struct { /* SEGMENT_BEGIN: where both arenas return to when the backward pass leaves the segment */
            ml_ctx_mark act_mark;
            size_t grad_mark;
            ml_tensor *x, *y;
        } begin;
        struct {
            struct ml_node *begin;
        } end;
        struct {
            ml_segment_fn fn;
            const void *arg;
            ml_tensor *x, *y;
        } recompute;
    };
};

static struct ml_node *push_node(ml_ctx *ctx, node_kind kind)
{
    struct ml_node *node = ml_ctx_scratch(ctx, sizeof *node);
    if (!node) return NULL;
    memset(node, 0, sizeof *node);
    node->kind = kind;
    node->prev = ctx->tape;
    ctx->tape = node;
    return node;
}

static void *copy_bytes(ml_ctx *ctx, const void *src, size_t n_bytes)
{
    void *copy = ml_ctx_scratch(ctx, n_bytes);
    if (copy && n_bytes) memcpy(copy, src, n_bytes);
    return copy;
}

void ml_tape_record(ml_ctx *ctx, ml_backward_fn backward, const ml_op_args *args, size_t param_bytes, bool self_seeding)
{
    if (!ctx->recording || ctx->error.code != ML_OK) return;
    bool wanted = false;
    for (int i = 0; i < ML_OP_MAX_IN; i++) wanted = wanted || (args->in[i] && args->in[i]->needs_grad);
    if (!wanted) return;
    struct ml_node *node = push_node(ctx, NODE_OP);
    if (!node) return;
    node->op.backward = backward;
    node->op.args = *args;
    node->op.args.param = copy_bytes(ctx, args->param, param_bytes);
    node->op.self_seeding = self_seeding;
    for (int i = 0; i < ML_OP_MAX_OUT; i++) {
        if (args->out[i] && args->out[i]->dtype != ML_I32) args->out[i]->needs_grad = true;
    }
}

/* fn(x, arg) without recording: of all its activations only the result stays. */
static ml_tensor *run_unrecorded(ml_ctx *ctx, ml_segment_fn fn, ml_tensor *x, const void *arg)
{
    ml_tensor *y = ml_tensor_new(ctx, x->dtype, x->n_dim, x->dim);
    if (!y) return NULL;
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    bool recording = ctx->recording;
    ctx->recording = false;
    ml_tensor *inner = fn(ctx, x, arg);
    ctx->recording = recording;
    if (!inner) return NULL;
    assert(ml_tensor_is_contiguous(inner) && ml_tensor_count(inner) == ml_tensor_count(y));
    ml_device_copy(ctx->device, y->data, inner->data, (size_t)ml_tensor_count(y) * ml_dtype_size(y->dtype));
    ml_ctx_release(ctx, mark);
    return y;
}

static ml_tensor *segment_recomputed(ml_ctx *ctx, ml_segment_fn fn, ml_tensor *x, const void *arg, size_t arg_bytes)
{
    ml_tensor *y = run_unrecorded(ctx, fn, x, arg);
    if (!y) return NULL;
    struct ml_node *node = push_node(ctx, NODE_RECOMPUTE);
    if (!node) return NULL;
    node->recompute.fn = fn;
    node->recompute.arg = copy_bytes(ctx, arg, arg_bytes);
    node->recompute.x = x;
    node->recompute.y = y;
    y->needs_grad = true;
    return ctx->error.code == ML_OK ? y : NULL;
}

ml_tensor *ml_tape_segment(ml_ctx *ctx, ml_segment_fn fn, ml_tensor *x, const void *arg, size_t arg_bytes,
                           bool recompute)
{
    if (!x) return NULL;
    if (!ctx->recording) return run_unrecorded(ctx, fn, x, arg);
    if (recompute) return segment_recomputed(ctx, fn, x, arg, arg_bytes);
    struct ml_node *begin = push_node(ctx, NODE_SEGMENT_BEGIN);
    if (!begin) return NULL;
    begin->begin.act_mark = ml_ctx_get_mark(ctx);
    ml_tensor *y = fn(ctx, x, arg);
    struct ml_node *end = y ? push_node(ctx, NODE_SEGMENT_END) : NULL;
    if (!end) return NULL;
    begin->begin.x = x;
    begin->begin.y = y;
    end->end.begin = begin;
    return y;
}

/* The existing gradient of t (through its base when it is a view), or NULL. */
static float *existing_grad(ml_tensor *t)
{
    if (!t) return NULL;
    if (!t->base) return t->grad;
    return t->base->grad ? t->base->grad + t->base_offset : NULL;
}

float *ml_tape_grad(ml_ctx *ctx, ml_tensor *t)
{
    float *grad = existing_grad(t);
    if (grad) return grad;
    ml_tensor *owner = t->base ? t->base : t;
    size_t n = (size_t)((owner->dim[0] > 0 ? owner->dim[0] - 1 : 0) * owner->stride + ml_tensor_row_count(owner));
    owner->grad = ml_arena_alloc(&ctx->grad, n * sizeof(float));
    if (!owner->grad) {
        ml_ctx_fail(ctx, ML_ENOMEM,
                    "the gradient arena of %zu MiB is full (%zu bytes more were asked for): use a smaller batch",
                    ctx->grad.capacity >> 20, n * sizeof(float));
        return NULL;
    }
    ml_device_zero(ctx->device, owner->grad, n * sizeof(float));
    return existing_grad(t);
}

/* The heir's gradient is out[0]'s from now on, where it has none yet and would lie in memory in the same way. */
static void hand_on_grad(const ml_op_args *args)
{
    ml_tensor *out = args->out[0], *in = args->in[args->heir];
    if (!in || !in->needs_grad || out->base || !out->grad) return;
    ml_tensor *owner = in->base ? in->base : in;
    bool same_rows = owner->dim[0] == out->dim[0] && owner->stride == out->stride && in->dim[1] == owner->dim[1];
    if (!owner->grad && same_rows && in->dim[1] == out->dim[1]) owner->grad = out->grad;
}

static void backward_op(ml_ctx *ctx, const struct ml_node *node)
{
    const ml_op_args *args = &node->op.args;
    ml_op_grads grads = { 0 };
    bool arrived = node->op.self_seeding;
    for (int i = 0; i < ML_OP_MAX_OUT; i++) {
        grads.out[i] = existing_grad(args->out[i]);
        arrived = arrived || grads.out[i];
    }
    if (!arrived) return;
    for (int i = 0; i < ML_OP_MAX_IN; i++) {
        ml_tensor *in = args->in[i];
        if (i > 0 && i == args->heir) hand_on_grad(args);
        if (in && in->needs_grad && !(grads.in[i] = ml_tape_grad(ctx, in))) return;
    }
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    ml_status status = node->op.backward(ctx, args, &grads);
    if (status != ML_OK) ml_ctx_fail(ctx, status, "an operator's backward failed");
    ml_ctx_release(ctx, mark);
}

/* dy is dead once its segment is done; when it lies just under dx, dx moves down into its place, so that the
 * gradient arena does not grow with the number of segments. */
static void compact_grads(ml_ctx *ctx, const ml_tensor *y, ml_tensor *x, size_t mark)
{
    ml_arena_release(&ctx->grad, mark);
    if (x->base || !x->grad || !y->grad || y->base || x == y) return;
    size_t n_bytes = (size_t)ml_tensor_count(x) * sizeof(float);
    size_t y_at = (size_t)((char *)y->grad - ctx->grad.base);
    size_t x_at = (size_t)((char *)x->grad - ctx->grad.base);
    if (x_at <= y_at || x_at - y_at != ((n_bytes + 63) & ~(size_t)63) || x_at + (x_at - y_at) != mark) return;
    ml_device_copy(ctx->device, y->grad, x->grad, n_bytes);
    x->grad = y->grad;
    ml_arena_release(&ctx->grad, x_at);
}

static void walk_back(ml_ctx *ctx);

static void backward_recomputed(ml_ctx *ctx, const struct ml_node *node)
{
    ml_tensor *x = node->recompute.x, *y = node->recompute.y;
    if (!y->grad) return;
    if (x->needs_grad && !ml_tape_grad(ctx, x)) return;
    size_t grad_mark = ml_arena_mark(&ctx->grad);
    ml_ctx_mark act_mark = ml_ctx_get_mark(ctx);
    struct ml_node *outer = ctx->tape;
    ctx->tape = NULL;
    ctx->recording = ctx->recomputing = true;
    ml_tensor *again = node->recompute.fn(ctx, x, node->recompute.arg);
    ctx->recording = ctx->recomputing = false;
    if (again) {
        again->grad = y->grad;
        walk_back(ctx);
    }
    ctx->tape = outer;
    ml_ctx_release(ctx, act_mark);
    compact_grads(ctx, y, x, grad_mark);
}

static void walk_back(ml_ctx *ctx)
{
    while (ctx->tape && ctx->error.code == ML_OK) {
        struct ml_node *node = ctx->tape;
        ctx->tape = node->prev;
        switch (node->kind) {
        case NODE_OP: backward_op(ctx, node); break;
        case NODE_SEGMENT_END: {
            ml_tensor *x = node->end.begin->begin.x;
            if (x->needs_grad && !ml_tape_grad(ctx, x)) return;
            node->end.begin->begin.grad_mark = ml_arena_mark(&ctx->grad);
            break;
        }
        case NODE_SEGMENT_BEGIN:
            compact_grads(ctx, node->begin.y, node->begin.x, node->begin.grad_mark);
            ml_ctx_release(ctx, node->begin.act_mark);
            break;
        case NODE_RECOMPUTE: backward_recomputed(ctx, node); break;
        }
    }
}

ml_status ml_tape_backward(ml_ctx *ctx, ml_error *err)
{
    ctx->recording = false;
    walk_back(ctx);
    return ml_ctx_status(ctx, err);
}
