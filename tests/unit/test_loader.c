/* Data folders as the trainer sees them: windows, documents kept apart, order, position, damaged files. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "data/build.h"
#include "data/loader.h"
#include "support/byte_tokenizer.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

enum { N_DOCUMENT = 61 };

static ml_error err;
static char folder[ML_PATH_MAX];
static ml_dataset *data;
/* What the train split must be, made here and not by the code under test: [BOS] bytes [EOS], end to end. */
static int32_t *stream;
static bool *is_last; /* of its document */
static int64_t n_stream;

static void add_token(int32_t id, bool last)
{
    stream[n_stream] = id;
    is_last[n_stream++] = last;
}

/* Documents of 1 to 300 different bytes each; `val_every` 0: all for training. */
static void build(int64_t val_every)
{
    char text[32768], *p = text;
    stream = ml_calloc(sizeof text, sizeof *stream);
    is_last = ml_calloc(sizeof text, sizeof *is_last);
    n_stream = 0;
    uint32_t random = 1;
    for (int i = 0; i < N_DOCUMENT; i++) {
        add_token(0, false);
        int n = i % 7 == 0 ? 1 : 1 + (i * 97) % 300;
        for (int k = 0; k < n; k++) {
            random = random * 1664525u + 1013904223u;
            *p = (char)('!' + (random >> 24) % 90);
            add_token((uint8_t)*p++ + 2, false);
        }
        add_token(1, true);
        p += sprintf(p, "\n<|endoftext|>\n");
    }
    assert_ok(ml_file_replace(test_path_in(folder, "text.txt"), text, (size_t)(p - text), &err));
    assert_ok(ml_dir_make(test_path_in(folder, "tokenizer"), &err));
    ml_tokenizer *t = test_byte_tokenizer(test_path_in(folder, "tokenizer"), true, 0);
    const char *input = test_path_in(folder, "text.txt");
    ml_build_config c = { .input = &input,
                          .n_input = 1,
                          .out = test_path_in(folder, "data"),
                          .marker = "<|endoftext|>",
                          .field = "text",
                          .val_every = val_every,
                          .shard_tokens = 1000 };
    ml_build_result result;
    assert_ok(ml_data_build(&c, t, &result, &err));
    assert_true(result.n_shard[0] > 3); /* windows cross shards */
    ml_tokenizer_free(t);
    assert_ok(ml_dataset_open(test_path_in(folder, "data"), &data, &err));
}

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "%s", test_make_folder());
    build(0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ml_dataset_free(data);
    ml_free(stream);
    ml_free(is_last);
    test_remove_folder(folder);
    return 0;
}

static ml_loader_config config_for(int64_t batch, int64_t seq, bool cross)
{
    return (ml_loader_config){
        .split = ML_SPLIT_TRAIN, .batch = batch, .seq = seq, .cross_documents = cross, .seed = 3, .rank = 0, .n_rank = 1
    };
}

static void test_stream_and_documents(void **state)
{
    (void)state;
    assert_int_equal(data->split[0].n_token, n_stream);
    assert_int_equal(data->split[0].n_document, N_DOCUMENT);
    assert_int_equal(data->split[1].n_token, 0);
    int32_t *id = ml_alloc((size_t)n_stream * sizeof *id);
    assert_ok(ml_dataset_read(data, ML_SPLIT_TRAIN, 0, n_stream, id, &err));
    assert_memory_equal(id, stream, (size_t)n_stream * sizeof *id);
    int64_t at = 0;
    for (int64_t i = 0; i < N_DOCUMENT; i++) {
        int64_t first, n;
        assert_ok(ml_dataset_document(data, ML_SPLIT_TRAIN, i, &first, &n, &err));
        assert_int_equal(first, at);
        for (int64_t k = 0; k < n; k++, at++) {
            assert_int_equal(is_last[at], k == n - 1);
            assert_int_equal(ml_dataset_find_document(data, ML_SPLIT_TRAIN, at), i);
        }
    }
    assert_int_equal(at, n_stream);
    assert_fails(ml_dataset_read(data, ML_SPLIT_TRAIN, n_stream - 1, 2, id, &err), ML_EINVAL, "it has");
    int64_t first, n;
    assert_fails(ml_dataset_document(data, ML_SPLIT_TRAIN, N_DOCUMENT, &first, &n, &err), ML_EINVAL, "it has 61");
    ml_free(id);
}

/* Which window of the stream the ids of `seq` tokens are; checks that it is one. */
static int64_t find_window(const int32_t *id, int64_t seq)
{
    for (int64_t w = 0; w * seq + seq < n_stream; w++) {
        if (memcmp(id, stream + w * seq, (size_t)seq * sizeof *id) == 0) return w;
    }
    fail_msg("the ids are no window of the stream");
    return -1;
}

/* Windows of a batch, with every field checked against the stream. */
static void check_batch(const ml_batch *b, int64_t seq, bool cross, int64_t *window)
{
    int64_t n_target = 0, s = 0, start = 0;
    assert_int_equal(b->n_token % seq, 0);
    for (int64_t i = 0; i < b->n_token; i++) {
        if (i % seq == 0) window[i / seq] = find_window(b->id + i, seq);
        int64_t at = window[i / seq] * seq + i % seq; /* in the stream */
        bool begins = i % seq == 0 || (!cross && is_last[at - 1]);
        if (begins) {
            assert_int_equal(b->seq[s++], i);
            start = i;
        }
        assert_int_equal(b->pos[i], i - start);
        int32_t target = !cross && is_last[at] ? -1 : stream[at + 1];
        assert_int_equal(b->target[i], target);
        n_target += target >= 0;
    }
    assert_int_equal(b->n_seq, s);
    assert_int_equal(b->seq[s], b->n_token);
    assert_int_equal(b->n_target, n_target);
}

static void test_each_window_once_per_epoch(void **state)
{
    (void)state;
    const int64_t seqs[] = { 1, 7, 64, 128, 1000 };
    for (int k = 0; k < 10; k++) {
        int64_t seq = seqs[k / 2], batch = 3;
        bool cross = k % 2;
        ml_loader_config c = config_for(batch, seq, cross);
        ml_loader *loader;
        const ml_batch *b;
        if (seq == 1) continue; /* windows of one token cannot be told apart; see below */
        assert_ok(ml_loader_make(data, &c, &loader, &err));
        int64_t n = ml_loader_n_window(loader), window[3], before = -1, n_neighbour = 0;
        uint64_t order[2] = { 0 }; /* a hash of the windows of each epoch; it wraps around */
        assert_int_equal(n, (n_stream - 1) / seq);
        int *seen = ml_calloc((size_t)n, sizeof *seen);
        for (int64_t i = 0; i < 3 * n; i++) { /* three epochs, batches straddle them */
            if (i % batch == 0) {
                assert_ok(ml_loader_next(loader, &b, &err));
                assert_int_equal(b->n_token, batch * seq);
                check_batch(b, seq, cross, window);
            }
            int64_t w = window[i % batch];
            assert_int_equal(seen[w]++, i / n); /* never twice in an epoch */
            n_neighbour += w == before + 1;
            before = w;
            if (i / n < 2) order[i / n] = order[i / n] * 31 + (uint64_t)w;
        }
        if (n > 8) assert_true(order[0] != order[1]); /* epochs differ in order */
        /* about one step in n of a random order goes to the next window: three in all */
        if (n > 30) assert_in_range(n_neighbour, 0, 20);
        ml_free(seen);
        ml_loader_free(loader);
    }
}

static void test_windows_of_one_token(void **state)
{
    (void)state;
    ml_loader_config c = config_for(1, 1, false);
    ml_loader *loader;
    const ml_batch *b;
    int count[258] = { 0 };
    assert_ok(ml_loader_make(data, &c, &loader, &err));
    assert_int_equal(ml_loader_n_window(loader), n_stream - 1);
    for (int64_t i = 0; i < n_stream - 1; i++) {
        assert_ok(ml_loader_next(loader, &b, &err));
        assert_int_equal(b->n_token, 1);
        assert_int_equal(b->target[0] == -1, b->id[0] == 1); /* [EOS] is last, and only it */
        count[b->id[0]]++;
        count[stream[i]]--;
    }
    for (int i = 0; i < 258; i++) assert_int_equal(count[i], 0);
    ml_loader_free(loader);
}

static void test_restore_continues_with_the_same_batches(void **state)
{
    (void)state;
    ml_loader_config c = config_for(4, 33, false);
    ml_loader *a, *b;
    const ml_batch *x, *y;
    assert_ok(ml_loader_make(data, &c, &a, &err));
    for (int stop = 0; stop < 100; stop += 9) {
        ml_loader_position at = ml_loader_state(a);
        assert_ok(ml_loader_make(data, &c, &b, &err));
        assert_ok(ml_loader_restore(b, at, &err));
        for (int i = 0; i < 9; i++) {
            assert_ok(ml_loader_next(a, &x, &err));
            assert_ok(ml_loader_next(b, &y, &err));
            assert_int_equal(x->n_token, y->n_token);
            assert_int_equal(x->n_seq, y->n_seq);
            assert_memory_equal(x->id, y->id, (size_t)x->n_token * 4);
            assert_memory_equal(x->target, y->target, (size_t)x->n_token * 4);
            assert_memory_equal(x->seq, y->seq, (size_t)(x->n_seq + 1) * 4);
        }
        ml_loader_free(b);
    }
    int64_t n = ml_loader_n_window(a), total = 108 * 4;
    assert_int_equal(ml_loader_state(a).epoch, total / n);
    assert_int_equal(ml_loader_state(a).index, total % n);
    assert_fails(ml_loader_restore(a, (ml_loader_position){ 0, n }, &err), ML_EINVAL, "other data");
    assert_fails(ml_loader_restore(a, (ml_loader_position){ -1, 0 }, &err), ML_EINVAL, "epoch -1");
    ml_loader_free(a);
}

/* Windows of one step, by how often each occurs. */
static void count_step(int64_t n_rank, int64_t batch, int64_t accumulate, int step, int *count)
{
    for (int64_t rank = 0; rank < n_rank; rank++) {
        ml_loader_config c = config_for(batch, 16, true);
        ml_loader *loader;
        const ml_batch *b;
        int64_t window[16];
        c.rank = rank;
        c.n_rank = n_rank;
        assert_ok(ml_loader_make(data, &c, &loader, &err));
        for (int s = 0; s <= step; s++) {
            for (int64_t i = 0; i < accumulate; i++) {
                assert_ok(ml_loader_next(loader, &b, &err));
                check_batch(b, 16, true, window);
                for (int64_t k = 0; s == step && k < batch; k++) count[window[k]]++;
            }
        }
        ml_loader_free(loader);
    }
}

static void test_a_step_is_the_same_windows_on_any_number_of_ranks(void **state)
{
    (void)state;
    const int64_t layout[][3] = { { 1, 16, 1 }, { 1, 2, 8 }, { 2, 4, 2 }, { 4, 4, 1 }, { 16, 1, 1 } };
    int64_t n = (n_stream - 1) / 16;
    for (int step = 0; step < 40; step += 13) {
        int *want = ml_calloc((size_t)n, sizeof *want);
        count_step(1, 16, 1, step, want);
        for (int k = 1; k < 5; k++) {
            int *got = ml_calloc((size_t)n, sizeof *got);
            count_step(layout[k][0], layout[k][1], layout[k][2], step, got);
            assert_memory_equal(got, want, (size_t)n * sizeof *got);
            ml_free(got);
        }
        ml_free(want);
    }
}

static void test_evaluation_reads_in_order(void **state)
{
    (void)state;
    ml_loader_config c = config_for(4, 32, false);
    ml_loader *loader;
    const ml_batch *b;
    int64_t window[4];
    assert_ok(ml_loader_make(data, &c, &loader, &err));
    ml_alloc_stats before = ml_alloc_get_stats();
    for (int64_t first = 0; first < 12; first += 4) {
        assert_ok(ml_loader_read(loader, first, 4, &b, &err));
        check_batch(b, 32, false, window);
        for (int i = 0; i < 4; i++) assert_int_equal(window[i], first + i);
    }
    assert_ok(ml_loader_read(loader, 5, 1, &b, &err));
    assert_int_equal(b->n_token, 32);
    assert_int_equal(ml_loader_state(loader).index, 0);
    assert_ok(ml_loader_next(loader, &b, &err));
    assert_int_equal(ml_alloc_get_stats().n_total, before.n_total); /* nothing allocated per batch */
    int64_t n = ml_loader_n_window(loader);
    assert_fails(ml_loader_read(loader, n - 1, 2, &b, &err), ML_EINVAL, "split has");
    assert_fails(ml_loader_read(loader, 0, 5, &b, &err), ML_EINVAL, "a batch holds 4");
    ml_loader_free(loader);
}

static void test_bad_configurations_are_refused(void **state)
{
    (void)state;
    ml_loader *loader;
    ml_loader_config c = config_for(1, n_stream, false);
    assert_fails(ml_loader_make(data, &c, &loader, &err), ML_EINVAL, "lower train.seq");
    c.seq = n_stream - 1; /* exactly one window */
    assert_ok(ml_loader_make(data, &c, &loader, &err));
    assert_int_equal(ml_loader_n_window(loader), 1);
    ml_loader_free(loader);
    c = config_for(1, 8, false);
    c.split = ML_SPLIT_VAL;
    assert_fails(ml_loader_make(data, &c, &loader, &err), ML_EINVAL, "--val-fraction");
    c = config_for(0, 8, false);
    assert_fails(ml_loader_make(data, &c, &loader, &err), ML_EINVAL, "at least 1");
    c = config_for(1 << 20, 1 << 20, false);
    assert_fails(ml_loader_make(data, &c, &loader, &err), ML_EINVAL, "under 2^31");
    c = config_for(1, 8, false);
    c.rank = 1;
    assert_fails(ml_loader_make(data, &c, &loader, &err), ML_EINVAL, "rank 1 of 1");
}

static void test_batches_are_bounded(void **state)
{
    (void)state;
    ml_batch b;
    int32_t id[] = { 5, 6, 7 }, target[] = { 6, 7, -1 };
    assert_ok(ml_batch_init(&b, 5, 2, &err));
    ml_batch_clear(&b);
    assert_ok(ml_batch_add(&b, id, target, 3, &err));
    assert_fails(ml_batch_add(&b, id, target, 3, &err), ML_EINVAL, "3 of 5 tokens");
    assert_int_equal(b.n_token, 3);
    assert_ok(ml_batch_add(&b, id + 1, target + 1, 1, &err));
    assert_fails(ml_batch_add(&b, id, target, 1, &err), ML_EINVAL, "2 of 2 sequences");
    assert_int_equal(b.n_target, 3);
    assert_int_equal(b.seq[2], 4);
    assert_int_equal(b.pos[3], 0);
    ml_batch_free(&b);
    assert_fails(ml_batch_init(&b, 0, 1, &err), ML_EINVAL, "1 <= sequences");
}

/* ---- damage ---- */

static void expect_damage(const char *file, const char *text, size_t n, ml_status code, const char *message)
{
    char *old;
    size_t size;
    ml_dataset *opened;
    assert_ok(ml_file_read(test_path_in(folder, file), &old, &size, &err));
    assert_ok(ml_file_replace(test_path_in(folder, file), text, n, &err));
    assert_fails(ml_dataset_open(test_path_in(folder, "data"), &opened, &err), code, message);
    assert_null(opened);
    assert_ok(ml_file_replace(test_path_in(folder, file), old, size, &err));
    ml_free(old);
}

/* meta.json with the first `from` behind `after` replaced by `to`. */
static void expect_meta_damage(const char *after, const char *from, const char *to, const char *message)
{
    char *old, text[65536];
    assert_ok(ml_file_read(test_path_in(folder, "data/meta.json"), &old, NULL, &err));
    char *start = strstr(old, after);
    assert_non_null(start);
    char *at = strstr(start, from);
    assert_non_null(at);
    *at = 0;
    snprintf(text, sizeof text, "%s%s%s", old, to, at + strlen(from));
    ml_free(old);
    expect_damage("data/meta.json", text, strlen(text), ML_EFORMAT, message);
}

static void test_damaged_folders_are_refused(void **state)
{
    (void)state;
    ml_dataset *opened;
    expect_damage("data/meta.json", "{\"version\": 1", 13, ML_EFORMAT, "meta.json");
    expect_damage("data/meta.json", "{\"version\": 1}", 14, ML_EIO, "not complete");
    expect_meta_damage("\"version\"", "1", "2", "version: expected 1, found 2");
    expect_meta_damage("\"dtype\"", "uint16", "int8", "expected uint16 or uint32");
    expect_meta_damage("\"dtype\"", "uint16", "uint32", "train_00000.bin: expected");
    expect_meta_damage("\"vocab_size\"", "258", "-3", "vocab_size: expected 1");
    expect_meta_damage("\"vocab_size\"", "258", "1", "special_token_ids.eos");
    expect_meta_damage("\"train_00000.bin\"", "\"tokens\": ", "\"tokens\": 1", "train_00000.bin: expected 1");
    expect_meta_damage("\"train_00000.bin\"", "\"documents\": ", "\"documents\": 9", "train_00000.idx: expected 9");
    expect_meta_damage("\"train_00000.bin\"", "\"documents\": ", "\"documents\": -", "expected a count");
    expect_meta_damage("\"splits\"", "train_00000.bin", "../secret.bin", "a name like train_00000.bin");
    expect_meta_damage("\"splits\"", "\"tokens\": ", "\"tokens\": 7", "splits.train: expected 7");
    char *idx;
    size_t n;
    assert_ok(ml_file_read(test_path_in(folder, "data/train_00001.idx"), &idx, &n, &err));
    expect_damage("data/train_00001.idx", idx, n - 1, ML_EFORMAT, "train_00001.idx: expected");
    ml_store_u64((uint8_t *)idx + 8, 0);
    expect_damage("data/train_00001.idx", idx, n, ML_EFORMAT, "offset 8: document offsets must begin at 0 and rise");
    ml_store_u64((uint8_t *)idx + 8, UINT64_MAX);
    expect_damage("data/train_00001.idx", idx, n, ML_EFORMAT, "offset 16");
    ml_free(idx);
    assert_ok(ml_file_read(test_path_in(folder, "data/train_00001.idx"), &idx, &n, &err));
    ml_store_u64((uint8_t *)idx + n - 8, 1u << 30);
    expect_damage("data/train_00001.idx", idx, n, ML_EFORMAT, "the last document ends at token 1073741824");
    ml_free(idx);
    assert_int_equal(rename(test_path_in(folder, "data/train_00001.bin"), test_path_in(folder, "away")), 0);
    assert_fails(ml_dataset_open(test_path_in(folder, "data"), &opened, &err), ML_EIO, "train_00001.bin");
    assert_int_equal(rename(test_path_in(folder, "away"), test_path_in(folder, "data/train_00001.bin")), 0);
    assert_fails(ml_dataset_open(test_path_in(folder, "nothing"), &opened, &err), ML_EIO, "no such data folder");
}

static void test_an_id_outside_the_vocabulary_is_found(void **state)
{
    (void)state;
    char *bin;
    size_t n;
    ml_dataset *opened;
    ml_loader *loader;
    const ml_batch *b;
    assert_ok(ml_file_read(test_path_in(folder, "data/train_00000.bin"), &bin, &n, &err));
    bin[11] = 2; /* id 5 of the shard: 512 or more */
    assert_ok(ml_file_replace(test_path_in(folder, "data/train_00000.bin"), bin, n, &err));
    ml_free(bin);
    assert_ok(ml_dataset_open(test_path_in(folder, "data"), &opened, &err));
    assert_fails(ml_dataset_verify(opened, &err), ML_EFORMAT, "SHA-256");
    ml_loader_config c = config_for(1, 8, false);
    assert_ok(ml_loader_make(opened, &c, &loader, &err));
    assert_fails(ml_loader_read(loader, 0, 1, &b, &err), ML_EFORMAT,
                 "train_00000.bin: offset 10: expected an id below");
    ml_loader_free(loader);
    ml_dataset_free(opened);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream_and_documents),
        cmocka_unit_test(test_each_window_once_per_epoch),
        cmocka_unit_test(test_windows_of_one_token),
        cmocka_unit_test(test_restore_continues_with_the_same_batches),
        cmocka_unit_test(test_a_step_is_the_same_windows_on_any_number_of_ranks),
        cmocka_unit_test(test_evaluation_reads_in_order),
        cmocka_unit_test(test_bad_configurations_are_refused),
        cmocka_unit_test(test_batches_are_bounded),
        cmocka_unit_test(test_damaged_folders_are_refused),
        /* last: it leaves the folder damaged */
        cmocka_unit_test(test_an_id_outside_the_vocabulary_is_found),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
