/* Latent attention of prompts over the compressed cache, decompressed (ops/cached.h): keys and values of a window of
 * positions are made by products of latent rows with each head's part of kv_b,
 *
 *   k[h, s] = [ W_uk[h] c_kv[s] | k_pe[s] ],   v[h, s] = W_uv[h] c_kv[s]
 *
 * rounded to bf16 as they are written, head by head, where tiles of attention read them; then it is attention of heads
 * of their own keys.  A position costs as many multiply-adds as kv_b has elements; absorbed, a pair of a query and a
 * key would cost (2 rank + n_rot) n_head instead of (d_nope + n_rot + d_v) n_head: 1088 instead of 320 a head.
 *
 * Products are by the kernels of our own, whose sums for a row do not depend on the number of rows.  A low-rank term of
 * kv_b (an adapter's) is added to kv_b before it is rounded. */
#include "ops/cuda/half.cuh"
#include "ops/cuda/product.cuh"
#include "ops/cuda/prompt.cuh"
#include "ops/cuda/weight.cuh"

enum { MERGE_THREADS = 128 };

/* W_uk and W_uv of all heads: of keys [d_nope, rank] transposed, or (k_b) [rank, d_nope]. */
typedef struct {
    ml_cuda_operand key, value;
} up_weights;

typedef struct {
    const ml_mla_weights *weights;
    const ml_mla_param *p;
    up_weights plain; /* without terms */
} latent;

static ml_cuda_operand head_operand(const ml_cuda_weight *w, int64_t first_row, int64_t rows_of_head, bool transpose)
{
    ml_cuda_operand o =
        ml_cuda_operand_make(w->data ? w->data + first_row * w->row_stride : NULL, w->row_stride, transpose);
    if (w->half) o.half = w->half + first_row * w->row_stride;
    o.product = rows_of_head * w->row_stride;
    return o;
}

/* What products read: bf16, as it lies or in scratch. */
static ml_status round_weights(ml_ctx *ctx, const ml_mla_param *p, up_weights *w)
{
    bool is_kv_b = w->key.transpose;
    ML_TRY(ml_cuda_half_operand(ctx, &w->key, p->n_head, is_kv_b ? p->d_nope : p->kv_lora_rank,
                                is_kv_b ? p->kv_lora_rank : p->d_nope));
    return ml_cuda_half_operand(ctx, &w->value, p->n_head, p->d_v, p->kv_lora_rank);
}

static ml_status read_weights(ml_ctx *ctx, const ml_mla_weights *from, const ml_mla_param *p, up_weights *out)
{
    ml_cuda_weight k, v;
    if (from->kv_b) {
        ML_TRY(ml_cuda_weight_read(ctx, from->kv_b, &k));
        out->key = head_operand(&k, 0, p->d_nope + p->d_v, true);
        out->value = head_operand(&k, p->d_nope, p->d_nope + p->d_v, true);
    } else {
        ML_TRY(ml_cuda_weight_read(ctx, from->k_b, &k));
        ML_TRY(ml_cuda_weight_read(ctx, from->v_b, &v));
        out->key = head_operand(&k, 0, p->kv_lora_rank, false);
        out->value = head_operand(&v, 0, p->d_v, true);
    }
    return round_weights(ctx, p, out);
}

/* ---- with a term ---- */

typedef struct {
    const uint8_t *kv_b, *k_b, *v_b;
    ml_dtype type, k_type, v_type; /* of kv_b, or of the others */
    int64_t row_bytes, k_row_bytes, v_row_bytes;
    int d_nope, d_v, rank, row; /* row: elements from row to row of the result */
    ml_mla_term term;
    uint16_t *to; /* [n_head * (d_nope + d_v), row] */
} merging;

/* A block for each row of kv_b: factor * (w + scale * b a), terms added in their order. */
static __global__ void __launch_bounds__(MERGE_THREADS) merge_term(merging m)
{
    int64_t j = blockIdx.x, h = j / (m.d_nope + m.d_v), i = j % (m.d_nope + m.d_v);
    const float *b = m.term.b + j * m.term.rank;
    for (int c = (int)threadIdx.x; c < m.row; c += MERGE_THREADS) {
        float v = 0, sum = 0;
        if (c < m.rank) {
            v = m.kv_b         ? ml_block_element(m.type, m.kv_b + j * m.row_bytes, c)
                : i < m.d_nope ? ml_block_element(m.k_type, m.k_b + (h * m.rank + c) * m.k_row_bytes, i)
                               : ml_block_element(m.v_type, m.v_b + (h * m.d_v + i - m.d_nope) * m.v_row_bytes, c);
            for (int64_t r = 0; r < m.term.rank; r++) sum = fmaf(b[r], m.term.a[r * m.rank + c], sum);
            v = fmaf(m.term.scale, sum, v);
            if (m.term.factor) v *= m.term.factor[j];
        }
        m.to[j * m.row + c] = (uint16_t)ml_pack_bf16(v, 0);
    }
}

static ml_status merge_weights(ml_ctx *ctx, const latent *l, const ml_mla_term *term, up_weights *out)
{
    const ml_mla_weights *w = l->weights;
    const ml_mla_param *p = l->p;
    int64_t n_row = p->n_head * (p->d_nope + p->d_v), row = ml_round_to_chunk(p->kv_lora_rank);
    merging m;
    memset(&m, 0, sizeof m);
    if (w->kv_b) {
        ML_TRY(ml_cuda_weight_check(ctx, w->kv_b));
        m.kv_b = (const uint8_t *)w->kv_b->data;
        m.type = w->kv_b->dtype;
        m.row_bytes = (int64_t)ml_dtype_row_bytes(m.type, p->kv_lora_rank);
    } else {
        ML_TRY(ml_cuda_weight_check(ctx, w->k_b));
        ML_TRY(ml_cuda_weight_check(ctx, w->v_b));
        m.k_b = (const uint8_t *)w->k_b->data;
        m.v_b = (const uint8_t *)w->v_b->data;
        m.k_type = w->k_b->dtype;
        m.v_type = w->v_b->dtype;
        m.k_row_bytes = (int64_t)ml_dtype_row_bytes(m.k_type, p->d_nope);
        m.v_row_bytes = (int64_t)ml_dtype_row_bytes(m.v_type, p->kv_lora_rank);
    }
    m.d_nope = (int)p->d_nope;
    m.d_v = (int)p->d_v;
    m.rank = (int)p->kv_lora_rank;
    m.row = (int)row;
    m.term = *term;
    m.to = (uint16_t *)ml_ctx_scratch_data(ctx, (size_t)(n_row * row) * sizeof *m.to);
    if (!m.to) return ML_ENOMEM;
    ML_LAUNCH(ctx->device, merge_term, (unsigned)n_row, MERGE_THREADS, 0, m);
    out->key = ml_cuda_operand_half(m.to, row, true);
    out->value = ml_cuda_operand_half(m.to + p->d_nope * row, row, true);
    out->key.product = out->value.product = (p->d_nope + p->d_v) * row;
    return ml_queued(ctx);
}

/* ---- keys and values of a window ---- */

/* Columns 0 .. n - 1 of packed rows `first` .. + n_row - 1 of all heads; rows of `to` are `size` apart. */
static void multiply(ml_ctx *ctx, const ml_mla_param *p, const uint16_t *rows, const ml_cuda_operand *w, int64_t n,
                     int64_t first, int64_t n_row, uint16_t *to, int64_t size, int64_t n_position)
{
    int64_t row = ml_round_to_chunk(p->kv_lora_rank);
    ml_cuda_operand a = ml_cuda_operand_half(rows + first * row, row, false);
    ml_product g = ml_product_make(n_row, n, p->kv_lora_rank);
    g.n_product = (int)p->n_head;
    g.a = ml_half_operand_of(&a);
    g.b = ml_half_operand_of(w);
    g.b_transpose = w->transpose;
    g.c_half = to + first * size;
    g.c_stride = size;
    g.c_product = n_position * size;
    g.c_pairs = true;
    ml_product_run(ctx, &g);
}

static const ml_mla_term *term_of(const ml_mla_weights *w, int seq)
{
    return w->term ? w->term[seq] : NULL;
}

/* Neighbouring slices with the same term have their products together. */
static ml_status decompress(ml_ctx *ctx, const latent *l, const uint16_t *rows, ml_flash_size size,
                            const ml_flash_cached *w, uint16_t *k, uint16_t *v)
{
    const ml_mla_param *p = l->p;
    for (int s = 0, n; s < w->n_slice; s += n) {
        const ml_mla_term *term = term_of(l->weights, w->slice[s].seq);
        for (n = 1; s + n < w->n_slice && term_of(l->weights, w->slice[s + n].seq) == term;) n++;
        int64_t first = w->slice[s].key, n_row = w->slice[s + n - 1].key + w->slice[s + n - 1].n_key - first;
        ml_ctx_mark mark = ml_ctx_get_mark(ctx);
        up_weights up = l->plain;
        if (term) ML_TRY(merge_weights(ctx, l, term, &up));
        multiply(ctx, p, rows, &up.key, p->d_nope, first, n_row, k, size.d_qk, w->n_position);
        multiply(ctx, p, rows, &up.value, p->d_v, first, n_row, v, size.d_v, w->n_position);
        ml_ctx_release(ctx, mark); /* what comes next in the queue may use the merged weights' memory again */
    }
    return ml_queued(ctx);
}

/* A part without columns before `size` has nothing to pack. */
static void add_part(ml_cached_part *part, int *n_part, const ml_cached_part *p)
{
    if (p->begin < p->size) part[(*n_part)++] = *p;
}

static ml_status fill_latent(ml_ctx *ctx, const ml_cached_heads *h, const void *arg, ml_flash_cached *w)
{
    const latent *l = (const latent *)arg;
    const ml_mla_param *p = l->p;
    const ml_kv_view *kv = h->kv;
    ml_flash_size size = ml_flash_size_of(h->d_qk, h->d_v);
    size_t n = (size_t)w->n_position, n_head = (size_t)p->n_head;
    int row = (int)ml_round_to_chunk(p->kv_lora_rank), n_part = 0;
    uint16_t *k = (uint16_t *)ml_ctx_scratch_data(ctx, n_head * n * (size_t)size.d_qk * sizeof *k);
    uint16_t *v = (uint16_t *)ml_ctx_scratch_data(ctx, n_head * n * (size_t)size.d_v * sizeof *v);
    uint16_t *rows = (uint16_t *)ml_ctx_scratch_data(ctx, n * (size_t)row * sizeof *rows);
    if (!k || !v || !rows) return ML_ENOMEM;
    ml_cached_part part[ML_CACHED_PARTS], one;
    memset(&one, 0, sizeof one);
    one.row_bytes = kv->k_row_bytes;

    one.from = kv->k; /* c_kv */
    one.to = rows;
    one.n_head = 1;
    one.end = (int)p->kv_lora_rank;
    one.size = row;
    add_part(part, &n_part, &one);

    one.from = kv->k + ml_dtype_row_bytes(kv->dtype, p->kv_lora_rank); /* k_pe behind every head's own columns */
    one.to = k;
    one.n_head = (int)p->n_head;
    one.begin = (int)p->d_nope;
    one.end = (int)h->d_qk;
    one.size = size.d_qk;
    add_part(part, &n_part, &one);

    one.to = v; /* zeros behind the values */
    one.begin = one.end = (int)p->d_v;
    one.size = size.d_v;
    add_part(part, &n_part, &one);

    w->k = k;
    w->v = v;
    ML_TRY(ml_cuda_pack_cached(ctx, kv, w, part, n_part));
    return decompress(ctx, l, rows, size, w, k, v);
}

ml_status ml_cuda_prompt_latent(ml_ctx *ctx, const ml_cached_heads *h, const ml_mla_weights *weights,
                                const ml_mla_param *p, int64_t first)
{
    if (first == h->q->dim[0]) return ML_OK;
    ml_flash_size size = ml_flash_size_of(h->d_qk, h->d_v);
    latent l;
    l.weights = weights;
    l.p = p;
    ML_TRY(read_weights(ctx, weights, p, &l.plain));
    ml_cuda_prompt x;
    x.heads = h;
    x.fill = fill_latent;
    x.arg = &l;
    x.position_bytes =
        (p->n_head * (size.d_qk + size.d_v) + ml_round_to_chunk(p->kv_lora_rank)) * (int64_t)sizeof(uint16_t);
    return ml_cuda_prompt_run(ctx, &x, first);
}
