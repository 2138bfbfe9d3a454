#include "ops/cuda/experts_terms.cuh"

#include "ops/cuda/dropout.cuh"

enum { THREADS = 256 };

static unsigned blocks_for(int64_t n)
{
    return (unsigned)ml_n_blocks(n, THREADS);
}

/* ---- dropout ---- */

typedef struct {
    float share;
    uint64_t seed;
    const int32_t *flat;
    int64_t n, n_col; /* n: elements of all rows */
} choice;

static __device__ __forceinline__ bool stays(const choice *w, int64_t i)
{
    return ml_stays(w->share, w->seed, w->flat[i / w->n_col], i % w->n_col);
}

static __global__ void __launch_bounds__(THREADS)
    drop(choice w, const int32_t *offset, int64_t n_expert, ml_cuda_operand from, float *to)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= w.n || i / w.n_col >= offset[n_expert]) return;
    int64_t r = from.row ? from.row[i / w.n_col] : i / w.n_col;
    to[i] = stays(&w, i) ? from.data[r * from.stride + i % w.n_col] * (1.0f / (1.0f - w.share)) : 0.0f;
}

static __global__ void __launch_bounds__(THREADS)
    add_dropped(choice w, const int32_t *offset, int64_t n_expert, const float *from, float *to, int64_t stride)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= w.n || i / w.n_col >= offset[n_expert] || !stays(&w, i)) return;
    to[i / w.n_col * stride + i % w.n_col] += from[i] * (1.0f / (1.0f - w.share));
}

static choice choice_of(const ml_cuda_experts *e, const ml_cuda_terms *t, const ml_cuda_term *term)
{
    choice w = { t->dropout, term->seed, e->flat, e->n_row * term->n_in, term->n_in };
    return w;
}

/* dropout(input) */
static ml_cuda_operand drop_input(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_terms *t,
                                  const ml_cuda_term *term, ml_cuda_operand input)
{
    if (!t->dropped) return input;
    choice w = choice_of(e, t, term);
    ML_LAUNCH(ctx->device, drop, blocks_for(w.n), THREADS, 0, w, e->offset, e->n_expert, input, t->dropped);
    return ml_cuda_operand_make(t->dropped, term->n_in, false);
}

/* ---- products ---- */

/* a or b of all experts, rows of n_col elements. */
static ml_cuda_operand matrices(const float *data, int64_t product, int64_t n_col, bool transpose)
{
    ml_cuda_operand o = ml_cuda_operand_make(data, n_col, transpose);
    o.product = product;
    return o;
}

void ml_cuda_term_add_kept(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_terms *t, const ml_cuda_term *term,
                           float *out, int64_t stride)
{
    if (!term->a) return;
    ml_cuda_gemm g = ml_cuda_experts_rows(e, ml_cuda_operand_make(term->h, t->h_stride, false),
                                          matrices(term->b, term->b_stride, term->r, true), term->n_out, term->r);
    g.c = out;
    g.c_stride = stride;
    g.accumulate = true;
    ml_cuda_gemm_run(ctx, &g);
}

void ml_cuda_term_add(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_terms *t, const ml_cuda_term *term,
                      ml_cuda_operand input, float *out, int64_t stride)
{
    if (!term->a) return;
    ml_cuda_gemm g = ml_cuda_experts_rows(e, drop_input(ctx, e, t, term, input),
                                          matrices(term->a, term->a_stride, term->n_in, true), term->r, term->n_in);
    g.c = term->h;
    g.c_stride = t->h_stride;
    g.alpha = t->scale;
    ml_cuda_gemm_run(ctx, &g);
    ml_cuda_term_add_kept(ctx, e, t, term, out, stride);
}

void ml_cuda_term_pull(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_terms *t, const ml_cuda_term *term,
                       ml_cuda_operand dout)
{
    if (!term->a) return;
    ml_cuda_gemm g =
        ml_cuda_experts_rows(e, dout, matrices(term->b, term->b_stride, term->r, false), term->r, term->n_out);
    g.c = term->dh;
    g.c_stride = t->h_stride;
    g.alpha = t->scale;
    ml_cuda_gemm_run(ctx, &g);
}

void ml_cuda_term_add_gradients(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_terms *t, const ml_cuda_term *term,
                                ml_cuda_operand dout, ml_cuda_operand input)
{
    if (term->db) {
        ml_cuda_experts_add_gradient(ctx, e, dout, ml_cuda_operand_make(term->h, t->h_stride, false), term->n_out,
                                     term->r, term->db, term->b_stride);
    }
    if (term->da) {
        ml_cuda_experts_add_gradient(ctx, e, ml_cuda_operand_make(term->dh, t->h_stride, false),
                                     drop_input(ctx, e, t, term, input), term->r, term->n_in, term->da, term->a_stride);
    }
}

void ml_cuda_term_add_input(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_terms *t, const ml_cuda_term *term,
                            float *dinput, int64_t stride)
{
    if (!term->a) return;
    ml_cuda_gemm g = ml_cuda_experts_rows(e, ml_cuda_operand_make(term->dh, t->h_stride, false),
                                          matrices(term->a, term->a_stride, term->n_in, false), term->n_in, term->r);
    g.c = t->dropped ? t->dropped : dinput;
    g.c_stride = t->dropped ? term->n_in : stride;
    g.accumulate = !t->dropped;
    ml_cuda_gemm_run(ctx, &g);
    if (!t->dropped) return;
    choice w = choice_of(e, t, term);
    ML_LAUNCH(ctx->device, add_dropped, blocks_for(w.n), THREADS, 0, w, e->offset, e->n_expert, t->dropped, dinput,
              stride);
}

/* ---- magnitudes ---- */

static __global__ void __launch_bounds__(THREADS)
    scale_rows(ml_cuda_experts e, ml_cuda_term t, ml_cuda_operand from, float *to)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, r = i / t.n_out, j = i % t.n_out;
    if (r >= e.offset[e.n_expert]) return;
    int64_t stored = from.row ? from.row[r] : r;
    to[i] = ml_term_factor(&t, ml_expert_of(&e, r), j) * from.data[stored * from.stride + j];
}

void ml_cuda_term_scale(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_term *term, ml_cuda_operand from,
                        float *to)
{
    ML_LAUNCH(ctx->device, scale_rows, blocks_for(e->n_row * term->n_out), THREADS, 0, *e, *term, from, to);
}

/* One thread for each expert and output. */
static __global__ void __launch_bounds__(THREADS)
    add_magnitudes(ml_cuda_experts e, ml_cuda_term t, ml_cuda_operand ds, const float *u, int64_t u_stride)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, expert = i / t.n_out, j = i % t.n_out;
    if (expert >= e.n_expert) return;
    float norm = t.norm[expert * t.norm_stride + j], sum = 0;
    if (!(norm > 0)) return;
    for (int32_t r = e.offset[expert]; r < e.offset[expert + 1]; r++) {
        sum += ds.data[(ds.row ? ds.row[r] : r) * ds.stride + j] * (u ? u[r * u_stride + j] : 1.0f);
    }
    t.dm[expert * t.m_stride + j] += sum / norm;
}

void ml_cuda_term_add_magnitudes(ml_ctx *ctx, const ml_cuda_experts *e, const ml_cuda_term *term, ml_cuda_operand ds,
                                 const float *u, int64_t u_stride)
{
    if (!term->m || !term->dm) return;
    ML_LAUNCH(ctx->device, add_magnitudes, blocks_for(e->n_expert * term->n_out), THREADS, 0, *e, *term, ds, u,
              u_stride);
}

/* ---- set-up ---- */

enum { GATE = 6, UP = 8, DOWN = 10, MAGNITUDE = 6, NORM = 7 /* behind a */ };

static ml_cuda_term make_term(const ml_op_args *args, const ml_op_grads *grads, int slot, int64_t *h, uint64_t seed)
{
    ml_cuda_term t;
    memset(&t, 0, sizeof t);
    const ml_tensor *a = args->in[slot], *b = args->in[slot + 1], *m = args->in[slot + MAGNITUDE],
                    *norm = args->in[slot + NORM];
    if (!a) return t;
    t.a = ml_f32(a);
    t.b = ml_f32(b);
    t.a_stride = a->stride;
    t.b_stride = b->stride;
    t.r = a->dim[1];
    t.n_in = a->dim[2];
    t.n_out = b->dim[1];
    t.h = ml_f32(args->save[3]) + *h;
    t.seed = ml_mix(seed + (uint64_t)slot);
    t.m = ml_f32(m);
    t.norm = ml_f32(norm);
    t.m_stride = m ? m->stride : 0;
    t.norm_stride = norm ? norm->stride : 0;
    if (grads) {
        t.da = grads->in[slot];
        t.db = grads->in[slot + 1];
        t.dm = grads->in[slot + MAGNITUDE];
    }
    *h += t.r;
    return t;
}

ml_status ml_cuda_terms_describe(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads,
                                 const ml_cuda_experts *e, ml_cuda_terms *t)
{
    memset(t, 0, sizeof *t);
    if (!args->save[3]) return ML_OK;
    const ml_experts_lora_param *param = (const ml_experts_lora_param *)args->param;
    int64_t h = 0;
    t->scale = param->scale;
    t->dropout = param->dropout;
    t->gate = make_term(args, grads, GATE, &h, param->seed);
    t->up = make_term(args, grads, UP, &h, param->seed);
    t->down = make_term(args, grads, DOWN, &h, param->seed);
    t->h_stride = h;
    if (t->dropout > 0) {
        int64_t widest = e->d > e->f ? e->d : e->f;
        t->dropped = (float *)ml_ctx_scratch_data(ctx, (size_t)(e->n_row * widest) * sizeof *t->dropped);
        if (!t->dropped) return ML_ENOMEM;
    }
    if (!grads) return ML_OK;
    float *dh = (float *)ml_ctx_scratch_data(ctx, (size_t)(e->n_row * h) * sizeof *dh);
    if (!dh) return ML_ENOMEM;
    t->gate.dh = dh;
    t->up.dh = dh + t->gate.r;
    t->down.dh = dh + t->gate.r + t->up.r;
    return ML_OK;
}
