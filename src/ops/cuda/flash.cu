/* Before and after the tiles of attention: operands packed in bf16 (flash.cuh), bounds of sequences, and who launches
 * what.  A launch packs several operands: blockIdx.z says which. */
#include "ops/cuda/flash.cuh"
#include "ops/cuda/sequences.cuh"

enum { PACK_THREADS = 256, MAX_PACK = 4 };

/* Own columns [0, d_own), then shared ones up to d, then zeros up to `size`. */
typedef struct {
    const float *own, *shared; /* shared NULL: d == d_own */
    int64_t own_stride, own_step, shared_stride;
    int d_own, d, size, n_head;
    float factor;
    bool aligned;
    uint16_t *to;   /* [n_head, n_token, size] */
    const float *y; /* NULL, or laid out as own (then `size` is a power of two): */
    float *delta;   /* [n_head, n_token], the sum of products own * y of each row */
} packing;

typedef struct {
    packing part[MAX_PACK];
    int n_part, n_token;
} packings;

/* One thread for 8 columns of a row; a row's threads are neighbours. */
static __global__ void __launch_bounds__(PACK_THREADS) pack(packings all)
{
    const packing &w = all.part[blockIdx.z];
    int n_piece = w.size / 8, h = (int)blockIdx.y;
    unsigned i = blockIdx.x * PACK_THREADS + threadIdx.x;
    int token = (int)(i / (unsigned)n_piece), c = (int)(i % (unsigned)n_piece) * 8;
    bool inside = token < all.n_token && h < w.n_head;
    float x[8], sum = 0;
    if (inside) {
        int64_t at = token * w.own_stride + h * w.own_step + c;
        if (c + 8 <= w.d_own || !w.shared) {
            ml_flash_load_8(x, w.own + at, w.d_own - c, w.aligned);
        } else {
            const float *shared = w.shared + token * w.shared_stride;
            if (c >= w.d_own) {
                ml_flash_load_8(x, shared + c - w.d_own, w.d - c, w.aligned);
            } else {
                for (int k = 0; k < 8; k++) {
                    int column = c + k;
                    x[k] = column < w.d_own ? w.own[at + k] : column < w.d ? shared[column - w.d_own] : 0.0f;
                }
            }
        }
        ml_flash_store_8(w.to + ((int64_t)h * all.n_token + token) * w.size + c, x, w.factor);
    }
    if (!w.y) return;
    if (inside) {
        float y[8];
        ml_flash_load_8(y, w.y + token * w.own_stride + h * w.own_step + c, w.d_own - c, w.aligned);
        for (int k = 0; k < 8; k++) sum = fmaf(x[k], y[k], sum);
    }
    for (int with = n_piece / 2; with > 0; with /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, with);
    if (inside && c == 0) w.delta[(int64_t)h * all.n_token + token] = sum;
}

static __global__ void __launch_bounds__(PACK_THREADS)
    find_bounds(const int32_t *seq, int64_t n_seq, int64_t n_token, int32_t *begin, int32_t *end)
{
    int64_t i = (int64_t)blockIdx.x * PACK_THREADS + threadIdx.x, first, last;
    if (i >= n_token) return;
    ml_find_sequence(seq, n_seq, n_token, i, &first, &last);
    begin[i] = (int32_t)first;
    end[i] = (int32_t)last;
}

/* The next part: n_head heads of d columns, of which the first d_own come from `own`. */
static packing *add_part(ml_ctx *ctx, packings *all, int64_t n_head, int64_t d, int size)
{
    packing *w = &all->part[all->n_part++];
    w->n_head = (int)n_head;
    w->d = w->d_own = (int)d;
    w->size = size;
    w->factor = 1;
    w->to = (uint16_t *)ml_ctx_scratch_data(ctx, (size_t)n_head * (size_t)all->n_token * (size_t)size * sizeof *w->to);
    return w;
}

static void set_rows(packing *w, const float *data, int64_t stride, int64_t step)
{
    w->own = data;
    w->own_stride = stride;
    w->own_step = step;
    w->aligned = ml_flash_is_aligned(data, stride, step);
}

static const uint16_t *add_keys(ml_ctx *ctx, const ml_cuda_attention *a, packings *all, int size)
{
    packing *w = add_part(ctx, all, a->p.n_kv_head, a->p.d_qk, size);
    set_rows(w, a->k.data, a->k.stride, a->p.k_step);
    w->d_own = (int)(a->p.d_qk - a->p.d_shared);
    if (a->p.d_shared) {
        w->shared = a->k_shared.data;
        w->shared_stride = a->k_shared.stride;
        w->aligned = w->aligned && w->d_own % 8 == 0 && ml_flash_is_aligned(w->shared, w->shared_stride, 0);
    }
    return w->to;
}

static const uint16_t *add_values(ml_ctx *ctx, const ml_cuda_attention *a, packings *all, int size)
{
    packing *w = add_part(ctx, all, a->p.n_kv_head, a->p.d_v, size);
    set_rows(w, a->v.data, a->v.stride, a->p.v_step);
    return w->to;
}

static void add_queries_and_slopes(ml_ctx *ctx, const ml_cuda_attention *a, packings *all, ml_flash_size size,
                                   ml_flash_operands *o)
{
    packing *q = add_part(ctx, all, a->p.n_head, a->p.d_qk, size.d_qk);
    set_rows(q, a->q.data, a->q.stride, a->p.d_qk);
    q->factor = a->p.scale * FLASH_LOG2E;
    o->q = q->to;
    packing *dy = add_part(ctx, all, a->p.n_head, a->p.d_v, size.d_v);
    set_rows(dy, a->dy, a->y.stride, a->p.d_v);
    dy->y = a->y.data;
    dy->aligned = dy->aligned && ml_flash_is_aligned(dy->y, a->y.stride, a->p.d_v);
    dy->delta = (float *)ml_ctx_scratch_data(ctx, (size_t)(a->p.n_head * a->n_token) * sizeof *dy->delta);
    o->dy = dy->to;
    o->delta = dy->delta;
}

static ml_status prepare(ml_ctx *ctx, const ml_cuda_attention *a, bool backward, ml_flash_operands *o)
{
    ml_flash_size size = ml_flash_size_of(a->p.d_qk, a->p.d_v);
    packings all;
    memset(&all, 0, sizeof all);
    memset(o, 0, sizeof *o);
    all.n_token = (int)a->n_token;
    o->k = add_keys(ctx, a, &all, size.d_qk);
    o->v = add_values(ctx, a, &all, size.d_v);
    if (backward) add_queries_and_slopes(ctx, a, &all, size, o);
    int32_t *bound = (int32_t *)ml_ctx_scratch_data(ctx, 2 * (size_t)a->n_token * sizeof *bound);
    if (!bound || ctx->error.code != ML_OK) return ML_ENOMEM;
    o->begin = bound;
    o->end = bound + a->n_token;
    ML_LAUNCH(ctx->device, find_bounds, (unsigned)ml_n_blocks(a->n_token, PACK_THREADS), PACK_THREADS, 0, a->seq,
              a->n_seq, a->n_token, bound, bound + a->n_token);
    dim3 grid((unsigned)ml_n_blocks(a->n_token * size.d_qk / 8, PACK_THREADS),
              (unsigned)(backward ? a->p.n_head : a->p.n_kv_head), (unsigned)all.n_part);
    ML_LAUNCH(ctx->device, pack, grid, PACK_THREADS, 0, all);
    return ml_queued(ctx);
}

/* Backward: 64 rows of each operand, and their statistics.  Forward: the queries of a block, 64 keys and values. */
bool ml_cuda_flash_fits(ml_ctx *ctx, int64_t d_qk, int64_t d_v)
{
    ml_flash_size size = ml_flash_size_of(d_qk, d_v);
    size_t qk = (size_t)ml_flash_row(size.d_qk), v = (size_t)ml_flash_row(size.d_v);
    size_t wanted = 2 * FLASH_TILE * (qk + v) * sizeof(uint16_t) + 2 * FLASH_TILE * sizeof(float);
    size_t forward = ((size_t)(ml_flash_forward_rows(size.d_qk) + FLASH_TILE) * qk + FLASH_TILE * v) * sizeof(uint16_t);
    int available = 0;
    if (forward > wanted) wanted = forward;
    ml_device_note(ctx->device,
                   cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, ctx->device->index),
                   "asking for the size of shared memory");
    return (size_t)available >= wanted;
}

ml_status ml_cuda_flash_forward(ml_ctx *ctx, const ml_cuda_attention *a)
{
    ml_flash_operands o;
    ML_TRY(prepare(ctx, a, false, &o));
    return ml_cuda_flash_forward_packed(ctx, a, &o);
}

ml_status ml_cuda_flash_backward(ml_ctx *ctx, const ml_cuda_attention *a)
{
    ml_flash_operands o;
    ML_TRY(prepare(ctx, a, true, &o));
    if (a->dk || a->dv || a->dk_shared) ML_TRY(ml_cuda_flash_backward_key(ctx, a, &o));
    return a->dq ? ml_cuda_flash_backward_query(ctx, a, &o) : ml_queued(ctx);
}
