/* Any bytes as a model's file (GGUF or PyTorch checkpoint): refused, or its weights can be read as the metadata says.
 *   cmake -B build/fuzz -DCMAKE_C_COMPILER=clang -DMOONLIGHT_FUZZ=ON
 *   cmake --build build/fuzz --target fuzz_model && build/fuzz/tests/fuzz_model -max_total_time=60 */
#include "format/gguf_source.h"
#include "format/pt_source.h"
#include "model/model.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void bind(const ml_config *config, ml_weight_source *source, size_t size)
{
    ml_error err;
    ml_model *m;
    if (ml_model_bind(config, source, &m, &err) != ML_OK) {
        source->free(source);
        return;
    }
    for (size_t i = 0; i < m->n_weight; i++) {
        const ml_weight *w = &m->weight[i];
        int64_t n = ml_weight_count(w);
        if (n < 0 || (uint64_t)n > 4 * (uint64_t)size) abort(); // two bits an element at least
    }
    ml_model_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ml_error err;
    ml_config config;
    ml_weight_source *source;
    if (ml_gguf_is(data, size)) {
        ml_gguf *g;
        if (ml_gguf_open_memory(&g, data, size, "fuzz", &err) != ML_OK) return 0;
        if (ml_gguf_source_make(g, &config, &source, &err) == ML_OK)
            bind(&config, source, size);
        else
            ml_gguf_close(g);
        return 0;
    }
    ml_pt *pt;
    if (ml_pt_open_memory(&pt, data, size, "fuzz", &err) != ML_OK) return 0;
    if (ml_pt_source_make(pt, "fuzz", &config, &source, &err) == ML_OK)
        bind(&config, source, size);
    else
        ml_pt_close(pt);
    return 0;
}
