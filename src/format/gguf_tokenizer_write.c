/* Tokenizers into GGUF. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "format/gguf_tokenizer.h"
#include "format/gguf_vocab.h"
#include "token/bytemap.h"

#include <stdio.h>
#include <string.h>

static bool has_stages(const ml_tokenizer *t, const char *const stages[ML_GGUF_MAX_STAGE])
{
    for (size_t i = 0; i < ML_GGUF_MAX_STAGE; i++) {
        const char *stage = ml_tokenizer_split_stage(t, i);
        if (!stage || !stages[i]) return stage == stages[i];
        if (strcmp(stage, stages[i]) != 0) return false;
    }
    return !ml_tokenizer_split_stage(t, ML_GGUF_MAX_STAGE);
}

static ml_status put_pre(ml_gguf_writer *w, const ml_tokenizer *t, ml_error *err)
{
    for (size_t i = 0; i < ML_GGUF_N_PRE; i++) {
        if (has_stages(t, ml_gguf_pres[i].split) && ml_gguf_pres[i].nfc == ml_tokenizer_is_nfc(t)) {
            return ml_gguf_writer_set_text(w, KEY("pre"), ml_gguf_pres[i].name, err);
        }
    }
    return ml_fail(
        err, ML_EINVAL,
        "GGUF stores split patterns by name, and \"%.200s\"%s has none there: expected that of gpt-2, kimi-k2, "
        "llama-bpe, qwen2 (with NFC) or deepseek-v3",
        ml_tokenizer_pattern(t), ml_tokenizer_is_nfc(t) ? " with NFC" : "");
}

static int type_of(const ml_tokenizer *t, int32_t id)
{
    size_t n;
    if (!ml_tokenizer_piece(t, id, &n)) return TYPE_UNUSED;
    if (ml_tokenizer_byte(t, id) >= 0) return TYPE_BYTE;
    if (id == ml_tokenizer_unk(t)) return TYPE_UNKNOWN;
    if (ml_tokenizer_is_special(t, id)) return TYPE_CONTROL;
    if (ml_tokenizer_is_added(t, id)) return TYPE_USER_DEFINED;
    return ml_tokenizer_is_literal(t, id) ? TYPE_UNUSED : TYPE_NORMAL;
}

static ml_status spaced(const char *piece, size_t n, ml_chars *text, ml_error *err)
{
    for (size_t i = 0; i < n; i++) {
        bool space = piece[i] == ' ';
        ML_TRY(ml_chars_append(text, space ? "\xE2\x96\x81" : piece + i, space ? 3 : 1, err));
    }
    return ML_OK;
}

/* The text of a token as the file writes it. */
static ml_status token_text(const ml_tokenizer *t, int32_t id, ml_chars *text, ml_error *err)
{
    size_t n;
    const char *piece = ml_tokenizer_piece(t, id, &n);
    char made[32];
    text->n = 0;
    switch (type_of(t, id)) {
    case TYPE_NORMAL:
        return ml_tokenizer_is_sentencepiece(t) ? spaced(piece, n, text, err) : ml_bytemap_encode(piece, n, text, err);
    case TYPE_BYTE: n = (size_t)snprintf(made, sizeof made, "<0x%02X>", ml_tokenizer_byte(t, id)); break;
    default:
        if (piece) return ml_chars_append(text, piece, n, err);
        n = (size_t)snprintf(made, sizeof made, "[PAD%d]", id);
    }
    return ml_chars_append(text, made, n, err);
}

static ml_status put_tokens(ml_gguf_writer *w, const ml_tokenizer *t, int32_t n_vocab, ml_error *err)
{
    ml_chars text = { 0 };
    ml_status status = ml_gguf_writer_set_texts(w, KEY("tokens"), (size_t)n_vocab, err);
    for (int32_t id = 0; id < n_vocab && status == ML_OK; id++) {
        status = token_text(t, id, &text, err);
        if (status == ML_OK) status = ml_gguf_writer_add_text(w, text.data, text.n, err);
    }
    ml_chars_free(&text);
    return status;
}

static ml_status put_types(ml_gguf_writer *w, const ml_tokenizer *t, int32_t n_vocab, ml_error *err)
{
    int32_t *types = ml_alloc((size_t)n_vocab * sizeof *types);
    float *scores = ml_alloc((size_t)n_vocab * sizeof *scores);
    ml_status status = types && scores ? ML_OK : ml_fail_memory(err, (size_t)n_vocab * 8, "types of tokens");
    for (int32_t id = 0; id < n_vocab && status == ML_OK; id++) {
        types[id] = type_of(t, id);
        scores[id] = ml_tokenizer_score(t, id);
    }
    if (status == ML_OK && ml_tokenizer_is_sentencepiece(t)) {
        status = ml_gguf_writer_set_array(w, KEY("scores"), ML_GGUF_F32, scores, (size_t)n_vocab, err);
    }
    if (status == ML_OK) {
        status = ml_gguf_writer_set_array(w, KEY("token_type"), ML_GGUF_I32, types, (size_t)n_vocab, err);
    }
    ml_free(types);
    ml_free(scores);
    return status;
}

static ml_status put_merges(ml_gguf_writer *w, const ml_tokenizer *t, ml_error *err)
{
    ml_chars text = { 0 }, right_text = { 0 };
    size_t n = ml_tokenizer_merge_count(t);
    ml_status status = ml_gguf_writer_set_texts(w, KEY("merges"), n, err);
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        int32_t left, right, result;
        ml_tokenizer_merge(t, i, &left, &right, &result);
        status = token_text(t, left, &text, err);
        if (status == ML_OK) status = ml_chars_append(&text, " ", 1, err);
        if (status == ML_OK) status = token_text(t, right, &right_text, err);
        if (status == ML_OK) status = ml_chars_append(&text, right_text.data, right_text.n, err);
        if (status == ML_OK) status = ml_gguf_writer_add_text(w, text.data, text.n, err);
    }
    ml_chars_free(&text);
    ml_chars_free(&right_text);
    return status;
}

static ml_status put_role(ml_gguf_writer *w, const char *key, int32_t id, ml_error *err)
{
    return id < 0 ? ML_OK : ml_gguf_writer_set_u32(w, key, (uint32_t)id, err);
}

/* Two have keys that others read; where there are more, all are kept in a key of our own. */
static ml_status put_ends(ml_gguf_writer *w, const ml_tokenizer *t, ml_error *err)
{
    static const char *const keys[] = { KEY("eot_token_id"), KEY("eom_token_id") };
    enum { N_KEY = sizeof keys / sizeof *keys };
    size_t n;
    const int32_t *ends = ml_tokenizer_ends(t, &n);
    for (size_t i = 0; i < n && i < N_KEY; i++) ML_TRY(put_role(w, keys[i], ends[i], err));
    if (n <= N_KEY) return ML_OK;
    uint8_t *bytes = ml_alloc(4 * n);
    if (!bytes) return ml_fail_memory(err, 4 * n, "the ids that end an answer");
    for (size_t i = 0; i < n; i++) ml_store_u32(bytes + 4 * i, (uint32_t)ends[i]);
    ml_status status = ml_gguf_writer_set_array(w, END_IDS_KEY, ML_GGUF_I32, bytes, n, err);
    ml_free(bytes);
    return status;
}

ml_status ml_gguf_put_tokenizer(ml_gguf_writer *w, const ml_tokenizer *t, int64_t n_vocab, ml_error *err)
{
    bool scored = ml_tokenizer_is_sentencepiece(t);
    if (scored && !ml_tokenizer_is_scored(t)) {
        return ml_fail(err, ML_EINVAL,
                       "GGUF stores this kind of vocabulary with scores, and its merges are not what scores would do: "
                       "keep its tokenizer.json");
    }
    if (n_vocab < ml_tokenizer_vocab_size(t) || n_vocab > ML_GGUF_MAX_VOCAB) {
        return ml_fail(err, ML_EINVAL,
                       "a vocabulary of %lld for a tokenizer of %d: expected as many at least, and at most "
                       "%d",
                       (long long)n_vocab, ml_tokenizer_vocab_size(t), ML_GGUF_MAX_VOCAB);
    }
    ML_TRY(ml_gguf_writer_set_text(w, KEY("model"), scored ? "llama" : "gpt2", err));
    if (!scored) ML_TRY(put_pre(w, t, err));
    ML_TRY(put_tokens(w, t, (int32_t)n_vocab, err));
    ML_TRY(put_types(w, t, (int32_t)n_vocab, err));
    if (!scored) ML_TRY(put_merges(w, t, err));
    ML_TRY(put_role(w, KEY("bos_token_id"), ml_tokenizer_bos(t), err));
    ML_TRY(put_role(w, KEY("eos_token_id"), ml_tokenizer_eos(t), err));
    ML_TRY(put_role(w, KEY("unknown_token_id"), ml_tokenizer_unk(t), err));
    ML_TRY(put_role(w, KEY("padding_token_id"), ml_tokenizer_pad(t), err));
    ML_TRY(ml_gguf_writer_set_bool(w, KEY("add_bos_token"), ml_tokenizer_add_bos(t), err));
    if (ml_tokenizer_add_eos(t)) ML_TRY(ml_gguf_writer_set_bool(w, KEY("add_eos_token"), true, err));
    ML_TRY(put_ends(w, t, err));
    if (scored) ML_TRY(ml_gguf_writer_set_bool(w, KEY("add_space_prefix"), ml_tokenizer_space_prefix(t), err));
    const char *chat_template = ml_tokenizer_chat_template(t), *chat_format = ml_tokenizer_chat_format(t);
    if (chat_template) ML_TRY(ml_gguf_writer_set_text(w, CHAT_TEMPLATE_KEY, chat_template, err));
    return chat_format ? ml_gguf_writer_set_text(w, CHAT_FORMAT_KEY, chat_format, err) : ML_OK;
}
