/* Any bytes as a config.json: refused, or a configuration that comes back the same from what is written of it.
 *   cmake -B build/fuzz -DCMAKE_C_COMPILER=clang -DMOONLIGHT_FUZZ=ON
 *   cmake --build build/fuzz --target fuzz_config
 *   build/fuzz/tests/fuzz_config -max_total_time=60 -dict=tests/fuzz/config.dict CORPUS tests/fuzz/config */
#include "model/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ml_error err;
    ml_config read, again;
    if (ml_config_parse((const char *)data, size, "fuzz", &read, &err) != ML_OK) return 0;
    json_t *j = ml_config_to_json(&read, ML_F32);
    char *text = json_dumps(j, 0);
    if (!text || ml_config_parse(text, strlen(text), "written", &again, &err) != ML_OK) abort();
    if (!ml_config_same_model(&read, &again, NULL)) abort();
    free(text);
    json_decref(j);
    return 0;
}
