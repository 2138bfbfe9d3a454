/* Building calls: check shapes, make the outputs, run the backend's forward, record.  The only place that
 * knows which slot of ml_op_args is what; ops.def lists them in the same order. */
#include "ops/ops.h"

#include "ops/cpu/cpu.h"
#include "ops/cuda/cuda.h"

#include <assert.h>

/* One row of a backend's table. */
#define ROW(backend, name_, forward_tolerance_, backward_tolerance_, inputs_, outputs_, summary_)                      \
    [ML_OP_##name_] = { .name = #name_,                                                                                \
                        .forward = ml_##backend##_##name_##_forward,                                                   \
                        .backward = ml_##backend##_##name_##_backward,                                                 \
                        .forward_tolerance = forward_tolerance_,                                                       \
                        .backward_tolerance = backward_tolerance_,                                                     \
                        .inputs = inputs_,                                                                             \
                        .outputs = outputs_,                                                                           \
                        .summary = summary_ },

const ml_op ml_ops_cpu[ML_N_OP] = {
#define ML_OP(name, differentiable, ...) ROW(cpu, name, __VA_ARGS__)
#include "ops/ops.def"
#undef ML_OP
};

#ifdef MOONLIGHT_CUDA
const ml_op ml_ops_cuda[ML_N_OP] = {
#define ML_OP(name, differentiable, ...) ROW(cuda, name, __VA_ARGS__)
#include "ops/ops.def"
#undef ML_OP
};
#endif

/* The implementation for where the context's tensors lie; the operands must lie there too. */
static const ml_op *find_op(ml_ctx *ctx, ml_op_id id, const ml_op_args *args)
{
    for (int i = 0; i < ML_OP_MAX_IN; i++) {
        if (!args->in[i] || args->in[i]->device == ctx->device) continue;
        ml_ctx_fail(ctx, ML_EINVAL, "operator %s: operand %d does not lie where the operator works",
                    ml_ops_cpu[id].name, i);
        return NULL;
    }
#ifdef MOONLIGHT_CUDA
    if (ctx->device) return &ml_ops_cuda[id];
#endif
    return &ml_ops_cpu[id];
}

/* Run forward with its scratch released, then record.  Outputs and saved tensors exist already. */
static ml_tensor *run(ml_ctx *ctx, ml_op_id id, const ml_op_args *args, size_t param_bytes, bool self_seeding)
{
    const ml_op *op = find_op(ctx, id, args);
    if (!op) return NULL;
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    ml_status status = op->forward(ctx, args);
    ml_ctx_release(ctx, mark);
    if (status != ML_OK) {
        ml_ctx_fail(ctx, status, "operator %s failed", op->name);
        return NULL;
    }
    ml_tape_record(ctx, op->backward, args, param_bytes, self_seeding);
    return ctx->error.code == ML_OK ? args->out[0] : NULL;
}

/* A shape that does not fit is a mistake of the model code or of a loaded file: an error, not an assert. */
#define EXPECT(condition, ...)                                                                                         \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            ml_ctx_fail(ctx, ML_EINVAL, __VA_ARGS__);                                                                  \
            return NULL;                                                                                               \
        }                                                                                                              \
    } while (0)

ml_tensor *ml_embedding(ml_ctx *ctx, ml_tensor *table, ml_tensor *id)
{
    if (!table || !id) return NULL;
    ml_op_args args = { .in = { table, id }, .out = { ml_tensor_new_2d(ctx, ML_F32, id->dim[0], table->dim[1]) } };
    return args.out[0] ? run(ctx, ML_OP_embedding, &args, 0, false) : NULL;
}

ml_tensor *ml_linear(ml_ctx *ctx, ml_tensor *x, ml_tensor *w, ml_tensor *b)
{
    if (!x || !w) return NULL;
    EXPECT(x->dim[1] == w->dim[1], "linear: input has %lld columns, the weight expects %lld", (long long)x->dim[1],
           (long long)w->dim[1]);
    ml_op_args args = { .in = { x, w, b }, .out = { ml_tensor_new_2d(ctx, ML_F32, x->dim[0], w->dim[0]) } };
    return args.out[0] ? run(ctx, ML_OP_linear, &args, 0, false) : NULL;
}

ml_tensor *ml_rmsnorm(ml_ctx *ctx, ml_tensor *x, ml_tensor *w, float eps)
{
    if (!x || !w) return NULL;
    EXPECT(w->dim[0] > 0 && x->dim[1] % w->dim[0] == 0, "rmsnorm: %lld columns are not groups of %lld",
           (long long)x->dim[1], (long long)w->dim[0]);
    ml_rmsnorm_param param = { eps };
    ml_op_args args = { .in = { x, w }, .param = &param };
    args.out[0] = ml_tensor_new_2d(ctx, ML_F32, x->dim[0], x->dim[1]);
    args.save[0] = ml_tensor_new_2d(ctx, ML_F32, x->dim[0], x->dim[1] / w->dim[0]);
    return args.save[0] ? run(ctx, ML_OP_rmsnorm, &args, sizeof param, false) : NULL;
}

ml_tensor *ml_rope(ml_ctx *ctx, ml_tensor *x, ml_tensor *pos, const ml_rope_param *param)
{
    if (!x || !pos) return NULL;
    EXPECT(x->dim[1] == param->n_head * param->d_head && param->offset + param->n_rot <= param->d_head &&
               param->n_rot % 2 == 0,
           "rope: %lld columns are not %lld heads of %lld", (long long)x->dim[1], (long long)param->n_head,
           (long long)param->d_head);
    ml_op_args args = { .in = { x, pos }, .out = { ml_tensor_cols(ctx, x, 0, x->dim[1]) }, .param = param };
    return args.out[0] ? run(ctx, ML_OP_rope, &args, sizeof *param, false) : NULL;
}

ml_tensor *ml_attention(ml_ctx *ctx, ml_tensor *q, ml_tensor *k, ml_tensor *v, ml_tensor *k_shared, ml_tensor *seq,
                        const ml_attention_param *param)
{
    if (!q || !k || !v || !seq || (param->d_shared && !k_shared)) return NULL;
    EXPECT(q->dim[1] == param->n_head * param->d_qk && param->n_head % param->n_kv_head == 0,
           "attention: %lld columns of q are not %lld heads of %lld shared by %lld key heads", (long long)q->dim[1],
           (long long)param->n_head, (long long)param->d_qk, (long long)param->n_kv_head);
    ml_op_args args = { .in = { q, k, v, k_shared, seq }, .param = param };
    args.out[0] = ml_tensor_new_2d(ctx, ML_F32, q->dim[0], param->n_head * param->d_v);
    args.save[0] = ml_tensor_new_2d(ctx, ML_F32, param->n_head, q->dim[0]);
    return args.save[0] ? run(ctx, ML_OP_attention, &args, sizeof *param, false) : NULL;
}

ml_tensor *ml_swiglu(ml_ctx *ctx, ml_tensor *gate_up)
{
    if (!gate_up) return NULL;
    EXPECT(gate_up->dim[1] % 2 == 0, "swiglu: %lld columns cannot be halved", (long long)gate_up->dim[1]);
    ml_op_args args = { .in = { gate_up } };
    args.out[0] = ml_tensor_new_2d(ctx, ML_F32, gate_up->dim[0], gate_up->dim[1] / 2);
    return args.out[0] ? run(ctx, ML_OP_swiglu, &args, 0, false) : NULL;
}

ml_tensor *ml_add(ml_ctx *ctx, ml_tensor *a, ml_tensor *b, float scale)
{
    if (!a || !b) return NULL;
    EXPECT(a->dim[0] == b->dim[0] && a->dim[1] == b->dim[1], "add: shapes differ");
    ml_add_param param = { scale };
    ml_op_args args = { .in = { a, b }, .param = &param };
    args.out[0] = ml_tensor_new_2d(ctx, ML_F32, a->dim[0], a->dim[1]);
    return args.out[0] ? run(ctx, ML_OP_add, &args, sizeof param, false) : NULL;
}

static ml_tensor *router(ml_ctx *ctx, ml_tensor *x, ml_tensor *w, ml_tensor *bias, const ml_router_param *param,
                         ml_routing *out)
{
    if (!x || !w) return NULL;
    EXPECT(param->top_k >= 1 && param->top_k <= param->n_expert && w->dim[0] == param->n_expert &&
               param->n_group >= 1 && param->n_expert % param->n_group == 0 && param->topk_group >= 1 &&
               param->topk_group <= param->n_group,
           "router: top %lld of %lld experts in %lld groups is impossible", (long long)param->top_k,
           (long long)param->n_expert, (long long)param->n_group);
    out->prob = ml_tensor_new_2d(ctx, ML_F32, x->dim[0], param->top_k);
    out->logit = ml_tensor_new_2d(ctx, ML_F32, x->dim[0], param->n_expert);
    out->id = ml_tensor_new_2d(ctx, ML_I32, x->dim[0], param->top_k);
    out->count = ml_tensor_new_1d(ctx, ML_I32, param->n_expert);
    ml_op_args args = { .in = { x, w, bias }, .out = { out->prob, out->logit, out->id, out->count }, .param = param };
    return out->count ? run(ctx, ML_OP_router, &args, sizeof *param, false) : NULL;
}

bool ml_router(ml_ctx *ctx, ml_tensor *x, ml_tensor *w, ml_tensor *bias, const ml_router_param *param, ml_routing *out)
{
    *out = (ml_routing){ 0 };
    return router(ctx, x, w, bias, param, out) != NULL;
}

ml_tensor *ml_router_loss(ml_ctx *ctx, ml_tensor *logit, ml_tensor *id, ml_tensor *seq,
                          const ml_router_loss_param *param)
{
    if (!logit || !id || !seq) return NULL;
    ml_op_args args = { .in = { logit, id, seq }, .out = { ml_tensor_new_1d(ctx, ML_F32, 2) }, .param = param };
    return args.out[0] ? run(ctx, ML_OP_router_loss, &args, sizeof *param, true) : NULL;
}

ml_tensor *ml_experts(ml_ctx *ctx, ml_tensor *x, ml_tensor *id, ml_tensor *prob, ml_tensor *gate, ml_tensor *up,
                      ml_tensor *down, const ml_experts_param *param)
{
    if (!x || !id || !prob || !gate || !down) return NULL;
    int64_t n_expert = gate->dim[0], f = gate->dim[1], d = gate->dim[2];
    EXPECT(x->dim[1] == d && down->dim[0] == n_expert && down->dim[1] == d && down->dim[2] == f &&
               (!up || (up->dim[0] == n_expert && up->dim[1] == f && up->dim[2] == d)),
           "experts: shapes of the weights do not agree");
    ml_op_args args = { .in = { x, id, prob, gate, up, down }, .param = param };
    args.out[0] = ml_tensor_new_2d(ctx, ML_F32, x->dim[0], d);
    int64_t n_row = id->dim[0] * id->dim[1];
    /* Kept for the backward: where each expert's rows begin, which (token, k) each row is, pre-activations. */
    args.save[0] = ml_tensor_new_1d(ctx, ML_I32, n_expert + 1);
    args.save[1] = ml_tensor_new_1d(ctx, ML_I32, n_row);
    args.save[2] = ml_tensor_new_2d(ctx, ML_F32, n_row, up ? 2 * f : f);
    return args.save[2] ? run(ctx, ML_OP_experts, &args, sizeof *param, false) : NULL;
}

ml_tensor *ml_logprob(ml_ctx *ctx, ml_tensor *x, ml_tensor *w, ml_tensor *b, ml_tensor *target)
{
    if (!x || !w || !target) return NULL;
    EXPECT(x->dim[1] == w->dim[1] && target->dim[0] == x->dim[0], "logprob: shapes do not agree");
    ml_op_args args = { .in = { x, w, b, target } };
    args.out[0] = ml_tensor_new_1d(ctx, ML_F32, x->dim[0]);
    args.save[0] = ml_tensor_new_1d(ctx, ML_F32, x->dim[0]);
    return args.save[0] ? run(ctx, ML_OP_logprob, &args, 0, false) : NULL;
}
