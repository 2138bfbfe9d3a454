#include "model/kv_b.h"

#include "base/thread.h"
#include "model/cuda/adapter.h"

typedef struct {
    const ml_model *m;
    const ml_layer *y;
    float *out;
} join_work;

static void read_rows(const ml_tensor *w, int64_t row, int64_t n_row, int64_t n_col, float *out)
{
    const char *at = (const char *)w->data + (size_t)row * ml_dtype_row_bytes(w->dtype, n_col);
    ml_convert_to_f32(w->dtype, at, out, n_row * n_col);
}

/* k_b [rank, d_nope] of a head is turned over a few of its rows at a time. */
static void join_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    enum { ROW_MAX = 1 << 14 }; /* as many as config.c allows */
    (void)thread;
    const join_work *w = arg;
    const ml_config *c = &w->m->config;
    int64_t nope = c->qk_nope_head_dim, d_v = c->v_head_dim, rank = c->kv_lora_rank;
    float row[ROW_MAX];
    for (int64_t h = begin; h < end; h++) {
        float *key = w->out + h * (nope + d_v) * rank;
        for (int64_t i = 0; i < rank; i++) {
            read_rows(&w->y->k_b, h * rank + i, 1, nope, row);
            for (int64_t j = 0; j < nope; j++) key[j * rank + i] = row[j];
        }
        read_rows(&w->y->v_b, h * d_v, d_v, rank, key + nope * rank);
    }
}

void ml_model_read_kv_b(const ml_model *m, int64_t layer_id, float *out)
{
    const ml_config *c = &m->config;
    const ml_layer *y = ml_model_layer_here(m, layer_id);
    if (y->kv_b.data) {
        read_rows(&y->kv_b, 0, y->kv_b.dim[0], c->kv_lora_rank, out);
        return;
    }
    join_work work = { m, y, out };
    ml_parallel_for(c->num_attention_heads, 1, join_heads, &work);
}

ml_tensor *ml_model_join_kv_b(ml_ctx *ctx, const ml_model *m, int64_t layer_id)
{
    const ml_layer *y = &m->layer[layer_id];
    const ml_config *c = &m->config;
    if (y->kv_b.data) return (ml_tensor *)(uintptr_t)&y->kv_b;
    if (!y->k_b.data || !y->v_b.data) return NULL;
    ml_tensor *joined =
        ml_tensor_new_2d(ctx, ML_F32, c->num_attention_heads * (c->qk_nope_head_dim + c->v_head_dim), c->kv_lora_rank);
    if (joined && ctx->device)
        (void)ml_cuda_read_kv_b(ctx, m, layer_id, ml_f32(joined)); /* a failure is the context's */
    else if (joined)
        ml_model_read_kv_b(m, layer_id, ml_f32(joined));
    return joined;
}
