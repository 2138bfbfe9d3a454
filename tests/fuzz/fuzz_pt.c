/* Any bytes as a PyTorch checkpoint of either format: refused, or read within their bounds.
 *   cmake -B build/fuzz -DCMAKE_C_COMPILER=clang -DMOONLIGHT_FUZZ=ON
 *   cmake --build build/fuzz --target fuzz_pt && build/fuzz/tests/fuzz_pt -max_total_time=60 */
#include "base/alloc.h"
#include "format/pt.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ml_error err;
    ml_pt *pt;
    if (ml_pt_open_memory(&pt, data, size, "fuzz", &err) != ML_OK) return 0;
    for (size_t i = 0; i < ml_pt_count(pt); i++) {
        const ml_pt_tensor *t = ml_pt_at(pt, i);
        if ((size_t)t->n_element > size || ml_pt_find(pt, t->name) != t) abort();
        float *values = malloc((size_t)t->n_element * sizeof *values + 1);
        if (!values || ml_pt_read_all_f32(t, values, &err) != ML_OK) abort();
        free(values);
    }
    ml_pt_close(pt);
    return 0;
}
