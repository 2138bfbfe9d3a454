/* Any bytes as a JSON schema, and behind a zero byte how to walk through the grammar that it makes: refused, or
 * whatever is made is JSON.  What may end is a whole value. cmake -B build/fuzz -DCMAKE_C_COMPILER=clang
 * -DMOONLIGHT_FUZZ=ON cmake --build build/fuzz --target fuzz_schema build/fuzz/tests/fuzz_schema -max_total_time=60
 * -dict=tests/fuzz/schema.dict CORPUS tests/fuzz/schema */
#include "grammar/matcher.h"
#include "grammar/schema.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_TEXT = 400 };

/* Names may come twice in a map, which is JSON all the same. */
static void check_value(const char *text, size_t n)
{
    json_error_t error;
    json_t *value = json_loadb(text, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    /* Numbers beyond the range of a double are JSON that the library does not read. */
    if (!value && json_error_code(&error) != json_error_numeric_overflow) abort();
    json_decref(value);
}

/* The n-th byte that leads on, as the walk says. */
static bool step(ml_matcher *m, uint8_t which, int32_t *state, char *out)
{
    ml_error err;
    int32_t next[256];
    int n = 0, byte[256];
    for (int b = 0; b < 256; b++) {
        if (ml_matcher_step(m, *state, b, &next[b], &err) != ML_OK) return false;
        if (next[b] != ML_STATE_DEAD) byte[n++] = b;
    }
    if (n == 0) return false;
    *out = (char)byte[which % n];
    *state = next[byte[which % n]];
    return true;
}

static void walk(const ml_grammar *g, const uint8_t *way, size_t n_way)
{
    ml_matcher *m;
    ml_error err;
    char text[MOST_TEXT];
    size_t n = 0;
    if (ml_matcher_make(g, &m, &err) != ML_OK) return;
    int32_t state = ml_matcher_start(m);
    for (;;) {
        if (ml_matcher_accepts(m, state)) check_value(text, n);
        if (!ml_matcher_accepts(m, state) && !ml_matcher_continues(m, state)) abort(); /* a dead end */
        if (n == MOST_TEXT || n == n_way || !step(m, way[n], &state, &text[n])) break;
        n++;
    }
    ml_matcher_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = memchr(data, 0, size);
    size_t n = zero ? (size_t)(zero - data) : size;
    json_t *schema = json_loadb((const char *)data, n, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    ml_grammar g;
    ml_error err;
    if (!schema) return 0;
    if (ml_schema_compile(schema, &g, &err) == ML_OK) walk(&g, zero ? zero + 1 : data, zero ? size - n - 1 : size);
    ml_grammar_free(&g);
    json_decref(schema);
    return 0;
}
