/* Mixtures: shares to quotas, documents and rows of several sources, the same bytes again, refusals. */
#include "base/alloc.h"
#include "base/log.h"
#include "base/thread.h"
#include "data/mix.h"
#include "data/build_rows.h"
#include "data/split_rule.h"
#include "support/byte_tokenizer.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BOS = 0, EOS = 1, BYTE = 2 }; /* byte b is id b + 2 */

static ml_error err;
static char folder[ML_PATH_MAX];
static ml_tokenizer *tokenizer;

static void write_file(const char *name, const char *text)
{
    assert_ok(ml_file_replace(test_path_in(folder, name), text, strlen(text), &err));
}

/* n records of a source: documents {"text"} or rows {"prompt", "response"} of its letter, all different. */
static void write_records(const char *name, char letter, int n, bool rows)
{
    char *text = ml_alloc((size_t)n * 200), *p = text;
    for (int i = 0; i < n; i++) {
        p += sprintf(p, "{\"%s\": \"", rows ? "prompt" : "text");
        for (int k = 0; k < 3 + i % 17; k++) *p++ = letter;
        p += sprintf(p, "%d", i);
        if (rows) p += sprintf(p, "\", \"response\": \"%c", letter);
        p += sprintf(p, "\"}\n");
    }
    *p = 0;
    write_file(name, text);
    ml_free(text);
}

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "%s", test_make_folder());
    assert_ok(ml_dir_make(test_path_in(folder, "tokenizer"), &err));
    tokenizer = test_byte_tokenizer(test_path_in(folder, "tokenizer"), true, 0);
    assert_ok(ml_dir_make(test_path_in(folder, "b/inner"), &err));
    write_records("a.jsonl", 'a', 600, false);
    write_records("b/1.jsonl", 'b', 300, false);
    write_records("b/inner/2.jsonl", 'b', 100, false); /* the same texts again */
    write_file("b/README.txt", "no data: there are JSON lines");
    write_records("c.jsonl", 'c', 900, false);
    write_records("ra.jsonl", 'a', 300, true);
    write_records("rb.jsonl", 'b', 900, true);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ml_tokenizer_free(tokenizer);
    test_remove_folder(folder);
    return 0;
}

/* ---- shares ---- */

static void open_list(const char *const *name, const char *const *share, size_t n, ml_source_list *list)
{
    char item[4][ML_PATH_MAX + 100];
    const char *items[4];
    for (size_t i = 0; i < n; i++) {
        snprintf(item[i], sizeof item[i], "%s:%s", test_path_in(folder, name[i]), share[i]);
        items[i] = item[i];
    }
    assert_ok(ml_source_list_open(items, n, list, &err));
}

static const char *const three[] = { "a.jsonl", "b", "c.jsonl" };

static void test_quotas_add_up(void **state)
{
    (void)state;
    ml_source_list list;
    int64_t quota[3];
    open_list(three, (const char *[]){ ".5", "0.3", "2e-1" }, 3, &list);
    ml_source_list_divide(&list, 7, quota); /* 3.5, 2.1, 1.4: the first has lost most */
    assert_int_equal(quota[0], 4);
    assert_int_equal(quota[1], 2);
    assert_int_equal(quota[2], 1);
    for (int64_t total = 0; total < 2000; total += 37) {
        ml_source_list_divide(&list, total, quota);
        assert_int_equal(quota[0] + quota[1] + quota[2], total);
        for (int i = 0; i < 3; i++) {
            double exact = list.source[i].share * (double)total;
            assert_true(fabs((double)quota[i] - exact) < 1);
        }
    }
    const int64_t there[] = { 1000, 30, 1000 };
    int64_t most = ml_source_list_largest(&list, there); /* 30 / 0.3, and what rounding allows */
    ml_source_list_divide(&list, most, quota);
    assert_int_equal(quota[1], 30);
    ml_source_list_divide(&list, most + 1, quota);
    assert_int_equal(quota[1], 31);
    assert_string_equal(list.source[1].name, "b");
    assert_int_equal(list.source[1].n_file, 2); /* of the folder and of the one in it, JSON lines only */
    assert_non_null(strstr(list.source[1].file[1], "inner/2.jsonl"));
    ml_source_list_free(&list);
}

static void refuse(const char *const *item, size_t n, ml_status status, const char *part)
{
    ml_source_list list;
    assert_fails(ml_source_list_open(item, n, &list, &err), status, part);
}

static void test_what_is_no_source(void **state)
{
    (void)state;
    refuse((const char *[]){ "x" }, 1, ML_EINVAL, "PATH:SHARE");
    refuse((const char *[]){ "x:" }, 1, ML_EINVAL, "PATH:SHARE");
    refuse((const char *[]){ ":1" }, 1, ML_EINVAL, "PATH:SHARE");
    refuse((const char *[]){ "x:1.5" }, 1, ML_EINVAL, "PATH:SHARE");
    refuse((const char *[]){ "x:0.5y" }, 1, ML_EINVAL, "PATH:SHARE");
    refuse((const char *[]){ "x:0.5", "y:0.4" }, 2, ML_EINVAL, "expected a sum of 1, found 0.9");
    refuse((const char *[]){ "/no/such/place:1" }, 1, ML_EIO, "/no/such/place");
    char item[ML_PATH_MAX + 100], missing[ML_PATH_MAX];
    bool found;
    snprintf(item, sizeof item, "%s:1", test_path_in(folder, "tokenizer/none"));
    assert_ok(ml_dir_make(test_path_in(folder, "tokenizer/none"), &err));
    refuse((const char *[]){ item }, 1, ML_EIO, "found none");
    snprintf(item, sizeof item, "%s:.25", test_path_in(folder, "a.jsonl"));
    assert_ok(ml_source_list_find((const char *[]){ item, "nowhere:.75" }, 2, &found, missing, &err));
    assert_false(found);
    assert_string_equal(missing, "nowhere");
}

/* ---- documents ---- */

static ml_mix_config mix_config(const ml_source_list *list, int64_t tokens, const char *out)
{
    return (ml_mix_config){ .sources = list,
                            .tokens = tokens,
                            .build = { .out = out,
                                       .name = "mix",
                                       .marker = "<|endoftext|>",
                                       .field = "text",
                                       .val_fraction = 0.2,
                                       .seed = 3,
                                       .shard_tokens = 2000,
                                       .max_bad = 0.01 } };
}

/* Tokens of each letter's source in a split; every document is whole, but for one cut one of each source, of a text of
 * its source, on the side where its text belongs, and there once (b: twice). */
static void count_tokens(const char *out, ml_data_split split, int64_t n_token[3])
{
    ml_dataset *data;
    int n_cut[3] = { 0 }, seen[3][1000] = { { 0 } };
    assert_ok(ml_dataset_open(out, &data, &err));
    assert_ok(ml_dataset_verify(data, &err));
    memset(n_token, 0, 3 * sizeof *n_token);
    for (int64_t i = 0; i < data->split[split].n_document; i++) {
        int64_t first, n;
        int32_t id[200];
        char text[200];
        assert_ok(ml_dataset_document(data, split, i, &first, &n, &err));
        assert_ok(ml_dataset_read(data, split, first, n, id, &err));
        assert_int_equal(id[0], BOS);
        if (n == 1) { /* cut behind BOS: of the source that lacks it; told apart by the caller's sums */
            n_token[0] += 1000000;
            continue;
        }
        int source = id[1] - BYTE - 'a';
        assert_in_range(source, 0, 2);
        n_token[source] += n;
        if (id[n - 1] != EOS) {
            n_cut[source]++;
            continue;
        }
        for (int64_t k = 1; k < n - 1; k++) text[k - 1] = (char)(id[k] - BYTE);
        text[n - 2] = 0;
        int number = atoi(text + strcspn(text, "0123456789"));
        assert_int_equal(strcspn(text, "0123456789"), 3 + number % 17);
        assert_true(seen[source][number]++ < (source == 1 && number < 100 ? 2 : 1));
        ml_sha256 *hash;
        assert_ok(ml_sha256_begin(&hash, &err));
        assert_int_equal(ml_split_rule_is_val(hash, text, strlen(text), 0.2), split == ML_SPLIT_VAL);
        ml_sha256_free(hash);
    }
    for (int i = 0; i < 3; i++) assert_true(n_cut[i] <= 1);
    ml_dataset_free(data);
}

static int64_t total_of(const int64_t *n)
{
    return n[0] + n[1] + n[2];
}

static void test_documents_by_exact_share(void **state)
{
    (void)state;
    ml_source_list list;
    ml_build_result r;
    json_t *sources;
    int64_t n[3];
    open_list(three, (const char *[]){ "0.5", "0.3", "0.2" }, 3, &list);
    ml_mix_config c = mix_config(&list, 5000, test_path_in(folder, "mixed"));
    assert_ok(ml_data_mix(&c, tokenizer, &r, &sources, &err));
    assert_int_equal(r.n_token[ML_SPLIT_TRAIN], 5000);
    assert_int_equal(r.n_token[ML_SPLIT_VAL], 1250); /* 5000 x 0.2 / 0.8 */
    count_tokens(c.build.out, ML_SPLIT_TRAIN, n);
    if (total_of(n) < 1000000) {
        assert_int_equal(n[0], 2500);
        assert_int_equal(n[1], 1500);
        assert_int_equal(n[2], 1000);
    }
    count_tokens(c.build.out, ML_SPLIT_VAL, n);
    if (total_of(n) < 1000000) {
        assert_int_equal(n[0], 625);
        assert_int_equal(n[1], 375);
        assert_int_equal(n[2], 250);
    }
    for (size_t i = 0; i < 3; i++) { /* what is reported is what was counted */
        const json_t *source = json_array_get(sources, i), *tokens = json_object_get(source, "tokens");
        assert_int_equal(json_integer_value(json_object_get(tokens, "train")), i == 0 ? 2500 : i == 1 ? 1500 : 1000);
        assert_true(json_integer_value(json_object_get(source, "records")) > 0);
    }
    assert_false(ml_path_exists(test_path_in(folder, "mixed/source_000")));
    json_decref(sources);
    assert_ok(ml_data_mix(&c, tokenizer, &r, &sources, &err));
    assert_true(r.was_complete);
    assert_int_equal(json_array_size(sources), 3);
    json_decref(sources);
    c.tokens = 4999;
    assert_fails(ml_data_mix(&c, tokenizer, &r, &sources, &err), ML_EINVAL, "asked.tokens: 5000 -> 4999");
    ml_source_list_free(&list);
}

static void fingerprint_of(const char *out, char hex[ML_SHA256_HEX])
{
    ml_dataset *data;
    assert_ok(ml_dataset_open(out, &data, &err));
    memcpy(hex, data->fingerprint, ML_SHA256_HEX);
    ml_dataset_free(data);
}

static void test_the_seed_decides_and_nothing_else(void **state)
{
    (void)state;
    char first[ML_SHA256_HEX], other[ML_SHA256_HEX];
    ml_source_list list;
    ml_build_result r;
    json_t *sources;
    open_list(three, (const char *[]){ "0.5", "0.3", "0.2" }, 3, &list);
    for (int i = 0; i < 4; i++) { /* once more, on one thread, interrupted, with another seed */
        char name[16];
        snprintf(name, sizeof name, "again_%d", i);
        ml_mix_config c = mix_config(&list, 5000, test_path_in(folder, name));
        ml_thread_set_count(i == 1 ? 1 : 2);
        c.build.seed = i == 3 ? 4 : 3;
        if (i == 2) {
            ml_stop_set(true);
            assert_fails(ml_data_mix(&c, tokenizer, &r, &sources, &err), ML_ECANCEL, "run the same command again");
            ml_stop_set(false);
            ml_dataset *data;
            assert_fails(ml_dataset_open(c.build.out, &data, &err), ML_EIO, "meta.json");
        }
        assert_ok(ml_data_mix(&c, tokenizer, &r, &sources, &err));
        json_decref(sources);
        fingerprint_of(c.build.out, other);
        if (i == 0) memcpy(first, other, sizeof first);
        assert_int_equal(strcmp(first, other) == 0, i < 3);
    }
    ml_thread_set_count(0);
    ml_source_list_free(&list);
}

static void test_as_much_as_there_is(void **state)
{
    (void)state;
    ml_source_list list;
    ml_build_result r;
    json_t *sources;
    open_list(three, (const char *[]){ "0.1", "0.8", "0.1" }, 3, &list);
    ml_mix_config c = mix_config(&list, 0, test_path_in(folder, "most"));
    assert_ok(ml_data_mix(&c, tokenizer, &r, &sources, &err));
    const json_t *b = json_array_get(sources, 1);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(b, "tokens"), "train")),
                     json_integer_value(json_object_get(json_object_get(b, "available"), "train")));
    json_decref(sources);
    int64_t most = r.n_token[ML_SPLIT_TRAIN];
    c = mix_config(&list, most + 10, test_path_in(folder, "more"));
    char part[64];
    snprintf(part, sizeof part, "ask for at most %lld in all", (long long)most);
    assert_fails(ml_data_mix(&c, tokenizer, &r, &sources, &err), ML_EINVAL, part);
    assert_non_null(strstr(err.message, "/b has"));
    c.allow_fewer = true;
    assert_ok(ml_data_mix(&c, tokenizer, &r, &sources, &err));
    assert_int_equal(r.n_token[ML_SPLIT_TRAIN], most);
    json_decref(sources);
    c = mix_config(&list, most, test_path_in(folder, "exactly"));
    assert_ok(ml_data_mix(&c, tokenizer, &r, &sources, &err));
    assert_int_equal(r.n_token[ML_SPLIT_TRAIN], most);
    json_decref(sources);
    c.build.val_last = true;
    assert_fails(ml_data_mix(&c, tokenizer, &r, &sources, &err), ML_EINVAL, "--val-fraction");
    ml_source_list_free(&list);
}

/* A source of which more is malformed than allowed stops the mixture; fewer are counted for it. */
static void test_malformed_records_of_a_source(void **state)
{
    (void)state;
    ml_source_list list;
    ml_build_result r;
    json_t *sources;
    write_file("bad.jsonl", "{\"text\": \"dddddddddddddddddddddddddddddd\"}\n{\"text\": 3}\n{\"text\": \" \"}\n");
    open_list((const char *[]){ "a.jsonl", "bad.jsonl" }, (const char *[]){ "0.99", "0.01" }, 2, &list);
    ml_mix_config c = mix_config(&list, 0, test_path_in(folder, "with_bad"));
    c.build.val_fraction = 0;
    assert_fails(ml_data_mix(&c, tokenizer, &r, &sources, &err), ML_EFORMAT, "bad.jsonl:2");
    c.build.max_bad = 0.5;
    c.build.out = test_path_in(folder, "with_bad_2");
    assert_ok(ml_data_mix(&c, tokenizer, &r, &sources, &err));
    const json_t *s = json_array_get(sources, 1), *rejected = json_object_get(s, "rejected");
    assert_int_equal(json_integer_value(json_object_get(rejected, "malformed")), 1);
    assert_int_equal(json_integer_value(json_object_get(rejected, "empty")), 1);
    assert_int_equal(json_integer_value(json_object_get(s, "records")), 3);
    assert_non_null(strstr(json_string_value(json_object_get(s, "first_rejected")), "bad.jsonl:2"));
    assert_int_equal(r.tally.n_bad, 1);
    json_decref(sources);
    ml_source_list_free(&list);
}

/* ---- rows ---- */

static ml_build_rows_config rows_config(const ml_source_list *list, int64_t tokens, const char *out)
{
    return (ml_build_rows_config){ .sources = list,
                                   .tokens = tokens,
                                   .seed = 5,
                                   .out = out,
                                   .form = ML_ROW_PROMPT,
                                   .max_tokens = 100,
                                   .val_fraction = 0.25,
                                   .max_bad = 0.01 };
}

/* Tokens by source; every row there once. */
static void count_row_tokens(const char *out, ml_data_split split, int64_t n_token[2], int64_t *first_half)
{
    ml_rows *rows;
    ml_row row = { 0 };
    int seen[2][1000] = { { 0 } };
    assert_ok(ml_rows_open(out, &rows, &err));
    n_token[0] = n_token[1] = *first_half = 0;
    for (int64_t i = 0; i < rows->split[split].n_row; i++) {
        assert_ok(ml_rows_read(rows, split, i, &row, &err));
        int source = row.ids.id[1] - BYTE - 'a', number = 0;
        assert_in_range(source, 0, 1);
        for (int32_t k = 1; k < row.span[0].begin; k++) {
            int digit = row.ids.id[k] - BYTE - '0';
            if (digit >= 0 && digit <= 9) number = 10 * number + digit;
        }
        assert_int_equal(seen[source][number]++, 0);
        n_token[source] += (int64_t)row.ids.n;
        if (i < rows->split[split].n_row / 2) *first_half += source == 0 ? (int64_t)row.ids.n : 0;
    }
    ml_row_free(&row);
    ml_rows_free(rows);
}

static void test_rows_by_share(void **state)
{
    (void)state;
    enum { LONGEST = 1 + 19 + 3 + 1 + 1 }; /* BOS, letters, number, answer, EOS */
    ml_source_list list;
    ml_build_rows_result r;
    int64_t n[2], half;
    open_list((const char *[]){ "ra.jsonl", "rb.jsonl" }, (const char *[]){ "0.4", "0.6" }, 2, &list);
    ml_build_rows_config c = rows_config(&list, 5000, test_path_in(folder, "rows"));
    assert_ok(ml_build_rows(&c, tokenizer, &r, &err));
    for (int split = 0; split < ML_N_SPLIT; split++) {
        int64_t total = split == ML_SPLIT_TRAIN ? 5000 : 5000 / 3; /* x 0.25 / 0.75 */
        count_row_tokens(c.out, (ml_data_split)split, n, &half);
        assert_in_range(n[0], 4 * total / 10 - LONGEST, 4 * total / 10 + 1);
        assert_in_range(n[1], 6 * total / 10 - LONGEST, 6 * total / 10 + 1);
        assert_in_range(2 * half, n[0] - 3 * LONGEST, n[0] + 3 * LONGEST); /* mixed all along */
        for (size_t i = 0; i < 2; i++) {
            const json_t *tokens = json_object_get(json_array_get(r.sources, i), "tokens");
            assert_int_equal(json_integer_value(json_object_get(tokens, split ? "val" : "train")), n[i]);
        }
    }
    assert_false(ml_path_exists(test_path_in(folder, "rows/source_000")));
    assert_false(ml_path_exists(test_path_in(folder, "rows/rejects.jsonl")));
    json_decref(r.sources);
    /* the whole of the smaller one; the same again; another seed takes others */
    char print[3][ML_SHA256_HEX];
    for (int i = 0; i < 3; i++) {
        ml_rows *rows;
        c = rows_config(&list, 0, test_path_in(folder, "all_rows"));
        c.seed = i == 2 ? 6 : 5;
        assert_ok(ml_build_rows(&c, tokenizer, &r, &err));
        const json_t *a = json_array_get(r.sources, 0), *tokens = json_object_get(a, "tokens");
        assert_int_equal(json_integer_value(json_object_get(tokens, "train")),
                         json_integer_value(json_object_get(json_object_get(a, "available"), "train")));
        json_decref(r.sources);
        assert_ok(ml_rows_open(c.out, &rows, &err));
        memcpy(print[i], rows->fingerprint, ML_SHA256_HEX);
        ml_rows_free(rows);
    }
    assert_string_equal(print[0], print[1]);
    assert_string_not_equal(print[0], print[2]);
    c = rows_config(&list, 100000, test_path_in(folder, "too_many"));
    assert_fails(ml_build_rows(&c, tokenizer, &r, &err), ML_EINVAL, "ra.jsonl has");
    ml_source_list_free(&list);
}

/* Every defective record is a line of rejects.jsonl; records come from any kind of file. */
static void test_rejects_are_listed(void **state)
{
    (void)state;
    ml_source_list list;
    ml_build_rows_result r;
    char *text;
    write_file("ragged.json", "[{\"prompt\": \"p\", \"response\": \"r\"}, {\"prompt\": \"p\",\n \"response\": \"\"},\n"
                              "{\"question\": \"b1\", \"answer\": \"b\"}, {\"prompt\": 1}]");
    open_list((const char *[]){ "ra.jsonl", "ragged.json" }, (const char *[]){ "0.9", "0.1" }, 2, &list);
    ml_build_rows_config c = rows_config(&list, 0, test_path_in(folder, "listed"));
    c.val_fraction = 0;
    assert_fails(ml_build_rows(&c, tokenizer, &r, &err), ML_EFORMAT, "2 of 4 records are defective");
    c.max_bad = 0.5;
    assert_ok(ml_build_rows(&c, tokenizer, &r, &err));
    json_decref(r.sources);
    assert_int_equal(r.n_reject[ML_REJECT_EMPTY_ANSWER], 1);
    assert_int_equal(r.n_reject[ML_REJECT_MALFORMED], 1);
    assert_ok(ml_file_read(test_path_in(folder, "listed/rejects.jsonl"), &text, NULL, &err));
    assert_non_null(strstr(text, "ragged.json\",\"number\":1,\"reason\":\"empty answer\""));
    assert_non_null(strstr(text, "ragged.json\",\"number\":3,\"reason\":\"malformed\""));
    ml_free(text);
    ml_source_list_free(&list);
    const char *parquet = MOONLIGHT_SOURCE_DIR "/tests/golden/parquet/chat_zstd_v2.parquet";
    const char *lines = MOONLIGHT_SOURCE_DIR "/tests/golden/parquet/chat.jsonl";
    char print[2][ML_SHA256_HEX];
    for (int i = 0; i < 2; i++) {
        ml_rows *rows;
        c = (ml_build_rows_config){ .input = i ? &parquet : &lines,
                                    .n_input = 1,
                                    .out = test_path_in(folder, "chats"),
                                    .form = ML_ROW_PROMPT,
                                    .max_tokens = 10000,
                                    .max_bad = 1 };
        assert_ok(ml_build_rows(&c, tokenizer, &r, &err));
        assert_int_equal(r.n_record, 24);
        assert_true(r.n_row[0] > 1);
        assert_ok(ml_rows_open(c.out, &rows, &err));
        memcpy(print[i], rows->fingerprint, ML_SHA256_HEX);
        ml_rows_free(rows);
    }
    assert_string_equal(print[0], print[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quotas_add_up),
        cmocka_unit_test(test_what_is_no_source),
        cmocka_unit_test(test_documents_by_exact_share),
        cmocka_unit_test(test_the_seed_decides_and_nothing_else),
        cmocka_unit_test(test_as_much_as_there_is),
        cmocka_unit_test(test_malformed_records_of_a_source),
        cmocka_unit_test(test_rows_by_share),
        cmocka_unit_test(test_rejects_are_listed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
