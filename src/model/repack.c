/* Block types repacked for the products of inference (ops/cpu/qmatmul.h): the same bits in another order. */
#include "model/model.h"

#include "base/memory.h"
#include "ops/cpu/qmatmul.h"

#include <string.h>

typedef struct {
    ml_model *m;
    bool placing;
    size_t n_bytes;
} repack;

static bool is_repacked(const ml_tensor *t)
{
    return t->data && ml_dtype_is_block(t->dtype) && t->layout == ML_LAYOUT_ROWS;
}

/* n_bytes of t, stored, become as many as `packed` at the next place of the arena, in a layout. */
static void place(repack *r, ml_tensor *t, ml_layout layout, size_t packed)
{
    if (r->placing) {
        const ml_weight_source *source = r->m->source;
        int64_t n = t->dim[0], k = t->dim[1];
        size_t n_bytes = (size_t)n * ml_dtype_row_bytes(t->dtype, k);
        void *to = r->m->panels.base + r->n_bytes;
        if (layout == ML_LAYOUT_PANELS) {
            ml_qpack(t->dtype, t->data, n, k, to);
        } else {
            memcpy(to, t->data, n_bytes);
        }
        if (source->drop) source->drop(source, t->data, n_bytes);
        t->data = to;
        t->layout = layout;
    }
    r->n_bytes += (packed + 63) & ~(size_t)63;
}

static void repack_matrix(repack *r, ml_tensor *t)
{
    if (is_repacked(t)) place(r, t, ML_LAYOUT_PANELS, ml_qpack_bytes(t->dtype, t->dim[0], t->dim[1]));
}

/* As it is, but into the arena's large pages: a file's small ones cost as much as the reading. */
static void copy_matrix(repack *r, ml_tensor *t)
{
    if (is_repacked(t)) place(r, t, ML_LAYOUT_ROWS, (size_t)t->dim[0] * ml_dtype_row_bytes(t->dtype, t->dim[1]));
}

static void repack_weight(repack *r, ml_tensor *t)
{
    if (!t->part) {
        repack_matrix(r, t);
        return;
    }
    if (!t->data) return;
    for (int64_t i = 0; i < t->n_part; i++) repack_matrix(r, (ml_tensor *)(uintptr_t)&t->part[i]);
    if (!r->placing) return;
    t->data = t->part[0].data;
    t->layout = t->part[0].layout;
}

/* The matrices that products read, and kv_b or its halves, which attention reads by itself.  Not the embedding, of
 * which single rows are picked. */
static void walk(repack *r)
{
    ml_model *m = r->m;
    for (int64_t i = 0; i < m->config.num_hidden_layers; i++) {
        ml_layer *y = &m->layer[i];
        ml_tensor *weight[] = { &y->attn_in, &y->q_b,         &y->attn_out,  &y->gate_up,
                                &y->down,    &y->expert_gate, &y->expert_up, &y->expert_down };
        for (size_t j = 0; j < sizeof weight / sizeof weight[0]; j++) repack_weight(r, weight[j]);
        copy_matrix(r, &y->kv_b);
        copy_matrix(r, &y->k_b);
        copy_matrix(r, &y->v_b);
    }
    repack_weight(r, &m->head);
}

size_t ml_model_repack_bytes(const ml_model *m)
{
    repack r = { .m = (ml_model *)(uintptr_t)m };
    walk(&r);
    return r.n_bytes;
}

ml_status ml_model_repack(ml_model *m, ml_error *err)
{
    size_t n_bytes = m->device ? 0 : ml_model_repack_bytes(m);
    if (n_bytes == 0) return ML_OK;
    int64_t available = ml_memory_available();
    if ((int64_t)n_bytes > available) {
        return ml_fail(err, ML_ENOMEM,
                       "%s: repacking needs %zu MiB and %lld are available: use the weights where they are instead",
                       m->source->where, n_bytes >> 20, (long long)(available >> 20));
    }
    ML_TRY(ml_arena_init(&m->panels, n_bytes, err));
    repack r = { .m = m, .placing = true };
    walk(&r);
    return ML_OK;
}
