/* Folders of rows: what is written comes back, batches are what the rows say, order and position, damaged files. */
#include "base/alloc.h"
#include "data/row_loader.h"
#include "data/rows_write.h"
#include "support/byte_tokenizer.h"
#include "support/support.h"

#include <string.h>

enum { N_ROW = 37 };

static ml_error err;
static char folder[ML_PATH_MAX], singles[ML_PATH_MAX], pairs[ML_PATH_MAX];
static ml_tokenizer *tokenizer;

/* Row i: 5 + i % 11 tokens, learned from token 2 + i % 3 on; every fourth has a second span. */
static void make_row(int i, ml_row *row)
{
    ml_row_clear(row);
    int n = 5 + i % 11, begin = 2 + i % 3;
    for (int k = 0; k < n; k++) {
        int32_t id = 2 + (i * 31 + k * 7) % 256;
        assert_ok(ml_ids_append(&row->ids, &id, 1, &err));
    }
    assert_ok(ml_row_add_span(row, (size_t)begin, (size_t)begin + 1, &err));
    if (i % 4 == 0) assert_ok(ml_row_add_span(row, (size_t)n - 1, (size_t)n, &err));
}

/* Pair i: prompt of 3, chosen of 1 + i % 5, rejected of 2 + i % 3. */
static void make_pair(int i, ml_row *row)
{
    ml_row_clear(row);
    int n_chosen = 1 + i % 5, n = 3 + n_chosen + 2 + i % 3;
    for (int k = 0; k < n; k++) {
        int32_t id = 2 + (i * 17 + k * 5) % 256;
        assert_ok(ml_ids_append(&row->ids, &id, 1, &err));
    }
    assert_ok(ml_row_add_span(row, 3, 3 + (size_t)n_chosen, &err));
    assert_ok(ml_row_add_span(row, 3 + (size_t)n_chosen, (size_t)n, &err));
}

static void write_folder(const char *path, ml_rows_kind kind)
{
    ml_rows_writer *w;
    ml_row row = { 0 };
    assert_ok(ml_rows_writer_make(path, "test", kind, tokenizer, &w, &err));
    for (int i = 0; i < N_ROW; i++) {
        kind == ML_ROWS_PAIR ? make_pair(i, &row) : make_row(i, &row);
        assert_ok(ml_rows_writer_add(w, i % 5 == 4 ? ML_SPLIT_VAL : ML_SPLIT_TRAIN, &row, &err));
    }
    json_t *facts = json_pack("{s:s}", "form", "test");
    assert_ok(ml_rows_writer_finish(w, facts, &err));
    json_decref(facts);
    ml_rows_writer_free(w);
    ml_row_free(&row);
}

static int setup(void **state)
{
    (void)state;
    char path[ML_PATH_MAX];
    snprintf(folder, sizeof folder, "%s", test_make_folder());
    assert_ok(ml_path_join(path, folder, "tokenizer", &err));
    assert_ok(ml_dir_make(path, &err));
    tokenizer = test_byte_tokenizer(path, true, 0);
    assert_ok(ml_path_join(singles, folder, "singles", &err));
    assert_ok(ml_path_join(pairs, folder, "pairs", &err));
    write_folder(singles, ML_ROWS_SINGLE);
    write_folder(pairs, ML_ROWS_PAIR);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ml_tokenizer_free(tokenizer);
    test_remove_folder(folder);
    return 0;
}

static void assert_same_row(const ml_row *a, const ml_row *b)
{
    assert_int_equal(a->ids.n, b->ids.n);
    assert_memory_equal(a->ids.id, b->ids.id, a->ids.n * sizeof *a->ids.id);
    assert_int_equal(a->n_span, b->n_span);
    assert_memory_equal(a->span, b->span, a->n_span * sizeof *a->span);
}

static void test_written_rows_come_back(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        ml_rows *rows;
        ml_row row = { 0 }, wanted = { 0 };
        int64_t at[ML_N_SPLIT] = { 0 }, n_token[ML_N_SPLIT] = { 0 }, n_target = 0;
        assert_ok(ml_rows_open(kind ? pairs : singles, &rows, &err));
        assert_int_equal(rows->kind, kind);
        assert_int_equal(rows->id_bytes, 2);
        assert_ok(ml_rows_check_tokenizer(rows, ml_tokenizer_fingerprint(tokenizer), &err));
        assert_fails(ml_rows_check_tokenizer(rows, "0123456789abcdef0123", &err), ML_EINVAL, "tokenizer in use");
        assert_fails(ml_rows_check_kind(rows, kind ? ML_ROWS_SINGLE : ML_ROWS_PAIR, &err), ML_EINVAL, "moonlight dpo");
        assert_ok(ml_rows_verify(rows, &err));
        for (int i = 0; i < N_ROW; i++) {
            ml_data_split split = i % 5 == 4 ? ML_SPLIT_VAL : ML_SPLIT_TRAIN;
            kind ? make_pair(i, &wanted) : make_row(i, &wanted);
            assert_ok(ml_rows_read(rows, split, at[split]++, &row, &err));
            assert_same_row(&row, &wanted);
            n_token[split] += (int64_t)row.ids.n;
            for (size_t k = 0; k < row.n_span; k++) n_target += row.span[k].end - row.span[k].begin;
        }
        for (int s = 0; s < ML_N_SPLIT; s++) {
            assert_int_equal(rows->split[s].n_row, at[s]);
            assert_int_equal(rows->split[s].n_token, n_token[s]);
        }
        assert_int_equal(rows->split[0].n_target + rows->split[1].n_target, n_target);
        ml_rows_free(rows);
        ml_row_free(&row);
        ml_row_free(&wanted);
    }
}

/* ---- batches ---- */

static void test_a_batch_is_its_rows(void **state)
{
    (void)state;
    ml_rows *rows;
    ml_row_loader *l;
    ml_batch b;
    ml_row row = { 0 };
    assert_ok(ml_rows_open(singles, &rows, &err));
    ml_row_loader_config c = { .split = ML_SPLIT_TRAIN, .batch = 4, .seq = 15, .seed = 3 };
    assert_ok(ml_row_loader_make(rows, &c, &l, &err));
    assert_ok(ml_batch_init(&b, 4 * 15, 4, &err));
    assert_ok(ml_row_loader_read(l, 2, 4, &b, &err));
    assert_int_equal(b.n_seq, 4);
    int64_t n_target = 0;
    for (int s = 0; s < 4; s++) {
        assert_int_equal(b.row[s], 2 + s);
        assert_ok(ml_rows_read(rows, ML_SPLIT_TRAIN, 2 + s, &row, &err));
        int64_t first = b.seq[s], n = b.seq[s + 1] - first;
        assert_int_equal(n, row.span[row.n_span - 1].end - 1); /* nothing behind the last learned token is run */
        for (int64_t k = 0; k < n; k++) {
            bool learned = false;
            for (size_t p = 0; p < row.n_span; p++) {
                learned = learned || (k + 1 >= row.span[p].begin && k + 1 < row.span[p].end);
            }
            assert_int_equal(b.id[first + k], row.ids.id[k]);
            assert_int_equal(b.target[first + k], learned ? row.ids.id[k + 1] : -1);
            assert_int_equal(b.pos[first + k], k);
            n_target += learned;
        }
    }
    assert_int_equal(b.n_target, n_target);
    ml_batch_free(&b);
    ml_row_free(&row);
    ml_row_loader_free(l);
    ml_rows_free(rows);
}

static void test_a_pair_is_two_sequences(void **state)
{
    (void)state;
    ml_rows *rows;
    ml_row_loader *l;
    ml_batch b;
    ml_row row = { 0 };
    assert_ok(ml_rows_open(pairs, &rows, &err));
    ml_row_loader_config c = { .split = ML_SPLIT_TRAIN, .batch = 3, .seq = 8, .seed = 3 };
    assert_int_equal(rows->split[0].longest_input, 6); /* 3 + 4 - 1: answers of 5 are in the other split */
    assert_ok(ml_row_loader_make(rows, &c, &l, &err));
    assert_ok(ml_batch_init(&b, 6 * 8, 6, &err));
    assert_ok(ml_row_loader_read(l, 5, 3, &b, &err));
    assert_int_equal(b.n_seq, 6);
    for (int s = 0; s < 6; s++) {
        assert_ok(ml_rows_read(rows, ML_SPLIT_TRAIN, 5 + s / 2, &row, &err));
        assert_int_equal(b.row[s], 5 + s / 2);
        ml_row_span answer = row.span[s % 2];
        int64_t first = b.seq[s], n = b.seq[s + 1] - first;
        assert_int_equal(n, 3 + answer.end - answer.begin - 1);
        for (int64_t k = 0; k < n; k++) {
            int32_t id = k < 3 ? row.ids.id[k] : row.ids.id[answer.begin + k - 3];
            int32_t target = k < 2 ? -1 : row.ids.id[answer.begin + k - 2];
            assert_int_equal(b.id[first + k], id);
            assert_int_equal(b.target[first + k], target);
        }
    }
    ml_batch_free(&b);
    ml_row_free(&row);
    ml_row_loader_free(l);
    ml_rows_free(rows);
}

static void test_epochs_position_and_batch_size(void **state)
{
    (void)state;
    enum { N_TRAIN = 30 };
    ml_rows *rows;
    ml_batch b;
    int64_t order[3 * N_TRAIN], again[3 * N_TRAIN];
    assert_ok(ml_rows_open(singles, &rows, &err));
    assert_int_equal(rows->split[0].n_row, N_TRAIN);
    assert_ok(ml_batch_init(&b, 9 * 15, 9, &err));
    for (int size = 1; size <= 9; size += 4) { /* 1, 5, 9: the last straddles epochs */
        ml_row_loader *l;
        ml_row_loader_config c = { .split = ML_SPLIT_TRAIN, .batch = size, .seq = 15, .seed = 3 };
        assert_ok(ml_row_loader_make(rows, &c, &l, &err));
        int64_t before = ml_alloc_get_stats().n_total;
        for (int i = 0; i < 3 * N_TRAIN; i += size) {
            assert_ok(ml_row_loader_next(l, &b, &err));
            for (int k = 0; k < size; k++) again[i + k] = b.row[k];
        }
        assert_int_equal(ml_alloc_get_stats().n_total, before);
        if (size == 1) memcpy(order, again, sizeof order);
        assert_memory_equal(order, again, sizeof order);
        ml_row_loader_free(l);
    }
    for (int e = 0; e < 3; e++) { /* each epoch has every row once, in its own order */
        bool seen[N_TRAIN] = { 0 };
        for (int i = 0; i < N_TRAIN; i++) seen[order[e * N_TRAIN + i]] = true;
        for (int i = 0; i < N_TRAIN; i++) assert_true(seen[i]);
        assert_int_not_equal(memcmp(order, order + e * N_TRAIN, N_TRAIN * sizeof *order) == 0, e != 0);
    }
    ml_row_loader *l;
    ml_row_loader_config c = { .split = ML_SPLIT_TRAIN, .batch = 7, .seq = 15, .seed = 3 };
    assert_ok(ml_row_loader_make(rows, &c, &l, &err));
    for (int i = 0; i < 5; i++) assert_ok(ml_row_loader_next(l, &b, &err));
    ml_loader_position at = ml_row_loader_state(l);
    assert_int_equal(at.epoch, 1);
    assert_int_equal(at.index, 5);
    ml_row_loader_free(l);
    assert_ok(ml_row_loader_make(rows, &c, &l, &err));
    assert_ok(ml_row_loader_restore(l, at, &err));
    assert_ok(ml_row_loader_next(l, &b, &err));
    for (int k = 0; k < 7; k++) assert_int_equal(b.row[k], order[35 + k]);
    at.index = N_TRAIN;
    assert_fails(ml_row_loader_restore(l, at, &err), ML_EINVAL, "other data");
    ml_row_loader_free(l);
    ml_batch_free(&b);
    c.seq = 13;
    assert_fails(ml_row_loader_make(rows, &c, &l, &err), ML_EINVAL, "train.seq");
    ml_rows_free(rows);
}

/* ---- what is refused ---- */

static void test_the_writer_refuses_what_is_no_row(void **state)
{
    (void)state;
    char path[ML_PATH_MAX];
    ml_rows_writer *w;
    ml_row row = { 0 };
    ml_rows *rows;
    assert_ok(ml_path_join(path, folder, "refused", &err));
    assert_ok(ml_rows_writer_make(path, "x", ML_ROWS_SINGLE, tokenizer, &w, &err));
    make_row(1, &row);
    row.span[0].begin = 0; /* nothing predicts the first token */
    assert_fails(ml_rows_writer_add(w, ML_SPLIT_TRAIN, &row, &err), ML_EINVAL, "spans");
    row.span[0] = (ml_row_span){ 3, (int32_t)row.ids.n + 1 };
    assert_fails(ml_rows_writer_add(w, ML_SPLIT_TRAIN, &row, &err), ML_EINVAL, "spans");
    row.n_span = 0;
    assert_fails(ml_rows_writer_add(w, ML_SPLIT_TRAIN, &row, &err), ML_EINVAL, "spans");
    make_row(1, &row);
    row.ids.id[0] = 100000;
    assert_fails(ml_rows_writer_add(w, ML_SPLIT_TRAIN, &row, &err), ML_EINVAL, "ids below");
    ml_rows_writer_free(w);
    assert_fails(ml_rows_open(path, &rows, &err), ML_EIO, "not a finished folder");
    ml_row_free(&row);
}

/* A byte changed anywhere in the index or the spans, or a file cut: an error or harmless, never a wild read. */
static void test_damaged_files(void **state)
{
    (void)state;
    static const char *const names[] = { "train.rows", "train.spans" };
    char path[ML_PATH_MAX];
    for (int f = 0; f < 2; f++) {
        char *good;
        size_t n;
        ml_rows *rows;
        ml_row row = { 0 };
        int n_refused = 0;
        assert_ok(ml_path_join(path, pairs, names[f], &err));
        assert_ok(ml_file_read(path, &good, &n, &err));
        for (size_t i = 0; i < n; i += 3) {
            char old = good[i];
            good[i] = (char)(old ^ 0x41);
            assert_ok(ml_file_replace(path, good, n, &err));
            if (ml_rows_open(pairs, &rows, &err) == ML_OK) {
                for (int64_t k = 0; k < rows->split[0].n_row; k++) {
                    assert_ok(ml_rows_read(rows, ML_SPLIT_TRAIN, k, &row, &err));
                }
                assert_fails(ml_rows_verify(rows, &err), ML_EFORMAT, "SHA-256");
                ml_rows_free(rows);
            } else {
                assert_int_equal(err.code, ML_EFORMAT);
                n_refused++;
            }
            good[i] = old;
        }
        assert_true(n_refused > 20);
        assert_ok(ml_file_replace(path, good, n - 1, &err));
        assert_fails(ml_rows_open(pairs, &rows, &err), ML_EFORMAT, names[f]);
        assert_ok(ml_file_replace(path, good, n, &err));
        ml_free(good);
        ml_row_free(&row);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_rows_come_back),
        cmocka_unit_test(test_a_batch_is_its_rows),
        cmocka_unit_test(test_a_pair_is_two_sequences),
        cmocka_unit_test(test_epochs_position_and_batch_size),
        cmocka_unit_test(test_the_writer_refuses_what_is_no_row),
        cmocka_unit_test(test_damaged_files),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
