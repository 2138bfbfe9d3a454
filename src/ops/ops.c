/* Building calls: check shapes, make the outputs, run the backend's forward, record.  The only place that
 * knows which slot of ml_op_args is what; ops.def lists them in the same order. */
#include "ops/ops.h"

#include "ops/cpu/cpu.h"
#include "ops/cuda/cuda.h"

#include <assert.h>

const ml_op ml_ops_cpu[ML_N_OP] = {
#define ML_OP(name_, differentiable_, forward_tolerance_, backward_tolerance_, inputs_, outputs_, summary_)            \
    [ML_OP_##name_] = { .name = #name_,                                                                                \
                        .forward = ml_cpu_##name_##_forward,                                                           \
                        .backward = ml_cpu_##name_##_backward,                                                         \
                        .forward_tolerance = forward_tolerance_,                                                       \
                        .backward_tolerance = backward_tolerance_,                                                     \
                        .inputs = inputs_,                                                                             \
                        .outputs = outputs_,                                                                           \
                        .summary = summary_ },
#include "ops/ops.def"
#undef ML_OP
};

#ifdef MOONLIGHT_CUDA
/* What the GPU has; the others are NULL there. */
const ml_kernels ml_ops_cuda[ML_N_OP] = {
#define ML_CUDA_OP(name_)                                                                                              \
    [ML_OP_##name_] = { .forward = ml_cuda_##name_##_forward, .backward = ml_cuda_##name_##_backward },
#include "ops/cuda/cuda.def"
#undef ML_CUDA_OP
};
#endif

/* The implementation for where the context's tensors lie; the operands must lie there too.  False: failed. */
static bool find_kernels(ml_ctx *ctx, ml_op_id id, const ml_op_args *args, ml_kernels *out)
{
    *out = (ml_kernels){ ml_ops_cpu[id].forward, ml_ops_cpu[id].backward };
    for (int i = 0; i < ML_OP_MAX_IN; i++) {
        if (!args->in[i] || args->in[i]->device == ctx->device) continue;
        ml_ctx_fail(ctx, ML_EINVAL, "operator %s: operand %d does not lie where the operator works",
                    ml_ops_cpu[id].name, i);
        return false;
    }
    if (!ctx->device) return true;
#ifdef MOONLIGHT_CUDA
    *out = ml_ops_cuda[id];
#endif
    if (out->forward) return true;
    ml_ctx_fail(ctx, ML_EINVAL, "operator %s runs on the processor only: give --device cpu", ml_ops_cpu[id].name);
    return false;
}

/* Run forward with its scratch released, then record.  Outputs and saved tensors exist already. */
static ml_tensor *run(ml_ctx *ctx, ml_op_id id, const ml_op_args *args, size_t param_bytes, bool self_seeding)
{
    ml_kernels kernels;
    if (!find_kernels(ctx, id, args, &kernels)) return NULL;
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    ml_status status = kernels.forward(ctx, args);
    ml_ctx_release(ctx, mark);
    if (status != ML_OK) {
        ml_ctx_fail(ctx, status, "operator %s failed", ml_ops_cpu[id].name);
        return NULL;
    }
    ml_tape_record(ctx, kernels.backward, args, param_bytes, self_seeding);
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

/* The view of y that an operator in place gives; what made y must then deliver a gradient to it. */
static ml_tensor *run_in_place(ml_ctx *ctx, ml_op_id id, ml_op_args *args, size_t param_bytes)
{
    ml_tensor *y = args->in[0];
    args->out[0] = ml_tensor_cols(ctx, y, 0, y->dim[1]);
    if (!args->out[0] || !run(ctx, id, args, param_bytes, false)) return NULL;
    if (args->out[0]->needs_grad) {
        y->needs_grad = true;
        if (y->base) y->base->needs_grad = true;
    }
    return args->out[0];
}

ml_tensor *ml_lora(ml_ctx *ctx, ml_tensor *y, ml_tensor *x, ml_tensor *a, ml_tensor *b, ml_tensor *row,
                   const ml_lora_param *param)
{
    if (!y || !x || !a || !b) return NULL;
    EXPECT(x->dim[0] == y->dim[0] && a->dim[1] == x->dim[1] && b->dim[1] == a->dim[0] && b->dim[0] == y->dim[1] &&
               (!row || row->dim[0] <= y->dim[0]),
           "lora: a [%lld, %lld] and b [%lld, %lld] do not fit a product of %lld columns with %lld",
           (long long)a->dim[0], (long long)a->dim[1], (long long)b->dim[0], (long long)b->dim[1], (long long)x->dim[1],
           (long long)y->dim[1]);
    ml_op_args args = { .in = { y, x, a, b, row }, .param = param };
    args.save[0] = ml_tensor_new_2d(ctx, ML_F32, row ? row->dim[0] : x->dim[0], a->dim[0]); /* scale * a dropout(x) */
    return args.save[0] ? run_in_place(ctx, ML_OP_lora, &args, sizeof *param) : NULL;
}

ml_tensor *ml_dora(ml_ctx *ctx, ml_tensor *y, ml_tensor *m, ml_tensor *norm, ml_tensor *bias, ml_tensor *row)
{
    if (!y || !m != !norm) return NULL;
    EXPECT((!m || (m->dim[0] == y->dim[1] && norm->dim[0] == y->dim[1])) && (!bias || bias->dim[0] == y->dim[1]) &&
               (!row || row->dim[0] <= y->dim[0]),
           "dora: magnitudes do not fit %lld columns", (long long)y->dim[1]);
    ml_op_args args = { .in = { y, m, norm, bias, row } };
    int64_t n_row = row ? row->dim[0] : y->dim[0];
    args.save[0] = ml_tensor_new_2d(ctx, ML_F32, m && ctx->recording ? n_row : 0, y->dim[1]); /* y as it came */
    return args.save[0] ? run_in_place(ctx, ML_OP_dora, &args, 0) : NULL;
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

static ml_tensor *add_rmsnorm(ml_ctx *ctx, ml_tensor *a, ml_tensor *b, ml_tensor *w, float eps, ml_normed_sum *out)
{
    if (!a || !b || !w) return NULL;
    EXPECT(a->dim[0] == b->dim[0] && a->dim[1] == b->dim[1] && a->dim[1] == w->dim[0], "add_rmsnorm: shapes differ");
    ml_rmsnorm_param param = { eps };
    ml_op_args args = { .in = { a, b, w }, .param = &param, .heir = 1 };
    args.out[0] = out->sum = ml_tensor_new_2d(ctx, ML_F32, a->dim[0], a->dim[1]);
    args.out[1] = out->y = ml_tensor_new_2d(ctx, ML_F32, a->dim[0], a->dim[1]);
    args.save[0] = ml_tensor_new_2d(ctx, ML_F32, a->dim[0], 1);
    return args.save[0] ? run(ctx, ML_OP_add_rmsnorm, &args, sizeof param, false) : NULL;
}

bool ml_add_rmsnorm(ml_ctx *ctx, ml_tensor *a, ml_tensor *b, ml_tensor *w, float eps, ml_normed_sum *out)
{
    *out = (ml_normed_sum){ 0 };
    return add_rmsnorm(ctx, a, b, w, eps, out) != NULL;
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
    ml_op_args args = { .in = { a, b }, .param = &param, .heir = scale == 1 ? 1 : 0 };
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

static ml_tensor *experts(ml_ctx *ctx, ml_op_id op, ml_op_args *args, size_t param_bytes)
{
    ml_tensor *x = args->in[0], *id = args->in[1], *prob = args->in[2], *gate = args->in[3], *up = args->in[4],
              *down = args->in[5];
    if (!x || !id || !prob || !gate || !down) return NULL;
    int64_t n_expert = gate->dim[0], f = gate->dim[1], d = gate->dim[2];
    EXPECT(x->dim[1] == d && down->dim[0] == n_expert && down->dim[1] == d && down->dim[2] == f &&
               (!up || (up->dim[0] == n_expert && up->dim[1] == f && up->dim[2] == d)),
           "experts: shapes of the weights do not agree");
    args->out[0] = ml_tensor_new_2d(ctx, ML_F32, x->dim[0], d);
    int64_t n_row = id->dim[0] * id->dim[1];
    /* Kept for the backward: where each expert's rows begin, which (token, k) each row is, pre-activations. */
    args->save[0] = ml_tensor_new_1d(ctx, ML_I32, n_expert + 1);
    args->save[1] = ml_tensor_new_1d(ctx, ML_I32, n_row);
    if (op == ML_OP_experts && ctx->device && ctx->precision == ML_PRECISION_BF16) {
        int64_t n_col = (f + 7) / 8 * 8; /* what copies of 16 bytes ask for */
        args->save[2] = ml_tensor_new_2d(ctx, ML_BF16, n_row, up ? 2 * n_col : n_col);
    } else {
        args->save[2] = ml_tensor_new_2d(ctx, ML_F32, n_row, up ? 2 * f : f);
    }
    return args->save[2] ? run(ctx, op, args, param_bytes, false) : NULL;
}

ml_tensor *ml_experts(ml_ctx *ctx, ml_tensor *x, ml_tensor *id, ml_tensor *prob, ml_tensor *gate, ml_tensor *up,
                      ml_tensor *down, const ml_experts_param *param)
{
    ml_op_args args = { .in = { x, id, prob, gate, up, down }, .param = param };
    return experts(ctx, ML_OP_experts, &args, sizeof *param);
}

/* Does a term fit matrices [n_expert, n_out, n_in]?  Its rank goes into *rank. */
static bool term_fits(const ml_tensor *a, const ml_tensor *b, int64_t n_expert, int64_t n_out, int64_t n_in,
                      int64_t *rank)
{
    *rank = 0;
    if (!a != !b) return false;
    if (!a) return true;
    *rank = a->dim[1];
    return a->dim[0] == n_expert && a->dim[2] == n_in && b->dim[0] == n_expert && b->dim[1] == n_out &&
           b->dim[2] == a->dim[1];
}

/* Do the magnitudes of a term fit [n_expert, n_out]? */
static bool magnitudes_fit(const ml_tensor *a, const ml_tensor *m, const ml_tensor *norm, int64_t n_expert,
                           int64_t n_out)
{
    if (!m && !norm) return true;
    return a && m && norm && m->n_dim == 2 && norm->n_dim == 2 && m->dim[0] == n_expert && m->dim[1] == n_out &&
           norm->dim[0] == n_expert && norm->dim[1] == n_out;
}

ml_tensor *ml_experts_lora(ml_ctx *ctx, ml_tensor *x, ml_tensor *id, ml_tensor *prob, ml_tensor *gate, ml_tensor *up,
                           ml_tensor *down, const ml_experts_terms *t, const ml_experts_lora_param *param)
{
    if (!x || !id || !prob || !gate || !down) return NULL;
    int64_t n = gate->dim[0], f = gate->dim[1], d = gate->dim[2], rank[3];
    EXPECT(term_fits(t->gate_a, t->gate_b, n, f, d, &rank[0]) && term_fits(t->up_a, t->up_b, n, f, d, &rank[1]) &&
               term_fits(t->down_a, t->down_b, n, d, f, &rank[2]) && (up || !t->up_a),
           "experts: shapes of the low-rank terms do not fit the weights");
    EXPECT(magnitudes_fit(t->gate_a, t->gate_m, t->gate_norm, n, f) &&
               magnitudes_fit(t->up_a, t->up_m, t->up_norm, n, f) &&
               magnitudes_fit(t->down_a, t->down_m, t->down_norm, n, d),
           "experts: shapes of the magnitudes do not fit the weights");
    ml_op_args args = { .in = { x, id, prob, gate, up, down, t->gate_a, t->gate_b, t->up_a, t->up_b, t->down_a,
                                t->down_b, t->gate_m, t->gate_norm, t->up_m, t->up_norm, t->down_m, t->down_norm },
                        .param = param };
    /* scale * a dropout(input) of gate, up and down, row after row */
    args.save[3] = ml_tensor_new_2d(ctx, ML_F32, id->dim[0] * id->dim[1], rank[0] + rank[1] + rank[2]);
    return args.save[3] ? experts(ctx, ML_OP_experts_lora, &args, sizeof *param) : NULL;
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
