/* Any bytes as a recipe: refused, or values that come back the same from the options.ini of a run.
 *   cmake -B build/fuzz -DCMAKE_C_COMPILER=clang -DMOONLIGHT_FUZZ=ON
 *   cmake --build build/fuzz --target fuzz_options
 *   build/fuzz/tests/fuzz_options -max_total_time=60 CORPUS recipes */
#include "base/options.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ml_option_row rows[] = {
    { "*", "", "help", ML_OPTION_FLAG, 0, 0, NULL, "off", NULL, "help" },
    { "go", "train", "steps", ML_OPTION_INT, 1, 1e12, NULL, "1000", NULL, "steps" },
    { "go", "train", "recompute", ML_OPTION_FLAG, 0, 0, NULL, "off", NULL, "recompute" },
    { "go", "optim", "lr", ML_OPTION_REAL, 0, 1, NULL, "1e-3", NULL, "rate" },
    { "go", "optim", "schedule", ML_OPTION_CHOICE, 0, 0, "constant|cosine", "cosine", NULL, "schedule" },
    { "go", "data", "text", ML_OPTION_LIST, 0, 0, NULL, NULL, "FILE", "files" },
    { "go", "data", "dir", ML_OPTION_TEXT, 0, 0, NULL, NULL, "DIR", "folder" },
    { "stop", "data", "field", ML_OPTION_TEXT, 0, 0, NULL, "text", "KEY", "of another verb" },
};

static void no_difference(void *arg, const char *section, const char *name, const char *old_value,
                          const char *new_value)
{
    (void)arg, (void)section, (void)name, (void)old_value, (void)new_value;
    abort();
}

static ml_options *make(void)
{
    ml_error err;
    ml_options *o;
    if (ml_options_make(rows, sizeof rows / sizeof *rows, "go", "model", &o, &err) != ML_OK) abort();
    return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char written[64];
    ml_error err;
    char path[64];
    int fd = memfd_create("recipe", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    snprintf(written, sizeof written, "/tmp/fuzz_options.%d.ini", (int)getpid());
    ml_options *o = make();
    /* A name or value too long for a line of the copy may be refused when writing. */
    if (ml_options_parse_ini(o, path, &err) == ML_OK && ml_options_write_ini(o, written, &err) == ML_OK) {
        ml_options *again = make();
        if (ml_options_parse_ini(again, written, &err) != ML_OK) abort();
        if (ml_options_compare_ini(again, path, no_difference, NULL, &err) != ML_OK) abort();
        ml_options_free(again);
        unlink(written);
    }
    ml_options_free(o);
    close(fd);
    return 0;
}
