/* BPE training: reference merges, Hugging Face's trainer, hand-counted corpora. */
#include "support/support.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/thread.h"
#include "token/train.h"

#include <string.h>

static ml_error err;
#define GOLDEN MOONLIGHT_SOURCE_DIR "/tests/golden/"

static ml_text text_of(const char *s)
{
    return (ml_text){ s, strlen(s) };
}

static const char *piece(const ml_tokenizer *t, int32_t id)
{
    static char text[64];
    size_t n;
    const char *bytes = ml_tokenizer_piece(t, id, &n);
    assert_non_null(bytes);
    assert_true(n < sizeof text);
    memcpy(text, bytes, n);
    text[n] = 0;
    return text;
}

/* low 5, lower 2, newest 6, widest 3 (Sennrich et al. 2016, without an end of word): the first merges are es (9),
 * est (9), lo (7), low (7). */
static void merges_of_the_textbook(void **state)
{
    (void)state;
    static const char corpus[] =
        "low low low low low lower lower newest newest newest newest newest newest widest widest widest";
    ml_text docs[1] = { text_of(corpus) };
    ml_tokenizer *t;
    ml_bpe_train_config config = { .vocab_size = 256 + 4, .pattern = "[a-z]+", .ties = ML_BPE_TIES_FIRST };
    assert_ok(ml_bpe_train(&config, docs, 1, NULL, &t, &err));
    assert_string_equal(piece(t, 256), "es");
    assert_string_equal(piece(t, 257), "est"); // (es, t) 9
    assert_string_equal(piece(t, 258), "lo");
    assert_string_equal(piece(t, 259), "low");
    ml_tokenizer_free(t);
    /* The other rule: es and st both have 9; (s, t) sorts after (e, s). */
    config.ties = ML_BPE_TIES_LAST;
    assert_ok(ml_bpe_train(&config, docs, 1, NULL, &t, &err));
    assert_string_equal(piece(t, 256), "st");
    assert_string_equal(piece(t, 257), "est");
    assert_string_equal(piece(t, 258), "ow");
    assert_string_equal(piece(t, 259), "low");
    ml_tokenizer_free(t);
}

/* Pairs of one letter overlap: aaaa holds aa three times before the merge, and (aa, aa) once after it. */
static void overlapping_pairs(void **state)
{
    (void)state;
    ml_text docs[] = { text_of("aaaa"), text_of("abab") };
    ml_tokenizer *t;
    ml_bpe_train_config config = { .vocab_size = 256 + 4, .pattern = "gpt2" };
    assert_ok(ml_bpe_train(&config, docs, 2, NULL, &t, &err));
    assert_string_equal(piece(t, 256), "aa");   // 3
    assert_string_equal(piece(t, 257), "ab");   // 2
    assert_string_equal(piece(t, 258), "aaaa"); // 1, lower ids than (ab, ab)
    assert_string_equal(piece(t, 259), "abab");
    ml_tokenizer_free(t);
    config.vocab_size++;
    assert_fails(ml_bpe_train(&config, docs, 2, NULL, &t, &err), ML_EINVAL, "260");
    config.allow_fewer = true;
    assert_ok(ml_bpe_train(&config, docs, 2, NULL, &t, &err));
    assert_int_equal(ml_tokenizer_vocab_size(t), 260);
    ml_tokenizer_free(t);
}

static void specials_come_first_and_cut_documents(void **state)
{
    (void)state;
    static const char *const special[] = { "[UNK]", "[PAD]", "[BOS]", "[EOS]" };
    ml_text docs[] = { text_of("[BOS]xy[EOS]xy[EOS]xy") };
    ml_tokenizer *t;
    ml_bpe_train_config config = {
        .vocab_size = 4 + 256 + 1, .pattern = "gpt4", .special = special, .n_special = 4, .allow_fewer = true
    };
    assert_ok(ml_bpe_train(&config, docs, 1, NULL, &t, &err));
    assert_int_equal(ml_tokenizer_vocab_size(t), 261);
    assert_string_equal(piece(t, 4), "!");
    assert_string_equal(piece(t, 260), "xy");
    assert_int_equal(ml_tokenizer_unk(t), 0);
    assert_int_equal(ml_tokenizer_pad(t), 1);
    assert_int_equal(ml_tokenizer_bos(t), 2);
    assert_int_equal(ml_tokenizer_eos(t), 3);
    ml_tokenizer_free(t);
    config.vocab_size = 300; // nothing else merges: the text of the specials was not counted
    assert_ok(ml_bpe_train(&config, docs, 1, NULL, &t, &err));
    assert_int_equal(ml_tokenizer_vocab_size(t), 261);
    ml_tokenizer_free(t);
    config.vocab_size = 259;
    assert_fails(ml_bpe_train(&config, docs, 1, NULL, &t, &err), ML_EINVAL, "at least 260");
    config.vocab_size = 300;
    config.pattern = "(";
    assert_fails(ml_bpe_train(&config, docs, 1, NULL, &t, &err), ML_EINVAL, "split pattern");
    config.pattern = "gpt2";
    config.special = (const char *const[]){ "[X]", "[X]", "[Y]", "[Z]" };
    assert_fails(ml_bpe_train(&config, docs, 1, NULL, &t, &err), ML_EFORMAT, "[X]");
}

/* The corpus and tokenizer of make_tokenizer.py. */
static void equals_the_hugging_face_trainer(void **state)
{
    (void)state;
    static const char *const special[] = { "[UNK]", "[PAD]", "[BOS]", "[EOS]" };
    json_t *root, *corpus;
    assert_ok(ml_json_load(GOLDEN "tokenizer_cases.json", &root, &err));
    assert_ok(ml_json_array(root, "corpus", "golden", &corpus, &err));
    ml_text docs[64];
    size_t n = json_array_size(corpus);
    assert_in_range(n, 1, 64);
    for (size_t i = 0; i < n; i++) docs[n - 1 - i] = text_of(json_string_value(json_array_get(corpus, i)));
    ml_tokenizer *t, *wanted;
    ml_bpe_train_config config = { .vocab_size = 420, .pattern = "gpt2", .special = special, .n_special = 4 };
    assert_ok(ml_tokenizer_open(GOLDEN "tokenizer_small.json", &wanted, &err));
    assert_ok(ml_bpe_train(&config, docs, n, NULL, &t, &err));
    assert_int_equal(ml_tokenizer_merge_count(t), ml_tokenizer_merge_count(wanted));
    for (size_t i = 0; i < ml_tokenizer_merge_count(t); i++) {
        int32_t a[3], b[3];
        ml_tokenizer_merge(t, i, &a[0], &a[1], &a[2]);
        ml_tokenizer_merge(wanted, i, &b[0], &b[1], &b[2]);
        assert_memory_equal(a, b, sizeof a);
    }
    ml_tokenizer_free(t);
    ml_tokenizer_free(wanted);
    json_decref(root);
}

static void check_reference(const ml_tokenizer *t)
{
    char *text, expected[256];
    assert_ok(ml_file_read(test_data_path("bpe_train/train-bpe-reference-merges.txt"), &text, NULL, &err));
    json_t *vocab;
    assert_ok(ml_json_load(test_data_path("bpe_train/train-bpe-reference-vocab.json"), &vocab, &err));
    assert_int_equal(json_object_size(vocab), ml_tokenizer_vocab_size(t));
    size_t i = 0;
    for (char *at = text, *end; *at; at = end + 1, i++) {
        end = at + strcspn(at, "\n");
        char *space = memchr(at, ' ', (size_t)(end - at));
        int32_t left, right, result;
        ml_tokenizer_merge(t, i, &left, &right, &result);
        snprintf(expected, sizeof expected, "%.*s%.*s", (int)(space - at), at, (int)(end - space - 1), space + 1);
        assert_int_equal(json_integer_value(json_object_getn(vocab, at, (size_t)(space - at))), left);
        assert_int_equal(json_integer_value(json_object_getn(vocab, space + 1, (size_t)(end - space - 1))), right);
        assert_int_equal(json_integer_value(json_object_get(vocab, expected)), result);
        if (!*end) break;
    }
    assert_int_equal(ml_tokenizer_merge_count(t), 243);
    assert_true(i >= 242);
    json_decref(vocab);
    ml_free(text);
}

static void equals_the_reference_whatever_the_threads(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("bpe_train");
    static const char *const special[] = { "<|endoftext|>" };
    size_t n;
    char *text;
    assert_ok(ml_file_read(test_data_path("bpe_train/corpus.en"), &text, &n, &err));
    ml_bpe_train_config config = {
        .vocab_size = 500, .pattern = "gpt2", .special = special, .n_special = 1, .ties = ML_BPE_TIES_LAST
    };
    for (int n_threads = 1; n_threads <= 4; n_threads += 3) {
        ml_thread_set_count(n_threads);
        ml_tokenizer *t;
        assert_ok(ml_bpe_train(&config, &(ml_text){ text, n }, 1, NULL, &t, &err));
        check_reference(t);
        assert_int_equal(ml_tokenizer_eos(t), 0);
        ml_tokenizer_free(t);
    }
    ml_thread_set_count(0);
    ml_free(text);
}

/* Adding documents in several calls, and stopping. */
static void trainer_in_steps(void **state)
{
    (void)state;
    ml_bpe_trainer *trainer;
    ml_bpe_train_config config = { .vocab_size = 257, .pattern = "gpt2" };
    ml_tokenizer *t;
    assert_ok(ml_bpe_trainer_make(&config, &trainer, &err));
    ml_text docs[] = { text_of("ab ab"), text_of("cd"), text_of("cd"), text_of("cd\xFF") };
    for (size_t i = 0; i < 4; i++) assert_ok(ml_bpe_trainer_add(trainer, &docs[i], 1, &err));
    assert_int_equal(ml_bpe_trainer_n_words(trainer), 3); // "ab", " ab", "cd"
    assert_ok(ml_bpe_trainer_finish(trainer, NULL, &t, &err));
    assert_string_equal(piece(t, 256), "cd");
    ml_tokenizer_free(t);
    ml_stop_set(true);
    assert_fails(ml_bpe_trainer_add(trainer, docs, 1, &err), ML_ECANCEL, "stopped");
    ml_stop_set(false);
    ml_bpe_trainer_free(trainer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_of_the_textbook),
        cmocka_unit_test(overlapping_pairs),
        cmocka_unit_test(specials_come_first_and_cut_documents),
        cmocka_unit_test(equals_the_hugging_face_trainer),
        cmocka_unit_test(equals_the_reference_whatever_the_threads),
        cmocka_unit_test(trainer_in_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
