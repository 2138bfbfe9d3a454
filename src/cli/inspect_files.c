/* moonlight inspect: tensor files and tokenizers, and the numbers in what it prints. */
#include "cli/inspect.h"
#include "format/safetensors.h"
#include "token/tokenizer.h"

#include <stdio.h>

ml_digits ml_cli_digits(int64_t n)
{
    ml_digits out;
    char plain[24];
    int length = snprintf(plain, sizeof plain, "%lld", (long long)n), at = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && plain[i - 1] != '-' && (length - i) % 3 == 0) out.text[at++] = ',';
        out.text[at++] = plain[i];
    }
    out.text[at] = 0;
    return out;
}

ml_digits ml_cli_bytes(int64_t n_bytes)
{
    static const char *const unit[] = { "bytes", "kB", "MB", "GB", "TB" };
    ml_digits out;
    double value = (double)n_bytes;
    int u = 0;
    while (value >= 1000 && u < 4) {
        value /= 1000;
        u++;
    }
    snprintf(out.text, sizeof out.text, "%.*f %s", u == 0 ? 0 : value < 10 ? 2 : 1, value, unit[u]);
    return out;
}

ml_status ml_cli_inspect_refuse_svg(const ml_inspection *x, const char *path, ml_error *err)
{
    if (!ml_options_text(x->o, "svg")) return ML_OK;
    return ml_fail(err, ML_EINVAL, "--svg draws an architecture, and %s is none: name a model, a run or --config",
                   path);
}

/* "[64, 2048]", or "[]" for a scalar */
static void format_shape(const ml_st_tensor *t, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < t->n_dim && used < size; i++) {
        used += (size_t)snprintf(out + used, size - used, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    }
    if (used < size) snprintf(out + used, size - used, "]");
}

static json_t *tensor_json(const ml_st_tensor *t)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->n_dim; i++) json_array_append_new(shape, json_integer(t->shape[i]));
    return json_pack("{s:s, s:s, s:o, s:I}", "name", t->name, "dtype", ml_st_dtype_name(t->dtype), "shape", shape,
                     "n_bytes", (json_int_t)t->n_bytes);
}

ml_status ml_cli_inspect_tensors(ml_inspection *x, const char *path, ml_error *err)
{
    ml_safetensors *file;
    ML_TRY(ml_cli_inspect_refuse_svg(x, path, err));
    ML_TRY(ml_safetensors_open(&file, path, err));
    size_t n = ml_safetensors_count(file);
    int64_t n_element = 0, n_bytes = 0;
    json_t *list = json_array();
    if (!x->json) printf("%s: %zu tensors\n\n", path, n);
    for (size_t i = 0; i < n; i++) {
        const ml_st_tensor *t = ml_safetensors_at(file, i);
        char shape[160];
        format_shape(t, shape, sizeof shape);
        n_element += t->n_element;
        n_bytes += (int64_t)t->n_bytes;
        if (x->json)
            json_array_append_new(list, tensor_json(t));
        else
            printf("  %-8s %-18s %s\n", ml_st_dtype_name(t->dtype), shape, t->name);
    }
    if (x->json) {
        json_object_set_new(x->object, "kind", json_string("safetensors"));
        json_object_set_new(x->object, "n_elements", json_integer(n_element));
        json_object_set_new(x->object, "n_bytes", json_integer(n_bytes));
        json_object_set(x->object, "tensors", list);
    } else {
        printf("\n%s elements, %s of data\n", ml_cli_digits(n_element).text, ml_cli_bytes(n_bytes).text);
    }
    json_decref(list);
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

ml_status ml_cli_inspect_tokenizer(ml_inspection *x, const char *path, ml_error *err)
{
    ml_tokenizer *t;
    ML_TRY(ml_tokenizer_open(path, &t, err));
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
    ml_tokenizer_free(t);
    return ML_OK;
}
