/* Text files -> data folders: cutting, splitting, the bytes written, interruptions, refusals. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/thread.h"
#include "data/build.h"
#include "data/synth.h"
#include "support/byte_tokenizer.h"
#include "support/support.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static ml_error err;
static char folder[ML_PATH_MAX];

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "%s", test_make_folder());
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    test_remove_folder(folder);
    return 0;
}

static void write_file(const char *name, const char *text)
{
    assert_ok(ml_file_replace(test_path_in(folder, name), text, strlen(text), &err));
}

static ml_tokenizer *byte_tokenizer(bool specials, int far_id)
{
    assert_ok(ml_dir_make(test_path_in(folder, "tokenizer"), &err));
    return test_byte_tokenizer(test_path_in(folder, "tokenizer"), specials, far_id);
}

static ml_build_config config_for(const char *const *input, size_t n_input, const char *out)
{
    return (ml_build_config){ .input = input,
                              .n_input = n_input,
                              .out = out,
                              .name = "test",
                              .marker = "<|endoftext|>",
                              .field = "text",
                              .val_fraction = 0.1,
                              .seed = 1,
                              .shard_tokens = 50000,
                              .max_bad = 0.01 };
}

/* ---- what is written ---- */

/* The text of a document of the byte tokenizer; checks the ids around it. */
static char *document_text(const ml_dataset *data, ml_data_split split, int64_t i, bool specials)
{
    int64_t first, n;
    assert_ok(ml_dataset_document(data, split, i, &first, &n, &err));
    int32_t *id = ml_alloc((size_t)n * sizeof *id);
    assert_ok(ml_dataset_read(data, split, first, n, id, &err));
    char *text = ml_calloc((size_t)n + 1, 1);
    int64_t begin = 0, end = n;
    if (specials) {
        assert_int_equal(id[begin++], 0);
        assert_int_equal(id[--end], 1);
    }
    for (int64_t k = begin; k < end; k++) {
        assert_in_range(id[k], 2, 257);
        text[k - begin] = (char)(id[k] - 2);
    }
    ml_free(id);
    return text;
}

/* Every document of the sources, in order, is the next one of one of the splits, and nothing else is there. */
static void expect_round_trip(const char *out, const char *const *path, size_t n_path, bool specials)
{
    ml_records *records;
    ml_dataset *data;
    ml_record_batch batch = { 0 };
    int64_t next[ML_N_SPLIT] = { 0 };
    assert_ok(ml_records_open_texts(path, n_path, ML_RULE_MARKER, "<|endoftext|>", "text", &records, &err));
    assert_ok(ml_dataset_open(out, &data, &err));
    do {
        assert_ok(ml_records_read(records, 100, 100000, &batch, &err));
        for (size_t i = 0; i < batch.n; i++) {
            ml_text text;
            bool found = false;
            assert_ok(ml_record_text(&batch, i, "text", &text, &err));
            for (int s = 0; s < ML_N_SPLIT && !found; s++) {
                if (next[s] == data->split[s].n_document) continue;
                char *got = document_text(data, (ml_data_split)s, next[s], specials);
                found = strlen(got) == text.n_bytes && memcmp(got, text.data, text.n_bytes) == 0;
                next[s] += found;
                ml_free(got);
            }
            if (!found) fail_msg("document %llu is in no split", (unsigned long long)batch.record[i].index);
        }
    } while (batch.n);
    for (int s = 0; s < ML_N_SPLIT; s++) assert_int_equal(next[s], data->split[s].n_document);
    assert_ok(ml_dataset_verify(data, &err));
    ml_dataset_free(data);
    ml_record_batch_free(&batch);
    ml_records_free(records);
}

static void make_inputs(const char *input[2])
{
    static char path[2][ML_PATH_MAX + 64];
    uint64_t n_document, n_bytes;
    snprintf(path[0], sizeof path[0], "%s/stories.txt", folder);
    snprintf(path[1], sizeof path[1], "%s/sums.jsonl", folder);
    ml_synth_config c = { .kind = ML_SYNTH_STORIES, .out = path[0], .n_document = 300, .seed = 4 };
    assert_ok(ml_data_synth(&c, &n_document, &n_bytes, &err));
    assert_int_equal(n_document, 300);
    c = (ml_synth_config){ .kind = ML_SYNTH_ARITHMETIC, .out = path[1], .n_bytes = 60000, .seed = 4, .jsonl = true };
    assert_ok(ml_data_synth(&c, &n_document, &n_bytes, &err));
    assert_in_range(n_bytes, 60000, 60000 + 600);
    input[0] = path[0];
    input[1] = path[1];
}

static void test_round_trip(void **state)
{
    (void)state;
    const char *input[2];
    ml_build_result result;
    make_inputs(input);
    ml_tokenizer *t = byte_tokenizer(true, 0);
    ml_build_config c = config_for(input, 2, test_path_in(folder, "out"));
    assert_ok(ml_data_build(&c, t, &result, &err));
    expect_round_trip(test_path_in(folder, "out"), input, 2, true);
    assert_true(result.n_shard[ML_SPLIT_TRAIN] > 3);
    int64_t n = result.n_document[0] + result.n_document[1];
    /* a tenth, within five standard deviations, sqrt(n .1 .9) each: times 10, 3 sqrt(n) */
    assert_true(llabs(result.n_document[1] * 10 - n) < 5 * 3 * (int64_t)sqrt((double)n));
    ml_dataset *data;
    assert_ok(ml_dataset_open(test_path_in(folder, "out"), &data, &err));
    assert_int_equal(data->id_bytes, 2);
    assert_int_equal(data->bos_id, 0);
    assert_int_equal(data->eos_id, 1);
    assert_string_equal(data->name, "test");
    assert_ok(ml_dataset_check_tokenizer(data, ml_tokenizer_fingerprint(t), &err));
    assert_fails(ml_dataset_check_tokenizer(data, "0123", &err), ML_EINVAL, "not by tokenizer 0123");
    ml_dataset_free(data);
    assert_false(result.was_complete);
    assert_ok(ml_data_build(&c, t, &result, &err));
    assert_true(result.was_complete);
    assert_int_equal(result.n_document[0] + result.n_document[1], n);
    ml_tokenizer_free(t);
}

static void expect_same_folders(const char *a, const char *b)
{
    char **names, **other, path[ML_PATH_MAX];
    size_t n, n_other;
    assert_ok(ml_dir_list(a, &names, &n, &err));
    assert_ok(ml_dir_list(b, &other, &n_other, &err));
    assert_int_equal(n, n_other);
    assert_true(n > 4);
    for (size_t i = 0; i < n; i++) {
        ml_map x, y;
        assert_string_equal(names[i], other[i]);
        if (strcmp(names[i], "tokenizer") == 0) continue; /* a folder */
        assert_ok(ml_path_join(path, a, names[i], &err));
        assert_ok(ml_map_open(path, &x, &err));
        assert_ok(ml_path_join(path, b, names[i], &err));
        assert_ok(ml_map_open(path, &y, &err));
        if (x.size != y.size || (x.size && memcmp(x.data, y.data, x.size) != 0)) fail_msg("%s differs", names[i]);
        ml_map_close(&x);
        ml_map_close(&y);
    }
    ml_dir_list_free(names, n);
    ml_dir_list_free(other, n_other);
}

static void test_threads_do_not_change_the_bytes(void **state)
{
    (void)state;
    const char *input[2];
    ml_build_result result;
    make_inputs(input);
    ml_tokenizer *t = byte_tokenizer(true, 0);
    for (int shuffle = 0; shuffle < 2; shuffle++) {
        const char *names[2][2] = { { "one", "two" }, { "one_shuffled", "two_shuffled" } };
        for (int threads = 1; threads <= 2; threads++) {
            ml_build_config c = config_for(input, 2, test_path_in(folder, names[shuffle][threads - 1]));
            c.shuffle = shuffle;
            ml_thread_set_count(threads);
            assert_ok(ml_data_build(&c, t, &result, &err));
        }
        expect_same_folders(test_path_in(folder, names[shuffle][0]), test_path_in(folder, names[shuffle][1]));
    }
    ml_thread_set_count(0);
    ml_tokenizer_free(t);
}

/* The shards of two builds; what else is in the folders says where they came from. */
static void expect_same_shards(const char *a, const char *b)
{
    ml_dataset *x, *y;
    assert_ok(ml_dataset_open(a, &x, &err));
    assert_ok(ml_dataset_open(b, &y, &err));
    assert_string_equal(x->fingerprint, y->fingerprint); /* of all shards */
    assert_ok(ml_dataset_verify(x, &err));
    assert_ok(ml_dataset_verify(y, &err));
    ml_dataset_free(x);
    ml_dataset_free(y);
}

static void expect_same_builds(const char *const *path, size_t n_path, const char *field, const ml_tokenizer *t)
{
    ml_build_result result;
    for (int order = 0; order < 3; order++) {
        for (size_t i = 0; i < n_path; i++) {
            char out[2][64];
            snprintf(out[0], sizeof out[0], "%s_%d_0", field, order);
            snprintf(out[1], sizeof out[1], "%s_%d_%zu", field, order, i);
            ml_build_config c = config_for(&path[i], 1, test_path_in(folder, out[1]));
            c.field = field;
            c.shuffle = order == 1;
            c.val_last = order == 2 && strstr(path[i], ".jsonl"); /* bytes of Parquet are others */
            c.shard_tokens = 5000;
            if (order == 2 && !c.val_last) continue;
            assert_ok(ml_data_build(&c, t, &result, &err));
            assert_true(result.n_shard[ML_SPLIT_TRAIN] > 0);
            if (i > 0) expect_same_shards(test_path_in(folder, out[0]), test_path_in(folder, out[1]));
        }
    }
}

static void test_shards_do_not_depend_on_the_kind_of_file(void **state)
{
    (void)state;
    static const char *const names[] = { "records/lines.jsonl.gz",
                                         "records/lines.jsonl.zst",
                                         "records/lines.jsonl.br",
                                         "parquet/encoded.jsonl",
                                         "parquet/encoded_delta_byte_array.parquet",
                                         "parquet/encoded_dictionary.parquet" };
    static char path[6][2 * ML_PATH_MAX];
    for (int i = 0; i < 6; i++) snprintf(path[i], sizeof path[i], "%s/tests/golden/%s", MOONLIGHT_SOURCE_DIR, names[i]);
    ml_tokenizer *t = byte_tokenizer(true, 0);
    const char *const lines[] = { path[0], path[1], path[2] }, *const stems[] = { path[3], path[4], path[5] };
    expect_same_builds(lines, 3, "text", t);
    expect_same_builds(stems, 3, "stem", t);
    ml_tokenizer_free(t);
}

static void test_a_null_is_a_malformed_record(void **state)
{
    (void)state;
    char path[2 * ML_PATH_MAX];
    const char *input = path;
    ml_build_result result;
    ml_tokenizer *t = byte_tokenizer(true, 0);
    snprintf(path, sizeof path, "%s/tests/golden/parquet/encoded_plain.parquet", MOONLIGHT_SOURCE_DIR);
    for (int shuffle = 0; shuffle < 2; shuffle++) {
        ml_build_config c = config_for(&input, 1, test_path_in(folder, shuffle ? "shuffled" : "plain"));
        c.shuffle = shuffle;
        assert_fails(ml_data_build(&c, t, &result, &err), ML_EFORMAT,
                     ": expected a text in column \"text\", found null");
        assert_non_null(strstr(err.message, "of 300 records"));
        c.out = test_path_in(folder, shuffle ? "tolerant_shuffled" : "tolerant");
        c.max_bad = 0.5;
        assert_ok(ml_data_build(&c, t, &result, &err));
        assert_in_range(result.tally.n_bad, 10, 60);
        assert_int_equal(result.tally.n_seen, 300);
        assert_int_equal(result.n_document[0] + result.n_document[1] + result.n_empty + result.tally.n_bad, 300);
    }
    ml_tokenizer_free(t);
}

static void test_shuffling_keeps_documents_and_split(void **state)
{
    (void)state;
    const char *input[2];
    ml_build_result plain, shuffled;
    make_inputs(input);
    ml_tokenizer *t = byte_tokenizer(true, 0);
    ml_build_config c = config_for(input, 2, test_path_in(folder, "plain"));
    assert_ok(ml_data_build(&c, t, &plain, &err));
    c.out = test_path_in(folder, "shuffled");
    c.shuffle = true;
    assert_ok(ml_data_build(&c, t, &shuffled, &err));
    ml_dataset *a, *b;
    assert_ok(ml_dataset_open(test_path_in(folder, "plain"), &a, &err));
    assert_ok(ml_dataset_open(test_path_in(folder, "shuffled"), &b, &err));
    for (int s = 0; s < ML_N_SPLIT; s++) {
        int64_t n = plain.n_document[s], n_moved = 0;
        assert_int_equal(n, shuffled.n_document[s]);
        assert_int_equal(plain.n_token[s], shuffled.n_token[s]);
        char **text = ml_calloc((size_t)n, sizeof *text);
        for (int64_t i = 0; i < n; i++) text[i] = document_text(a, (ml_data_split)s, i, true);
        for (int64_t i = 0; i < n; i++) {
            char *got = document_text(b, (ml_data_split)s, i, true);
            int64_t k = 0;
            while (k < n && (!text[k] || strcmp(text[k], got) != 0)) k++;
            assert_true(k < n);
            n_moved += k != i;
            ml_free(text[k]);
            text[k] = NULL; /* each only once */
            ml_free(got);
        }
        ml_free(text);
        assert_true(n_moved > n / 2);
    }
    ml_dataset_free(a);
    ml_dataset_free(b);
    ml_tokenizer_free(t);
}

/* ---- interruptions ---- */

/* Build in a child and kill it once `until` has appeared.  True when it died before it had finished. */
static bool build_and_kill(const ml_build_config *c, const ml_tokenizer *t, const char *until)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        ml_build_result result;
        _exit(ml_data_build(c, t, &result, &err) == ML_OK ? 0 : 1);
    }
    int status;
    while (!ml_path_exists(until) && waitpid(child, &status, WNOHANG) == 0) usleep(100);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    char meta[ML_PATH_MAX];
    assert_ok(ml_path_join(meta, c->out, "meta.json", &err));
    return ml_path_exists(until) && !ml_path_exists(meta);
}

static void test_a_killed_build_continues_with_the_same_bytes(void **state)
{
    (void)state;
    const char *input[2];
    ml_build_result result;
    make_inputs(input);
    ml_tokenizer *t = byte_tokenizer(true, 0);
    char until[ML_PATH_MAX + 64], out[ML_PATH_MAX];
    snprintf(out, sizeof out, "%s", test_path_in(folder, "killed"));
    snprintf(until, sizeof until, "%s/train_00002.bin", out);
    ml_build_config c = config_for(input, 2, out);
    c.shard_tokens = 25000;
    bool killed = false;
    for (int i = 0; i < 20 && !killed; i++) { /* the kill may come too late: then once more */
        test_remove_folder(out);
        killed = build_and_kill(&c, t, until);
    }
    assert_true(killed);
    ml_dataset *data;
    assert_fails(ml_dataset_open(out, &data, &err), ML_EIO, "no meta.json");
    assert_ok(ml_data_build(&c, t, &result, &err));
    assert_true(result.resumed);
    c.out = test_path_in(folder, "whole");
    assert_ok(ml_data_build(&c, t, &result, &err));
    assert_false(result.resumed);
    expect_same_folders(out, test_path_in(folder, "whole"));
    ml_tokenizer_free(t);
}

static void test_a_stopped_build_continues(void **state)
{
    (void)state;
    const char *input[2];
    ml_build_result result;
    make_inputs(input);
    ml_tokenizer *t = byte_tokenizer(true, 0);
    ml_build_config c = config_for(input, 1, test_path_in(folder, "out"));
    ml_stop_set(true);
    assert_fails(ml_data_build(&c, t, &result, &err), ML_ECANCEL, "run the same command again");
    assert_true(ml_path_exists(test_path_in(folder, "out/build.json")));
    ml_stop_set(false);
    assert_ok(ml_data_build(&c, t, &result, &err));
    assert_true(result.resumed);
    assert_false(ml_path_exists(test_path_in(folder, "out/build.json")));
    expect_round_trip(test_path_in(folder, "out"), input, 1, true);
    ml_tokenizer_free(t);
}

static void test_running_out_of_memory_leaves_a_build_that_continues(void **state)
{
    (void)state;
    const char *input[2];
    ml_build_result result;
    make_inputs(input);
    ml_tokenizer *t = byte_tokenizer(true, 0);
    ml_build_config c = config_for(input, 2, test_path_in(folder, "out"));
    int64_t before = ml_alloc_get_stats().n_live;
    int n_failed = 0;
    for (int64_t n = 0; n < 100000; n = n < 40 ? n + 3 : n * 3) {
        ml_alloc_fail_after(n);
        ml_status status = ml_data_build(&c, t, &result, &err);
        ml_alloc_fail_after(-1);
        assert_int_equal(ml_alloc_get_stats().n_live, before);
        if (status == ML_OK) break;
        n_failed++;
    }
    assert_true(n_failed > 3);
    assert_ok(ml_data_build(&c, t, &result, &err));
    expect_round_trip(test_path_in(folder, "out"), input, 2, true);
    ml_tokenizer_free(t);
}

/* ---- refusals ---- */

/* Another content of the same size. */
static void flip_byte(const char *path)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    int byte = fgetc(f);
    rewind(f);
    fputc(byte ^ 1, f);
    assert_int_equal(fclose(f), 0);
}

static void test_a_changed_build_is_refused(void **state)
{
    (void)state;
    const char *input[2];
    ml_build_result result;
    make_inputs(input);
    ml_tokenizer *t = byte_tokenizer(true, 0);
    ml_build_config c = config_for(input, 1, test_path_in(folder, "out"));
    ml_stop_set(true); /* begun, not finished */
    assert_fails(ml_data_build(&c, t, &result, &err), ML_ECANCEL, "run the same command again");
    ml_stop_set(false);
    for (int finished = 0; finished < 2; finished++) {
        ml_build_config other = c;
        other.seed = 2;
        assert_fails(ml_data_build(&other, t, &result, &err), ML_EINVAL, "options.seed: 1 -> 2");
        other = c;
        other.n_input = 2;
        assert_fails(ml_data_build(&other, t, &result, &err), ML_EINVAL, "inputs: 1 -> 2");
        other = c;
        other.eos = ML_SPECIAL_OFF;
        assert_fails(ml_data_build(&other, t, &result, &err), ML_EINVAL, "special_token_ids.eos: 1 -> -1");
        assert_ok(ml_data_build(&c, t, &result, &err));
    }
    flip_byte(input[0]);
    assert_fails(ml_data_build(&c, t, &result, &err), ML_EINVAL, "inputs[0].xxh3_128");
    write_file("stories.txt", "another");
    assert_fails(ml_data_build(&c, t, &result, &err), ML_EINVAL, "inputs[0].bytes");
    assert_ok(ml_dir_make(test_path_in(folder, "foreign"), &err));
    write_file("foreign/letter.txt", "harmless");
    write_file("foreign/val_00007.idx", "somebody's");
    c.out = test_path_in(folder, "foreign");
    assert_fails(ml_data_build(&c, t, &result, &err), ML_EINVAL, "val_00007.idx");
    c = config_for(input, 0, test_path_in(folder, "none"));
    assert_fails(ml_data_build(&c, t, &result, &err), ML_EINVAL, "no input files");
    const char *missing = "/no/such/file.txt";
    c = config_for(&missing, 1, test_path_in(folder, "none"));
    assert_fails(ml_data_build(&c, t, &result, &err), ML_EIO, "/no/such/file.txt");
    write_file("blank.txt", " \n<|endoftext|>\n\n");
    missing = test_path_in(folder, "blank.txt");
    c = config_for(&missing, 1, test_path_in(folder, "blank"));
    assert_fails(ml_data_build(&c, t, &result, &err), ML_EINVAL, "no document for training");
    ml_tokenizer_free(t);
}

static void test_special_tokens_and_id_width(void **state)
{
    (void)state;
    write_file("a.txt", "ab<|endoftext|>[EOS]\n<|endoftext|>\nc");
    const char *input = test_path_in(folder, "a.txt");
    ml_build_result result;
    ml_dataset *data;
    int32_t id[24];
    ml_tokenizer *t = byte_tokenizer(false, 0);
    ml_build_config c = config_for(&input, 1, test_path_in(folder, "plain"));
    c.val_fraction = 0;
    assert_ok(ml_data_build(&c, t, &result, &err));
    assert_int_equal(result.n_token[0], 20 + 1);
    c.out = test_path_in(folder, "refused");
    c.eos = ML_SPECIAL_ON;
    assert_fails(ml_data_build(&c, t, &result, &err), ML_EINVAL, "--eos on: the tokenizer has no eos token");
    ml_tokenizer_free(t);
    t = byte_tokenizer(true, 70000);
    c = config_for(&input, 1, test_path_in(folder, "wide"));
    c.val_every = 2;
    c.bos = ML_SPECIAL_OFF;
    assert_ok(ml_data_build(&c, t, &result, &err));
    assert_ok(ml_dataset_open(test_path_in(folder, "wide"), &data, &err));
    assert_int_equal(data->id_bytes, 4);
    assert_int_equal(data->vocab_size, 70001);
    assert_int_equal(data->split[ML_SPLIT_TRAIN].shard[0].bin.size, 4 * 21);
    assert_ok(ml_dataset_read(data, ML_SPLIT_TRAIN, 0, 21, id, &err));
    /* text that looks like a special token stays text */
    const char *text = "ab<|endoftext|>[EOS]";
    for (int i = 0; i < 20; i++) assert_int_equal(id[i], text[i] + 2);
    assert_int_equal(id[20], 1);
    assert_ok(ml_dataset_read(data, ML_SPLIT_VAL, 0, 2, id, &err));
    assert_int_equal(id[0], 'c' + 2);
    ml_dataset_free(data);
    c.out = test_path_in(folder, "narrow");
    c.id_bytes = 2;
    assert_fails(ml_data_build(&c, t, &result, &err), ML_EINVAL, "the tokenizer has 70001");
    ml_tokenizer_free(t);
}

/* Ids of a split, as the bytes they stand for in byte_tokenizer; [EOS] is '|'. */
/* Documents begin as prompts will: with a BOS that the tokenizer has, but puts before no text, only when told to. */
static void test_bos_where_the_tokenizer_says_so(void **state)
{
    (void)state;
    static const char quiet[] = "{\"bos_token\": \"[BOS]\", \"eos_token\": \"[EOS]\", \"add_bos_token\": false}";
    write_file("a.txt", "ab");
    const char *input = test_path_in(folder, "a.txt");
    ml_tokenizer_free(byte_tokenizer(true, 0));
    write_file("tokenizer/tokenizer_config.json", quiet);
    ml_tokenizer *t;
    assert_ok(ml_tokenizer_open(test_path_in(folder, "tokenizer"), &t, &err));
    ml_build_config c = config_for(&input, 1, test_path_in(folder, "quiet"));
    ml_build_result result;
    c.val_fraction = 0;
    assert_ok(ml_data_build(&c, t, &result, &err));
    assert_int_equal(result.n_token[0], 2 + 1);
    c.out = test_path_in(folder, "told");
    c.bos = ML_SPECIAL_ON;
    assert_ok(ml_data_build(&c, t, &result, &err));
    assert_int_equal(result.n_token[0], 1 + 2 + 1);
    ml_tokenizer_free(t);
}

static void expect_split(const ml_dataset *data, ml_data_split split, const char *want)
{
    int32_t id[256];
    int64_t n = data->split[split].n_token;
    assert_int_equal(n, strlen(want));
    assert_ok(ml_dataset_read(data, split, 0, n, id, &err));
    for (int64_t i = 0; i < n; i++) assert_int_equal(id[i] == 1 ? '|' : id[i] - 2, want[i]);
}

static void expect_val_last(const char *const *input, size_t n_input, const char *out, double fraction,
                            const char *train, const char *val)
{
    ml_build_result result;
    ml_dataset *data;
    ml_tokenizer *t = byte_tokenizer(true, 0);
    ml_build_config c = config_for(input, n_input, test_path_in(folder, out));
    c.bos = ML_SPECIAL_OFF;
    c.val_fraction = fraction;
    c.val_last = true;
    assert_ok(ml_data_build(&c, t, &result, &err));
    assert_ok(ml_dataset_open(test_path_in(folder, out), &data, &err));
    expect_split(data, ML_SPLIT_TRAIN, train);
    expect_split(data, ML_SPLIT_VAL, val);
    ml_dataset_free(data);
    ml_tokenizer_free(t);
}

static void test_the_end_of_the_text_can_be_for_validation(void **state)
{
    (void)state;
    /* 20 bytes in one document: the cut at 15 falls into "fgh", which stays whole */
    write_file("one.txt", "aa bb\ncc dd e fgh ij");
    const char *one = test_path_in(folder, "one.txt");
    expect_val_last(&one, 1, "last_one", 0.25, "aa bb\ncc dd e fgh|", "ij|");
    expect_val_last(&one, 1, "last_none", 0.05, "aa bb\ncc dd e fgh ij|", "");
    /* over two files, 20 + 20 bytes: the cut at 20 is where the second begins */
    write_file("two.txt", "x\n<|endoftext|>\nyz\n");
    const char *const both[] = { one, test_path_in(folder, "two.txt") };
    expect_val_last(both, 2, "last_two", 0.5, "aa bb\ncc dd e fgh ij|", "x|yz|");
    /* JSON lines stay whole: the second begins at 14, before the cut at 21 */
    write_file("last.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n");
    const char *lines = test_path_in(folder, "last.jsonl");
    expect_val_last(&lines, 1, "last_lines", 0.3, "a|b|", "");
    expect_val_last(&lines, 1, "last_line", 0.5, "a|", "b|");
}

static void test_malformed_lines_are_counted_and_bounded(void **state)
{
    (void)state;
    ml_build_result result;
    ml_tokenizer *t = byte_tokenizer(true, 0);
    write_file("bad.jsonl",
               "{\"text\": \"one\"}\n{\"text\": 3}\n{\"text\": \"  \"}\n{\"text\": \"two\"\n[1]\n{\"a\": 1}\n"
               "{\"text\": \"three\"}\n");
    const char *input = test_path_in(folder, "bad.jsonl");
    ml_build_config c = config_for(&input, 1, test_path_in(folder, "out"));
    c.val_fraction = 0;
    assert_fails(ml_data_build(&c, t, &result, &err), ML_EFORMAT, "bad.jsonl:2: expected an object with a text under");
    assert_non_null(strstr(err.message, "4 of 7 records"));
    c.max_bad = 0.6;
    c.out = test_path_in(folder, "tolerant");
    assert_ok(ml_data_build(&c, t, &result, &err));
    assert_int_equal(result.tally.n_bad, 4);
    assert_int_equal(result.n_empty, 1);
    assert_int_equal(result.n_document[0], 2);
    assert_non_null(strstr(result.tally.first, "bad.jsonl:2"));
    ml_tokenizer_free(t);
}

static void test_real_stories(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("text/tinystories_2MiB.txt");
    char path[ML_PATH_MAX];
    snprintf(path, sizeof path, "%s", test_data_path("text/tinystories_2MiB.txt"));
    const char *input = path;
    ml_build_result result;
    ml_tokenizer *t = byte_tokenizer(true, 0);
    ml_build_config c = config_for(&input, 1, test_path_in(folder, "out"));
    c.shard_tokens = 500000;
    assert_ok(ml_data_build(&c, t, &result, &err));
    expect_round_trip(test_path_in(folder, "out"), &input, 1, true);
    /* 2,316 stories split by markers (data/README), and the cut-off one behind the last marker */
    assert_in_range(result.n_document[0] + result.n_document[1], 2316, 2317);
    ml_tokenizer_free(t);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_round_trip),
        TEST(test_threads_do_not_change_the_bytes),
        TEST(test_shards_do_not_depend_on_the_kind_of_file),
        TEST(test_a_null_is_a_malformed_record),
        TEST(test_shuffling_keeps_documents_and_split),
        TEST(test_a_killed_build_continues_with_the_same_bytes),
        TEST(test_a_stopped_build_continues),
        TEST(test_running_out_of_memory_leaves_a_build_that_continues),
        TEST(test_a_changed_build_is_refused),
        TEST(test_special_tokens_and_id_width),
        TEST(test_bos_where_the_tokenizer_says_so),
        TEST(test_the_end_of_the_text_can_be_for_validation),
        TEST(test_malformed_lines_are_counted_and_bounded),
        TEST(test_real_stories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
