/* Parquet files: rows equal to what pyarrow reads (tests/golden/make_parquet.py) and to the decoded JSON beside other
 * people's files; damaged files are refused. */
#include "base/alloc.h"
#include "data/parquet.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

static ml_error err;
static ml_arena arena;

/* A row as JSON. */
static ml_status row_json(const ml_parquet_batch *batch, size_t row, json_t **out)
{
    const ml_value *value;
    ml_arena_release(&arena, 0);
    ML_TRY(ml_parquet_row(batch, row, &arena, &value, &err));
    *out = ml_value_to_json(value);
    assert_non_null(*out);
    return ML_OK;
}

static const char *golden(const char *name)
{
    static char path[4][2 * ML_PATH_MAX];
    static int k;
    k = (k + 1) % 4;
    snprintf(path[k], sizeof path[k], "%s/tests/golden/parquet/%s", MOONLIGHT_SOURCE_DIR, name);
    return path[k];
}

/* Numbers are equal when their values are, whatever they are called. */
static bool same(const json_t *a, const json_t *b)
{
    const char *key;
    json_t *value;
    if (json_is_number(a) && json_is_number(b)) {
        if (json_is_integer(a) && json_is_integer(b)) return json_integer_value(a) == json_integer_value(b);
        return json_number_value(a) == json_number_value(b);
    }
    if (json_typeof(a) != json_typeof(b)) return false;
    if (json_is_array(a)) {
        if (json_array_size(a) != json_array_size(b)) return false;
        for (size_t i = 0; i < json_array_size(a); i++) {
            if (!same(json_array_get(a, i), json_array_get(b, i))) return false;
        }
        return true;
    }
    if (!json_is_object(a)) return json_equal((json_t *)a, (json_t *)b);
    if (json_object_size(a) != json_object_size(b)) return false;
    json_object_foreach((json_t *)a, key, value)
    {
        json_t *other = json_object_get(b, key);
        if (!other || !same(value, other)) return false;
    }
    return true;
}

static void expect_same(const json_t *want, const json_t *found, const char *file, size_t row)
{
    if (same(want, found)) return;
    char *a = json_dumps(want, JSON_ENCODE_ANY), *b = json_dumps(found, JSON_ENCODE_ANY);
    fail_msg("%s, row %zu: expected %s, found %s", file, row + 1, a, b);
}

/* ---- golden files ---- */

/* The lines of a .jsonl file as an array. */
static json_t *load_lines(const char *path)
{
    char *text;
    json_t *rows = json_array(), *row;
    assert_ok(ml_file_read(path, &text, NULL, &err));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        assert_ok(ml_json_parse(line, strlen(line), path, &row, &err));
        json_array_append_new(rows, row);
    }
    ml_free(text);
    return rows;
}

/* What of a row the file's columns are. */
static json_t *select_columns(const ml_parquet *p, json_t *row)
{
    json_t *out = json_object();
    const char *key;
    json_t *value;
    json_object_foreach(row, key, value)
    {
        if (ml_parquet_find(p, key) >= 0) json_object_set(out, key, value);
    }
    return out;
}

static void expect_rows(const char *path, const json_t *want, size_t max_rows, size_t max_bytes)
{
    ml_parquet *p;
    ml_parquet_batch batch = { 0 };
    size_t n_row = 0;
    assert_ok(ml_parquet_open(path, &p, &err));
    assert_int_equal(ml_parquet_row_count(p), json_array_size(want));
    while (true) {
        assert_ok(ml_parquet_read(p, max_rows, max_bytes, &batch, &err));
        if (batch.n_row == 0) break;
        assert_int_equal(batch.first_row, n_row);
        assert_true(batch.n_row <= max_rows);
        for (size_t i = 0; i < batch.n_row; i++, n_row++) {
            json_t *found, *row = select_columns(p, json_array_get(want, n_row));
            assert_ok(row_json(&batch, i, &found));
            expect_same(row, found, path, n_row);
            json_decref(row);
            json_decref(found);
        }
    }
    assert_int_equal(n_row, json_array_size(want));
    assert_int_equal(ml_parquet_at(p), ml_parquet_size(p));
    ml_parquet_batch_free(&batch);
    ml_parquet_free(p);
}

static bool has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), k = strlen(suffix);
    return n > k && strcmp(name + n - k, suffix) == 0;
}

static void test_rows_are_pyarrows(void **state)
{
    (void)state;
    char **names;
    size_t n_names, n_files = 0;
    assert_ok(ml_dir_list(golden(""), &names, &n_names, &err));
    for (size_t i = 0; i < n_names; i++) {
        if (!has_suffix(names[i], ".parquet")) continue;
        char want[ML_PATH_MAX];
        snprintf(want, sizeof want, "%.*s.jsonl", (int)(strlen(names[i]) - strlen(".parquet")), names[i]);
        const char *shared[] = { "chat", "encoded" };
        for (int k = 0; k < 2; k++) {
            if (strncmp(names[i], shared[k], strlen(shared[k])) == 0)
                snprintf(want, sizeof want, "%s.jsonl", shared[k]);
        }
        json_t *rows = load_lines(golden(want));
        expect_rows(golden(names[i]), rows, 65536, 8 << 20);
        expect_rows(golden(names[i]), rows, 7, 8 << 20);
        expect_rows(golden(names[i]), rows, 1, 1);
        json_decref(rows);
        n_files++;
    }
    assert_int_equal(n_files, 35);
    ml_dir_list_free(names, n_names);
}

/* ---- columns ---- */

static void test_columns_are_found_and_chosen(void **state)
{
    (void)state;
    ml_parquet *p;
    ml_parquet_batch batch = { 0 };
    char names[200];
    json_t *row;
    assert_ok(ml_parquet_open(golden("chat_zstd_v1.parquet"), &p, &err));
    ml_parquet_column_names(p, names, sizeof names);
    assert_string_equal(names, "id, messages, score, tags, meta, good");
    ml_parquet_column_names(p, names, 10);
    assert_int_equal(strlen(names), 9);
    assert_int_equal(ml_parquet_find(p, "score"), 2);
    assert_int_equal(ml_parquet_find(p, "scores"), -1);
    uint64_t all = ml_parquet_size(p);
    size_t column = (size_t)ml_parquet_find(p, "tags");
    assert_false(ml_parquet_is_text(p, column));
    assert_ok(ml_parquet_select(p, &column, 1, &err));
    assert_in_range(ml_parquet_size(p), 1, all - 1);
    assert_ok(ml_parquet_read(p, 100, 1 << 20, &batch, &err));
    assert_int_equal(batch.n_row, 15); /* a row group */
    assert_ok(row_json(&batch, 0, &row));
    assert_int_equal(json_object_size(row), 1);
    assert_int_equal(json_array_size(json_object_get(row, "tags")), 3);
    json_decref(row);
    assert_fails(ml_parquet_select(p, &column, 1, &err), ML_EINVAL, "before the first row");
    ml_parquet_free(p);
    ml_parquet_batch_free(&batch);
}

static void test_texts_need_no_json(void **state)
{
    (void)state;
    ml_parquet *p;
    ml_parquet_batch batch = { 0 };
    json_t *rows = load_lines(golden("encoded.jsonl"));
    assert_ok(ml_parquet_open(golden("encoded_delta_length_byte_array.parquet"), &p, &err));
    assert_ok(ml_parquet_read(p, 1000, 1 << 20, &batch, &err));
    assert_int_equal(batch.n_row, 300);
    assert_true(ml_parquet_is_text(p, 0));
    size_t n_null = 0;
    for (size_t i = 0; i < batch.n_row; i++) {
        const char *text;
        size_t n;
        const json_t *want = json_object_get(json_array_get(rows, i), "text");
        ml_parquet_text(&batch, i, 0, &text, &n);
        n_null += !text;
        assert_int_equal(!text, json_is_null(want));
        if (text) assert_int_equal(n, json_string_length(want));
        if (text) assert_memory_equal(text, json_string_value(want), n);
    }
    assert_true(n_null > 10);
    json_decref(rows);
    ml_parquet_free(p);
    ml_parquet_batch_free(&batch);
}

/* ---- other people's files ---- */

/* The decoded JSON is an array of rows, each an array of the columns' values. */
static void expect_conformance(const char *name)
{
    char path[ML_PATH_MAX];
    json_t *values, *rows = json_array(), *line;
    ml_parquet *p;
    size_t i;
    snprintf(path, sizeof path, "parquet/%s.json", name);
    assert_ok(ml_json_load(test_data_path(path), &values, &err));
    snprintf(path, sizeof path, "parquet/%s.parquet", name);
    assert_ok(ml_parquet_open(test_data_path(path), &p, &err));
    json_array_foreach(values, i, line)
    {
        json_t *row = json_object();
        size_t k = 0;
        for (const ml_parquet_node *node = ml_parquet_schema_of(p)->child; node; node = node->next)
            json_object_set(row, node->name, json_array_get(line, k++));
        assert_int_equal(k, json_array_size(line));
        json_array_append_new(rows, row);
    }
    expect_rows(test_data_path(path), rows, 1000, 1 << 20);
    ml_parquet_free(p);
    json_decref(values);
    json_decref(rows);
}

static void test_conformance_files(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("parquet/alpha.parquet");
    expect_conformance("alpha");
    expect_conformance("boolean_rle");
    expect_conformance("brotli_compressed");
    expect_conformance("byte_array_decimal");
    expect_conformance("datapage_v2.snappy");
    expect_conformance("delta_byte_array");
}

static void test_a_data_set_of_the_hub(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("parquet/gsm8k_test.parquet");
    json_t *rows = load_lines(test_data_path("math/gsm8k_test.jsonl"));
    assert_int_equal(json_array_size(rows), 1319);
    expect_rows(test_data_path("parquet/gsm8k_test.parquet"), rows, 65536, 8 << 20);
    json_decref(rows);
}

/* ---- damage ---- */

static uint8_t *load(const char *path, size_t *size)
{
    char *text;
    assert_ok(ml_file_read(path, &text, size, &err));
    return (uint8_t *)text;
}

/* Read everything there is in some bytes. */
static ml_status read_all(const uint8_t *data, size_t size, size_t *n_row)
{
    ml_parquet *p;
    ml_parquet_batch batch = { 0 };
    ml_status status = ml_parquet_open_memory(data, size, "bytes", &p, &err);
    *n_row = 0;
    if (status != ML_OK) return status;
    do {
        status = ml_parquet_read(p, 10, 4096, &batch, &err);
        for (size_t i = 0; status == ML_OK && i < batch.n_row; i++) {
            const ml_value *row;
            ml_arena_release(&arena, 0);
            status = ml_parquet_row(&batch, i, &arena, &row, &err);
        }
        *n_row += batch.n_row;
    } while (status == ML_OK && batch.n_row);
    ml_parquet_batch_free(&batch);
    ml_parquet_free(p);
    return status;
}

static void test_cut_files_are_refused(void **state)
{
    (void)state;
    size_t size, n_row;
    uint8_t *data = load(golden("chat_snappy_v2.parquet"), &size);
    for (size_t n = 0; n < size; n++) {
        uint8_t *part = malloc(n ? n : 1); /* of its own, so that the sanitizer sees its end */
        memcpy(part, data, n);
        assert_fails(read_all(part, n, &n_row), ML_EFORMAT, "bytes: ");
        free(part);
    }
    ml_free(data);
}

static void expect_no_harm(const char *name, size_t stride)
{
    static const uint8_t change[] = { 0xff, 0x01, 0x80 };
    size_t size, n_row, n_refused = 0, n_changed = 0;
    uint8_t *data = load(golden(name), &size);
    assert_ok(read_all(data, size, &n_row));
    for (size_t i = 4; i < size; i += stride) {
        for (size_t k = 0; k < sizeof change; k++) {
            data[i] ^= change[k];
            ml_status status = read_all(data, size, &n_row);
            if (status != ML_OK && status != ML_EFORMAT && status != ML_EINVAL)
                fail_msg("%s, byte %zu: status %d: %s", name, i, status, err.message);
            n_refused += status != ML_OK;
            n_changed++;
            data[i] ^= change[k];
        }
    }
    assert_true(n_refused > n_changed / 10);
    ml_free(data);
}

static void test_damaged_files_do_no_harm(void **state)
{
    (void)state;
    expect_no_harm("chat_none_v1.parquet", 1);
    expect_no_harm("chat_zstd_v2.parquet", 3);
    expect_no_harm("chat_lz4_v1.parquet", 3);
    expect_no_harm("encoded_delta_byte_array.parquet", 3);
    expect_no_harm("encoded_delta_binary_packed.parquet", 3);
    expect_no_harm("encoded_dictionary_full.parquet", 5);
    expect_no_harm("nested.parquet", 1);
    expect_no_harm("old_lists.parquet", 1);
    expect_no_harm("encoded_rle.parquet", 1);
}

static void test_a_checksum_finds_a_changed_page(void **state)
{
    (void)state;
    size_t size, n_row;
    uint8_t *data = load(golden("encoded_checksum.parquet"), &size);
    data[60] ^= 4;
    assert_fails(read_all(data, size, &n_row), ML_EFORMAT, "offset 4: expected a page with checksum ");
    ml_free(data);
}

static void test_a_row_that_is_not_utf8_is_malformed_alone(void **state)
{
    (void)state;
    size_t size;
    uint8_t *data = load(golden("lz4_unframed.parquet"), &size);
    ml_free(data);
    data = load(golden("required.parquet"), &size);
    ml_parquet *p;
    ml_parquet_batch batch = { 0 };
    json_t *row;
    const char *text;
    size_t n;
    /* the first text, "a", stands behind its length */
    uint8_t *at = memmem(data, size, "\1\0\0\0a", 5);
    assert_non_null(at);
    at[4] = 0xc3;
    assert_ok(ml_parquet_open_memory(data, size, "file", &p, &err));
    assert_ok(ml_parquet_read(p, 10, 1000, &batch, &err));
    assert_int_equal(batch.n_row, 2);
    assert_fails(row_json(&batch, 0, &row), ML_EFORMAT, "file: row 1: column \"text\": expected UTF-8");
    assert_ok(row_json(&batch, 1, &row));
    json_decref(row);
    ml_parquet_text(&batch, 0, 0, &text, &n); /* bytes are bytes */
    assert_int_equal(n, 1);
    ml_parquet_batch_free(&batch);
    ml_parquet_free(p);
    ml_free(data);
}

static void test_files_of_other_kinds(void **state)
{
    (void)state;
    size_t n_row, size;
    ml_parquet *p;
    assert_fails(ml_parquet_open("/no/such/file", &p, &err), ML_EIO, "/no/such/file");
    assert_fails(ml_parquet_open(golden("chat.jsonl"), &p, &err), ML_EFORMAT, "expected a Parquet file");
    assert_fails(read_all((const uint8_t *)"PAR1\0\0\0\0\0\0PARE", 14, &n_row), ML_EINVAL, "encrypted");
    assert_fails(read_all((const uint8_t *)"PAR1\0\0\0\1PAR1", 12, &n_row), ML_EFORMAT, "a footer of 16777216 bytes");
    assert_fails(read_all((const uint8_t *)"PAR1\0\1\0\0\0PAR1", 13, &n_row), ML_EFORMAT, "lacks row groups");
    /* LZO is number 3; the two blocks of this file are number 5 */
    uint8_t *data = load(golden("lz4_hadoop.parquet"), &size);
    uint8_t *codec = memmem(data, size, "\x18\x04text\x15\x0a", 8); /* path, then field 4 */
    assert_non_null(codec);
    codec[7] = 6;
    assert_fails(read_all(data, size, &n_row), ML_EINVAL, "compression 3 is not supported");
    ml_free(data);
}

static void test_running_out_of_memory(void **state)
{
    (void)state;
    size_t size, n_row;
    uint8_t *data = load(golden("chat_gzip_v1.parquet"), &size);
    int64_t before = ml_alloc_get_stats().n_live;
    int n_failed = 0;
    for (int64_t n = 0; n < 10000; n++) {
        ml_alloc_fail_after(n);
        ml_status status = read_all(data, size, &n_row);
        ml_alloc_fail_after(-1);
        assert_int_equal(ml_alloc_get_stats().n_live, before);
        if (status == ML_OK) break;
        assert_int_equal(status, ML_ENOMEM);
        n_failed++;
    }
    assert_true(n_failed > 20);
    ml_free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_pyarrows),
        cmocka_unit_test(test_columns_are_found_and_chosen),
        cmocka_unit_test(test_texts_need_no_json),
        cmocka_unit_test(test_conformance_files),
        cmocka_unit_test(test_a_data_set_of_the_hub),
        cmocka_unit_test(test_cut_files_are_refused),
        cmocka_unit_test(test_damaged_files_do_no_harm),
        cmocka_unit_test(test_a_checksum_finds_a_changed_page),
        cmocka_unit_test(test_a_row_that_is_not_utf8_is_malformed_alone),
        cmocka_unit_test(test_files_of_other_kinds),
        cmocka_unit_test(test_running_out_of_memory),
    };
    if (ml_arena_init(&arena, 1 << 28, &err) != ML_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_arena_free(&arena);
    return failed;
}
