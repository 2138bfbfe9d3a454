/* tiktoken: lines of `base64(token) rank`.  The rank is the id; the split pattern and the special tokens are stored
 * elsewhere. */
#include "token/read.h"

#include "base/alloc.h"
#include "base/file.h"
#include "token/internal.h"

#include <stdlib.h>
#include <string.h>

enum { MOONLIGHT_RANKS = 163584, MOONLIGHT_RESERVED = 256 };

static int base64_value(uint8_t c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decode n characters into out (room for n); false when they are not base64. */
static bool decode_base64(const uint8_t *p, size_t n, uint8_t *out, size_t *n_out)
{
    if (!n || n % 4) return false;
    size_t n_pad = p[n - 1] == '=' ? (p[n - 2] == '=' ? 2 : 1) : 0, k = 0;
    for (size_t i = 0; i < n; i += 4) {
        uint32_t bits = 0;
        for (size_t j = i; j < i + 4; j++) {
            int value = j >= n - n_pad ? 0 : base64_value(p[j]);
            if (value < 0) return false;
            bits = bits << 6 | (uint32_t)value;
        }
        out[k++] = (uint8_t)(bits >> 16);
        out[k++] = (uint8_t)(bits >> 8);
        out[k++] = (uint8_t)bits;
    }
    *n_out = k - n_pad;
    return true;
}

static bool parse_rank(const uint8_t *p, size_t n, int64_t *rank)
{
    if (!n || n > 10) return false;
    *rank = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9') return false;
        *rank = *rank * 10 + (p[i] - '0');
    }
    return true;
}

static ml_status read_line(ml_tokenizer *t, const uint8_t *p, size_t n, size_t line, ml_chars *scratch, ml_error *err)
{
    if (n && p[n - 1] == '\r') n--;
    if (!n) return ML_OK;
    const uint8_t *space = memchr(p, ' ', n);
    size_t n_code = space ? (size_t)(space - p) : n, n_bytes = 0;
    ML_TRY(ml_grow((void **)&scratch->data, &scratch->capacity, n_code, 1, err));
    if (!decode_base64(p, n_code, (uint8_t *)scratch->data, &n_bytes)) {
        return ml_fail(err, ML_EFORMAT,
                       "line %zu: expected a token in base64 and its rank, or a tokenizer.json, found \"%.*s\"", line,
                       (int)(n_code < 60 ? n_code : 60), (const char *)p);
    }
    int64_t rank;
    if (!space || !parse_rank(space + 1, n - n_code - 1, &rank)) {
        return ml_fail(err, ML_EFORMAT, "line %zu: expected a rank behind the token: the file is cut short or damaged",
                       line);
    }
    ml_status status = ml_tokenizer_put_piece(t, rank, scratch->data, n_bytes, 0, err);
    return status == ML_OK ? ML_OK : ml_fail_prefix(err, "line %zu", line);
}

static ml_status read_ranks(ml_tokenizer *t, const ml_map *map, ml_error *err)
{
    ml_chars scratch = { 0 };
    ml_status status = ML_OK;
    size_t at = 0;
    for (size_t line = 1; at < map->size && status == ML_OK; line++) {
        const uint8_t *end = memchr(map->data + at, '\n', map->size - at);
        size_t n = end ? (size_t)(end - (map->data + at)) : map->size - at;
        status = read_line(t, map->data + at, n, line, &scratch, err);
        at += n + 1;
    }
    ml_chars_free(&scratch);
    return status;
}

/* Moonlight's by its number of ranks, or by the class that its tokenizer_config.json names. */
static bool is_moonlight(const ml_tokenizer *t, const json_t *config)
{
    if (t->n_pieces == MOONLIGHT_RANKS) return true;
    const json_t *map = json_object_get(json_object_get(config, "auto_map"), "AutoTokenizer");
    const char *class = json_string_value(json_is_array(map) ? json_array_get(map, 0) : map);
    return class && (!strcmp(class, "tokenization_moonshot.TikTokenTokenizer") ||
                     !strcmp(class, "tokenization_kimi.TikTokenTokenizer"));
}

/* The 256 ids behind the ranks: what the config does not name is <|reserved_token_{id}|>. */
static ml_status fill_reserved(ml_tokenizer *t, size_t n_ranks, ml_error *err)
{
    for (size_t id = n_ranks; id < n_ranks + MOONLIGHT_RESERVED; id++) {
        if (id < t->n_pieces && t->pieces[id].flags) continue;
        char text[64];
        int n = snprintf(text, sizeof text, "<|reserved_token_%zu|>", id);
        ML_TRY(ml_tokenizer_put_piece(t, (int64_t)id, text, (size_t)n, ML_PIECE_ADDED | ML_PIECE_SPECIAL, err));
    }
    return ML_OK;
}

/* Added tokens follow the ranks: at once with Moonlight, whose reserved block begins there, and behind one unused id at
 * most elsewhere (cl100k_base and o200k_base have one).  A wider gap is a file that was cut short at the end of a line.
 * Keys that are no ids are refused where the tokens are put. */
static ml_status check_end(size_t n_ranks, bool moonlight, const ml_read_context *context, ml_error *err)
{
    const json_t *decoder = json_object_get(context->config, "added_tokens_decoder");
    const char *key;
    json_t *token;
    long long first = -1;
    json_object_foreach((json_t *)(uintptr_t)decoder, key, token)
    {
        char *end;
        long long id = strtoll(key, &end, 10);
        if (*key && !*end && (first < 0 || id < first)) first = id;
    }
    if (first <= (long long)n_ranks + !moonlight) return ML_OK;
    return ml_fail(err, ML_EFORMAT,
                   "ranks end at %zu but the first added token is %lld: the file is cut short, or %s is another "
                   "tokenizer's",
                   n_ranks, first, context->config_path);
}

static ml_status put_pattern(ml_tokenizer *t, bool moonlight, const ml_read_context *context, ml_error *err)
{
    const char *stored = json_string_value(json_object_get(context->config, "split_pattern"));
    if (moonlight) stored = "moonlight";
    if (stored && context->pattern && strcmp(stored, context->pattern) != 0) {
        return ml_fail(err, ML_EINVAL, "its split pattern is \"%s\", but \"%s\" was given: leave it out", stored,
                       context->pattern);
    }
    const char *pattern = stored ? stored : context->pattern;
    if (!pattern) {
        return ml_fail(
            err, ML_EINVAL,
            "a tiktoken file does not store its split pattern: give one with --pattern (gpt2, gpt4, moonlight or a "
            "regex), or store it as \"split_pattern\" in tokenizer_config.json beside it");
    }
    return ml_tokenizer_put_split(t, pattern, err);
}

static ml_status fill(ml_tokenizer *t, const ml_map *map, const ml_read_context *context, ml_error *err)
{
    ML_TRY(read_ranks(t, map, err));
    size_t n_ranks = t->n_pieces;
    if (!n_ranks) return ml_fail(err, ML_EFORMAT, "holds no ranks");
    bool moonlight = is_moonlight(t, context->config);
    ML_TRY(check_end(n_ranks, moonlight, context, err));
    ML_TRY(put_pattern(t, moonlight, context, err));
    ML_TRY(ml_tokenizer_derive_merges(t, err));
    ML_TRY(ml_read_added_decoder(t, context, err));
    return moonlight ? fill_reserved(t, n_ranks, err) : ML_OK;
}

ml_status ml_read_tiktoken(const char *path, const ml_read_context *context, ml_tokenizer **out, ml_error *err)
{
    ml_map map;
    ML_TRY(ml_map_open(path, &map, err));
    ml_tokenizer *t = NULL;
    ml_status status = ml_tokenizer_make("tiktoken", &t, err);
    if (status == ML_OK) {
        status = fill(t, &map, context, err);
        if (status != ML_OK) ml_fail_prefix(err, "%s", path);
    }
    ml_map_close(&map);
    if (status != ML_OK) {
        ml_tokenizer_free(t);
        return status;
    }
    *out = t;
    return ML_OK;
}
