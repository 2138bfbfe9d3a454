/* Writes the table of src/token/char_class.h: what the split patterns tell apart, for every character, as the PCRE2
 * beside which it will run sees it.
 *
 *   make_char_class OUT.c */
#include "token/char_class.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_CHAR = 0x110000, BLOCK = 1 << ML_CHAR_BLOCK_BITS, N_BLOCK = N_CHAR / BLOCK };

static const struct {
    const char *regex;
    uint8_t bit;
} classes[] = {
    { "[\\p{Lu}\\p{Lt}]+", ML_CHAR_UPPER },
    { "\\p{Ll}+", ML_CHAR_LOWER },
    { "[\\p{Lm}\\p{Lo}]+", ML_CHAR_CASELESS },
    { "\\p{N}+", ML_CHAR_NUMBER },
    { "\\p{M}+", ML_CHAR_MARK },
    { "\\p{sc:Han}+", ML_CHAR_HAN },
    /* Unicode's White_Space; PCRE2's own \s has U+180E too */
    { "[\\t-\\r\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}]+",
      ML_CHAR_SPACE },
};

static uint8_t text[4 * N_CHAR];
static uint32_t offset_of[N_CHAR + 1]; /* of each character in text */
static uint8_t class_of[N_CHAR];

static size_t put_utf8(uint32_t c, uint8_t *p)
{
    if (c < 0x80) {
        p[0] = (uint8_t)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6) p[i] = (uint8_t)(0x80 | (c & 0x3F));
    p[0] = (uint8_t)((0xF00 >> n) | c);
    return n;
}

static int mark(const char *regex, uint8_t bit, size_t n)
{
    int code, found;
    size_t at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    if (!re || !match) return -1;
    (void)pcre2_jit_compile(re, PCRE2_JIT_COMPLETE);
    const size_t *span = pcre2_get_ovector_pointer(match);
    uint32_t c = 0;
    for (at = 0; (found = pcre2_match(re, text, n, at, PCRE2_NO_UTF_CHECK, match, NULL)) > 0; at = span[1]) {
        while (offset_of[c] < span[0]) c++;
        for (; offset_of[c] < span[1]; c++) class_of[c] |= bit;
    }
    pcre2_match_data_free(match);
    pcre2_code_free(re);
    return found == PCRE2_ERROR_NOMATCH ? 0 : -1;
}

static void print_table(FILE *out)
{
    static uint16_t block_of[N_BLOCK], distinct[N_BLOCK];
    unsigned n_distinct = 0;
    for (unsigned b = 0; b < N_BLOCK; b++) {
        unsigned k = 0;
        while (k < n_distinct && memcmp(class_of + distinct[k] * BLOCK, class_of + b * BLOCK, BLOCK) != 0) k++;
        if (k == n_distinct) distinct[n_distinct++] = (uint16_t)b;
        block_of[b] = (uint16_t)k;
    }
    fprintf(out, "/* Written by cmake/make_char_class.c. */\n#include \"token/char_class.h\"\n\n");
    fprintf(out, "const uint16_t ml_char_block[%d] = {", N_BLOCK);
    for (unsigned b = 0; b < N_BLOCK; b++) fprintf(out, "%s%u,", b % 32 ? "" : "\n", block_of[b]);
    fprintf(out, "\n};\n\nconst uint8_t ml_char_classes[][%d] = {\n", BLOCK);
    for (unsigned k = 0; k < n_distinct; k++) {
        fputs("{", out);
        for (unsigned i = 0; i < BLOCK; i++) fprintf(out, "%s%u", i ? "," : "", class_of[distinct[k] * BLOCK + i]);
        fputs("},\n", out);
    }
    fputs("};\n", out);
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    size_t n = 0;
    for (uint32_t c = 0; c < N_CHAR; c++) {
        offset_of[c] = (uint32_t)n;
        if (c < 0xD800 || c > 0xDFFF) n += put_utf8(c, text + n); // surrogates have no UTF-8
    }
    offset_of[N_CHAR] = (uint32_t)n;
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        if (mark(classes[i].regex, classes[i].bit, n) == 0) continue;
        fprintf(stderr, "make_char_class: PCRE2 cannot match %s\n", classes[i].regex);
        return 1;
    }
    FILE *out = fopen(argv[1], "w");
    if (!out) return 1;
    print_table(out);
    return fclose(out) ? 1 : 0;
}
