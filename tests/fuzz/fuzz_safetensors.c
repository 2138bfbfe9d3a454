/* Any bytes as a safetensors file: refused, or read within their bounds.
 *   cmake -B build/fuzz -DCMAKE_C_COMPILER=clang -DMOONLIGHT_FUZZ=ON
 *   cmake --build build/fuzz --target fuzz_safetensors && build/fuzz/tests/fuzz_safetensors -max_total_time=60 */
#include "base/alloc.h"
#include "format/safetensors.h"

#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ml_error err;
    ml_safetensors *s;
    if (ml_safetensors_open_memory(&s, data, size, "fuzz", &err) != ML_OK) return 0;
    size_t n_covered = 0;
    for (size_t i = 0; i < ml_safetensors_count(s); i++) {
        const ml_st_tensor *t = ml_safetensors_at(s, i);
        float *values = malloc((size_t)t->n_element * sizeof *values + 1);
        int64_t *integers = malloc((size_t)t->n_element * sizeof *integers + 1);
        if (!values || !integers || ml_safetensors_find(s, t->name) != t) abort();
        if (ml_st_read_all_f32(t, values, &err) != ML_OK) abort();
        (void)ml_st_read_all_i64(t, integers, &err);
        free(values);
        free(integers);
        n_covered += t->n_bytes;
    }
    if (n_covered > size) abort();
    ml_safetensors_close(s);
    return 0;
}
