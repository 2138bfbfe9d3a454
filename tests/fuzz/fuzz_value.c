/* Any bytes as JSON: accepted exactly where jansson accepts them, as the same value, save for stated differences.
 *   cmake -B build/fuzz -DCMAKE_C_COMPILER=clang -DMOONLIGHT_FUZZ=ON -DMOONLIGHT_OPENMP=OFF
 *   cmake --build build/fuzz --target fuzz_value && build/fuzz/tests/fuzz_value -max_total_time=60 */
#include "data/value.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Integers beyond 64 bits and keys with a 0 byte are errors of jansson's only; depth and the length of numbers are
 * bounded here. */
static bool may_differ(const json_error_t *theirs, const ml_error *ours)
{
    enum json_error_code code = json_error_code(theirs);
    return code == json_error_numeric_overflow || code == json_error_null_byte_in_key ||
           strstr(ours->message, "less depth") || strstr(ours->message, "is too long");
}

/* What the one member found is must be what the whole value has there. */
static void check_member(const char *text, size_t n, const ml_value *value, const char *key)
{
    ml_error err;
    ml_json_member m;
    if (ml_json_find_member(text, n, key, &m, &err) != ML_OK) abort();
    const ml_value *want = ml_value_find(value, key);
    if (m.is_object != (value->kind == ML_VALUE_OBJECT) || !want != !m.member) abort();
    if (!want) return;
    if (m.is_text != (want->kind == ML_VALUE_TEXT)) abort();
    if (!m.is_text) return;
    char *out = malloc(m.n_bytes + 1);
    size_t n_out = ml_json_unescape(m.member, m.n_bytes, out);
    if (n_out != want->n || (n_out && memcmp(out, want->text, n_out) != 0)) abort();
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ml_arena arena;
    ml_error err = { 0 };
    json_error_t problem;
    const ml_value *value;
    const char *text = (const char *)data;
    if (memchr(data, 0, size)) return 0; /* jansson takes it for the end of the text */
    if (!arena.base && ml_arena_init(&arena, 1 << 26, &err) != ML_OK) return 0;
    ml_arena_release(&arena, 0);
    ml_status status = ml_value_parse(&arena, text, size, &value, &err);
    json_t *want = json_loadb(size ? text : "", size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &problem);
    if ((status == ML_OK) != (want != NULL) && !may_differ(&problem, &err)) abort();
    if (status == ML_OK && want) {
        json_t *found = ml_value_to_json(value);
        if (!found || !json_equal(found, want)) abort();
        json_decref(found);
    }
    json_decref(want);
    if (status == ML_OK) check_member(text, size, value, "a");
    if (status == ML_OK) check_member(text, size, value, "text");
    return 0;
}
