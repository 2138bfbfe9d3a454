/* Encoding and BPE training on one thread, for bench_tokenizer.py to set beside other tokenizers.
 *
 *   bench_tokenizer encode TOKENIZER FILE SECONDS     prints: bytes, ids, best seconds of a pass
 *   bench_tokenizer train FILE VOCAB_SIZE THREADS     prints: bytes, ids, seconds
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/thread.h"
#include "token/train.h"

#include <stdlib.h>
#include <string.h>

static int fail(const ml_error *err)
{
    fprintf(stderr, "bench_tokenizer: %s\n", err->message);
    return 1;
}

static int encode(const char *path, const char *file, double seconds)
{
    ml_error err;
    ml_tokenizer *t;
    char *text;
    size_t n;
    if (ml_tokenizer_open(path, &t, &err) != ML_OK || ml_file_read(file, &text, &n, &err) != ML_OK) return fail(&err);
    ml_ids ids = { 0 };
    double best = 1e30, begin = ml_clock_seconds();
    do {
        ids.n = 0;
        double start = ml_clock_seconds();
        if (ml_tokenizer_encode(t, text, n, false, &ids, &err) != ML_OK) return fail(&err);
        double took = ml_clock_seconds() - start;
        if (took < best) best = took;
    } while (ml_clock_seconds() - begin < seconds);
    printf("%zu %zu %.6f\n", n, ids.n, best);
    ml_ids_free(&ids);
    ml_free(text);
    ml_tokenizer_free(t);
    return 0;
}

static int train(const char *file, int vocab_size, int n_threads)
{
    ml_error err;
    char *text;
    size_t n;
    if (ml_file_read(file, &text, &n, &err) != ML_OK) return fail(&err);
    static const char *const special[] = { "<|endoftext|>" };
    ml_bpe_train_config config = { .vocab_size = vocab_size, .pattern = "gpt2", .special = special, .n_special = 1 };
    ml_thread_set_count(n_threads);
    ml_tokenizer *t;
    double start = ml_clock_seconds();
    if (ml_bpe_train(&config, &(ml_text){ text, n }, 1, NULL, &t, &err) != ML_OK) return fail(&err);
    printf("%zu %d %.6f\n", n, ml_tokenizer_vocab_size(t), ml_clock_seconds() - start);
    ml_tokenizer_free(t);
    ml_free(text);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && !strcmp(argv[1], "encode")) return encode(argv[2], argv[3], atof(argv[4]));
    if (argc == 5 && !strcmp(argv[1], "train")) return train(argv[2], atoi(argv[3]), atoi(argv[4]));
    fprintf(stderr, "usage: bench_tokenizer encode TOKENIZER FILE SECONDS | train FILE VOCAB_SIZE THREADS\n");
    return 2;
}
