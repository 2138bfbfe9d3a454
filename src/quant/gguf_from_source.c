#include "quant/gguf_from_source.h"

#include "base/alloc.h"
#include "tensor/blocks.h"

#include <stdio.h>
#include <string.h>

ml_status ml_gguf_find_in_source(const ml_weight_source *source, const ml_gguf_entry *e, int64_t part,
                                 ml_stored_weight *out, ml_error *err)
{
    char name[ML_GGUF_OUR_NAME_MAX];
    ml_gguf_entry_part_name(e, part, name);
    if (e->n_dim == 1) return source->find(source, name, 1, &e->cols, out, err);
    /* Experts are matrices of their own; the heads of a split kv_b are rows of one. */
    bool heads = e->n_dim == 3 && !e->is_experts;
    const int64_t dim[2] = { heads ? e->n_part * e->rows : e->rows, e->cols };
    ML_TRY(source->find(source, name, 2, dim, out, err));
    if (heads && out->data) {
        out->data = (const char *)out->data + (size_t)(part * e->rows) * ml_dtype_row_bytes(out->dtype, e->cols);
    }
    return ML_OK;
}

/* kv_b_proj [n_head * (nope + v), kv_lora]. */
static ml_status find_kv_b(const ml_weight_source *source, const ml_config *c, const ml_gguf_entry *e,
                           ml_stored_weight *out, ml_error *err)
{
    char name[ML_GGUF_OUR_NAME_MAX];
    const int64_t dim[2] = { c->num_attention_heads * (c->qk_nope_head_dim + c->v_head_dim), c->kv_lora_rank };
    snprintf(name, sizeof name, "model.layers.%lld.self_attn.kv_b_proj.weight", (long long)e->layer);
    return source->find(source, name, 2, dim, out, err);
}

/* `n` of its rows. */
static ml_status read_kv_b(const ml_weight_source *source, const ml_config *c, const ml_gguf_entry *e, int64_t row,
                           int64_t n, float *out, ml_error *err)
{
    ml_stored_weight w;
    ML_TRY(find_kv_b(source, c, e, &w, err));
    return source->read_f32(source, &w, row, n, out, err);
}

static ml_status read_transposed_keys(const ml_weight_source *source, const ml_config *c, const ml_gguf_entry *e,
                                      int64_t head, int64_t row, int64_t n_row, float *out, ml_error *err)
{
    int64_t nope = c->qk_nope_head_dim, lora = c->kv_lora_rank;
    float *keys = ml_alloc((size_t)(nope * lora) * sizeof *keys); // [nope, lora]
    if (!keys) return ml_fail_memory(err, (size_t)(nope * lora) * sizeof *keys, e->name);
    ml_status status = read_kv_b(source, c, e, head * (nope + c->v_head_dim), nope, keys, err);
    for (int64_t i = 0; i < n_row && status == ML_OK; i++) {
        for (int64_t j = 0; j < nope; j++) out[i * nope + j] = keys[j * lora + row + i];
    }
    ml_free(keys);
    return status;
}

/* Row `r` of a matrix whose heads rotate halves, for one whose heads have pairs. */
static int64_t unpaired_row(const ml_config *c, int64_t r)
{
    int64_t head = r / c->head_dim * c->head_dim, i = r % c->head_dim;
    return i < c->rotary_dim ? head + i / 2 + i % 2 * (c->rotary_dim / 2) : r;
}

static ml_status read_paired_rows(const ml_weight_source *source, const ml_config *c, const ml_gguf_entry *e,
                                  int64_t row, int64_t n_row, float *out, ml_error *err)
{
    ml_stored_weight w;
    ML_TRY(ml_gguf_find_in_source(source, e, 0, &w, err));
    for (int64_t i = 0; i < n_row; i++) {
        ML_TRY(source->read_f32(source, &w, unpaired_row(c, row + i), 1, out + i * e->cols, err));
    }
    return ML_OK;
}

static ml_status read_as_is(const ml_weight_source *source, const ml_gguf_entry *e, int64_t part, int64_t row,
                            int64_t n_row, float *out, ml_error *err)
{
    ml_stored_weight w;
    ML_TRY(ml_gguf_find_in_source(source, e, part, &w, err));
    if (e->n_dim == 1) return source->read_f32(source, &w, 0, e->cols, out, err); // its only row is all of it
    int64_t first = e->is_experts ? 0 : part * e->rows;
    return source->read_f32(source, &w, first + row, n_row, out, err);
}

ml_status ml_gguf_fill_from_source(const ml_weight_source *source, const ml_config *config, const ml_gguf_entry *e,
                                   int64_t part, int64_t row, int64_t n_row, float *out, ml_error *err)
{
    switch (e->form) {
    case ML_GGUF_AS_IS: return read_as_is(source, e, part, row, n_row, out, err);
    case ML_GGUF_KEYS_OF_KV_B: return read_transposed_keys(source, config, e, part, row, n_row, out, err);
    case ML_GGUF_VALUES_OF_KV_B: {
        int64_t nope = config->qk_nope_head_dim, first = part * (nope + config->v_head_dim) + nope;
        return read_kv_b(source, config, e, first + row, n_row, out, err);
    }
    case ML_GGUF_PAIRED_ROWS: return read_paired_rows(source, config, e, row, n_row, out, err);
    case ML_GGUF_ZEROS:
    case ML_GGUF_ROPE_DIVISORS: break;
    }
    return ml_fail(err, ML_EINVAL, "%s: is made of no weight", e->name);
}

/* What is taken apart must be quantised again: in a type that can be. */
static ml_dtype writable(ml_dtype dtype)
{
    return !ml_dtype_is_block(dtype) || ml_can_quantize(dtype) ? dtype : ML_Q8_0;
}

ml_status ml_gguf_type_in_source(const ml_weight_source *source, const ml_config *config, const ml_gguf_entry *e,
                                 ml_dtype *out, ml_error *err)
{
    ml_stored_weight w, other;
    *out = ML_F32;
    if (e->form == ML_GGUF_ZEROS || e->form == ML_GGUF_ROPE_DIVISORS) return ML_OK;
    bool kv_b = e->form == ML_GGUF_KEYS_OF_KV_B || e->form == ML_GGUF_VALUES_OF_KV_B;
    ML_TRY(kv_b ? find_kv_b(source, config, e, &w, err) : ml_gguf_find_in_source(source, e, 0, &w, err));
    for (int64_t part = 1; part < e->n_part && e->is_experts; part++) {
        ML_TRY(ml_gguf_find_in_source(source, e, part, &other, err));
        if (other.dtype != w.dtype) return ML_OK;
    }
    *out = e->form == ML_GGUF_AS_IS && w.data ? w.dtype : writable(w.dtype);
    return ML_OK;
}
