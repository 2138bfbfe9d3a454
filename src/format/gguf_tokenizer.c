#include "format/gguf_tokenizer.h"

#include "base/alloc.h"
#include "format/gguf_vocab.h"
#include "format/name_table.h"
#include "token/build.h"
#include "token/bytemap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPACE "\xE2\x96\x81" /* U+2581 */

/* What is read. */
typedef struct {
    const ml_gguf *g;
    ml_tokenizer *t;
    const ml_gguf_value *tokens, *types, *scores; /* types, scores: NULL when there are none */
    int64_t n;
    ml_name_table ids; /* text of a token -> id, for merges; a text that is there twice has the lower */
    char *texts;       /* of the table */
    int32_t *id_of;    /* [n] id of entry i of the table */
    ml_chars scratch;
} reader;

/* An array with an entry for each token; *out NULL when it is missing and need not be there. */
static ml_status get_per_token(const reader *r, const char *key, ml_gguf_type type, bool needed,
                               const ml_gguf_value **out, ml_error *err)
{
    *out = NULL;
    if (!needed && !ml_gguf_find_key(r->g, key)) return ML_OK;
    ML_TRY(ml_gguf_get_array(r->g, key, type, out, err));
    if ((*out)->n == r->tokens->n) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%.300s: key %s: expected %zu values, one for each token, found %zu",
                   ml_gguf_path(r->g), key, r->tokens->n, (*out)->n);
}

static ml_status get_arrays(reader *r, bool scored, ml_error *err)
{
    ML_TRY(ml_gguf_get_array(r->g, KEY("tokens"), ML_GGUF_TEXT, &r->tokens, err));
    if (!r->tokens->n || r->tokens->n > ML_GGUF_MAX_VOCAB) {
        return ml_fail(err, ML_EFORMAT, "%.300s: key " KEY("tokens") ": expected 1 to %d tokens, found %zu",
                       ml_gguf_path(r->g), ML_GGUF_MAX_VOCAB, r->tokens->n);
    }
    r->n = (int64_t)r->tokens->n;
    ML_TRY(get_per_token(r, KEY("token_type"), ML_GGUF_I32, false, &r->types, err));
    return get_per_token(r, KEY("scores"), ML_GGUF_F32, scored, &r->scores, err);
}

static int type_of(const reader *r, int64_t id)
{
    int64_t type = r->types ? ml_gguf_integer(r->types, (size_t)id) : TYPE_NORMAL;
    return type >= TYPE_NORMAL && type <= TYPE_BYTE ? (int)type : TYPE_UNUSED;
}

/* An entry that stands in texts as it is, or not at all. */
static ml_status put_literal(reader *r, int64_t id, int type, const char *text, size_t n, ml_error *err)
{
    int flags = type == TYPE_USER_DEFINED                      ? ML_PIECE_ADDED
                : type == TYPE_CONTROL || type == TYPE_UNKNOWN ? ML_PIECE_ADDED | ML_PIECE_SPECIAL
                                                               : ML_PIECE_LITERAL;
    char empty[32];
    if (!n) {
        n = (size_t)snprintf(empty, sizeof empty, "[EMPTY_%lld]", (long long)id);
        text = empty;
        flags = ML_PIECE_LITERAL;
    }
    return ml_tokenizer_put_piece(r->t, id, text, n, flags, err);
}

static ml_status put_mapped(reader *r, int64_t id, const char *text, size_t n, ml_error *err)
{
    bool mapped = false;
    int type = type_of(r, id);
    r->scratch.n = 0;
    if (type == TYPE_NORMAL && n) ML_TRY(ml_bytemap_decode(text, n, &r->scratch, &mapped, err));
    if (mapped) return ml_tokenizer_put_piece(r->t, id, r->scratch.data, r->scratch.n, 0, err);
    return put_literal(r, id, type == TYPE_NORMAL ? TYPE_UNUSED : type, text, n, err);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "<0x0A>" */
static int parse_byte(const char *text, size_t n)
{
    if (n != 6 || memcmp(text, "<0x", 3) || text[5] != '>') return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static ml_status put_spaced(reader *r, const char *text, size_t n, ml_error *err)
{
    const size_t n_space = strlen(SPACE);
    r->scratch.n = 0;
    for (size_t i = 0; i < n;) {
        bool space = n - i >= n_space && !memcmp(text + i, SPACE, n_space);
        ML_TRY(ml_chars_append(&r->scratch, space ? " " : text + i, 1, err));
        i += space ? n_space : 1;
    }
    return ML_OK;
}

static ml_status put_scored(reader *r, int64_t id, const char *text, size_t n, ml_error *err)
{
    int type = type_of(r, id);
    if (type == TYPE_BYTE) {
        int byte = parse_byte(text, n);
        if (byte < 0) {
            return ml_fail(err, ML_EFORMAT, "token %lld: is of type byte, expected a text like <0x0A>", (long long)id);
        }
        return ml_tokenizer_put_byte(r->t, id, (uint8_t)byte, err);
    }
    if (type != TYPE_NORMAL || !n) return put_literal(r, id, n ? type : TYPE_UNUSED, text, n, err);
    ML_TRY(put_spaced(r, text, n, err));
    ML_TRY(ml_tokenizer_put_piece(r->t, id, r->scratch.data, r->scratch.n, 0, err));
    return ml_tokenizer_set_score(r->t, (int32_t)id, (float)ml_gguf_number(r->scores, (size_t)id), err);
}

static ml_status put_tokens(reader *r, bool scored, ml_error *err)
{
    const char *text;
    size_t at = 0, n;
    for (int64_t id = 0; ml_gguf_next_text(r->tokens, &at, &text, &n); id++) {
        ml_status status = scored ? put_scored(r, id, text, n, err) : put_mapped(r, id, text, n, err);
        if (status != ML_OK) return ml_fail_prefix(err, "%.300s: key " KEY("tokens"), ml_gguf_path(r->g));
    }
    return ML_OK;
}

static ml_status index_tokens(reader *r, ml_error *err)
{
    const char *text;
    size_t at = 0, n, used = 0;
    r->texts = ml_alloc(r->tokens->n_bytes + 1); // 8 bytes before each text are more than the 0 behind it
    r->id_of = ml_alloc((size_t)r->n * sizeof *r->id_of);
    if (!r->texts || !r->id_of) return ml_fail_memory(err, r->tokens->n_bytes, "the texts of a vocabulary");
    for (int32_t id = 0; ml_gguf_next_text(r->tokens, &at, &text, &n); id++) {
        bool added;
        if (memchr(text, 0, n)) continue;
        char *copy = r->texts + used;
        memcpy(copy, text, n);
        copy[n] = 0;
        used += n + 1;
        ML_TRY(ml_name_table_add(&r->ids, copy, &added, err));
        if (added) r->id_of[r->ids.n - 1] = id;
    }
    return ML_OK;
}

/* The id of a text, -1 when it is none. */
static ml_status find_token(reader *r, const char *text, size_t n, int32_t *id, ml_error *err)
{
    size_t index;
    r->scratch.n = 0;
    ML_TRY(ml_chars_append(&r->scratch, text, n, err));
    ML_TRY(ml_chars_append(&r->scratch, "", 1, err));
    *id = ml_name_table_find(&r->ids, r->scratch.data, &index) ? r->id_of[index] : -1;
    return ML_OK;
}

static ml_status put_merge(reader *r, size_t i, const char *text, size_t n, ml_chars *whole, ml_error *err)
{
    const char *space = n > 1 ? memchr(text + 1, ' ', n - 1) : NULL;
    if (!space || space + 1 == text + n || memchr(text, 0, n)) {
        return ml_fail(err, ML_EFORMAT, "merge %zu: expected two tokens with a space between", i);
    }
    size_t n_left = (size_t)(space - text);
    int32_t left, right, result;
    whole->n = 0;
    ML_TRY(ml_chars_append(whole, text, n_left, err));
    ML_TRY(ml_chars_append(whole, space + 1, n - n_left - 1, err));
    ML_TRY(find_token(r, text, n_left, &left, err));
    ML_TRY(find_token(r, space + 1, n - n_left - 1, &right, err));
    ML_TRY(find_token(r, whole->data, whole->n, &result, err));
    if (left < 0 || right < 0 || result < 0) {
        return ml_fail(err, ML_EFORMAT, "merge %zu: \"%.*s\" names a text that is no token", i,
                       (int)(n < 100 ? n : 100), text);
    }
    return ml_tokenizer_put_merge(r->t, left, right, result, err);
}

static ml_status put_merges(reader *r, ml_error *err)
{
    const ml_gguf_value *merges;
    ML_TRY(ml_gguf_get_array(r->g, KEY("merges"), ML_GGUF_TEXT, &merges, err));
    if (merges->n > ML_GGUF_MAX_VOCAB) {
        return ml_fail(err, ML_EFORMAT, "%.300s: key " KEY("merges") ": expected at most %d, found %zu",
                       ml_gguf_path(r->g), ML_GGUF_MAX_VOCAB, merges->n);
    }
    ML_TRY(index_tokens(r, err));
    ml_chars whole = { 0 };
    const char *text;
    size_t at = 0, n, i = 0;
    ml_status status = ML_OK;
    while (status == ML_OK && ml_gguf_next_text(merges, &at, &text, &n)) {
        status = put_merge(r, i++, text, n, &whole, err);
        if (status != ML_OK) ml_fail_prefix(err, "%.300s: key " KEY("merges"), ml_gguf_path(r->g));
    }
    ml_chars_free(&whole);
    return status;
}

static ml_status get_bool(const reader *r, const char *key, bool otherwise, bool *out, ml_error *err)
{
    *out = otherwise;
    return ml_gguf_find_key(r->g, key) ? ml_gguf_get_bool(r->g, key, out, err) : ML_OK;
}

static ml_status read_bpe(reader *r, bool *add_bos, ml_error *err)
{
    char *name;
    ML_TRY(ml_gguf_copy_text(r->g, KEY("pre"), &name, err));
    int i = 0;
    while (i < ML_GGUF_N_PRE && strcmp(name, ml_gguf_pres[i].name)) i++;
    ml_status status = ML_OK;
    if (i == ML_GGUF_N_PRE) {
        status =
            ml_fail(err, ML_EINVAL,
                    "%.300s: key " KEY("pre") ": the split pattern of \"%.100s\" is not known here: use the model's "
                                              "tokenizer.json",
                    ml_gguf_path(r->g), name);
    }
    ml_free(name);
    ML_TRY(status);
    *add_bos = ml_gguf_pres[i].add_bos;
    for (int k = 0; k < ML_GGUF_MAX_STAGE && ml_gguf_pres[i].split[k]; k++) {
        ML_TRY(ml_tokenizer_put_split(r->t, ml_gguf_pres[i].split[k], err));
    }
    ml_tokenizer_set_whole_piece(r->t, ml_gguf_pres[i].whole_piece);
    ml_tokenizer_set_nfc(r->t, ml_gguf_pres[i].nfc);
    ML_TRY(put_tokens(r, false, err));
    /* Some files of tiktoken vocabularies leave the merges out: the ids are the ranks. */
    bool ranks = !strcmp(ml_gguf_pres[i].name, "kimi-k2") && !ml_gguf_find_key(r->g, KEY("merges"));
    return ranks ? ml_tokenizer_derive_merges(r->t, err) : put_merges(r, err);
}

static ml_status read_scored(reader *r, bool *add_bos, ml_error *err)
{
    bool space_prefix;
    ML_TRY(get_bool(r, KEY("add_space_prefix"), true, &space_prefix, err));
    ml_tokenizer_use_pieces(r->t, space_prefix ? ML_SPACE_EACH : ML_SPACE_NEVER);
    ml_tokenizer_set_fuse_unk(r->t, true);
    *add_bos = true;
    return put_tokens(r, true, err);
}

/* The id at a key; -1 when it is missing or says that there is none. */
static ml_status get_id(const reader *r, const char *key, int32_t *out, ml_error *err)
{
    int64_t id;
    *out = -1;
    if (!ml_gguf_find_key(r->g, key)) return ML_OK;
    ML_TRY(ml_gguf_get_integer(r->g, key, -1, UINT32_MAX, &id, err));
    if (id < 0 || id == UINT32_MAX) return ML_OK;
    ML_TRY(ml_gguf_get_integer(r->g, key, 0, r->n - 1, &id, err));
    *out = (int32_t)id;
    return ML_OK;
}

static ml_status read_roles(reader *r, ml_error *err)
{
    static const struct {
        const char *key;
        ml_token_role role;
    } roles[] = {
        { KEY("bos_token_id"), ML_ROLE_BOS },
        { KEY("eos_token_id"), ML_ROLE_EOS },
        { KEY("unknown_token_id"), ML_ROLE_UNK },
        { KEY("padding_token_id"), ML_ROLE_PAD },
    };
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        int32_t id;
        ML_TRY(get_id(r, roles[i].key, &id, err));
        if (id >= 0) ml_tokenizer_set_role(r->t, roles[i].role, id);
    }
    return ML_OK;
}

/* End of turn, end of message, and a list of our own: each ends an answer. */
static ml_status read_ends(reader *r, ml_error *err)
{
    enum { MOST_ENDS = 1024 };
    static const char *const keys[] = { KEY("eot_token_id"), KEY("eom_token_id") };
    const ml_gguf_value *list;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int32_t id;
        ML_TRY(get_id(r, keys[i], &id, err));
        if (id >= 0) ML_TRY(ml_tokenizer_put_end(r->t, id, err));
    }
    if (!ml_gguf_find_key(r->g, END_IDS_KEY)) return ML_OK;
    ML_TRY(ml_gguf_get_array(r->g, END_IDS_KEY, ML_GGUF_I32, &list, err));
    if (list->n > MOST_ENDS) {
        return ml_fail(err, ML_EFORMAT, "%.300s: key " END_IDS_KEY ": expected at most %d ids, found %zu",
                       ml_gguf_path(r->g), MOST_ENDS, list->n);
    }
    for (size_t i = 0; i < list->n; i++) {
        int64_t id = ml_gguf_integer(list, i);
        if (id < 0 || id >= (int64_t)r->tokens->n) {
            return ml_fail(err, ML_EFORMAT, "%.300s: key " END_IDS_KEY ": expected ids below %zu, found %lld",
                           ml_gguf_path(r->g), r->tokens->n, (long long)id);
        }
        ML_TRY(ml_tokenizer_put_end(r->t, (int32_t)id, err));
    }
    return ML_OK;
}

static ml_status read_text(reader *r, const char *key,
                           ml_status (*set)(ml_tokenizer *t, const char *text, ml_error *err), ml_error *err)
{
    char *text;
    if (!ml_gguf_find_key(r->g, key)) return ML_OK;
    ML_TRY(ml_gguf_copy_text(r->g, key, &text, err));
    ml_status status = set(r->t, text, err);
    ml_free(text);
    return status;
}

static ml_status fill(reader *r, bool scored, ml_error *err)
{
    bool add_bos, add_eos;
    ML_TRY(get_arrays(r, scored, err));
    ML_TRY(scored ? read_scored(r, &add_bos, err) : read_bpe(r, &add_bos, err));
    ML_TRY(get_bool(r, KEY("add_bos_token"), add_bos, &add_bos, err));
    ML_TRY(get_bool(r, KEY("add_eos_token"), false, &add_eos, err));
    ml_tokenizer_set_around(r->t, add_bos, add_eos);
    ML_TRY(read_roles(r, err));
    ML_TRY(read_ends(r, err));
    ML_TRY(read_text(r, CHAT_TEMPLATE_KEY, ml_tokenizer_set_chat_template, err));
    ML_TRY(read_text(r, CHAT_FORMAT_KEY, ml_tokenizer_set_chat_format, err));
    if (ml_tokenizer_finish(r->t, err) == ML_OK) return ML_OK;
    return ml_fail_prefix(err, "%.300s", ml_gguf_path(r->g));
}

ml_status ml_gguf_tokenizer(const ml_gguf *g, ml_tokenizer **out, ml_error *err)
{
    const char *model;
    size_t n;
    *out = NULL;
    ML_TRY(ml_gguf_get_text(g, KEY("model"), &model, &n, err));
    bool bpe = n == 4 && !memcmp(model, "gpt2", n), scored = n == 5 && !memcmp(model, "llama", n);
    if (!bpe && !scored) {
        return ml_fail(err, ML_EINVAL, "%.300s: key " KEY("model") ": expected gpt2 or llama, found \"%.*s\"",
                       ml_gguf_path(g), (int)(n < 40 ? n : 40), model);
    }
    reader r = { .g = g };
    ML_TRY(ml_tokenizer_make(scored ? "sentencepiece" : "gguf", &r.t, err));
    ml_status status = fill(&r, scored, err);
    ml_name_table_free(&r.ids);
    ml_free(r.texts);
    ml_free(r.id_of);
    ml_chars_free(&r.scratch);
    if (status == ML_OK) {
        *out = r.t;
    } else {
        ml_tokenizer_free(r.t);
    }
    return status;
}

ml_status ml_gguf_tokenizer_open(const char *path, ml_tokenizer **out, ml_error *err)
{
    ml_gguf *g;
    *out = NULL;
    ML_TRY(ml_gguf_open(&g, path, err));
    ml_status status = ml_gguf_tokenizer(g, out, err);
    ml_gguf_close(g);
    return status;
}
