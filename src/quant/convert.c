#include "quant/convert.h"

#include "base/alloc.h"
#include "base/file.h"
#include "format/aside.h"
#include "format/ends.h"
#include "format/gguf_config.h"
#include "format/gguf_source.h"
#include "format/hf.h"
#include "format/open_tokenizer.h"
#include "format/source.h"
#include "format/unused.h"
#include "model/model.h"
#include "quant/gguf_export.h"
#include "quant/calibrate.h"
#include "quant/gguf_from_source.h"
#include "quant/hf_copy.h"
#include "quant/hf_view.h"
#include "quant/merged_source.h"
#include "token/build.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    const ml_convert *x;
    ml_convert_report *report;
    ml_source_kind kind;
    ml_config config;
    ml_weight_source *source;
    const ml_weight_source *opened; /* what `source` reads in the end */
    const ml_gguf *file;            /* of the source, when it is one */
    ml_tokenizer *tokenizer;        /* NULL: there is none */
    ml_ids ends;                    /* what ends an answer, with the model's own tokenizer */
    ml_importance importance;
} job;

/* ---- the source ---- */

static ml_status open_tokenizer(job *j, ml_error *err)
{
    char folder[ML_PATH_MAX];
    const char *from = j->x->from;
    if (j->x->tokenizer) return ml_tokenizer_open_for(j->x->tokenizer, &j->config, &j->tokenizer, err);
    bool inside = ml_path_is_dir(from) || j->kind == ML_SOURCE_GGUF;
    if (!inside) ML_TRY(ml_path_parent(folder, from, err));
    /* A model without a tokenizer is converted as well. */
    if (ml_tokenizer_open_for(inside ? from : folder, &j->config, &j->tokenizer, &j->report->no_tokenizer) != ML_OK) {
        j->tokenizer = NULL;
        return ML_OK;
    }
    return ml_model_ends(inside ? from : folder, &j->config, j->tokenizer, &j->ends, err);
}

/* The last layer and its last expert are there, before lists of as many as the configuration says are made. */
static ml_status check_extent(const job *j, ml_error *err)
{
    const ml_config *c = &j->config;
    ml_stored_weight w;
    char name[ML_WEIGHT_NAME_MAX];
    int64_t last = c->num_hidden_layers - 1, dim[2] = { c->hidden_size, c->moe_intermediate_size };
    snprintf(name, sizeof name, "model.layers.%lld.input_layernorm.weight", (long long)last);
    ML_TRY(j->source->find(j->source, name, 1, dim, &w, err));
    if (!ml_config_layer_is_moe(c, last)) return ML_OK;
    snprintf(name, sizeof name, "model.layers.%lld.mlp.experts.%lld.down_proj.weight", (long long)last,
             (long long)(c->n_routed_experts - 1));
    return j->source->find(j->source, name, 2, dim, &w, err);
}

/* Latent attention is merged as one kv_b; the rows of others in the order that the adapter saw them in. */
static ml_status merge_adapter(job *j, ml_error *err)
{
    ml_weight_source *made;
    if (!j->x->adapter) return ML_OK;
    if (j->config.attention == ML_ATTENTION_MLA) {
        ML_TRY(ml_hf_view_make(j->source, &j->config, &made, err));
        j->source = made;
    }
    ML_TRY(ml_merged_source_make(j->source, j->x->from, j->x->adapter, &made, err));
    j->source = made;
    return ML_OK;
}

static ml_status open_source(job *j, ml_error *err)
{
    j->kind = ml_weight_source_kind(j->x->from);
    ML_TRY(ml_weight_source_open(j->x->from, &j->config, &j->source, err));
    j->opened = j->source;
    j->file = ml_gguf_source_file(j->source);
    ML_TRY(merge_adapter(j, err));
    ML_TRY(check_extent(j, err));
    ML_TRY(open_tokenizer(j, err));
    j->report->has_tokenizer = j->tokenizer != NULL;
    if (!j->tokenizer || ml_tokenizer_vocab_size(j->tokenizer) <= j->config.vocab_size) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "%s: the tokenizer has %d ids, the model only %lld: they do not belong together; name another with "
                   "--tokenizer",
                   j->x->from, ml_tokenizer_vocab_size(j->tokenizer), (long long)j->config.vocab_size);
}

static ml_status note_unused(job *j, ml_error *err)
{
    ml_model *m; /* for its list of weights: address space, of which nothing is touched */
    ML_TRY(ml_model_make(&j->config, ML_F32, false, &m, err));
    ml_status status = ml_unused_find(m, j->opened, &j->report->unused, err);
    ml_model_free(m);
    return status;
}

/* ---- to GGUF ---- */

static ml_status fill(void *arg, const ml_gguf_entry *e, int64_t part, int64_t row, int64_t n_row, float *out,
                      ml_error *err)
{
    const job *j = arg;
    return ml_gguf_fill_from_source(j->source, &j->config, e, part, row, n_row, out, err);
}

static ml_status type_of(void *arg, const ml_gguf_entry *e, ml_dtype *out, ml_error *err)
{
    const job *j = arg;
    return ml_gguf_type_in_source(j->source, &j->config, e, out, err);
}

static const void *bytes_of(void *arg, const ml_gguf_entry *e, int64_t part, ml_dtype dtype)
{
    const job *j = arg;
    ml_stored_weight w;
    ml_error ignored; /* fill says it again */
    if (e->form != ML_GGUF_AS_IS || ml_gguf_find_in_source(j->source, e, part, &w, &ignored) != ML_OK) return NULL;
    return w.dtype == dtype ? w.data : NULL;
}

/* Pages of a mapped source count as this process's memory until they are given back. */
static void finished(void *arg, const ml_gguf_entry *e)
{
    const job *j = arg;
    ml_stored_weight w;
    ml_error ignored;
    bool made = e->form == ML_GGUF_ZEROS || e->form == ML_GGUF_ROPE_DIVISORS;
    bool split = e->form == ML_GGUF_KEYS_OF_KV_B || e->form == ML_GGUF_VALUES_OF_KV_B;
    if (!j->source->drop || made || split) return;
    for (int64_t part = 0; part < e->n_part; part++) {
        if (ml_gguf_find_in_source(j->source, e, part, &w, &ignored) != ML_OK || !w.data) continue;
        j->source->drop(j->source, w.data, (size_t)e->rows * ml_dtype_row_bytes(w.dtype, e->cols));
    }
}

static void show(void *arg, uint64_t done, uint64_t total)
{
    const job *j = arg;
    j->report->n_bytes = total;
    if (j->x->progress) j->x->progress(j->x->arg, done, total);
}

/* What a GGUF file says of its types stays true when none is changed. */
static int64_t stored_file_type(const job *j)
{
    const ml_gguf *g = j->file;
    int64_t type;
    ml_error ignored;
    if (!g || j->x->plan.n_rule) return -1;
    return ml_gguf_get_integer(g, "general.file_type", 0, INT32_MAX, &type, &ignored) == ML_OK ? type : -1;
}

/* ---- importance ---- */

enum { WINDOW = 512 };

static void show_reading(void *arg, int64_t n_done, int64_t n_id)
{
    const job *j = arg;
    if (j->x->reading) j->x->reading(j->x->arg, n_done, n_id);
}

static ml_status calibrate(job *j, const ml_gguf_layout *layout, ml_model *m, ml_error *err)
{
    char *text;
    size_t n_bytes;
    ml_ids ids = { 0 };
    ML_TRY(ml_file_read(j->x->calibrate, &text, &n_bytes, err));
    ml_status status = ml_tokenizer_encode(j->tokenizer, text, n_bytes, false, &ids, err);
    ml_free(text);
    int64_t n_id = (int64_t)ids.n, most = m->config.max_position_embeddings;
    if (j->x->calibrate_tokens && n_id > j->x->calibrate_tokens) n_id = j->x->calibrate_tokens;
    ml_calibration c = { .id = ids.id,
                         .n_id = n_id,
                         .window = most < WINDOW ? most : WINDOW,
                         .bos = ml_tokenizer_bos(j->tokenizer),
                         .progress = show_reading,
                         .arg = j };
    if (status == ML_OK) status = ml_calibrate(m, layout, &c, &j->importance, err);
    ml_ids_free(&ids);
    if (status == ML_OK && j->x->importance) status = ml_importance_save(&j->importance, j->x->importance, err);
    return status;
}

/* The model that reads the text.  It does so without a cache, which wants kv_b whole. */
static ml_status open_reader(const char *path, ml_model **out, ml_error *err)
{
    ml_config config;
    ml_weight_source *source, *whole = NULL;
    ML_TRY(ml_weight_source_open(path, &config, &source, err));
    ml_status status = ML_OK;
    if (config.attention == ML_ATTENTION_MLA) status = ml_hf_view_make(source, &config, &whole, err);
    if (whole) source = whole;
    if (status == ML_OK) status = ml_model_bind(&config, source, out, err);
    if (status != ML_OK) source->free(source);
    return status;
}

static ml_status find_importance(job *j, const ml_gguf_layout *layout, ml_error *err)
{
    ml_model *m;
    if (j->x->importance && !j->x->calibrate) return ml_importance_load(j->x->importance, &j->importance, err);
    if (!j->x->calibrate) return ML_OK;
    if (!j->tokenizer) {
        return ml_fail(err, ML_EINVAL, "%s: there is no tokenizer to read %s with: name one with --tokenizer",
                       j->x->from, j->x->calibrate);
    }
    ML_TRY(open_reader(j->x->from, &m, err));
    ml_status status = calibrate(j, layout, m, err);
    ml_model_free(m);
    return status;
}

/* What ends an answer is said of the tokenizer there. */
static ml_status give_ends(job *j, ml_error *err)
{
    for (size_t i = 0; j->tokenizer && i < j->ends.n; i++) {
        int32_t id = j->ends.id[i];
        if (id != ml_tokenizer_eos(j->tokenizer)) ML_TRY(ml_tokenizer_put_end(j->tokenizer, id, err));
    }
    return ML_OK;
}

static ml_status write_gguf(job *j, ml_error *err)
{
    bool pair_rows;
    char kv_b[] = "model.layers.0.self_attn.kv_b_proj.weight";
    ml_gguf_layout layout = { 0 };
    ml_gguf_export x = { .config = &j->config,
                         .layout = &layout,
                         .plan = j->x->plan,
                         .tokenizer = j->tokenizer,
                         .errors = &j->report->errors,
                         .file_type = stored_file_type(j),
                         .split_bytes = j->x->split_bytes,
                         .n_file = &j->report->n_file,
                         .fill = fill,
                         .type_of = type_of,
                         .bytes_of = bytes_of,
                         .finished = finished,
                         .arg = j,
                         .progress = show };
    ML_TRY(give_ends(j, err));
    ML_TRY(ml_gguf_arch_for(&j->config, &x.arch, &pair_rows, err));
    bool split = j->config.attention == ML_ATTENTION_MLA && j->source->has(j->source, kv_b);
    ML_TRY(ml_gguf_layout_make(&j->config, x.arch, pair_rows, split, &layout, err));
    j->report->kind = x.arch->name;
    ml_status status = note_unused(j, err);
    if (status == ML_OK) status = find_importance(j, &layout, err);
    if (j->importance.n) x.importance = &j->importance;
    if (status == ML_OK) status = ml_importance_measure_coverage(&j->importance, &j->report->coverage, err);
    if (status == ML_OK) status = ml_gguf_export_write(&x, j->x->to, err);
    ml_gguf_layout_free(&layout);
    return status;
}

/* ---- to a folder ---- */

/* Of a folder everything is kept, but with another tokenizer or an adapter its weights are written anew. */
static bool is_copy(const job *j)
{
    return j->kind == ML_SOURCE_HF && !j->x->tokenizer && !j->x->adapter;
}

static ml_status put_folder(void *arg, ml_manifest *manifest, ml_error *err)
{
    job *j = arg;
    ml_dtype dtype = ML_F32;
    if (j->x->plan.mix) (void)ml_dtype_parse(ml_quant_mix_name(j->x->plan.mix), &dtype);
    bool keep = !j->x->plan.mix;
    if (is_copy(j)) {
        ml_hf_copy copy = { .folder = j->x->from, .keep = keep, .dtype = dtype, .progress = show, .arg = j };
        return ml_hf_copy_write(&copy, manifest, &j->report->n_bytes, err);
    }
    ml_hf_export x = { .config = &j->config,
                       .end = j->ends.id,
                       .n_end = j->ends.n,
                       .source = j->source,
                       .keep = keep,
                       .dtype = dtype,
                       .progress = show,
                       .arg = j };
    ML_TRY(ml_hf_export_write(&x, manifest, err));
    return j->tokenizer ? ml_tokenizer_save(j->tokenizer, ml_manifest_folder(manifest), err) : ML_OK;
}

static ml_status write_folder(job *j, ml_error *err)
{
    ml_weight_source *view;
    if (!is_copy(j)) ML_TRY(note_unused(j, err));
    ML_TRY(ml_hf_view_make(j->source, &j->config, &view, err));
    j->report->epsilon_assumed = ml_hf_view_config(j->file, &j->config);
    j->source = view;
    j->report->kind = ml_config_class_name(&j->config);
    return ml_aside_write(j->x->to, 0, put_folder, j, err);
}

static ml_status check_types(const ml_convert *x, ml_error *err)
{
    if (x->gguf) return ML_OK;
    ml_dtype dtype;
    bool plain = !x->plan.mix || (ml_dtype_parse(ml_quant_mix_name(x->plan.mix), &dtype) && !ml_dtype_is_block(dtype));
    if (plain && !x->plan.n_rule) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: a folder has matrices of f32, bf16 or f16: quantised types are for GGUF files",
                   x->to);
}

ml_status ml_convert_model(const ml_convert *x, ml_convert_report *report, ml_error *err)
{
    job j = { .x = x, .report = report };
    *report = (ml_convert_report){ 0 };
    ML_TRY(check_types(x, err));
    ml_status status = open_source(&j, err);
    if (status == ML_OK) status = x->gguf ? write_gguf(&j, err) : write_folder(&j, err);
    if (status == ML_OK) report->n_params = ml_model_count(&j.config).total;
    ml_importance_free(&j.importance);
    ml_tokenizer_free(j.tokenizer);
    ml_ids_free(&j.ends);
    if (j.source) j.source->free(j.source);
    return status;
}
