/* GPT-2: encoder.json {"text": id} and vocab.bpe, one merge `left right` per line in rank order, both in mapped
 * characters.  Entries that are neither bytes nor merges (<|endoftext|>) are its special tokens. */
#include "token/read.h"

#include "base/alloc.h"
#include "base/file.h"
#include "token/internal.h"

#include <string.h>

static ml_status read_merge_line(ml_tokenizer *t, const json_t *vocab, const char *p, size_t n, ml_error *err)
{
    const char *space = memchr(p, ' ', n);
    if (!space || space == p || space + 1 == p + n) {
        return ml_fail(err, ML_EFORMAT, "expected two tokens with a space between, found \"%.*s\"",
                       (int)(n < 100 ? n : 100), p);
    }
    size_t n_left = (size_t)(space - p);
    return ml_read_merge(t, vocab, p, n_left, space + 1, n - n_left - 1, err);
}

static ml_status read_merges(ml_tokenizer *t, const json_t *vocab, const char *path, ml_error *err)
{
    char *text;
    size_t size;
    ML_TRY(ml_file_read(path, &text, &size, err));
    ml_status status = ML_OK;
    size_t at = 0;
    for (size_t line = 1; at < size && status == ML_OK; line++) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t n = end ? (size_t)(end - (text + at)) : size - at, next = at + n + 1;
        if (n && text[at + n - 1] == '\r') n--;
        bool version = line == 1 && n >= 8 && !memcmp(text + at, "#version", 8);
        if (n && !version) status = read_merge_line(t, vocab, text + at, n, err);
        if (status != ML_OK) ml_fail_prefix(err, "%s, line %zu", path, line);
        at = next;
    }
    ml_free(text);
    return status;
}

static ml_status mark_specials(ml_tokenizer *t, ml_error *err)
{
    bool *made = ml_calloc(t->n_pieces, sizeof *made);
    if (!made) return ml_fail_memory(err, t->n_pieces, "the vocabulary");
    for (size_t i = 0; i < t->n_merges; i++) made[t->merges[i].result] = true;
    for (size_t id = 0; id < t->n_pieces; id++) {
        ml_piece *piece = &t->pieces[id];
        if (made[id] || piece->n_bytes < 2) continue;
        piece->flags = (piece->flags & ~(uint32_t)ML_PIECE_LITERAL) | ML_PIECE_ADDED | ML_PIECE_SPECIAL;
    }
    ml_free(made);
    return ML_OK;
}

/* Folders of this shape hold other patterns too (Qwen2's): only a GPT-2 class, or none named, means GPT-2's. */
static ml_status put_pattern(ml_tokenizer *t, const ml_read_context *context, ml_error *err)
{
    const char *class = json_string_value(json_object_get(context->config, "tokenizer_class"));
    bool gpt2 = !class || !strncmp(class, "GPT2", 4);
    if (!gpt2 && !context->pattern) {
        return ml_fail(
            err, ML_EINVAL,
            "%s: key tokenizer_class: %s does not say which split pattern it uses: give one with --pattern, or use "
            "the model's tokenizer.json",
            context->config_path, class);
    }
    if (gpt2 && context->pattern && strcmp(context->pattern, "gpt2") != 0) {
        return ml_fail(err, ML_EINVAL, "its split pattern is \"gpt2\", but \"%s\" was given: leave it out",
                       context->pattern);
    }
    return ml_tokenizer_put_split(t, gpt2 ? "gpt2" : context->pattern, err);
}

static ml_status fill(ml_tokenizer *t, const json_t *vocab, const char *vocab_path, const char *merges_path,
                      const ml_read_context *context, ml_error *err)
{
    ML_TRY(put_pattern(t, context, err));
    if (ml_read_vocab(t, vocab, err) != ML_OK) return ml_fail_prefix(err, "%s", vocab_path);
    ML_TRY(read_merges(t, vocab, merges_path, err));
    ML_TRY(mark_specials(t, err));
    const json_t *end = json_object_get(vocab, "<|endoftext|>");
    if (end) {
        ml_tokenizer_set_role(t, ML_ROLE_BOS, (int32_t)json_integer_value(end));
        ml_tokenizer_set_role(t, ML_ROLE_EOS, (int32_t)json_integer_value(end));
    }
    return ML_OK;
}

ml_status ml_read_gpt2(const char *vocab_path, const char *merges_path, const ml_read_context *context,
                       ml_tokenizer **out, ml_error *err)
{
    json_t *vocab;
    ML_TRY(ml_json_load(vocab_path, &vocab, err));
    ml_tokenizer *t = NULL;
    ml_status status = ml_tokenizer_make("gpt2", &t, err);
    if (status == ML_OK) status = fill(t, vocab, vocab_path, merges_path, context, err);
    json_decref(vocab);
    if (status != ML_OK) {
        ml_tokenizer_free(t);
        return status;
    }
    *out = t;
    return ML_OK;
}
