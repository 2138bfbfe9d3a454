/* Any bytes as a GGUF file, and as the tokenizer in one: refused, or read within their bounds.
 *   cmake -B build/fuzz -DCMAKE_C_COMPILER=clang -DMOONLIGHT_FUZZ=ON
 *   cmake --build build/fuzz --target fuzz_gguf && build/fuzz/tests/fuzz_gguf -max_total_time=60 */
#include "base/alloc.h"
#include "format/gguf_tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static double touch_value(const ml_gguf_value *v)
{
    double sum = 0;
    const char *text;
    size_t at = 0, n, count = 0;
    if (v->element == ML_GGUF_TEXT) {
        while (ml_gguf_next_text(v, &at, &text, &n)) {
            if (n) sum += text[0] + text[n - 1];
            count++;
        }
        if (count != v->n) abort();
    } else {
        for (size_t i = 0; i < v->n; i++) sum += ml_gguf_number(v, i);
    }
    return sum;
}

static void use_tokenizer(const ml_tokenizer *t, const char *text, size_t n)
{
    ml_error err;
    ml_ids ids = { 0 };
    char *back;
    size_t n_back;
    if (ml_tokenizer_encode(t, text, n, true, &ids, &err) == ML_OK) {
        if (ml_tokenizer_decode(t, ids.id, ids.n, false, &back, &n_back, &err) != ML_OK) abort();
        if (ml_tokenizer_unk(t) < 0 && (n_back != n || memcmp(back, text, n) != 0)) abort();
        ml_free(back);
    }
    ml_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ml_error err;
    ml_gguf *g;
    ml_tokenizer *t;
    if (ml_gguf_open_memory(&g, data, size, "fuzz", &err) != ML_OK) return 0;
    size_t n_covered = 0;
    double sum = 0;
    for (size_t i = 0; i < ml_gguf_key_count(g); i++) sum += touch_value(ml_gguf_key_at(g, i));
    for (size_t i = 0; i < ml_gguf_count(g); i++) {
        const ml_gguf_tensor *tensor = ml_gguf_at(g, i);
        if (ml_gguf_find(g, tensor->name) != tensor) abort();
        if (tensor->n_bytes) sum += tensor->data[0] + tensor->data[tensor->n_bytes - 1];
        n_covered += tensor->n_bytes;
    }
    if (n_covered > size) abort();
    if (ml_gguf_tokenizer(g, &t, &err) == ML_OK) {
        use_tokenizer(t, (const char *)data, size);
        ml_tokenizer_free(t);
    }
    ml_gguf_close(g);
    volatile double sink = sum; // so that the reads stay
    (void)sink;
    return 0;
}
