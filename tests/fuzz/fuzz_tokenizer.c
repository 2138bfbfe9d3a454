/* Any bytes as a tokenizer file (tokenizer.json or tiktoken), and as text for what opened: refused, or ids that give
 * the bytes back. cmake -B build/fuzz -DCMAKE_C_COMPILER=clang -DMOONLIGHT_FUZZ=ON cmake --build
 * build/fuzz --target fuzz_tokenizer && build/fuzz/tests/fuzz_tokenizer -max_total_time=60 tests/golden */
#include "base/alloc.h"
#include "token/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(const ml_tokenizer *t, const char *text, size_t n)
{
    ml_error err;
    ml_ids ids = { 0 };
    char *back;
    size_t n_back;
    ml_status status = ml_tokenizer_encode(t, text, n, true, &ids, &err);
    bool keeps_text = ml_tokenizer_unk(t) < 0 && !ml_tokenizer_is_nfc(t) && !ml_tokenizer_is_sentencepiece(t);
    if (status == ML_OK && keeps_text) {
        if (ml_tokenizer_decode(t, ids.id, ids.n, false, &back, &n_back, &err) != ML_OK) abort();
        if (n_back != n || memcmp(back, text, n) != 0) abort();
        ml_free(back);
    }
    ml_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ml_error err;
    ml_tokenizer *t;
    char path[64];
    int fd = memfd_create("tokenizer", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    for (int given = 0; given < 2; given++) {
        ml_tokenizer_extra extra = { .pattern = given ? "moonlight" : NULL };
        if (ml_tokenizer_open_with(path, &extra, &t, &err) != ML_OK) continue;
        round_trip(t, (const char *)data, size);
        ml_tokenizer_free(t);
    }
    close(fd);
    return 0;
}
