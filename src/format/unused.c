#include "format/unused.h"

#include "base/alloc.h"
#include "base/text.h"
#include "format/gguf_names.h"
#include "format/gguf_source.h"
#include "format/hf.h"
#include "format/hf_names.h"
#include "format/name_table.h"

#include <stdio.h>
#include <string.h>

enum { NAME_MAX = 160, MOST_NAMES = 3 };

_Static_assert((int)NAME_MAX >= (int)ML_GGUF_TENSOR_NAME_MAX && NAME_MAX >= sizeof((ml_hf_tensor *)0)->name,
               "names of either format");

/* What the files may hold: names stand one after another in `text`, room for all. */
typedef struct {
    const ml_model *m;
    ml_name_table names;
    char (*text)[NAME_MAX];
    size_t n_text;
} known;

static ml_status add(known *k, const char *name, ml_error *err)
{
    bool added;
    snprintf(k->text[k->n_text], NAME_MAX, "%s", name);
    ML_TRY(ml_name_table_add(&k->names, k->text[k->n_text], &added, err));
    if (added) k->n_text++;
    return ML_OK;
}

static void count(ml_unused *out, const char *name)
{
    size_t n = strlen(out->names), room = sizeof out->names - n;
    if (out->n < MOST_NAMES)
        snprintf(out->names + n, room, "%s%.100s", out->n ? ", " : "", name);
    else if (out->n == MOST_NAMES)
        snprintf(out->names + n, room, ", ...");
    out->n++;
}

/* ---- folders ---- */

static bool is_known_in_folder(const known *k, const char *name)
{
    const ml_config *c = &k->m->config;
    size_t index;
    if (ml_name_table_find(&k->names, name, &index)) return true;
    if (ml_text_ends_with(name, "_scale_inv") || ml_text_ends_with(name, ".rotary_emb.inv_freq")) return true;
    if (c->tie_word_embeddings && !strcmp(name, "lm_head.weight")) return true;
    /* A class that needs a bias has zeros for a model without one. */
    return !c->correction_bias && ml_text_ends_with(name, "e_score_correction_bias");
}

static ml_status find_in_folder(known *k, const ml_safetensors *file, ml_unused *out, ml_error *err)
{
    const char *class_name = ml_config_class_name(&k->m->config);
    for (size_t i = 0; i < k->m->n_weight; i++) {
        const ml_weight *w = &k->m->weight[i];
        ML_TRY(add(k, ml_hf_stored_as(class_name, w->name, w->n_dim, w->dim).name, err));
    }
    for (size_t i = 0; i < ml_safetensors_count(file); i++) {
        const char *name = ml_safetensors_at(file, i)->name;
        if (!is_known_in_folder(k, name)) count(out, name);
    }
    return ML_OK;
}

/* ---- GGUF ---- */

/* Tensors beside those of the weights' names: kv_b whole or split, whichever is used, and gate and up fused. */
static ml_status add_forms(known *k, const ml_gguf_place *place, ml_error *err)
{
    static const char *const forms[] = { "attn_kv_b.weight", "attn_k_b.weight", "attn_v_b.weight" };
    char name[NAME_MAX];
    bool second;
    if (ml_gguf_fused_place(place, name, &second)) return add(k, name, err);
    for (int i = 0; i < 3; i++) {
        if (!ml_text_ends_with(place->name, forms[i])) continue;
        int n_prefix = (int)(strlen(place->name) - strlen(forms[i]));
        for (int j = 0; j < 3; j++) {
            snprintf(name, sizeof name, "%.*s%s", n_prefix, place->name, forms[j]);
            ML_TRY(add(k, name, err));
        }
        break;
    }
    return ML_OK;
}

static bool is_known_in_gguf(const known *k, const char *name)
{
    size_t index;
    if (ml_name_table_find(&k->names, name, &index) || ml_text_ends_with(name, "rope_freqs.weight")) return true;
    return !k->m->config.correction_bias && ml_text_ends_with(name, ".exp_probs_b.bias");
}

static ml_status find_in_gguf(known *k, const ml_gguf *file, ml_unused *out, ml_error *err)
{
    char *architecture;
    ML_TRY(ml_gguf_copy_text(file, "general.architecture", &architecture, err));
    ml_status status = ML_OK;
    for (size_t i = 0; i < k->m->n_weight && status == ML_OK; i++) {
        ml_gguf_place place;
        if (!ml_gguf_place_of(architecture, k->m->weight[i].name, &place)) continue;
        status = add(k, place.name, err);
        if (status == ML_OK) status = add_forms(k, &place, err);
    }
    ml_free(architecture);
    for (size_t i = 0; i < ml_gguf_count(file) && status == ML_OK; i++) {
        const char *name = ml_gguf_at(file, i)->name;
        if (!is_known_in_gguf(k, name)) count(out, name);
    }
    return status;
}

ml_status ml_unused_find(const ml_model *m, const ml_weight_source *source, ml_unused *out, ml_error *err)
{
    const ml_safetensors *folder = ml_hf_source_file(source);
    const ml_gguf *gguf = ml_gguf_source_file(source);
    *out = (ml_unused){ 0 };
    if (!folder && !gguf) return ML_OK;
    enum { MOST_FORMS = 3 }; /* of a weight, with its own */
    size_t n_bytes = (m->n_weight * MOST_FORMS + 1) * sizeof(char[NAME_MAX]);
    known k = { .m = m, .text = ml_alloc(n_bytes) };
    if (!k.text) return ml_fail_memory(err, n_bytes, "names of weights");
    ml_status status = folder ? find_in_folder(&k, folder, out, err) : find_in_gguf(&k, gguf, out, err);
    ml_name_table_free(&k.names);
    ml_free(k.text);
    return status;
}
