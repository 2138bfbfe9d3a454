/* Records: cut as the rules say whatever the window, equal from plain and compressed files and from Parquet, damaged
 * files refused.  The compressed files are other programs' (tests/golden/make_records.py). */
#include "base/alloc.h"
#include "data/records.h"
#include "data/stream.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

static ml_error err;
static ml_arena arena;
static char folder[ML_PATH_MAX];

static const char *golden(const char *name)
{
    static char path[8][2 * ML_PATH_MAX];
    static int k;
    k = (k + 1) % 8;
    snprintf(path[k], sizeof path[k], "%s/tests/golden/%s", MOONLIGHT_SOURCE_DIR, name);
    return path[k];
}

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

static void write_bytes(const char *name, const void *data, size_t n)
{
    assert_ok(ml_file_replace(test_path_in(folder, name), data, n, &err));
}

static void write_file(const char *name, const char *text)
{
    write_bytes(name, text, strlen(text));
}

/* ---- cutting ---- */

/* Pieces as "line:text|line:text|"; a failure as "!message". */
static void cut_all(ml_cutter c, const char *text, size_t window, char *out, size_t size)
{
    size_t n = strlen(text), begin = 0, used = 0;
    size_t have = window < n ? window : n;
    out[0] = 0;
    while (true) {
        ml_piece piece;
        ml_cut_result result;
        bool is_last = begin + have == n;
        char *copy = malloc(have + 1); /* of its own, so that the sanitizer sees its end */
        memcpy(copy, text + begin, have);
        ml_status status = ml_cut_next(&c, copy, have, is_last, &piece, &result, &err);
        if (status != ML_OK) {
            snprintf(out + used, size - used, "!%s", err.message);
        } else if (result == ML_CUT_PIECE) {
            used += (size_t)snprintf(out + used, size - used, "%llu:%.*s|", (unsigned long long)piece.line,
                                     (int)(piece.end - piece.begin), copy + piece.begin);
        }
        free(copy);
        if (status != ML_OK || result == ML_CUT_END) return;
        if (result == ML_CUT_PIECE) continue;
        assert_false(is_last);
        /* as a compressed file does it: the window moves on to the cursor and takes in more */
        begin += c.at;
        have -= c.at;
        ml_cut_move(&c);
        have = have + 1 < n - begin ? have + 1 : n - begin;
    }
}

static void expect_pieces(ml_cut_kind kind, ml_document_rule rule, uint64_t split_at, const char *text,
                          const char *want)
{
    ml_cutter c = { .kind = kind, .rule = rule, .marker = "<|end|>", .split_at = split_at };
    for (size_t window = 1; window <= strlen(text) + 1; window++) {
        char found[2000];
        cut_all(c, text, window, found, sizeof found);
        if (strcmp(found, want) != 0) fail_msg("window %zu: expected %s, found %s", window, want, found);
    }
}

static void test_documents_are_cut_by_the_rule(void **state)
{
    (void)state;
    const char *text = "\n one\ntwo \n<|end|>\n\n<|end|>\r\nthree <|end|> x\r\n<|end|>  \n\n four\n";
    expect_pieces(ML_CUT_DOCUMENTS, ML_RULE_MARKER, 0, text, "2:one\ntwo|7:three <|end|> x|10:four|");
    expect_pieces(ML_CUT_DOCUMENTS, ML_RULE_WHOLE, 0, text,
                  "2:one\ntwo \n<|end|>\n\n<|end|>\r\nthree <|end|> x\r\n<|end|>  \n\n four|");
    text = "p\nq\n\n\n \nr\n\ns";
    expect_pieces(ML_CUT_DOCUMENTS, ML_RULE_BLANK, 0, text, "1:p\nq|6:r|8:s|");
    expect_pieces(ML_CUT_DOCUMENTS, ML_RULE_MARKER, 0, text, "1:p\nq\n\n\n \nr\n\ns|");
    expect_pieces(ML_CUT_DOCUMENTS, ML_RULE_MARKER, 0, "", "");
    expect_pieces(ML_CUT_DOCUMENTS, ML_RULE_BLANK, 0, " \n\n\t\n", "");
}

static void test_documents_are_split_at_a_byte(void **state)
{
    (void)state;
    const char *text = "aa bb\ncc dd\nee\n<|end|>\nff";
    expect_pieces(ML_CUT_DOCUMENTS, ML_RULE_MARKER, 1, text, "1:aa|1:bb\ncc dd\nee|5:ff|");
    expect_pieces(ML_CUT_DOCUMENTS, ML_RULE_MARKER, 4, text, "1:aa bb|2:cc dd\nee|5:ff|");
    expect_pieces(ML_CUT_DOCUMENTS, ML_RULE_MARKER, 7, text, "1:aa bb\ncc|2:dd\nee|5:ff|");
    expect_pieces(ML_CUT_DOCUMENTS, ML_RULE_MARKER, 13, text, "1:aa bb\ncc dd\nee|5:ff|");
    expect_pieces(ML_CUT_LINES, ML_RULE_MARKER, 2, "aa bb\ncc", "1:aa bb|2:cc|");
}

static void test_lines(void **state)
{
    (void)state;
    expect_pieces(ML_CUT_LINES, ML_RULE_MARKER, 0, "{\"a\": 1}\r\n\n  \n [2] \n3", "1:{\"a\": 1}|4:[2]|5:3|");
}

static void test_elements_of_json(void **state)
{
    (void)state;
    expect_pieces(ML_CUT_JSON, 0, 0, "[]", "");
    expect_pieces(ML_CUT_JSON, 0, 0, "", "");
    expect_pieces(ML_CUT_JSON, 0, 0, "\xef\xbb\xbf [1, \"a\"]", "1:1|1:\"a\"|");
    expect_pieces(ML_CUT_JSON, 0, 0, "[\n  {\"a\": [1, {}]},\n\n {\n\"]}\\\"\": \"\\\\\"\n}\n, null]\n",
                  "2:{\"a\": [1, {}]}|4:{\n\"]}\\\"\": \"\\\\\"\n}|7:null|");
    expect_pieces(ML_CUT_JSON, 0, 0, "{\"a\": 1}\n{\"b\":\n2}3 \"x\"[4]",
                  "1:{\"a\": 1}|2:{\"b\":\n2}|3:3|3:\"x\"|3:[4]|");
    expect_pieces(ML_CUT_JSON, 0, 0, "{\"a\": 1",
                  "!line 1: expected the end of the value that begins here, found the "
                  "end of the file");
    expect_pieces(ML_CUT_JSON, 0, 0, "[1\n 2]", "1:1|!line 2: expected ',' or ']' behind an element, found '2'");
    expect_pieces(ML_CUT_JSON, 0, 0, "[1,\n]", "1:1|!line 2: expected a value, found ']'");
    expect_pieces(ML_CUT_JSON, 0, 0, "[,1]", "!line 1: expected a value, found ','");
    expect_pieces(ML_CUT_JSON, 0, 0, "[1", "1:1|!line 1: expected the end of the array, found the end of the file");
    expect_pieces(ML_CUT_JSON, 0, 0, "[1]\n[2]",
                  "1:1|!line 2: expected nothing behind the array (is it one value a line? then name the file .jsonl), "
                  "found '['");
    expect_pieces(ML_CUT_JSON, 0, 0, "1 }", "1:1|!line 1: expected a value, found '}'");
}

/* ---- compressed files ---- */

enum { N_LINES = 3000 };
static const char *const packed[] = { "lines.jsonl.gz", "lines.jsonl.zst", "lines.jsonl.lz4", "lines.jsonl.br",
                                      "lines.jsonl.sz" };
enum { N_PACKED = sizeof packed / sizeof *packed };

/* The text that make_records.py gives line i. */
static size_t text_of_line(int i, char *out)
{
    size_t n = (size_t)sprintf(out, "line %d:", i);
    for (int k = 0; k < i * i % 23; k++) n += (size_t)sprintf(out + n, " moon");
    return n + (size_t)sprintf(out + n, "\n\xc3\xa9");
}

static void expect_lines(const char *path, size_t max_records, size_t max_bytes)
{
    ml_records *r;
    ml_record_batch batch = { 0 };
    int n = 0;
    uint64_t position = 0, n_bytes;
    assert_ok(ml_records_open_texts(&path, 1, ML_RULE_MARKER, "x", "text", &r, &err));
    assert_ok(ml_records_measure(r, &n_bytes, &err));
    assert_int_equal(n_bytes, 246770);
    while (true) {
        assert_ok(ml_records_read(r, max_records, max_bytes, &batch, &err));
        if (batch.n == 0) break;
        assert_true(batch.n <= max_records);
        for (size_t i = 0; i < batch.n; i++, n++) {
            char want[200];
            ml_text text;
            const ml_record *record = &batch.record[i];
            size_t n_want = text_of_line(n, want);
            assert_int_equal(record->index, n);
            assert_int_equal(record->number, n + 1);
            assert_int_equal(record->position, position);
            assert_string_equal(record->path, path);
            position += record->n_bytes + 1; /* the newline */
            assert_ok(ml_record_text(&batch, i, "text", &text, &err));
            assert_int_equal(text.n_bytes, n_want);
            assert_memory_equal(text.data, want, n_want);
        }
    }
    assert_int_equal(n, N_LINES);
    assert_int_equal(ml_records_at(r), ml_records_size(r));
    ml_record_batch_free(&batch);
    ml_records_free(r);
}

static void test_compressed_files_are_read(void **state)
{
    (void)state;
    for (int i = 0; i < N_PACKED; i++) {
        char name[64];
        snprintf(name, sizeof name, "records/%s", packed[i]);
        expect_lines(golden(name), 1000000, 8 << 20);
        expect_lines(golden(name), 7, 8 << 20);
        expect_lines(golden(name), 100, 1);
        expect_lines(golden(name), 1000000, 5000);
    }
}

/* All records of a file, counted. */
static ml_status count_records(const char *path, size_t *n)
{
    ml_records *r;
    ml_record_batch batch = { 0 };
    *n = 0;
    ML_TRY(ml_records_open_texts(&path, 1, ML_RULE_MARKER, "x", "text", &r, &err));
    ml_status status;
    do {
        status = ml_records_read(r, 100, 10000, &batch, &err);
        if (status == ML_OK) *n += batch.n;
    } while (status == ML_OK && batch.n);
    ml_record_batch_free(&batch);
    ml_records_free(r);
    return status;
}

static void test_cut_files_are_refused(void **state)
{
    (void)state;
    for (int i = 0; i < N_PACKED; i++) {
        char name[64], *data;
        size_t size, n, n_whole = 0;
        snprintf(name, sizeof name, "records/%s", packed[i]);
        assert_ok(ml_file_read(golden(name), &data, &size, &err));
        for (size_t k = 1; k <= 150; k++) {
            size_t part = k <= 100 ? size - k : size * (k - 100) / 51;
            write_bytes(packed[i], data, part);
            ml_status status = count_records(test_path_in(folder, packed[i]), &n);
            assert_true(status == ML_OK || status == ML_EFORMAT);
            if (status == ML_OK) n_whole++;
            if (status != ML_OK && !strstr(err.message, packed[i])) fail_msg("no file in \"%s\"", err.message);
        }
        assert_int_equal(n_whole, 0);
        write_bytes(packed[i], data, 0);
        assert_fails(count_records(test_path_in(folder, packed[i]), &n), ML_EFORMAT, packed[i]);
        ml_free(data);
    }
}

static void test_damaged_files_do_no_harm(void **state)
{
    (void)state;
    for (int i = 0; i < N_PACKED; i++) {
        char name[64], *data;
        size_t size, n, n_refused = 0;
        snprintf(name, sizeof name, "records/%s", packed[i]);
        assert_ok(ml_file_read(golden(name), &data, &size, &err));
        for (size_t at = 3; at < size; at += size / 40) {
            data[at] ^= 0x10;
            write_bytes(packed[i], data, size);
            ml_status status = count_records(test_path_in(folder, packed[i]), &n);
            assert_true(status == ML_OK || status == ML_EFORMAT);
            n_refused += status != ML_OK;
            data[at] ^= 0x10;
        }
        /* gzip and snappy's framing have checksums; the others' were written without, so only structure tells */
        bool has_checksum = strstr(packed[i], ".gz") || strstr(packed[i], ".sz");
        if (has_checksum ? n_refused < 39 : n_refused < 3) fail_msg("%s: %zu refused", packed[i], n_refused);
        ml_free(data);
    }
}

static void test_names_and_bytes_agree(void **state)
{
    (void)state;
    size_t n, size;
    char *data;
    write_file("plain.jsonl.gz", "{\"text\": \"not packed\"}");
    assert_fails(count_records(test_path_in(folder, "plain.jsonl.gz"), &n), ML_EFORMAT,
                 "plain.jsonl.gz: expected gzip as the name says, found other bytes");
    write_file("raw.txt.snappy", "\x05\x10hello");
    assert_fails(count_records(test_path_in(folder, "raw.txt.snappy"), &n), ML_EFORMAT, "only the framing format");
    write_file("rows.parquet.gz", "");
    assert_fails(count_records(test_path_in(folder, "rows.parquet.gz"), &n), ML_EINVAL, "compressed inside");
    assert_fails(count_records(test_path_in(folder, "absent.txt"), &n), ML_EIO, "absent.txt");
    /* bytes decide where the name says nothing */
    assert_ok(ml_file_read(golden("records/lines.jsonl.zst"), &data, &size, &err));
    write_bytes("renamed.jsonl", data, size);
    assert_ok(count_records(test_path_in(folder, "renamed.jsonl"), &n));
    assert_int_equal(n, N_LINES);
    ml_free(data);
}

/* ---- fields ---- */

static void expect_same_values(const char *a, const char *b)
{
    ml_records *r[2];
    ml_record_batch batch[2] = { { 0 } };
    const ml_records_config config = { .marker = "x" };
    size_t n = 0;
    assert_ok(ml_records_open(&a, 1, &config, &r[0], &err));
    assert_ok(ml_records_open(&b, 1, &config, &r[1], &err));
    while (true) {
        json_t *json[2];
        for (int k = 0; k < 2; k++) assert_ok(ml_records_read(r[k], 1, 1 << 20, &batch[k], &err));
        assert_int_equal(batch[0].n, batch[1].n);
        if (batch[0].n == 0) break;
        for (int k = 0; k < 2; k++) {
            const ml_value *value;
            ml_arena_release(&arena, 0);
            assert_ok(ml_record_value(&batch[k], 0, &arena, &value, &err));
            json[k] = ml_value_to_json(value);
        }
        assert_true(json_equal(json[0], json[1]));
        json_decref(json[0]);
        json_decref(json[1]);
        n++;
    }
    assert_true(n > 20);
    for (int k = 0; k < 2; k++) {
        ml_record_batch_free(&batch[k]);
        ml_records_free(r[k]);
    }
}

/* A file of JSON lines as an array over several lines. */
static void write_array(const char *name, const char *lines)
{
    char *text, *end;
    size_t size;
    assert_ok(ml_file_read(lines, &text, &size, &err));
    char *out = malloc(2 * size + 10), *at = out;
    at += sprintf(at, "[\n");
    for (char *line = text; *line; line = end + 1) {
        end = strchr(line, '\n');
        at += sprintf(at, "%s%.*s\n", line == text ? "" : ",\n  ", (int)(end - line), line);
    }
    sprintf(at, "]\n");
    write_file(name, out);
    free(out);
    ml_free(text);
}

static void test_fields_do_not_depend_on_the_kind_of_file(void **state)
{
    (void)state;
    write_array("chat.json", golden("parquet/chat.jsonl"));
    expect_same_values(golden("parquet/chat.jsonl"), test_path_in(folder, "chat.json"));
    expect_same_values(golden("parquet/chat.jsonl"), golden("parquet/chat_zstd_v1.parquet"));
    expect_same_values(golden("parquet/chat.jsonl"), golden("parquet/chat_snappy_v2.parquet"));
}

static void test_a_document_is_a_field(void **state)
{
    (void)state;
    const char *path = test_path_in(folder, "a.txt");
    const ml_records_config config = { .marker = "--" };
    const ml_value *value;
    ml_records *r;
    ml_record_batch batch = { 0 };
    write_file("a.txt", "one\n--\ntwo\n");
    assert_ok(ml_records_open(&path, 1, &config, &r, &err));
    assert_ok(ml_records_read(r, 10, 100, &batch, &err));
    assert_int_equal(batch.n, 2);
    ml_arena_release(&arena, 0);
    assert_ok(ml_record_value(&batch, 1, &arena, &value, &err));
    assert_true(ml_value_is(ml_value_find(value, "text"), "two"));
    assert_fails(ml_record_fail(&batch, 1, &err, "a %s without an answer", "dialog"), ML_EFORMAT,
                 "a.txt:3: a dialog without an answer");
    ml_record_batch_free(&batch);
    ml_records_free(r);
}

static void expect_text_fails(const char *path, const char *field, size_t i, const char *message)
{
    ml_records *r;
    ml_record_batch batch = { 0 };
    ml_text text;
    assert_ok(ml_records_open_texts(&path, 1, ML_RULE_MARKER, "x", field, &r, &err));
    assert_ok(ml_records_read(r, 100, 1 << 20, &batch, &err));
    assert_fails(ml_record_text(&batch, i, field, &text, &err), ML_EFORMAT, message);
    ml_record_batch_free(&batch);
    ml_records_free(r);
}

static void test_records_without_the_text(void **state)
{
    (void)state;
    write_file("a.jsonl", "\n[1]\n{\"text\": 3}\n{\"t\": \"x\"}\n{\"text\": \"x\"\n");
    expect_text_fails(test_path_in(folder, "a.jsonl"), "text", 0,
                      "a.jsonl:2: expected an object with a text under \"text\", found no object: name the key with "
                      "--field");
    expect_text_fails(test_path_in(folder, "a.jsonl"), "text", 1,
                      "a.jsonl:3: expected an object with a text under \"text\", found "
                      "another type");
    expect_text_fails(test_path_in(folder, "a.jsonl"), "text", 2,
                      "a.jsonl:4: expected an object with a text under \"text\", found "
                      "no such key");
    expect_text_fails(test_path_in(folder, "a.jsonl"), "text", 3, "a.jsonl:5: byte 13: expected ',' or '}'");
    const char *rows = golden("parquet/encoded_delta_length_byte_array.parquet");
    expect_text_fails(golden("parquet/chat_none_v1.parquet"), "tags", 0,
                      "chat_none_v1.parquet: row 1: expected a column of texts \"tags\", found another type");
    ml_records *r;
    assert_fails(ml_records_open_texts(&rows, 1, ML_RULE_MARKER, "x", "content", &r, &err), ML_EFORMAT,
                 "array.parquet: expected a column \"content\", found text, stem: name it with --field");
    assert_fails(ml_records_open_texts(&rows, 1, ML_RULE_MARKER, "", "text", &r, &err), ML_EINVAL, "the marker");
}

static void test_columns_are_texts(void **state)
{
    (void)state;
    const char *path[2] = { golden("parquet/encoded_delta_length_byte_array.parquet"),
                            golden("parquet/encoded_delta_byte_array.parquet") };
    ml_records *r;
    ml_record_batch batch = { 0 };
    size_t n = 0, n_null = 0;
    uint64_t last = 0, n_bytes;
    assert_ok(ml_records_open_texts(path, 2, ML_RULE_MARKER, "x", "text", &r, &err));
    assert_ok(ml_records_measure(r, &n_bytes, &err));
    do {
        assert_ok(ml_records_read(r, 50, 1 << 20, &batch, &err));
        for (size_t i = 0; i < batch.n; i++, n++) {
            ml_text text;
            assert_int_equal(batch.record[i].index, n);
            assert_int_equal(batch.record[i].number, n % 300 + 1);
            assert_true(batch.record[i].position >= last && batch.record[i].position < n_bytes);
            last = batch.record[i].position;
            if (ml_record_text(&batch, i, "text", &text, &err) == ML_OK) continue;
            n_null++;
            assert_non_null(strstr(err.message, "expected a text in column \"text\", found null"));
        }
    } while (batch.n);
    assert_int_equal(n, 600);
    assert_in_range(n_null, 20, 200);
    ml_record_batch_free(&batch);
    ml_records_free(r);
}

static void test_the_tally_stops_in_time(void **state)
{
    (void)state;
    ml_record_tally t = { 0 }, other = { 0 };
    ml_error bad = { .code = ML_EFORMAT, .message = "f:7: first" };
    for (int i = 0; i < 990; i++) ml_record_tally_add(&t, NULL);
    assert_ok(ml_record_tally_check(&t, 0, true, &err));
    for (int i = 0; i < 10; i++) ml_record_tally_add(&t, &bad);
    assert_ok(ml_record_tally_check(&t, 0.01, false, &err));
    ml_record_tally_add(&other, &bad);
    assert_ok(ml_record_tally_check(&other, 0, false, &err)); /* too few to judge */
    assert_fails(ml_record_tally_check(&other, 0, true, &err), ML_EFORMAT, "1 of 1 records");
    t = ml_record_tally_sum(&t, &other);
    assert_fails(ml_record_tally_check(&t, 0.01, false, &err), ML_EFORMAT,
                 "f:7: first; 11 of 1001 records are malformed, --max-bad allows a fraction of 0.01");
}

static void test_real_files(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("chat/alpaca_en_demo.json");
    static const struct {
        const char *name, *key;
        size_t n;
    } files[] = { { "chat/alpaca_en_demo.json", "output", 999 },
                  { "chat/dpo_en_demo.json", "rejected", 300 },
                  { "chat/v1_sft_demo.jsonl", "messages", 0 },
                  { "parquet/gsm8k_test.parquet", "answer", 1319 },
                  { "math/gsm8k_test.jsonl", "answer", 1319 } };
    for (size_t k = 0; k < sizeof files / sizeof *files; k++) {
        const char *path = test_data_path(files[k].name);
        const ml_records_config config = { .marker = "x" };
        ml_records *r;
        ml_record_batch batch = { 0 };
        size_t n = 0;
        assert_ok(ml_records_open(&path, 1, &config, &r, &err));
        do {
            assert_ok(ml_records_read(r, 100, 1 << 20, &batch, &err));
            for (size_t i = 0; i < batch.n; i++, n++) {
                const ml_value *value;
                ml_arena_release(&arena, 0);
                assert_ok(ml_record_value(&batch, i, &arena, &value, &err));
                assert_non_null(ml_value_find(value, files[k].key));
            }
        } while (batch.n);
        if (files[k].n) assert_int_equal(n, files[k].n);
        ml_record_batch_free(&batch);
        ml_records_free(r);
    }
}

static void test_running_out_of_memory(void **state)
{
    (void)state;
    int64_t before = ml_alloc_get_stats().n_live;
    const char *names[] = { "records/lines.jsonl.gz", "parquet/chat_gzip_v2.parquet" };
    for (int k = 0; k < 2; k++) {
        int n_failed = 0;
        for (int64_t n = 0; n < 1000; n++) {
            const char *path = golden(names[k]);
            const ml_records_config config = { .marker = "x" };
            ml_records *r = NULL;
            ml_record_batch batch = { 0 };
            ml_alloc_fail_after(n);
            ml_status status = ml_records_open(&path, 1, &config, &r, &err);
            do {
                if (status == ML_OK) status = ml_records_read(r, 1000, 100000, &batch, &err);
            } while (status == ML_OK && batch.n);
            ml_alloc_fail_after(-1);
            ml_record_batch_free(&batch);
            ml_records_free(r);
            assert_int_equal(ml_alloc_get_stats().n_live, before);
            if (status == ML_OK) break;
            assert_int_equal(status, ML_ENOMEM);
            n_failed++;
        }
        assert_in_range(n_failed, 5, 998);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_documents_are_cut_by_the_rule),
        TEST(test_documents_are_split_at_a_byte),
        TEST(test_lines),
        TEST(test_elements_of_json),
        TEST(test_compressed_files_are_read),
        TEST(test_cut_files_are_refused),
        TEST(test_damaged_files_do_no_harm),
        TEST(test_names_and_bytes_agree),
        TEST(test_fields_do_not_depend_on_the_kind_of_file),
        TEST(test_a_document_is_a_field),
        TEST(test_records_without_the_text),
        TEST(test_columns_are_texts),
        TEST(test_the_tally_stops_in_time),
        TEST(test_real_files),
        TEST(test_running_out_of_memory),
    };
    if (ml_arena_init(&arena, 1 << 28, &err) != ML_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_arena_free(&arena);
    return failed;
}
