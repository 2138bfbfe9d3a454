/* Prompts over a paged cache, in tiles on the matrix unit.
 *
 *   sequence 3   |--------- cached ---------|-- new --|        keys and values of all its positions are packed in bf16,
 *   sequence 5   |-- new --|                                   head by head; tiles of its new tokens walk them
 *   sequence 0   |------------------- cached -------------------------|- new -|
 *                |----- window 0 -----|----- window 1 -----|----- window 2 ---|
 *
 * Sequences whose positions fit into a window share a launch, slice by slice.  A longer one is walked window by window:
 * its tiles keep their running maxima, sums and weighted values in fp32 in between, which changes no bit.  So scratch
 * is bounded whatever the length, and what a token computes depends on its own sequence up to its own position only:
 * keys are walked from position 0 on, tile by tile.
 *
 * Which sequences and positions a call has the host knows (ml_cached_heads.seq_here): nothing waits for the device. */
#include "ops/cuda/prompt.cuh"

#include <cstdlib>

enum { PACK_THREADS = 256, PIECE = 8 };

/* ---- packing ---- */

typedef struct {
    ml_kv_view kv;
    ml_cached_part part[ML_CACHED_PARTS];
    int n_position, n_slice;
    ml_flash_slice slice[FLASH_MAX_SLICE];
    ml_fault *fault;
} packing;

/* Columns c .. c + 7 of a cached row of n columns. */
template <ml_dtype T> static __device__ __forceinline__ void load_8(float x[PIECE], const char *row, int c, int n)
{
    if (c >= 0 && c % 2 == 0 && c + PIECE <= n) {
#pragma unroll
        for (int i = 0; i < PIECE; i += 2) ml_cached_pair<T>(row, c + i, x + i);
        return;
    }
#pragma unroll
    for (int i = 0; i < PIECE; i++) {
        x[i] = c + i >= 0 && c + i < n ? ml_block_element(T, (const uint8_t *)row, c + i) : 0.0f;
    }
}

/* One thread for 8 columns of a position and head; threads of a position are neighbours. */
template <ml_dtype T> static __global__ void __launch_bounds__(PACK_THREADS) pack_cached(const packing w)
{
    const ml_cached_part &p = w.part[blockIdx.z];
    int first_piece = p.begin / PIECE, n_piece = p.size / PIECE - first_piece, h = (int)blockIdx.y, s = 0;
    unsigned i = blockIdx.x * PACK_THREADS + threadIdx.x;
    int position = (int)(i / (unsigned)n_piece), c = (first_piece + (int)(i % (unsigned)n_piece)) * PIECE;
    if (position >= w.n_position || h >= p.n_head) return;
    while (s + 1 < w.n_slice && w.slice[s + 1].key <= position) s++;
    const ml_flash_slice &slice = w.slice[s];
    int pos = slice.first + position - slice.key;
    int64_t row = ml_cached_row(w.kv, slice.seq, pos);
    if (row < 0) {
        ml_report(w.fault, ML_FAULT_PAGE, pos, slice.token);
        return;
    }
    float x[PIECE];
    load_8<T>(x, p.from + row * p.row_bytes + h * p.head_bytes, c - p.begin, p.end - p.begin);
    uint16_t *to = p.to + ((int64_t)h * w.n_position + position) * p.size + c;
    if (c >= p.begin) {
        ml_flash_store_8(to, x, 1);
        return;
    }
#pragma unroll
    for (int e = 0; e < PIECE; e++) {
        if (c + e >= p.begin) to[e] = (uint16_t)ml_pack_bf16(x[e], 0);
    }
}

ml_status ml_cuda_pack_cached(ml_ctx *ctx, const ml_kv_view *kv, const ml_flash_cached *f, const ml_cached_part *part,
                              int n_part)
{
    packing w;
    memset(&w, 0, sizeof w);
    int64_t n_thread = 0;
    int n_head = 0;
    w.kv = *kv;
    w.n_position = f->n_position;
    w.n_slice = f->n_slice;
    w.fault = ctx->device->fault;
    memcpy(w.slice, f->slice, sizeof w.slice);
    for (int i = 0; i < n_part; i++) {
        int64_t n = (int64_t)f->n_position * (part[i].size / PIECE - part[i].begin / PIECE);
        w.part[i] = part[i];
        if (n > n_thread) n_thread = n;
        if (part[i].n_head > n_head) n_head = part[i].n_head;
    }
    dim3 grid((unsigned)ml_n_blocks(n_thread, PACK_THREADS), (unsigned)n_head, (unsigned)n_part);
    switch (kv->dtype) {
    case ML_F32: ML_LAUNCH(ctx->device, pack_cached<ML_F32>, grid, PACK_THREADS, 0, w); break;
    case ML_BF16: ML_LAUNCH(ctx->device, pack_cached<ML_BF16>, grid, PACK_THREADS, 0, w); break;
    case ML_F16: ML_LAUNCH(ctx->device, pack_cached<ML_F16>, grid, PACK_THREADS, 0, w); break;
    default: ML_LAUNCH(ctx->device, pack_cached<ML_Q8_0>, grid, PACK_THREADS, 0, w);
    }
    return ml_queued(ctx);
}

/* ---- who walks what when ---- */

bool ml_cuda_prompt_in_tiles(ml_ctx *ctx, const ml_cached_heads *h)
{
    bool narrow = h->d_qk <= 256 && h->d_v <= 256 && h->n_head <= MAX_GRID_Y;
    bool even = h->kv->k_row_bytes % 2 == 0 && h->kv->v_row_bytes % 2 == 0;
    return ctx->precision == ML_PRECISION_BF16 && narrow && even && ml_cuda_flash_fits(ctx, h->d_qk, h->d_v);
}

typedef struct {
    const ml_cuda_prompt *p;
    int tile_rows;                     /* queries of a tile */
    int64_t most_position, most_token; /* of a window; of a sequence that is longer than one, at a time */
    int64_t state_floats;              /* of a tile and head */
    ml_flash_cached w;                 /* what is collected for the next launch */
    int n_tile;
} plan;

/* MOONLIGHT_CUDA_WINDOW=N: N positions (rounded to tiles) at a time and as many tokens, where scratch would allow
 * more. */
static int64_t most_of(int64_t budget, int64_t each, int64_t multiple)
{
    const char *wanted = getenv("MOONLIGHT_CUDA_WINDOW");
    int64_t n = budget / each, most = wanted ? strtoll(wanted, NULL, 10) : n;
    if (most < n) n = most;
    return n > multiple ? n / multiple * multiple : multiple;
}

static plan make_plan(ml_ctx *ctx, const ml_cuda_prompt *p)
{
    const ml_cached_heads *h = p->heads;
    plan x;
    memset(&x, 0, sizeof x);
    ml_flash_size size = ml_flash_size_of(h->d_qk, h->d_v);
    x.p = p;
    x.tile_rows = ml_flash_forward_rows(size.d_qk);
    x.state_floats = ml_flash_state_floats(size);
    int64_t row_bytes = x.state_floats / x.tile_rows * h->n_head * (int64_t)sizeof(float);
    x.most_position = most_of(ML_PROMPT_WINDOW_BYTES, p->position_bytes, ml_cuda_flash_forward_keys(ctx, size));
    x.most_token = most_of(ML_PROMPT_STATE_BYTES, row_bytes, x.tile_rows);
    x.w.q = ml_rows_of(h->q);
    x.w.y = ml_rows_of(h->y);
    x.w.n_head = (int)h->n_head;
    x.w.n_kv_head = (int)(h->n_head / h->n_group);
    x.w.d_qk = (int)h->d_qk;
    x.w.d_v = (int)h->d_v;
    x.w.factor = h->scale * FLASH_LOG2E;
    x.w.aligned = ml_flash_is_aligned(x.w.q.data, x.w.q.stride, h->d_qk);
    return x;
}

/* n tokens from `token` on, and positions first .. first + n_key - 1 of their sequence. */
static void add_slice(plan *x, int64_t token, int64_t n, int64_t first, int64_t n_key)
{
    const ml_cached_heads *h = x->p->heads;
    ml_flash_slice *s = &x->w.slice[x->w.n_slice++];
    s->tile = x->n_tile;
    s->token = (int)token;
    s->n_token = (int)n;
    s->seq = h->seq_here[token];
    s->pos = h->pos_here[token];
    s->key = x->w.n_position;
    s->n_key = (int)n_key;
    s->first = (int)first;
    x->n_tile += (int)ml_n_blocks(n, x->tile_rows);
    x->w.n_position += (int)n_key;
}

/* Compute the slices collected so far. */
static ml_status flush(ml_ctx *ctx, plan *x)
{
    if (x->w.n_slice == 0) return ML_OK;
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    ML_TRY(x->p->fill(ctx, x->p->heads, x->p->arg, &x->w));
    ML_TRY(ml_cuda_flash_forward_cached(ctx, &x->w));
    ml_ctx_release(ctx, mark);
    x->w.n_slice = x->w.n_position = x->n_tile = 0;
    return ML_OK;
}

/* n tokens that see more positions than a window has. */
static ml_status walk_windows(ml_ctx *ctx, plan *x, int64_t token, int64_t n)
{
    const ml_cached_heads *h = x->p->heads;
    ML_TRY(flush(ctx, x));
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    for (int64_t at = 0, part; at < n; at += part) {
        part = n - at < x->most_token ? n - at : x->most_token;
        int64_t n_key = h->pos_here[token + at] + part, n_tile = ml_n_blocks(part, x->tile_rows);
        x->w.state = (float *)ml_ctx_scratch_data(ctx, (size_t)(n_tile * h->n_head * x->state_floats) * sizeof(float));
        if (!x->w.state) return ML_ENOMEM;
        for (int64_t first = 0; first < n_key; first += x->most_position) {
            int64_t left = n_key - first;
            add_slice(x, token + at, part, first, left < x->most_position ? left : x->most_position);
            ML_TRY(flush(ctx, x));
        }
        ml_ctx_release(ctx, mark);
    }
    x->w.state = NULL;
    return ML_OK;
}

/* How many tokens from `token` on are of one sequence, at one position after the other. */
static int64_t count_run(const ml_cached_heads *h, int64_t token)
{
    int64_t n = 1;
    for (int64_t t = token + 1; t < h->q->dim[0]; t++, n++) {
        if (h->seq_here[t] != h->seq_here[token] || h->pos_here[t] != h->pos_here[t - 1] + 1) break;
    }
    return n;
}

static ml_status check_positions(ml_ctx *ctx, const ml_cached_heads *h, int64_t first)
{
    const ml_kv_view *kv = h->kv;
    if (!h->seq_here || !h->pos_here) {
        return ml_ctx_fail(ctx, ML_EINVAL,
                           "cached attention on the GPU: sequences and positions of a prompt's tokens "
                           "must be known to this machine too (ml_tensor_wrap)");
    }
    for (int64_t t = first; t < h->q->dim[0]; t++) {
        if (h->seq_here[t] >= 0 && h->pos_here[t] >= 0 && h->pos_here[t] / kv->page_size < kv->pages_per_seq) continue;
        return ml_ctx_fail(ctx, ML_EINVAL,
                           "position %d of sequence %d has no page in a cache of %lld pages of %d tokens per sequence",
                           h->pos_here[t], h->seq_here[t], (long long)kv->pages_per_seq, kv->page_size);
    }
    return ML_OK;
}

ml_status ml_cuda_prompt_run(ml_ctx *ctx, const ml_cuda_prompt *p, int64_t first)
{
    const ml_cached_heads *h = p->heads;
    if (first == h->q->dim[0]) return ML_OK;
    ML_TRY(check_positions(ctx, h, first));
    plan x = make_plan(ctx, p);
    for (int64_t t = first, n; t < h->q->dim[0]; t += n) {
        n = count_run(h, t);
        int64_t n_key = h->pos_here[t] + n;
        if (n_key > x.most_position) {
            ML_TRY(walk_windows(ctx, &x, t, n));
            continue;
        }
        bool full = x.w.n_slice == FLASH_MAX_SLICE || x.w.n_position + n_key > x.most_position;
        if (full) ML_TRY(flush(ctx, &x));
        add_slice(&x, t, n, 0, n_key);
    }
    return flush(ctx, &x);
}

/* ---- grouped queries ---- */

static ml_status fill_grouped(ml_ctx *ctx, const ml_cached_heads *h, const void *arg, ml_flash_cached *w)
{
    (void)arg;
    const ml_kv_view *kv = h->kv;
    ml_flash_size size = ml_flash_size_of(h->d_qk, h->d_v);
    size_t n = (size_t)w->n_kv_head * (size_t)w->n_position;
    ml_cached_part part[2];
    memset(part, 0, sizeof part);
    for (int i = 0; i < 2; i++) {
        ml_cached_part *p = &part[i];
        p->from = i == 0 ? kv->k : kv->v;
        p->row_bytes = i == 0 ? kv->k_row_bytes : kv->v_row_bytes;
        p->head_bytes = (int64_t)ml_dtype_row_bytes(kv->dtype, i == 0 ? h->k_step : h->v_step);
        p->n_head = w->n_kv_head;
        p->end = (int)(i == 0 ? h->d_qk : h->d_v);
        p->size = i == 0 ? size.d_qk : size.d_v;
        p->to = (uint16_t *)ml_ctx_scratch_data(ctx, n * (size_t)p->size * sizeof *p->to);
        if (!p->to) return ML_ENOMEM;
    }
    w->k = part[0].to;
    w->v = part[1].to;
    return ml_cuda_pack_cached(ctx, kv, w, part, 2);
}

ml_status ml_cuda_prompt_grouped(ml_ctx *ctx, const ml_cached_heads *h, int64_t first)
{
    ml_flash_size size = ml_flash_size_of(h->d_qk, h->d_v);
    ml_cuda_prompt p;
    p.heads = h;
    p.fill = fill_grouped;
    p.arg = NULL;
    p.position_bytes = h->n_head / h->n_group * (size.d_qk + size.d_v) * (int64_t)sizeof(uint16_t);
    return ml_cuda_prompt_run(ctx, &p, first);
}
