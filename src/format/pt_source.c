#include "format/pt_source.h"

#include "base/alloc.h"
#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX = 160 };

/* A key of the checkpoint's configuration and the field that has its value. */
typedef struct {
    const char *key, *field; /* field: of ml_config_set */
    bool optional;
} cfg_key;

typedef struct family family;
typedef struct pt_source pt_source;

struct family {
    const char *preset, *config_key;
    const cfg_key *keys;
    ml_status (*finish)(ml_config *c, ml_error *err);                 /* what follows from the keys */
    ml_status (*name)(ml_config *c, const char *path, ml_error *err); /* NULL, or what the file's name says */
    /* Where a weight of ours is: the name behind the state's prefix, the shape of that tensor, and its first row. */
    bool (*place)(const ml_config *c, const char *name, int64_t rows, char out[NAME_MAX], int64_t *all_rows,
                  int64_t *first);
};

struct pt_source {
    ml_weight_source base;
    ml_pt *file;
    const family *family;
    ml_config config;
    char prefix[32];
    char where[ML_PATH_MAX];
};

/* The number behind a prefix: the rest of the name after its ".", or NULL. */
static const char *after_number(const char *name, const char *prefix, int64_t *number)
{
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0 || name[n] < '0' || name[n] > '9') return NULL;
    char *end;
    *number = strtoll(name + n, &end, 10);
    return *end == '.' ? end + 1 : NULL;
}

typedef struct {
    const char *ours, *theirs;
} pair;

static const char *find_pair(const pair *table, const char *name)
{
    for (; table->ours; table++) {
        if (!strcmp(table->ours, name)) return table->theirs;
    }
    return NULL;
}

/* ---- moonlight-moe ---- */

static const cfg_key moonlight_moe_keys[] = {
    { "vocab_size", "vocab_size", false },
    { "embed_dim", "hidden_size", false },
    { "n_blocks", "num_hidden_layers", false },
    { "ctx_size", "max_position_embeddings", false },
    { "n_heads", "num_attention_heads", false },
    { "ffn_dim", "moe_intermediate_size", false },
    { "eps", "rms_norm_eps", false },
    { "base", "rope_theta", false },
    { "n_experts", "n_routed_experts", false },
    { "k", "num_experts_per_tok", true },
    { "capacity_factor", "capacity_factor", true },
    { "alpha_aux_loss", "balance_coef", true },
    { NULL, NULL, false },
};

static ml_status set_head_dim(ml_config *c, ml_error *err)
{
    if (c->num_attention_heads < 1 || c->hidden_size % c->num_attention_heads) {
        return ml_fail(err, ML_EFORMAT, "%lld heads do not divide a width of %lld", (long long)c->num_attention_heads,
                       (long long)c->hidden_size);
    }
    c->head_dim = c->rotary_dim = c->hidden_size / c->num_attention_heads;
    return ML_OK;
}

static ml_status moonlight_moe_finish(ml_config *c, ml_error *err)
{
    c->num_key_value_heads = c->num_attention_heads;
    return set_head_dim(c, err);
}

/* The published files of the two later stages, whose names alone say that they were taught turns; the first stage's is
 * best.pt. */
static ml_status moonlight_moe_name(ml_config *c, const char *path, ml_error *err)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    bool talks = !strncmp(name, "it_", 3) || !strncmp(name, "chat_", 5);
    return talks ? ml_config_set(c, "chat_format", "moonlight-moe", path, err) : ML_OK;
}

static bool moonlight_moe_place(const ml_config *c, const char *name, int64_t rows, char out[NAME_MAX],
                                int64_t *all_rows, int64_t *first)
{
    static const pair globals[] = { { "model.embed_tokens.weight", "tok_emb.weight" },
                                    { "model.norm.weight", "norm.W" },
                                    { "lm_head.bias", "lm_head.bias" },
                                    { NULL, NULL } };
    static const pair of_block[] = {
        { "input_layernorm.weight", "norm1.W" },         { "post_attention_layernorm.weight", "norm2.W" },
        { "self_attn.q_proj.weight", "mha.QKV.weight" }, { "self_attn.k_proj.weight", "mha.QKV.weight" },
        { "self_attn.v_proj.weight", "mha.QKV.weight" }, { "self_attn.o_proj.weight", "mha.O.weight" },
        { "mlp.gate.weight", "ffn.router.W.weight" },    { NULL, NULL }
    };
    static const pair of_expert[] = { { "up_proj.weight", "net.0.weight" },
                                      { "down_proj.weight", "net.2.weight" },
                                      { NULL, NULL } };
    int64_t layer, expert;
    *first = 0;
    *all_rows = rows;
    const char *theirs = find_pair(globals, name), *rest = after_number(name, "model.layers.", &layer);
    if (theirs) return snprintf(out, NAME_MAX, "%s", theirs) > 0;
    const char *inner = rest ? after_number(rest, "mlp.experts.", &expert) : NULL;
    theirs = inner ? find_pair(of_expert, inner) : rest ? find_pair(of_block, rest) : NULL;
    if (!theirs) return false;
    if (inner) {
        snprintf(out, NAME_MAX, "blocks.%lld.ffn.experts.%lld.%s", (long long)layer, (long long)expert, theirs);
        return true;
    }
    snprintf(out, NAME_MAX, "blocks.%lld.%s", (long long)layer, theirs);
    if (!strcmp(theirs, "mha.QKV.weight")) {
        *all_rows = 3 * c->hidden_size;
        *first = (rest[10] == 'q' ? 0 : rest[10] == 'k' ? 1 : 2) * c->hidden_size;
    }
    return true;
}

/* ---- nano-moe ---- */

static const cfg_key nano_moe_keys[] = {
    { "vocab_size", "vocab_size", false },
    { "d_model", "hidden_size", false },
    { "n_layers", "num_hidden_layers", false },
    { "max_seq_len", "max_position_embeddings", false },
    { "n_heads", "num_attention_heads", false },
    { "n_kv_heads", "num_key_value_heads", false },
    { "hidden_dim", "moe_intermediate_size", false },
    { "hidden_dim", "intermediate_size", false },
    { "num_experts", "n_routed_experts", false },
    { "num_shared_experts", "n_shared_experts", false },
    { "top_k", "num_experts_per_tok", false },
    { "rope_theta", "rope_theta", false },
    { "rmsnorm_eps", "rms_norm_eps", false },
    { NULL, NULL, false },
};

static ml_status nano_moe_finish(ml_config *c, ml_error *err)
{
    return set_head_dim(c, err);
}

static bool nano_moe_place(const ml_config *c, const char *name, int64_t rows, char out[NAME_MAX], int64_t *all_rows,
                           int64_t *first)
{
    static const pair globals[] = { { "model.embed_tokens.weight", "token_embeddings.weight" },
                                    { "model.norm.weight", "norm.weight" },
                                    { NULL, NULL } };
    static const pair of_layer[] = {
        { "input_layernorm.weight", "attention_norm.weight" },
        { "post_attention_layernorm.weight", "ff_norm.weight" },
        { "self_attn.q_proj.weight", "attention.q_proj.weight" },
        { "self_attn.k_proj.weight", "attention.kv_proj.weight" },
        { "self_attn.v_proj.weight", "attention.kv_proj.weight" },
        { "self_attn.o_proj.weight", "attention.c_proj.weight" },
        { "mlp.gate.weight", "feed_forward.router.weight" },
        { "mlp.shared_experts.gate_proj.weight", "feed_forward.shared_experts.0.w1.weight" },
        { "mlp.shared_experts.up_proj.weight", "feed_forward.shared_experts.0.w2.weight" },
        { "mlp.shared_experts.down_proj.weight", "feed_forward.shared_experts.0.c_proj.weight" },
        { NULL, NULL }
    };
    static const pair of_expert[] = { { "gate_proj.weight", "w1.weight" },
                                      { "up_proj.weight", "w2.weight" },
                                      { "down_proj.weight", "c_proj.weight" },
                                      { NULL, NULL } };
    int64_t layer, expert;
    *first = 0;
    *all_rows = rows;
    const char *theirs = find_pair(globals, name), *rest = after_number(name, "model.layers.", &layer);
    if (theirs) return snprintf(out, NAME_MAX, "%s", theirs) > 0;
    const char *inner = rest ? after_number(rest, "mlp.experts.", &expert) : NULL;
    theirs = inner ? find_pair(of_expert, inner) : rest ? find_pair(of_layer, rest) : NULL;
    if (!theirs) return false;
    if (inner) {
        snprintf(out, NAME_MAX, "layers.%lld.feed_forward.experts.%lld.%s", (long long)layer, (long long)expert,
                 theirs);
        return true;
    }
    snprintf(out, NAME_MAX, "layers.%lld.%s", (long long)layer, theirs);
    if (!strcmp(theirs, "attention.kv_proj.weight")) {
        *all_rows = 2 * c->num_key_value_heads * c->head_dim;
        *first = rest[10] == 'k' ? 0 : *all_rows / 2;
    }
    return true;
}

static const family families[] = {
    { "moonlight-moe-130m", "model_cfg", moonlight_moe_keys, moonlight_moe_finish, moonlight_moe_name,
      moonlight_moe_place },
    { "nano-moe", "args", nano_moe_keys, nano_moe_finish, NULL, nano_moe_place },
};
enum { N_FAMILY = sizeof families / sizeof *families };

/* ---- the source ---- */

static bool place(const pt_source *s, const char *name, int64_t rows, char full[NAME_MAX + 32], int64_t *all_rows,
                  int64_t *first)
{
    char rest[NAME_MAX];
    if (!s->family->place(&s->config, name, rows, rest, all_rows, first)) return false;
    snprintf(full, NAME_MAX + 32, "%s%s", s->prefix, rest);
    return true;
}

static bool has(const ml_weight_source *source, const char *name)
{
    const pt_source *s = (const pt_source *)source;
    char full[NAME_MAX + 32];
    int64_t all_rows, first;
    return place(s, name, 1, full, &all_rows, &first) && ml_pt_find(s->file, full);
}

static bool lies_in_rows(const ml_pt_tensor *t)
{
    int64_t step = 1;
    for (int i = t->n_dim - 1; i >= 0; step *= t->shape[i--]) {
        if (t->shape[i] != 1 && t->stride[i] != step) return false;
    }
    return true;
}

static ml_status find(const ml_weight_source *source, const char *name, int n_dim, const int64_t *dim,
                      ml_stored_weight *out, ml_error *err)
{
    const pt_source *s = (const pt_source *)source;
    char full[NAME_MAX + 32];
    const ml_pt_tensor *t;
    int64_t shape[2] = { dim[0], n_dim > 1 ? dim[1] : 1 };
    *out = (ml_stored_weight){ .dtype = ML_F32, .n_dim = n_dim };
    if (!place(s, name, dim[0], full, &shape[0], &out->first)) {
        return ml_fail(err, ML_EFORMAT, "%.300s: %.160s: checkpoints of %s have no such weight", s->base.where, name,
                       s->family->preset);
    }
    ML_TRY(ml_pt_get(s->file, full, n_dim, shape, &t, err));
    memcpy(out->dim, dim, (size_t)n_dim * sizeof *dim);
    out->entry = t;
    if (t->is_complex || !ml_st_dtype_to_float(t->dtype, &out->dtype)) return ML_OK;
    const uint8_t *data = t->data + (size_t)(out->first * shape[1]) * ml_dtype_size(out->dtype);
    if (lies_in_rows(t) && (uintptr_t)data % ml_dtype_size(out->dtype) == 0) out->data = data;
    return ML_OK;
}

static ml_status read_f32(const ml_weight_source *source, const ml_stored_weight *w, int64_t row, int64_t n_row,
                          float *out, ml_error *err)
{
    (void)source;
    return ml_pt_read_f32(w->entry, w->first + row, n_row, out, err);
}

static void drop(const ml_weight_source *source, const void *data, size_t n_bytes)
{
    (void)source;
    ml_map_drop(data, n_bytes);
}

static void free_source(ml_weight_source *source)
{
    pt_source *s = (pt_source *)source;
    if (!s) return;
    ml_pt_close(s->file);
    ml_free(s);
}

/* ---- opening ---- */

static ml_status read_key(const ml_pickle *p, ml_pickle_id dict, const cfg_key *k, const char *where, ml_config *c,
                          ml_error *err)
{
    ml_pickle_id id;
    char text[32];
    if (!ml_pickle_get(p, dict, k->key, &id)) {
        if (k->optional) return ML_OK;
        return ml_fail(err, ML_EFORMAT, "%.300s: key %s: is missing", where, k->key);
    }
    ml_pickle_kind kind = ml_pickle_kind_of(p, id);
    if (kind == ML_PICKLE_INT) {
        snprintf(text, sizeof text, "%lld", (long long)ml_pickle_int(p, id));
    } else if (kind == ML_PICKLE_FLOAT) {
        snprintf(text, sizeof text, "%.17g", ml_pickle_float(p, id));
    } else {
        return ml_fail(err, ML_EFORMAT, "%.300s: key %s: expected a number, found %s", where, k->key,
                       ml_pickle_kind_name(kind));
    }
    return ml_config_set(c, k->field, text, where, err);
}

static ml_status read_config(pt_source *s, const char *path, ml_pickle_id dict, ml_error *err)
{
    ml_config *c = &s->config;
    char where[ML_PATH_MAX + 32];
    snprintf(where, sizeof where, "%s: %s", path, s->family->config_key);
    ML_TRY(ml_config_preset(s->family->preset, c, err));
    c->num_experts_per_tok = 1; /* what the first checkpoints, without the key, did */
    for (const cfg_key *k = s->family->keys; k->key; k++) {
        ML_TRY(read_key(ml_pt_values(s->file), dict, k, where, c, err));
    }
    if (s->family->finish(c, err) != ML_OK) return ml_fail_prefix(err, "%.300s", where);
    if (s->family->name) ML_TRY(s->family->name(c, path, err));
    if (c->n_shared_experts > 1) {
        return ml_fail(err, ML_EINVAL, "%.300s: key num_shared_experts: expected 0 or 1, found %lld", where,
                       (long long)c->n_shared_experts);
    }
    return ml_config_check(c, where, err);
}

static ml_status recognise(pt_source *s, const char *path, ml_error *err)
{
    const ml_pickle *p = ml_pt_values(s->file);
    ml_pickle_id dict;
    for (int i = 0; i < N_FAMILY; i++) {
        if (!ml_pickle_get(p, ml_pickle_root(p), families[i].config_key, &dict)) continue;
        s->family = &families[i];
        snprintf(s->prefix, sizeof s->prefix, "model.");
        ML_TRY(read_config(s, path, dict, err));
        if (!has(&s->base, "model.embed_tokens.weight")) snprintf(s->prefix, sizeof s->prefix, "model._orig_mod.");
        return ML_OK;
    }
    return ml_fail(err, ML_EINVAL,
                   "%.300s: holds neither model_cfg (moonlight-moe) nor args (nano-moe), which say what model this is: "
                   "only checkpoints of these two are read; save others as a Hugging Face folder",
                   path);
}

ml_status ml_pt_source_make(ml_pt *file, const char *where, ml_config *config, ml_weight_source **out, ml_error *err)
{
    *out = NULL;
    pt_source *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "a model's file");
    snprintf(s->where, sizeof s->where, "%s", where);
    s->file = file;
    s->base =
        (ml_weight_source){ .where = s->where, .has = has, .find = find, .read_f32 = read_f32, .free = free_source };
    ml_status status = recognise(s, where, err);
    if (status != ML_OK) {
        ml_free(s);
        return status;
    }
    *config = s->config;
    *out = &s->base;
    return ML_OK;
}

ml_status ml_pt_source_open(const char *path, ml_config *config, ml_weight_source **out, ml_error *err)
{
    ml_pt *file;
    *out = NULL;
    ML_TRY(ml_pt_open(&file, path, err));
    ml_status status = ml_pt_source_make(file, path, config, out, err);
    if (status == ML_OK)
        (*out)->drop = drop; // the pages are a file's: dropped ones are read again
    else
        ml_pt_close(file);
    return status;
}
