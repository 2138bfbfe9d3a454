/* moonlight inspect: GGUF files and PyTorch checkpoints. */
#include "base/alloc.h"
#include "cli/inspect.h"
#include "format/gguf_config.h"
#include "format/pt_source.h"
#include "quant/hf_view.h"

#include <stdio.h>
#include <string.h>

enum { MOST_CHARACTERS = 72, MOST_VALUES = 8 };

/* ---- metadata ---- */

static json_t *number_json(const ml_gguf_value *v, size_t i)
{
    if (v->element == ML_GGUF_BOOL) return json_boolean(ml_gguf_integer(v, i));
    if (v->element == ML_GGUF_F32 || v->element == ML_GGUF_F64) return ml_json_number(ml_gguf_number(v, i));
    return json_integer(ml_gguf_integer(v, i));
}

/* A value; of a long array its type and length. */
static json_t *value_json(const ml_gguf_value *v)
{
    const char *text;
    size_t at = 0, n;
    if (v->type == ML_GGUF_TEXT) {
        ml_gguf_next_text(v, &at, &text, &n);
        json_t *value = json_stringn(text, n);
        return value ? value : json_string("(no UTF-8)");
    }
    if (v->type != ML_GGUF_ARRAY) return number_json(v, 0);
    if (v->element == ML_GGUF_TEXT || v->n > MOST_VALUES) {
        return json_pack("{s:s, s:I}", "array_of", ml_gguf_type_name(v->element), "n", (json_int_t)v->n);
    }
    json_t *list = json_array();
    for (size_t i = 0; i < v->n; i++) json_array_append_new(list, number_json(v, i));
    return list;
}

static void print_value(const ml_gguf_value *v)
{
    json_t *value = value_json(v);
    char *text = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(7)) : NULL;
    if (text && v->type == ML_GGUF_ARRAY && *text == '{') {
        printf("  %-44s %zu x %s\n", v->key, v->n, ml_gguf_type_name(v->element));
    } else if (text) {
        bool cut = strlen(text) > MOST_CHARACTERS;
        printf("  %-44s %.*s%s\n", v->key, MOST_CHARACTERS, text, cut ? "..." : "");
    }
    free(text);
    json_decref(value);
}

static void show_metadata(ml_inspection *x, const ml_gguf *g)
{
    json_t *object = json_object();
    if (!x->json) printf("metadata\n");
    for (size_t i = 0; i < ml_gguf_key_count(g); i++) {
        const ml_gguf_value *v = ml_gguf_key_at(g, i);
        if (x->json)
            json_object_set_new(object, v->key, value_json(v));
        else
            print_value(v);
    }
    if (x->json)
        json_object_set(x->object, "metadata", object);
    else
        printf("\n");
    json_decref(object);
}

/* ---- the files ---- */

static void show_tensors(ml_inspection *x, const ml_gguf *g)
{
    if (!x->json) printf("tensors\n");
    ml_tensor_table table = ml_cli_table_begin(x);
    for (size_t i = 0; i < ml_gguf_count(g); i++) {
        const ml_gguf_tensor *t = ml_gguf_at(g, i);
        ml_cli_table_add(&table, t->name, ml_dtype_name(t->dtype), t->n_dim, t->shape, t->n_element,
                         (int64_t)t->n_bytes);
    }
    ml_cli_table_end(&table);
}

/* A file of a model that this program does not run is still shown. */
static ml_status show_architecture(ml_inspection *x, const char *path, const ml_config *config, ml_status known,
                                   const ml_error *why, ml_error *err)
{
    if (known == ML_OK) return ml_cli_inspect_model(x, path, config, NULL, err);
    ML_TRY(ml_cli_inspect_refuse_svg(x, path, err));
    if (x->json)
        json_object_set_new(x->object, "unknown", json_string(why->message));
    else
        printf("%s\n\n", why->message);
    return ML_OK;
}

static ml_status inspect_open_gguf(ml_inspection *x, const char *path, const ml_gguf *g, ml_error *err)
{
    ml_config config;
    ml_error why;
    ml_status known = ml_gguf_config(g, &config, &why);
    if (known == ML_OK) (void)ml_hf_view_config(g, &config);
    x->weights = path;
    if (x->json) json_object_set_new(x->object, "kind", json_string("gguf"));
    ML_TRY(show_architecture(x, path, &config, known, &why, err));
    if (ml_gguf_find_key(g, "tokenizer.ggml.tokens")) ML_TRY(ml_cli_inspect_tokenizer(x, path, err));
    if (!x->json) printf("\n");
    show_metadata(x, g);
    show_tensors(x, g);
    return ML_OK;
}

ml_status ml_cli_inspect_gguf(ml_inspection *x, const char *path, ml_error *err)
{
    ml_gguf *g;
    ML_TRY(ml_gguf_open(&g, path, err));
    ml_status status = inspect_open_gguf(x, path, g, err);
    ml_gguf_close(g);
    return status;
}

static void show_checkpoint(ml_inspection *x, const ml_pt *pt)
{
    if (!x->json) printf("tensors\n");
    ml_tensor_table table = ml_cli_table_begin(x);
    for (size_t i = 0; i < ml_pt_count(pt); i++) {
        const ml_pt_tensor *t = ml_pt_at(pt, i);
        char dtype[32];
        snprintf(dtype, sizeof dtype, "%s%s", t->is_complex ? "C" : "", ml_st_dtype_name(t->dtype));
        ml_cli_table_add(&table, t->name, dtype, t->n_dim, t->shape, t->n_element,
                         t->n_element * (int64_t)ml_st_dtype_size(t->dtype));
    }
    ml_cli_table_end(&table);
}

ml_status ml_cli_inspect_pt(ml_inspection *x, const char *path, ml_error *err)
{
    ml_config config;
    ml_weight_source *source = NULL;
    ml_pt *pt;
    ml_error why;
    ML_TRY(ml_pt_open(&pt, path, err));
    ml_status known = ml_pt_source_open(path, &config, &source, &why);
    if (source) source->free(source);
    if (x->json) json_object_set_new(x->object, "kind", json_string("pt"));
    ml_status status = show_architecture(x, path, &config, known, &why, err);
    if (status == ML_OK) show_checkpoint(x, pt);
    ml_pt_close(pt);
    return status;
}
