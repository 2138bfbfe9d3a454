/* moonlight inspect: tensor files and tokenizers. */
#include "cli/inspect.h"
#include "format/safetensors.h"
#include "token/tokenizer.h"

#include <stdio.h>

ml_status ml_cli_inspect_refuse_svg(const ml_inspection *x, const char *path, ml_error *err)
{
    if (!ml_options_text(x->o, "svg")) return ML_OK;
    return ml_fail(err, ML_EINVAL, "--svg draws an architecture, and %s is none: name a model, a run or --config",
                   path);
}

ml_tensor_table ml_cli_table_begin(ml_inspection *x)
{
    return (ml_tensor_table){ .x = x, .list = json_array(), .dtypes = json_object() };
}

/* "[64, 2048]", or "[]" for a scalar */
static void print_row(const char *name, const char *dtype, int n_dim, const int64_t *shape)
{
    char text[160];
    size_t used = (size_t)snprintf(text, sizeof text, "[");
    for (int i = 0; i < n_dim && used < sizeof text; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
    }
    if (used < sizeof text) snprintf(text + used, sizeof text - used, "]");
    printf("  %-8s %-20s %s\n", dtype, text, name);
}

void ml_cli_table_add(ml_tensor_table *table, const char *name, const char *dtype, int n_dim, const int64_t *shape,
                      int64_t n_element, int64_t n_bytes)
{
    json_t *sum = json_object_get(table->dtypes, dtype);
    if (!sum) {
        sum = json_pack("{s:i, s:i, s:i}", "n_tensors", 0, "n_elements", 0, "n_bytes", 0);
        json_object_set_new(table->dtypes, dtype, sum);
    }
    const struct {
        const char *key;
        int64_t more;
    } sums[] = { { "n_tensors", 1 }, { "n_elements", n_element }, { "n_bytes", n_bytes } };
    for (int i = 0; i < 3; i++) {
        json_t *value = json_object_get(sum, sums[i].key);
        json_integer_set(value, json_integer_value(value) + sums[i].more);
    }
    table->n_element += n_element;
    table->n_bytes += n_bytes;
    if (!table->x->json) {
        print_row(name, dtype, n_dim, shape);
        return;
    }
    json_t *dims = json_array();
    for (int i = 0; i < n_dim; i++) json_array_append_new(dims, json_integer(shape[i]));
    json_array_append_new(table->list, json_pack("{s:s, s:s, s:o, s:I}", "name", name, "dtype", dtype, "shape", dims,
                                                 "n_bytes", (json_int_t)n_bytes));
}

void ml_cli_table_end(ml_tensor_table *table)
{
    json_t *object = table->x->object;
    if (table->x->json) {
        json_object_set_new(object, "n_elements", json_integer(table->n_element));
        json_object_set_new(object, "n_bytes", json_integer(table->n_bytes));
        json_object_set(object, "tensors", table->list);
        json_object_set(object, "dtypes", table->dtypes);
    } else {
        const char *dtype;
        json_t *sum;
        printf("\n");
        json_object_foreach(table->dtypes, dtype, sum)
        {
            printf("  %-8s %6s tensors %18s elements %12s\n", dtype,
                   ml_cli_digits(json_integer_value(json_object_get(sum, "n_tensors"))).text,
                   ml_cli_digits(json_integer_value(json_object_get(sum, "n_elements"))).text,
                   ml_cli_bytes(json_integer_value(json_object_get(sum, "n_bytes"))).text);
        }
        printf("\n%s elements, %s of data\n", ml_cli_digits(table->n_element).text, ml_cli_bytes(table->n_bytes).text);
    }
    json_decref(table->list);
    json_decref(table->dtypes);
}

ml_status ml_cli_inspect_tensors(ml_inspection *x, const char *path, ml_error *err)
{
    ml_safetensors *file;
    ML_TRY(ml_cli_inspect_refuse_svg(x, path, err));
    ML_TRY(ml_safetensors_open(&file, path, err));
    size_t n = ml_safetensors_count(file);
    if (x->json)
        json_object_set_new(x->object, "kind", json_string("safetensors"));
    else
        printf("%s: %zu tensors\n\n", path, n);
    ml_tensor_table table = ml_cli_table_begin(x);
    for (size_t i = 0; i < n; i++) {
        const ml_st_tensor *t = ml_safetensors_at(file, i);
        ml_cli_table_add(&table, t->name, ml_st_dtype_name(t->dtype), t->n_dim, t->shape, t->n_element,
                         (int64_t)t->n_bytes);
    }
    ml_cli_table_end(&table);
    ml_safetensors_close(file);
    return ML_OK;
}

static json_t *id_or_null(int32_t id)
{
    return id < 0 ? json_null() : json_integer(id);
}

static void print_special(const ml_tokenizer *t, const char *role, int32_t id)
{
    size_t n;
    const char *piece = ml_tokenizer_piece(t, id, &n);
    if (id >= 0 && piece) printf("  %-20s %.*s (%d)\n", role, (int)n, piece, id);
}

static void show_tokenizer(ml_inspection *x, const ml_tokenizer *t)
{
    if (x->json) {
        json_t *facts =
            json_pack("{s:s, s:i, s:I, s:s, s:s, s:o, s:o, s:o, s:o}", "kind", ml_tokenizer_kind(t), "vocab_size",
                      ml_tokenizer_vocab_size(t), "n_merges", (json_int_t)ml_tokenizer_merge_count(t), "pattern",
                      ml_tokenizer_pattern(t), "fingerprint", ml_tokenizer_fingerprint(t), "bos",
                      id_or_null(ml_tokenizer_bos(t)), "eos", id_or_null(ml_tokenizer_eos(t)), "unk",
                      id_or_null(ml_tokenizer_unk(t)), "pad", id_or_null(ml_tokenizer_pad(t)));
        json_object_set_new(x->object, "tokenizer", facts);
    } else {
        printf("tokenizer\n  %-20s %s\n  %-20s %s ids, %s merges\n  %-20s %s\n", "read from", ml_tokenizer_kind(t),
               "vocabulary", ml_cli_digits(ml_tokenizer_vocab_size(t)).text,
               ml_cli_digits((int64_t)ml_tokenizer_merge_count(t)).text, "split pattern", ml_tokenizer_pattern(t));
        print_special(t, "beginning of text", ml_tokenizer_bos(t));
        print_special(t, "end of text", ml_tokenizer_eos(t));
        printf("  %-20s %s\n", "fingerprint", ml_tokenizer_fingerprint(t));
    }
}

ml_status ml_cli_inspect_tokenizer(ml_inspection *x, const char *path, ml_error *err)
{
    ml_tokenizer *t;
    ML_TRY(ml_tokenizer_open(path, &t, err));
    show_tokenizer(x, t);
    ml_tokenizer_free(t);
    return ML_OK;
}
